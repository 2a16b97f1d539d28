// SPDX-License-Identifier: GPL-2.0-or-later
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
//! - [`reading`] is what the original's counters gave at one time, and what a store lacks of it.
//! - [`query`] is a question to the store and its answer.
//! - [`protocol`] and [`services`] have the names of protocols and ports.
//! - [`options`] reads the configuration, which says where the store is.
//!
//! # Example
//!
//! A snapshot, as the kernel serves it, is appended to a SQLite database. Then the database is
//! asked what each remote port came to:
//!
//! ```
//! use std::error::Error;
//!
//! use trafstat_store::backend::Sqlite;
//! use trafstat_store::collect::{State, append};
//! use trafstat_store::origin::Origin;
//! use trafstat_store::query::{Field, Query, Value};
//! use trafstat_store::snapshot::Snapshot;
//! use trafstat_store::store::Store;
//! # use trafstat_abi::{RecordIpv4, SnapshotHeader};
//! # use zerocopy::{FromZeros, IntoBytes};
//! #
//! # fn served() -> Vec<u8> {
//! #     let mut name = [0; 32];
//! #     name[..3].copy_from_slice(&b"lan".map(|byte| byte as i8));
//! #     let record = RecordIpv4 {
//! #         protocol: 17,
//! #         local_ip: [192, 0, 2, 1],
//! #         remote_ip: [198, 51, 100, 7],
//! #         remote_port: 53,
//! #         sent_packets: 1,
//! #         sent_bytes: 28,
//! #         ..FromZeros::new_zeroed()
//! #     };
//! #     let header = SnapshotHeader {
//! #         magic: *b"TRAFSTAT",
//! #         version: 1,
//! #         header_size: size_of::<SnapshotHeader>() as u16,
//! #         record_size: size_of::<RecordIpv4>() as u16,
//! #         family: 2,
//! #         prefix_len: 24,
//! #         account_id: [1; 16],
//! #         name,
//! #         epoch: 1,
//! #         records: 1,
//! #         seen_packets: 1,
//! #         seen_bytes: 28,
//! #         recorded_packets: 1,
//! #         recorded_bytes: 28,
//! #         ..FromZeros::new_zeroed()
//! #     };
//! #     [header.as_bytes(), record.as_bytes()].concat()
//! # }
//!
//! # fn main() -> Result<(), Box<dyn Error>> {
//! # let folder = tempfile::tempdir()?;
//! let mut store = Sqlite::open(&folder.path().join("trafstat.db"))?;
//! store.migrate()?;
//!
//! let origin = Origin {
//!     machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
//!     hostname: "gateway".to_owned(),
//!     netns: "init".to_owned(),
//! };
//! let bytes = served();
//! let mut snapshot = Snapshot::open(&bytes[..])?;
//! assert_eq!(append(&mut store, &origin, &mut snapshot)?, State::Stored);
//! // The same epoch, served again, counts once.
//! let mut again = Snapshot::open(&bytes[..])?;
//! assert_eq!(append(&mut store, &origin, &mut again)?, State::AlreadyStored);
//!
//! let answer = store.query(&Query { by: vec![Field::RemotePort], ..Query::default() })?;
//! assert_eq!(answer.groups[0].key, [Value::Port(53)]);
//! assert_eq!(answer.total.sent_bytes, 28);
//! # Ok(())
//! # }
//! ```

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
pub mod reading;
pub mod services;
pub mod snapshot;
pub mod source;
pub mod store;
mod time;
pub mod watch;
mod whole_file;
