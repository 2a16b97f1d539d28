// SPDX-License-Identifier: GPL-2.0-or-later
//! Other users learn no account's name: a namespace's folders are its root's alone, except for the
//! csv files where `csv_mode` lets others read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::Iptables;
use crate::module;
use crate::proc::ROOT;
use crate::tenant::{NOBODY, Tenant};
use crate::topology::Netns;

/// A user who is neither root nor the tenant.
const STRANGER: u32 = 1234;

const KINDS: [&str; 3] = ["snapshot", "csv", "live"];
const NAME: &str = "secret";

/// A value of `csv_mode`, and the permissions of the folders of csv files that follow from it.
const MODES: [(&str, u32); 3] = [("0400", 0o500), ("0440", 0o550), ("0444", 0o555)];

pub fn run(guest: &Guest) -> Result<()> {
    for (csv_mode, csv_folder) in MODES {
        module::load_with(guest, &[&format!("csv_mode={csv_mode}")])?;
        let host = Netns::new("trafstat-local")?;
        let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
        for (netns, owner) in [(&host, 0), (tenant.netns(), NOBODY)] {
            for family in [Family::Ipv4, Family::Ipv6] {
                let iptables = Iptables::new(guest, netns, family);
                let local = family.local();
                iptables.succeed(&format!(
                    "-A FORWARD -j TRAFSTAT --local-net {local} --name {NAME}"
                ))?;
            }
            for kind in KINDS {
                let is_shared = kind == "csv" && csv_folder & 0o005 != 0;
                let expected = if kind == "csv" { csv_folder } else { 0o500 };
                has_mode(netns, kind, owner, expected)
                    .and_then(|()| strangers_see(netns, kind, is_shared))
                    .with_context(|| format!("csv_mode={csv_mode}, namespace of user {owner}"))?;
            }
        }
        let own = tenant.succeed(&["ls", "/proc/self/net/trafstat/live/ipv4"])?;
        ensure!(own.trim() == NAME, "the namespace's root sees {own:?}");
        drop(tenant);
        drop(host);
        module::unload()?;
    }
    Ok(())
}

fn has_mode(netns: &Netns, kind: &str, owner: u32, expected: u32) -> Result<()> {
    netns.enter(|| {
        for family in [Family::Ipv4, Family::Ipv6] {
            let path = format!("{ROOT}/{kind}/{}", family.folder());
            let metadata = fs::metadata(&path).with_context(|| format!("no {path}"))?;
            let found = (metadata.mode() & 0o777, metadata.uid(), metadata.gid());
            ensure!(
                found == (expected, owner, owner),
                "{path} has mode {:03o} and is of {} and {}, instead of {expected:03o} and {owner}",
                found.0,
                found.1,
                found.2
            );
        }
        Ok(())
    })
}

/// Lists the folders of `kind`, an account in them, and one that is not there.
fn strangers_see(netns: &Netns, kind: &str, is_shared: bool) -> Result<()> {
    let stranger = STRANGER.to_string();
    let mut ls = Command::new("setpriv");
    ls.args(["--reuid", &stranger, "--regid", &stranger])
        .args(["--clear-groups", "ls"]);
    let names = ["", NAME, "missing"];
    for family in [Family::Ipv4, Family::Ipv6] {
        let folder = format!("/proc/self/net/trafstat/{kind}/{}", family.folder());
        ls.args(names.map(|name| format!("{folder}/{name}")));
    }
    let ended = netns.end(&mut ls)?;
    // A name that is there is refused with the same words as one that is not.
    let refused = ended.stderr.matches("Permission denied").count();
    if is_shared {
        ensure!(
            refused == 0 && ended.stdout.contains(NAME),
            "a stranger who may read csv files does not find them: {ended:?}"
        );
    } else {
        ensure!(
            refused == 2 * names.len() && ended.stdout.is_empty(),
            "a stranger lists {kind}: {ended:?}"
        );
    }
    Ok(())
}
