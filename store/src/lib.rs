//! Keeps what xt_TRAFSTAT counted: from snapshot to database, exactly once.
//!
//! ```text
//! backend ◀─ collect ◀─ source ◀─ /proc/net/trafstat
//!    └─▶ query ─▶ trafstat show
//! ```
//!
//! - [`snapshot`] decodes a snapshot as it streams by and refuses one whose
//!   totals do not hold, so that nothing downstream sees a half-checked record.
//! - [`source`] is where snapshots come from and are acknowledged.
//! - [`collect`] takes every account's snapshot through one transaction of the
//!   store, or of a spool while the store is away, and acknowledges it only after the
//!   commit.
//! - [`backend`] is the store: one trait, one file per database. SQL stands there,
//!   in the spool's file, and nowhere else.
//! - [`export`] writes out what a store has, for other programs and to be restored.
//! - [`host`] is who collects into a store that several hosts share.
//! - [`import`] takes over what the original xt_TRAFSTAT's users have.
//! - [`query`] is a question to the store and its answer.
//! - [`protocol`] and [`services`] have the names of protocols and ports.
//! - [`options`] reads the configuration, which says where the store is.

pub mod account;
pub mod backend;
pub mod collect;
pub mod export;
pub mod host;
pub mod import;
mod kill_point;
pub mod options;
pub mod origin;
pub mod protocol;
pub mod query;
pub mod services;
pub mod snapshot;
pub mod source;
mod time;
