// SPDX-License-Identifier: GPL-2.0-or-later
//! Numbers with units, for people.

use bytesize::ByteSize;

/// Bytes with a binary unit.
pub fn bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Bits per second with a decimal unit.
pub fn bit_rate(bits_per_second: f64) -> String {
    match scaled(bits_per_second) {
        (number, "") => format!("{number:.0} bit/s"),
        (number, unit) => format!("{number:.1} {unit}bit/s"),
    }
}

/// So many a second, with a decimal unit.
pub fn per_second(number: f64) -> String {
    match scaled(number) {
        (number, "") => format!("{number:.1}/s"),
        (number, unit) => format!("{number:.1} {unit}/s"),
    }
}

/// A number with a decimal unit, exact below 10,000.
pub fn count(number: u64) -> String {
    if number < 10_000 {
        return separated(number);
    }
    let (number, unit) = scaled(number as f64);
    format!("{number:.1} {unit}")
}

/// A number with its thousands set apart.
pub fn separated(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar that fills this part of so many cells, to an eighth of a cell.
///
/// What is more than nothing is never drawn as nothing.
pub fn bar(part: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let all = (cells * 8) as f64;
    let eighths = (part.clamp(0.0, 1.0) * all).round() as usize;
    let eighths = match part > 0.0 {
        true => eighths.max(1),
        false => 0,
    };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

fn scaled(number: f64) -> (f64, &'static str) {
    let mut scaled = number;
    let mut units = ["", "k", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // 999.95 would round to a thousand of its own unit.
    while scaled >= 999.95 {
        scaled /= 1000.0;
        match units.next() {
            Some(next) => unit = next,
            None => return (scaled * 1000.0, unit),
        }
    }
    (scaled, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(separated(number), text);
        }
    }

    #[test]
    fn counts_have_decimal_units() {
        for (number, text) in [
            (0, "0"),
            (9_999, "9,999"),
            (10_000, "10.0 k"),
            (999_949, "999.9 k"),
            (999_950, "1.0 M"),
            (150_190_118, "150.2 M"),
            (u64::MAX, "18.4 E"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn rates_have_decimal_units() {
        assert_eq!(bit_rate(0.0), "0 bit/s");
        assert_eq!(bit_rate(800.0), "800 bit/s");
        assert_eq!(bit_rate(12_340_000.0), "12.3 Mbit/s");
        assert_eq!(per_second(0.25), "0.2/s");
        assert_eq!(per_second(1500.0), "1.5 k/s");
    }

    #[test]
    fn bar_shows_what_is_little_and_never_leaves_its_cells() {
        assert_eq!(bar(0.0, 4), "");
        assert_eq!(bar(0.000_1, 4), "▏");
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(0.9, 4), "███▋");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(7.0, 4), "████");
        assert_eq!(bar(f64::NAN, 4), "");
    }
}
