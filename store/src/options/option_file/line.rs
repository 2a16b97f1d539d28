// SPDX-License-Identifier: GPL-2.0-or-later
//! A line of an option file, and how its value is quoted.

/// A line of an option file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Empty,
    Group(&'a str),
    Include(&'a str),
    IncludeFolder(&'a str),
    /// The name with dashes, and the value, if there is a `=`.
    Option(String, Option<String>),
}

/// Parses a line; an error says what is wrong, and what to do.
pub(super) fn parse_line(line: &str) -> Result<Line<'_>, &'static str> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Ok(Line::Empty);
    }
    if let Some(directive) = line.strip_prefix('!') {
        let (name, argument) = directive
            .split_once([' ', '\t'])
            .ok_or("expected \"!include FILE\" or \"!includedir FOLDER\"")?;
        return match name {
            "include" => Ok(Line::Include(argument.trim_ascii())),
            "includedir" => Ok(Line::IncludeFolder(argument.trim_ascii())),
            _ => Err("expected \"!include FILE\" or \"!includedir FOLDER\""),
        };
    }
    if let Some(group) = line.strip_prefix('[') {
        let end = group
            .find(']')
            .ok_or("the group's name does not end with \"]\"")?;
        return Ok(Line::Group(group[..end].trim_ascii()));
    }
    let line = &line[..comment_start(line)];
    let (name, value) = match line.split_once('=') {
        Some((name, value)) => (name, Some(unescape(unquote(value.trim_ascii())))),
        None => (line, None),
    };
    let name = name.trim_ascii().replace('_', "-");
    // For clients that do not know the option.
    let name = match name.strip_prefix("loose-") {
        Some(name) => name.to_owned(),
        None => name,
    };
    if name.is_empty() {
        return Err("there is no option name before \"=\"");
    }
    Ok(Line::Option(name, value))
}

/// Where the comment at the end of a line begins: at a `#` outside of quotes.
pub(super) fn comment_start(line: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, byte) in line.bytes().enumerate() {
        match (byte, quote) {
            (b'#', None) => return at,
            (b'"' | b'\'', None) => quote = Some(byte),
            (_, Some(open)) if byte == open && !escaped => quote = None,
            _ => {}
        }
        escaped = quote.is_some() && byte == b'\\' && !escaped;
    }
    line.len()
}

/// The value without the quotes around all of it.
fn unquote(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

/// The value with its escape sequences replaced; a backslash before anything else
/// stays.
fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('b') => text.push('\u{8}'),
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('s') => text.push(' '),
            Some(quoted @ ('\\' | '"' | '\'')) => text.push(quoted),
            Some(other) => text.extend(['\\', other]),
            None => text.push('\\'),
        }
    }
    text
}
