// SPDX-License-Identifier: GPL-2.0-or-later
//! Asks before most of a database is deleted.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use trafstat_store::store::{Retention, Rotated, StoreError};

use crate::settings::say;

/// Deletes; asks a person at a terminal before that is more than half of a level. None, and said,
/// if another process is at it.
pub fn delete(
    retention: &Retention,
    delete: impl FnMut(&Retention) -> Result<Rotated, StoreError>,
) -> Result<Option<Rotated>> {
    match asking(retention, delete) {
        Err(error) => match error.downcast_ref() {
            Some(StoreError::InHand(_)) => {
                say(&error.to_string())?;
                Ok(None)
            }
            _ => Err(error),
        },
        deleted => deleted.map(Some),
    }
}

fn asking(
    retention: &Retention,
    mut delete: impl FnMut(&Retention) -> Result<Rotated, StoreError>,
) -> Result<Rotated> {
    match delete(retention) {
        Err(StoreError::MostDeleted(what)) if person_is_there() => {
            match confirmed(&format!("Delete {what}?")).context("cannot ask")? {
                true => Ok(delete(&Retention {
                    even_most: true,
                    ..*retention
                })?),
                false => Err(StoreError::MostDeleted(what).into()),
            }
        }
        done => Ok(done?),
    }
}

fn person_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question whose answer is no unless it is yes.
fn confirmed(question: &str) -> io::Result<bool> {
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
