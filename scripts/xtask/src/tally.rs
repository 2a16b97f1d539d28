// SPDX-License-Identifier: GPL-2.0-or-later
//! How many tests passed, failed and were skipped.

use std::fmt;

/// Numbers of tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Adds what a line of cargo's test output says, where it is a test program's last one:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; ...`.
    pub fn add_cargo(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.passed += number_before(line, " passed");
            self.failed += number_before(line, " failed");
            self.skipped += number_before(line, " ignored");
        }
    }

    /// Adds what a line of the guest's output says, where it is the last one:
    /// `scenarios: 3 passed, 0 failed, 1 skipped`.
    pub fn add_scenarios(&mut self, line: &str) {
        if line.starts_with("scenarios: ") {
            self.passed += number_before(line, " passed");
            self.failed += number_before(line, " failed");
            self.skipped += number_before(line, " skipped");
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Counts something that passed as a whole.
    pub fn add_pass(&mut self) {
        self.passed += 1;
    }

    /// Counts something that failed as a whole, so that a zero never stands for "all well".
    pub fn add_failure(&mut self) {
        self.failed += 1;
    }

    /// Counts something that was skipped as a whole.
    pub fn add_skip(&mut self) {
        self.skipped += 1;
    }

    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    line.find(word)
        .and_then(|end| line[..end].rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_and_scenarios_add_up() {
        let mut tally = Tally::default();
        tally.add_cargo("test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        tally.add_cargo("test something ... ok");
        tally.add_scenarios("scenarios: 7 passed, 0 failed, 3 skipped");
        assert_eq!(tally.to_string(), "19 passed, 1 failed, 5 skipped");
        assert!(!tally.is_clean());
    }
}
