// SPDX-License-Identifier: GPL-2.0-or-later
//! Chains of IPv6 extension headers, built while the protocol and the ports behind them
//! are known.

use arbitrary::{Arbitrary, Unstructured};
use trafstat_core::parse::ipv6::{self, MAX_EXTENSION_BYTES, MAX_EXTENSIONS};

const UDP: u8 = 17;
const SRC_PORT: u16 = 0x1234;
const DST_PORT: u16 = 0x5678;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let Ok(program) = <Vec<(u8, u8, bool)>>::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let kinds = [0, 43, 44, 51, 60];
    let chain: Vec<(u8, usize, bool)> = program
        .iter()
        .take(12)
        .map(|&(kind, len, later)| {
            let kind = kinds[usize::from(kind) % kinds.len()];
            let len = match kind {
                44 => 8,
                // In units of 4 bytes, less 2; at least 8 of them.
                51 => 4 * (2 + usize::from(len % 64)),
                _ => 8 * (1 + usize::from(len % 32)),
            };
            (kind, len, later)
        })
        .collect();
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[6] = chain.first().map_or(UDP, |(kind, ..)| *kind);
    for (index, &(kind, len, later)) in chain.iter().enumerate() {
        let next = chain.get(index + 1).map_or(UDP, |(kind, ..)| *kind);
        let mut header = vec![0xff; len];
        header[0] = next;
        header[1] = match kind {
            44 => 0,
            51 => (len / 4 - 2) as u8,
            _ => (len / 8 - 1) as u8,
        };
        if kind == 44 {
            let offset: u16 = if later { 8 } else { 0 };
            header[2..4].copy_from_slice(&offset.to_be_bytes());
        }
        bytes.extend(header);
    }
    bytes.extend(SRC_PORT.to_be_bytes());
    bytes.extend(DST_PORT.to_be_bytes());
    bytes.extend([0; 4]);

    // What the walk is to reach, by the rules that its documentation states.
    let (mut protocol, mut has_ports, mut walked) = (bytes[6], true, 0);
    for (index, &(kind, len, later)) in chain.iter().enumerate() {
        if index == MAX_EXTENSIONS {
            has_ports = false;
            break;
        }
        walked += len;
        protocol = chain.get(index + 1).map_or(UDP, |(kind, ..)| *kind);
        if (kind == 44 && later) || walked > MAX_EXTENSION_BYTES {
            has_ports = false;
            break;
        }
    }
    let tuple = ipv6::parse(&bytes, bytes.len()).expect("an IPv6 header");
    let ports = if has_ports {
        (SRC_PORT, DST_PORT)
    } else {
        (0, 0)
    };
    assert_eq!(
        (tuple.protocol, (tuple.src_port, tuple.dst_port)),
        (protocol, ports),
        "{chain:?}"
    );
}
