//! Keeps what xt_TRAFSTAT counted: from snapshot to database, exactly once.
//!
//! ```text
//!   snapshot ◀─ source ◀─ /proc/net/trafstat, captures, interfaces
//!      ▲           ▲
//!      │           └──── collect, import
//!      │                    │
//!    store ◀────────────────┘
//!      ▲ ▲
//!      │ └─ export
//!      │       ▲
//!      └─── backend ◀─ options
//! ```
//!
//! An arrow says who imports whom; imports make no circle, among modules or files.
//!
//! - [`snapshot`] decodes a snapshot as it streams by and refuses one whose
//!   totals do not hold, so that nothing downstream sees a half-checked record.
//! - [`source`] is where snapshots come from and are acknowledged.
//! - [`store`] has the trait of a store, its errors and its vocabulary, and knows no database.
//! - [`collect`] takes every account's snapshot through one transaction of the
//!   store, or of a spool while the store is away, and acknowledges it only after the
//!   commit.
//! - [`export`] writes out what a store has, for other programs and to be restored.
//! - [`backend`] has the databases. Statements of SQL stand there, in the spool's file and in
//!   that of the original's tables, and nowhere else.
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
pub mod store;
mod time;
pub mod watch;
mod whole_file;
