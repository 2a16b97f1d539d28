// SPDX-License-Identifier: GPL-2.0-or-later
//! What is written about the options elsewhere is what their table says.

use crate::options::{Argument, OPTIONS, RuleOption};

/// The plugin's part of iptables-extensions(8).
const MANUAL: &str = include_str!("../../xt-plugin/libxt_TRAFSTAT.man");
const README: &str = include_str!("../../README.md");

/// The argument as the manual spells it out.
fn syntax(argument: Argument) -> &'static str {
    match argument {
        Argument::Ports(_) => "all|none|PORT[,PORT]...",
        argument => argument.placeholder(),
    }
}

/// The parts of the manual that each begin with a tag, without roff's escapes; lines that go on
/// are joined.
fn tagged_paragraphs() -> Vec<String> {
    let mut plain = MANUAL.replace(r"\-", "-");
    for font in [r"\fB", r"\fI", r"\fP"] {
        plain = plain.replace(font, "");
    }
    let paragraphs = plain.split("\n.TP\n").skip(1);
    // The last option's ends where the text of all begins.
    paragraphs
        .map(|paragraph| {
            paragraph
                .split("\n.P\n")
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

/// Whether the text has these words in a row, in any case and whatever is between them.
fn says(text: &str, words: &str) -> bool {
    let tokens = |text: &str| {
        let words = text.split(|char: char| !char.is_alphanumeric() && char != '_');
        let words = words.filter(|word| !word.is_empty() && *word != "is");
        words.map(str::to_lowercase).collect::<Vec<_>>()
    };
    let words = tokens(words);
    tokens(text)
        .windows(words.len())
        .any(|found| found == words)
}

/// What a document has to say of the option beside its name and argument: limits and default.
fn facts(option: &RuleOption) -> Vec<String> {
    let limits = match option.argument {
        Argument::Number(number) => number.limits(),
        _ => None,
    };
    let default = option.default.map(|default| match option.argument {
        // This one takes more words.
        Argument::Name => default.value.to_owned(),
        _ => format!("default {}", default.value),
    });
    let mandatory = option.mandatory.then(|| "mandatory".to_owned());
    [limits, default, mandatory].into_iter().flatten().collect()
}

#[test]
fn manual_has_the_options_of_the_table_in_its_order_with_their_arguments() {
    let paragraphs = tagged_paragraphs();
    let tags: Vec<_> = paragraphs.iter().map(|text| text.lines().next()).collect();
    let expected: Vec<_> = OPTIONS
        .iter()
        .map(|option| {
            let tag = format!("--{} {}", option.name(), syntax(option.argument));
            tag.trim_end().to_owned()
        })
        .collect();
    assert_eq!(tags.len(), expected.len());
    for (tag, expected) in tags.into_iter().zip(expected) {
        assert_eq!(tag.map(str::to_lowercase), Some(expected.to_lowercase()));
    }
}

#[test]
fn manual_tells_limits_and_defaults() {
    let mut told = String::new();
    for (option, paragraph) in OPTIONS.iter().zip(tagged_paragraphs()) {
        let (_, text) = paragraph.split_once('\n').unwrap();
        // What holds for the option before holds for this one.
        if !text.starts_with("The same") {
            told.clear();
        }
        told.push_str(text);
        for fact in facts(option) {
            assert!(says(&told, &fact), "{}: no '{fact}'", option.name());
        }
    }
}

#[test]
fn readme_has_every_option_once_with_argument_limits_and_default() {
    let (_, section) = README.split_once("### Rule options\n").unwrap();
    let (section, _) = section.split_once("\n### ").unwrap();
    let mut found = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        // A bar within a cell is written with a backslash.
        let row = row.replace("\\|", "\0");
        let cells: Vec<_> = row.split('|').map(|cell| cell.replace('\0', "|")).collect();
        let [_, names, meaning, _] = &cells[..] else {
            panic!("{row}");
        };
        for name in names.split("`, `") {
            let name = name.trim_matches([' ', '`']);
            let is_named = |option: &&RuleOption| {
                let text = format!("--{} {}", option.name(), option.argument.placeholder());
                text.trim_end() == name
            };
            let option = OPTIONS.iter().find(is_named);
            let option = option.unwrap_or_else(|| panic!("no option is {name}"));
            for fact in facts(option) {
                assert!(says(meaning, &fact), "{name}: no '{fact}'");
            }
            found.push(option.name());
        }
    }
    found.sort_unstable();
    let mut expected = OPTIONS.map(|option| option.name());
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn words_are_found_whole_and_in_a_row() {
    let text = "in thousands, 1 to 4194304;\nthe default is 1000.";
    assert!(says(text, "1 to 4194304") && says(text, "Default 1000"));
    assert!(!says(text, "1 to 419430") && !says(text, "default 100") && !says(text, "to 1000"));
}
