// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as the start of a packet of any length: parse keeps its bounds, asks for
//! more only where there is more, and never again with `HEADER_BYTES`; more bytes do not
//! change what it says.

use arbitrary::{Arbitrary, Unstructured};
use trafstat_core::parse::{HEADER_BYTES, ParseError, Tuple, ipv4, ipv6};

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let Ok(input) = <(u16, &[u8])>::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let (extra, bytes) = input;
    let packet_len = bytes.len() + usize::from(extra);
    check(ipv4::parse, bytes, packet_len);
    check(ipv6::parse, bytes, packet_len);
}

fn check<A: PartialEq + std::fmt::Debug>(
    parse: fn(&[u8], usize) -> Result<Tuple<A>, ParseError>,
    bytes: &[u8],
    packet_len: usize,
) {
    let whole = parse(bytes, packet_len);
    if whole == Err(ParseError::NeedMore) {
        assert!(bytes.len() < packet_len && bytes.len() < HEADER_BYTES);
    }
    let first = &bytes[..bytes.len() / 2];
    match parse(first, packet_len) {
        Err(ParseError::NeedMore) => assert!(first.len() < packet_len),
        short => assert_eq!(
            short,
            whole,
            "with {} of {} bytes",
            first.len(),
            bytes.len()
        ),
    }
}
