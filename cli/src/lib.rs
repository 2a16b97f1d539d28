// SPDX-License-Identifier: GPL-2.0-or-later
//! What the command lines of `trafstat` and `trafstat-store` share.
//!
//! - [`store`] has the options that say which store, and what stands behind them.
//! - [`capture`] has those of counting without the kernel module.
//! - [`values`], [`time`] and [`units`] read and write names, times and numbers as people do.
//! - [`text`] makes what comes from elsewhere safe to show.
//! - [`output`] and [`progress`] write to pipes and terminals, and [`hint`] adds to an error
//!   the option that helps.
//! - [`log`] takes the programs' messages to the journal or to standard error.
//! - [`manual`] makes manual pages and shell completions.

pub mod capture;
pub mod hint;
pub mod log;
pub mod manual;
pub mod output;
pub mod progress;
pub mod store;
pub mod text;
pub mod time;
pub mod units;
pub mod values;
