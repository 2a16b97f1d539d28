// SPDX-License-Identifier: GPL-2.0-or-later
//! CHANGELOG.md: its headings by version and date.

use anyhow::{Context, Result, ensure};

const UNRELEASED: &str = "## [Unreleased]";

/// The changelog with what was unreleased under the heading of `version`.
///
/// # Errors
///
/// It has no such part or nothing in it, or it has the version already.
pub fn release(changelog: &str, version: &str, date: &str) -> Result<String> {
    ensure!(
        section(changelog, version).is_none(),
        "CHANGELOG.md has a part for {version} already"
    );
    let unreleased = unreleased(changelog)?;
    ensure!(
        !unreleased.is_empty(),
        "CHANGELOG.md has nothing that is unreleased"
    );
    let heading = format!("{UNRELEASED}\n\n## [{version}] - {date}");
    Ok(changelog.replacen(UNRELEASED, &heading, 1))
}

/// What is unreleased.
///
/// # Errors
///
/// There is no such heading.
pub fn unreleased(changelog: &str) -> Result<&str> {
    let (_, rest) = changelog
        .split_once(UNRELEASED)
        .with_context(|| format!("CHANGELOG.md has no heading {UNRELEASED}"))?;
    Ok(until_next(rest))
}

/// A version's date and changes; none if it has no heading with a date.
pub fn section<'a>(changelog: &'a str, version: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = changelog.split_once(&format!("\n## [{version}] - "))?;
    let (date, rest) = rest.split_once('\n')?;
    let is_date = date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date.then(|| (date, until_next(rest)))
}

fn until_next(text: &str) -> &str {
    text.split("\n## [").next().unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGELOG: &str = "# Changelog\n\n## [Unreleased]\n\n### Added\n- New.\n\n\
                             ## [0.1.0] - 2026-01-02\n\n### Added\n- Old.\n";

    #[test]
    fn unreleased_changes_get_the_version_and_date() {
        let released = release(CHANGELOG, "0.2.0", "2026-03-04").unwrap();
        assert_eq!(unreleased(&released).unwrap(), "");
        let section = |version| section(&released, version);
        assert_eq!(section("0.2.0"), Some(("2026-03-04", "### Added\n- New.")));
        assert_eq!(section("0.1.0"), Some(("2026-01-02", "### Added\n- Old.")));
        assert_eq!(section("0.3.0"), None);
    }

    #[test]
    fn version_is_released_once_and_with_changes() {
        release(CHANGELOG, "0.1.0", "2026-03-04").unwrap_err();
        let released = release(CHANGELOG, "0.2.0", "2026-03-04").unwrap();
        release(&released, "0.3.0", "2026-03-04").unwrap_err();
        let undated = CHANGELOG.replace("2026-01-02", "soon");
        assert_eq!(section(&undated, "0.1.0"), None);
    }
}
