// SPDX-License-Identifier: GPL-2.0-or-later
//! iptables' `.t` files: rules with what they are saved as, and rules to be refused.
//!
//! ```text
//! # comment
//! :INPUT,OUTPUT                  the chains to try the rules in
//! -j LOG;=;OK                    saved as it stands
//! -j LOG --log-level 4;-j LOG;OK saved as something else
//! -j LOG --log-level x;;FAIL     refused
//! ```

/// One rule of a `.t` file.
pub struct Case<'a> {
    pub line: usize,
    pub rule: &'a str,
    /// What iptables-save prints, `None` for a rule that is refused.
    pub saved: Option<&'a str>,
}

/// The rules of a `.t` file.
///
/// # Errors
///
/// One line that names the line of the file that does not have the format.
pub fn parse(text: &str) -> Result<Vec<Case<'_>>, String> {
    let lines = (1..).zip(text.lines());
    lines
        .filter(|(_, text)| !text.is_empty() && !text.starts_with(['#', ':']))
        .map(|(line, text)| {
            let (rule, saved) = match text.split(';').collect::<Vec<_>>()[..] {
                [rule, "=", "OK"] => (rule, Some(rule)),
                [rule, saved, "OK"] => (rule, Some(saved)),
                [rule, "", "FAIL"] => (rule, None),
                _ => {
                    return Err(format!(
                        "line {line} is not RULE;SAVED;OK or RULE;;FAIL: {text}"
                    ));
                }
            };
            Ok(Case { line, rule, saved })
        })
        .collect()
}
