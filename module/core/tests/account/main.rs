//! Accounts in user space, from packets to snapshots.

mod cpus;
mod csv;
mod growth;
mod hostile;
mod memory;
mod model;
mod scarce;
mod support;
