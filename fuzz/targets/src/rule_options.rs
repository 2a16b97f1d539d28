// SPDX-License-Identifier: GPL-2.0-or-later
//! Lines as the options of a rule: what is taken is written back as options that make
//! the same rule.

use trafstat_abi::RuleInfo;
use trafstat_rule::local_net::{Family, Ipv4, Ipv6};
use trafstat_rule::options::{self, OPTIONS, RuleOption};
use trafstat_rule::render;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    check::<Ipv4>(text);
    check::<Ipv6>(text);
}

fn check<F: Family>(text: &str) {
    let Some(info) = parse::<F>(text.lines()) else {
        return;
    };
    assert!(info.has_known_options_alone());
    let saved = render::save::<F>(&info);
    let lines = lines(&saved).expect("options and their values");
    let again = parse::<F>(lines.iter().map(String::as_str)).expect("what is saved is taken");
    assert_eq!(format!("{info:?}"), format!("{again:?}"));
}

/// The options of a saved rule, a line each. As for getopt, what follows an option that takes a
/// value is one, whatever it begins with.
fn lines(saved: &str) -> Option<Vec<String>> {
    let mut words = saved.split_ascii_whitespace();
    let mut lines = Vec::new();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--")?;
        let option = RuleOption::find(name)?;
        lines.push(match option.takes_value() {
            true => format!("{name} {}", words.next()?),
            false => name.to_owned(),
        });
    }
    Some(lines)
}

/// A rule of lines such as `local-net 192.0.2.1`.
fn parse<'a, F: Family>(lines: impl Iterator<Item = &'a str>) -> Option<RuleInfo> {
    let mut info = options::empty();
    let mut given = [false; OPTIONS.len()];
    for line in lines {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let id = OPTIONS.iter().position(|option| option.name() == name)?;
        if given[id] && !OPTIONS[id].is_repeatable() {
            return None;
        }
        if let Err(reason) =
            options::parse::<F>(&mut info, &OPTIONS[id], value, given[id], |_, _| None)
        {
            assert!(!reason.contains('\n'), "{reason:?}");
            return None;
        }
        given[id] = true;
    }
    let is_whole = OPTIONS
        .iter()
        .zip(given)
        .all(|(option, given)| given || !option.mandatory);
    options::complete::<F>(&mut info)
        .ok()
        .filter(|()| is_whole)?;
    Some(info)
}
