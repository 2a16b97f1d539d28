// SPDX-License-Identifier: GPL-2.0-or-later
//! Whole numbers as options take them.

/// Reads a decimal number from `min` to `max`.
///
/// Leading zeros are refused: other iptables options read them as octal.
pub fn parse(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let refused = || {
        format!(
            "'{}' is not a whole number from {min} to {max}",
            text.escape_debug()
        )
    };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!(
            "'{text}' has a leading zero; numbers are decimal, write it without"
        ));
    }
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_are_included() {
        assert_eq!(parse("1", 1, 9), Ok(1));
        assert_eq!(parse("9", 1, 9), Ok(9));
        assert!(parse("0", 1, 9).is_err());
        assert!(parse("10", 1, 9).is_err());
    }

    #[test]
    fn largest_u32_is_read_and_the_next_is_refused() {
        assert_eq!(parse("4294967295", 0, u32::MAX), Ok(u32::MAX));
        assert!(parse("4294967296", 0, u32::MAX).is_err());
    }

    #[test]
    fn signs_spaces_hex_and_nothing_are_refused() {
        for text in ["", "+1", "-1", " 1", "1 ", "0x1", "1e0", "١"] {
            let error = parse(text, 0, 9).unwrap_err();
            assert!(
                error.ends_with("is not a whole number from 0 to 9"),
                "{error}"
            );
        }
    }

    #[test]
    fn leading_zero_is_refused_but_zero_is_not() {
        assert_eq!(parse("0", 0, 9), Ok(0));
        assert!(parse("07", 0, 9).unwrap_err().contains("leading zero"));
    }
}
