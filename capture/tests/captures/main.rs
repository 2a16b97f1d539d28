// SPDX-License-Identifier: GPL-2.0-or-later
//! Captures, held against what Wireshark's programs say of the same files.
//!
//! `TRAFSTAT_CAPTURES` names the folder of recorded captures; otherwise it is
//! `../shared/captures` beside the repository.

mod counted;
mod files;
mod generated;
mod link_layers;

mod malformed;
mod tshark;
mod well_formed;
