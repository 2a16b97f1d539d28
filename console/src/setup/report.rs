// SPDX-License-Identifier: GPL-2.0-or-later
//! What setup tells of its steps, for people and for programs.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use trafstat_cli::output::{Format, say, to_stdout, with_causes};

use super::step::Step;

/// The steps, as far as they were taken.
///
/// People read each as it is taken; programs get all of them at the end, whatever it is.
pub struct Report {
    format: Format,
    steps: Vec<(State, String)>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was taken.
    Done,
    /// There was nothing to do.
    DoneAlready,
    /// It would be taken.
    WouldDo,
    /// It was taken back.
    Undone,
    /// It would be taken back.
    WouldUndo,
}

impl State {
    /// The state's name for programs.
    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::DoneAlready => "done-already",
            Self::WouldDo => "would-do",
            Self::Undone => "undone",
            Self::WouldUndo => "would-undo",
        }
    }

    /// What stands before the step's text for people.
    fn label(self) -> &'static str {
        match self {
            Self::Done => "done:",
            Self::DoneAlready => "done already:",
            Self::WouldDo => "would",
            Self::Undone => "undone:",
            Self::WouldUndo => "would undo:",
        }
    }
}

impl Report {
    /// Nothing happened yet.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            steps: Vec::new(),
        }
    }

    /// Tells of a step.
    pub fn add(&mut self, step: &Step, state: State) {
        match self.format {
            Format::Table => say(format_args!("{} {step}", state.label())),
            Format::Csv | Format::Json => self.steps.push((state, step.to_string())),
        }
    }

    /// Tells people something.
    pub fn say(&self, text: &str) {
        if self.format == Format::Table {
            say(format_args!("{text}"));
        }
    }

    /// Writes what programs get.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn finish(&self, dry_run: bool, error: Option<&anyhow::Error>) -> Result<()> {
        to_stdout(|writer| match self.format {
            Format::Table => Ok(()),
            Format::Json => writeln!(writer, "{}", self.json(dry_run, error)),
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(writer);
                csv.write_record(["state", "step"])?;
                for (state, step) in &self.steps {
                    csv.write_record([state.name(), step])?;
                }
                csv.flush()
            }
        })
        .context("cannot write to standard output")
    }

    fn json(&self, dry_run: bool, error: Option<&anyhow::Error>) -> Value {
        let steps = self.steps.iter();
        let steps: Vec<Value> = steps
            .map(|(state, step)| json!({ "state": state.name(), "step": step }))
            .collect();
        json!({ "dry_run": dry_run, "steps": steps, "error": error.map(with_causes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_the_steps_before_an_error_and_the_error() {
        let mut report = Report::new(Format::Json);
        report.add(&Step::Module, State::DoneAlready);
        let error = anyhow::anyhow!("no iptables").context("cannot set rules");
        let json = report.json(false, Some(&error));
        assert_eq!(json["steps"][0]["state"], "done-already");
        assert_eq!(json["steps"][0]["step"], "load the module xt_TRAFSTAT");
        assert_eq!(json["error"], "cannot set rules: no iptables");
        assert_eq!(json["dry_run"], false);
    }
}
