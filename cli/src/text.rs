// SPDX-License-Identifier: GPL-2.0-or-later
//! Text from elsewhere, such as hosts' names, as terminals and spreadsheets may safely have it.

use std::borrow::Cow;
use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

/// What spreadsheets take for the beginning of a formula.
const FORMULA: [char; 4] = ['=', '+', '-', '@'];

/// The text with its control characters escaped, those too that change the direction of writing.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_control(character) {
            // Writing to a string does not fail.
            true => drop(write!(escaped, "{}", character.escape_unicode())),
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// The text as a cell of CSV that no spreadsheet takes for a formula: printable, and behind an
/// apostrophe where it begins like one.
pub fn csv_cell(text: &str) -> Cow<'_, str> {
    match text.starts_with(FORMULA) {
        true => Cow::Owned(format!("'{}", printable(text))),
        false => printable(text),
    }
}

/// How many cells of a terminal the text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_others_stay() {
        assert_eq!(printable("\x1b[31mred\n"), "\\u{1b}[31mred\\u{a}");
        assert_eq!(printable("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(printable("münchen-東京"), "münchen-東京");
    }

    #[test]
    fn formula_is_none_in_a_cell_of_csv() {
        assert_eq!(csv_cell("=1+1"), "'=1+1");
        assert_eq!(csv_cell("-\t"), "'-\\u{9}");
        assert_eq!(csv_cell("10.0.0.1"), "10.0.0.1");
    }

    #[test]
    fn width_is_what_a_terminal_shows() {
        assert_eq!(width("東京"), 4);
        assert_eq!(width("u\u{308}"), 1);
        assert_eq!(width("host"), 4);
    }
}
