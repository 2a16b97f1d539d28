//! A closed epoch as the original module's CSV: protocol, local address, remote address,
//! local port, remote port, sent packets, received packets, sent bytes, received bytes,
//! SYN packets. IPv4 addresses are decimal numbers.

use crate::account::Closed;
use crate::flow_table::record::{FlowStats, Record};
use crate::memory::Memory;
use crate::snapshot::{Format, Piece};

/// The original's CSV over IPv4.
#[derive(Debug)]
pub struct Ipv4Csv;

impl Format<2> for Ipv4Csv {
    fn head<M: Memory>(&self, _: &Closed<'_, M, 2>) -> Piece {
        Piece::EMPTY
    }

    fn record(&self, record: &Record<2>) -> Piece {
        let [addresses, rest] = record.key().0;
        let [l0, l1, l2, l3, r0, r1, r2, r3] = addresses.to_le_bytes();
        let FlowStats {
            packets: [sent_packets, received_packets],
            bytes,
            syn_packets,
        } = record.stats();
        let [sent_bytes, received_bytes] = bytes;
        let fields = [
            rest >> 32 & 0xff,
            u64::from(u32::from_be_bytes([l0, l1, l2, l3])),
            u64::from(u32::from_be_bytes([r0, r1, r2, r3])),
            rest & 0xffff,
            rest >> 16 & 0xffff,
            sent_packets,
            received_packets,
            sent_bytes,
            received_bytes,
            syn_packets,
        ];
        let mut line = Piece::EMPTY;
        for (number, field) in fields.into_iter().enumerate() {
            if number > 0 {
                line.push(b',');
            }
            push_decimal(&mut line, field);
        }
        line.push(b'\n');
        line
    }
}

fn push_decimal(line: &mut Piece, number: u64) {
    const DIGITS: usize = 20; // of u64::MAX
    let mut digits = [0; DIGITS];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        used += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line.extend(digits.get(DIGITS - used..).unwrap_or_default());
}
