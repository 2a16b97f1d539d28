// SPDX-License-Identifier: GPL-2.0-or-later
//! Accounts in user space, from packets to snapshots.

mod cpus;
mod csv;
mod folding;
mod growth;
mod hostile;
mod memory;
mod merging;
mod model;
mod sampling;
mod scarce;
mod support;
