// SPDX-License-Identifier: GPL-2.0-or-later
//! What setup has done, written down before it is done, so that it can be finished or undone.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::RuleSet;
use super::step::{Before, Server, Step};
use crate::system::System;

/// Where it is.
pub const PATH: &str = "/var/lib/trafstat/setup.json";

/// The steps taken, or begun, in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Journal {
    entries: Vec<Entry>,
}

/// A step, and what there was before it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    step: Step,
    before: Before,
}

impl Journal {
    /// Reads it; there is none before the first setup.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn read(system: &dyn System) -> Result<Self> {
        match system.read(PATH)? {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_str(&text).with_context(|| {
                format!(
                    "{PATH} is damaged: it says what setup has done, and only that can be undone"
                )
            }),
        }
    }

    /// Whether setup has done nothing, or all is undone.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The steps, the one to be undone first at the head.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.entries.iter().rev().map(|entry| &entry.step)
    }

    /// The server that setup made the store on.
    pub fn server(&self) -> Option<Server> {
        self.entries.iter().find_map(|entry| match &entry.step {
            Step::Database(server) | Step::Schema(server) => Some(server.clone()),
            _ => None,
        })
    }

    /// Setup's rules, if some of them stand in a file that a firewall loads: a version before 0.3 put
    /// them there, or they were saved with the firewall's own.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn rules_in_firewall_files(&self, system: &dyn System) -> Result<Vec<RuleSet>> {
        let mut are_saved = false;
        for Entry { step, .. } in &self.entries {
            are_saved |= matches!(step, Step::SavedRules { .. }) && !step.is_taken(system)?;
        }
        if !are_saved {
            return Ok(Vec::new());
        }
        let sets = self.entries.iter().filter_map(|entry| match &entry.step {
            Step::Rules { program, rules } => Some(RuleSet {
                program: program.clone(),
                rules: rules.clone(),
            }),
            _ => None,
        });
        Ok(sets.collect())
    }

    /// Whether setup put this module under the original's rules.
    pub fn is_from_original(&self) -> bool {
        let is_original = |entry: &Entry| matches!(entry.step, Step::Original { .. });
        self.entries.iter().any(is_original)
    }

    /// Takes the steps in their order, those that are not taken; first takes back what an earlier
    /// setup did and this one does not want. Tells `said` of each step whether it did anything.
    ///
    /// # Errors
    /// A step's. The next run goes on from there.
    pub fn bring_about(
        &mut self,
        steps: &[Step],
        system: &dyn System,
        said: impl FnMut(&Step, bool),
    ) -> Result<()> {
        let unwanted = |entry: &Entry| !steps.iter().any(|step| step.key() == entry.step.key());
        while let Some(index) = self.entries.iter().rposition(unwanted) {
            self.take_back(index, system)?;
        }
        self.take_all(steps, system, said)
    }

    /// Takes the steps in their order, those that are not taken; others stay as they are.
    ///
    /// # Errors
    /// A step's. The next run goes on from there.
    pub fn take_all(
        &mut self,
        steps: &[Step],
        system: &dyn System,
        mut said: impl FnMut(&Step, bool),
    ) -> Result<()> {
        for step in steps {
            let known = self
                .entries
                .iter()
                .position(|entry| entry.step.key() == step.key());
            let taken = step.is_taken(system)?;
            if taken && known.is_some_and(|index| self.entries[index].step == *step) {
                said(step, false);
                continue;
            }
            match known {
                // What there was before the first time counts, not what setup itself left.
                Some(index) => self.entries[index].step = step.clone(),
                None => self.entries.push(Entry {
                    before: step.before(system)?,
                    step: step.clone(),
                }),
            }
            self.write(system)?;
            if !taken {
                step.take(system)
                    .with_context(|| format!("cannot {step}"))?;
            }
            said(step, !taken);
        }
        Ok(())
    }

    /// Takes back every step, the last first, and then forgets the journal itself.
    ///
    /// # Errors
    /// A step's. The next run goes on from there.
    pub fn undo(&mut self, system: &dyn System, mut said: impl FnMut(&Step)) -> Result<()> {
        while let Some(last) = self.entries.len().checked_sub(1) {
            let step = self.entries[last].step.clone();
            self.take_back(last, system)?;
            said(&step);
        }
        Ok(())
    }

    fn take_back(&mut self, index: usize, system: &dyn System) -> Result<()> {
        let Entry { step, before } = &self.entries[index];
        step.take_back(before, system)
            .with_context(|| format!("cannot undo this: {step}"))?;
        self.entries.remove(index);
        self.write(system)
    }

    fn write(&self, system: &dyn System) -> Result<()> {
        if self.is_empty() {
            return system.remove(PATH);
        }
        let text = serde_json::to_string_pretty(self)?;
        system.write(PATH, &text, 0o600)
    }
}
