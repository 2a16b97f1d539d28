// SPDX-License-Identifier: GPL-2.0-or-later
//! An epoch as the original module's CSV: protocol, local address, remote address,
//! local port, remote port, sent packets, received packets, sent bytes, received bytes,
//! SYN packets. IPv4 addresses are decimal numbers, IPv6 ones text (RFC 5952).

use crate::account::Epoch;
use crate::flow_table::record::{FlowCounters, Record};
use crate::memory::Memory;
use crate::snapshot::{Format, Head, Piece};

/// The longest line has a protocol, two IPv6 addresses, two ports, five counters and what separates
/// them.
const LINE_BYTES: usize = 3 + 2 * 39 + 2 * 5 + 5 * 20 + 10;

/// One line.
pub type Line = Piece<LINE_BYTES>;

/// The original's CSV.
#[derive(Debug)]
pub struct Csv;

impl Format<2> for Csv {
    type Record = Line;

    fn head<M: Memory>(&self, _: &Epoch<'_, M, 2>) -> Head {
        Head::EMPTY
    }

    fn record(&self, record: &Record<2>) -> Line {
        let [addresses, rest] = record.key().0;
        let [l0, l1, l2, l3, r0, r1, r2, r3] = addresses.to_ne_bytes();
        line(rest, &record.counters(), |line| {
            push_decimal(line, u32::from_be_bytes([l0, l1, l2, l3]).into());
            line.push(b',');
            push_decimal(line, u32::from_be_bytes([r0, r1, r2, r3]).into());
        })
    }
}

impl Format<5> for Csv {
    type Record = Line;

    fn head<M: Memory>(&self, _: &Epoch<'_, M, 5>) -> Head {
        Head::EMPTY
    }

    fn record(&self, record: &Record<5>) -> Line {
        let [l0, l1, r0, r1, rest] = record.key().0;
        line(rest, &record.counters(), |line| {
            push_ipv6(line, [l0, l1]);
            line.push(b',');
            push_ipv6(line, [r0, r1]);
        })
    }
}

fn line(rest: u64, counters: &FlowCounters, push_addresses: impl FnOnce(&mut Line)) -> Line {
    let FlowCounters {
        packets: [sent_packets, received_packets],
        bytes,
        syn_packets,
    } = *counters;
    let [sent_bytes, received_bytes] = bytes;
    let mut line = Line::EMPTY;
    push_decimal(&mut line, rest >> 32 & 0xff);
    line.push(b',');
    push_addresses(&mut line);
    for field in [
        rest & 0xffff,
        rest >> 16 & 0xffff,
        sent_packets,
        received_packets,
        sent_bytes,
        received_bytes,
        syn_packets,
    ] {
        line.push(b',');
        push_decimal(&mut line, field);
    }
    line.push(b'\n');
    line
}

fn push_decimal(line: &mut Line, number: u64) {
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

fn push_hex(line: &mut Line, number: u16) {
    let digits = [
        number >> 12,
        number >> 8 & 0xf,
        number >> 4 & 0xf,
        number & 0xf,
    ];
    let leading_zeros = digits
        .iter()
        .take(3)
        .take_while(|digit| **digit == 0)
        .count();
    for digit in digits.into_iter().skip(leading_zeros) {
        let digit = digit as u8;
        line.push(if digit < 10 {
            b'0' + digit
        } else {
            b'a' + digit - 10
        });
    }
}

/// Writes an address, two words as in the packet, as RFC 5952 section 4 and 5 have it.
fn push_ipv6(line: &mut Line, words: [u64; 2]) {
    let [a, b] = words.map(u64::from_be);
    let group = |i: u32| ((if i < 4 { a } else { b }) >> (48 - 16 * (i & 3))) as u16;
    if a == 0 && b >> 32 == 0xffff {
        line.extend(b"::ffff:");
        for (i, byte) in (b as u32).to_be_bytes().into_iter().enumerate() {
            if i > 0 {
                line.push(b'.');
            }
            push_decimal(line, byte.into());
        }
        return;
    }
    // The longest run of zero groups, the first of equal ones.
    let (mut start, mut end) = (0, 0);
    let mut run = 0;
    for i in 0..8 {
        run = if group(i) == 0 { run + 1 } else { 0 };
        if run > end - start {
            (start, end) = (i + 1 - run, i + 1);
        }
    }
    if end - start < 2 {
        (start, end) = (8, 8);
    }
    let mut i = 0;
    while i < 8 {
        if i == start {
            line.extend(b"::");
            i = end;
            continue;
        }
        if i > 0 && i != end {
            line.push(b':');
        }
        push_hex(line, group(i));
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn ipv6_text(address: u128) -> std::string::String {
        let mut line = Line::EMPTY;
        let words = [(address >> 64) as u64, address as u64].map(u64::to_be);
        push_ipv6(&mut line, words);
        core::str::from_utf8(line.as_ref()).unwrap().into()
    }

    proptest! {
        #[test]
        fn ipv6_text_is_the_standard_librarys(
            groups: [u16; 8], zeros: [bool; 8], mapped: u32, is_mapped in proptest::bool::weighted(0.1),
        ) {
            let groups = groups.iter().zip(zeros).map(|(group, zero)| if zero { 0 } else { *group });
            let mut address = groups.fold(0, |address: u128, group| address << 16 | u128::from(group));
            if is_mapped {
                address = 0xffff << 32 | u128::from(mapped);
            }
            prop_assert_eq!(ipv6_text(address), Ipv6Addr::from(address).to_string());
        }

        #[test]
        fn decimals_are_the_standard_librarys(number: u64, shift in 0..64_u32) {
            let mut line = Line::EMPTY;
            push_decimal(&mut line, number >> shift);
            let expected = (number >> shift).to_string();
            prop_assert_eq!(line.as_ref(), expected.as_bytes());
        }
    }
}
