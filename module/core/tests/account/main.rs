//! Accounts in user space, from packets to snapshots.

mod csv;
mod model;
mod support;
