//! Lines as the options of a rule: what is taken is written back as options that make
//! the same rule.

use trafstat_abi::RuleInfo;
use trafstat_rule::local_net::{Family, Ipv4, Ipv6};
use trafstat_rule::options::{self, ENTRIES};
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
        let entry = ENTRIES.iter().find(|entry| entry.name() == name)?;
        lines.push(match entry.takes_value {
            true => format!("{name} {}", words.next()?),
            false => name.to_owned(),
        });
    }
    Some(lines)
}

/// A rule of lines such as `local-net 192.0.2.1`.
fn parse<'a, F: Family>(lines: impl Iterator<Item = &'a str>) -> Option<RuleInfo> {
    let mut info = options::empty();
    let mut given = [false; ENTRIES.len()];
    for line in lines {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let id = ENTRIES.iter().position(|entry| entry.name() == name)?;
        if given[id] && !ENTRIES[id].repeatable {
            return None;
        }
        if let Err(reason) =
            options::parse::<F>(&mut info, &ENTRIES[id], value, given[id], |_, _| None)
        {
            assert!(!reason.contains('\n'), "{reason:?}");
            return None;
        }
        given[id] = true;
    }
    let is_whole = ENTRIES
        .iter()
        .zip(given)
        .all(|(entry, given)| given || !entry.mandatory);
    options::complete::<F>(&mut info)
        .ok()
        .filter(|()| is_whole)?;
    Some(info)
}
