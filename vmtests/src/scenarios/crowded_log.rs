// SPDX-License-Identifier: GPL-2.0-or-later
//! A user whose rules are refused all the time does not keep the log from telling of the host's.

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::Iptables;
use crate::kernel_log::KernelLog;
use crate::module;
use crate::tenant::{NOBODY, Tenant};
use crate::topology::Netns;

/// More messages than the log takes in some seconds, and no more rules than a user may send at once.
const REFUSED: usize = 40;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    let host = Netns::new("trafstat-local")?;
    let iptables = Iptables::new(guest, &host, Family::Ipv4);
    iptables.succeed(&format!("-A {}", rule(0, "host")))?;
    tenant.restore(&format!("*filter\n-A {}\nCOMMIT\n", rule(0, "user")))?;

    let mut log = KernelLog::from_now()?;
    let refused: String = (1..=REFUSED)
        .map(|network| format!("-A {}\n", rule(network, "user")))
        .collect();
    let tables = format!("*filter\n{refused}COMMIT\n");
    let ended = tenant.end(&["iptables-nft-restore", "--noflush"], &tables)?;
    ensure!(ended.code != Some(0), "{ended:?}");
    let ended = iptables.end(&format!("-A {}", rule(1, "host")))?;
    ensure!(ended.code != Some(0), "{ended:?}");

    let lines = log.new_lines()?;
    let about = |name: &str| {
        let text = format!("account {name} counts for ");
        lines.iter().filter(|line| line.contains(&text)).count()
    };
    ensure!(
        about("host") == 1,
        "{} messages about the host's rule, {} about the user's: {lines:?}",
        about("host"),
        about("user")
    );
    ensure!(
        (1..REFUSED).contains(&about("user")),
        "{} messages about the {REFUSED} rules of a user",
        about("user")
    );
    Ok(())
}

/// A rule of the account `name`, for another network each time.
fn rule(network: usize, name: &str) -> String {
    format!("FORWARD -j TRAFSTAT --local-net 10.{network}.0.0/16 --name {name}")
}
