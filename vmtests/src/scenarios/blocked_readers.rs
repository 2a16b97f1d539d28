// SPDX-License-Identifier: GPL-2.0-or-later
//! A user whose readers never come back holds up nobody, not even itself.
//!
//! The readers wait for memory that never comes. Meanwhile rules are added and deleted, by the user,
//! for the user and by others, and namespaces come and go. Once the readers are killed, nothing of
//! them is left.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bystander::{self, Bystander};
use crate::guest::Guest;
use crate::module;
use crate::proc;
use crate::process;
use crate::tenant::{Blocked, LIMIT, NOBODY, Tenant, Way};

/// Room for some accounts, so that it is noticed when an account's is not given back.
const ROOM: [&str; 2] = ["max_user_memory=2000000", "max_tenant_memory=2000000"];
/// More accounts than that has room for.
const TOO_MANY_ACCOUNTS: usize = 200;

/// Accounts that no packet comes to: they are over with their last rule. One has a reader.
const LIVE: &str = "live";
const UNREAD: &str = "unread";
/// Accounts with a reader and counts that nobody acknowledges.
const COUNTED: [&str; 3] = ["snapshot", "csv", "ack"];

const FILES: [&str; 5] = [
    "live/ipv4/live",
    "snapshot/ipv4/snapshot",
    "csv/ipv4/csv",
    "+snapshot/ipv4/ack",
    "accounts",
];

pub fn run(guest: &Guest) -> Result<()> {
    let ways = Way::all()?;
    module::load_with(guest, &ROOM)?;
    let bystander = Bystander::new(guest)?;
    let possible = possible_accounts(guest)?;
    for way in ways {
        println!("readers wait for memory by {way:?}");
        holds_up_nobody(guest, &bystander, way).with_context(|| format!("{way:?}"))?;
        module::wait_until_unused()?;
        let still_possible = possible_accounts(guest)?;
        ensure!(
            still_possible == possible,
            "a user had room for {possible} accounts before, for {still_possible} afterwards"
        );
    }
    Ok(())
}

fn possible_accounts(guest: &Guest) -> Result<usize> {
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    let possible = tenant.count_possible_accounts(TOO_MANY_ACCOUNTS)?;
    println!("a user has room for {possible} accounts");
    ensure!(
        (10..TOO_MANY_ACCOUNTS).contains(&possible),
        "a user has room for {possible} accounts"
    );
    drop(tenant);
    module::wait_until_unused()?;
    Ok(possible)
}

fn holds_up_nobody(guest: &Guest, bystander: &Bystander<'_>, way: Way) -> Result<()> {
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    tenant.restore(&rules())?;
    tenant.succeed(&["ping", "-q", "-c", "1", "127.0.0.1"])?;
    let blocked = Blocked::new(&tenant, tenant.netns(), way, &FILES)?;

    // The first that waits is not the only one.
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        failures.extend(result.err().map(|error| format!("{what}: {error:#}")));
    };
    let by_user = |rule: &str| in_time(tenant.command(&["iptables-nft", "-w"]), rule);
    let result = by_user(&format!("-D FORWARD {}", target(LIVE)));
    note(
        "the user deletes the rule of an account that is read",
        result,
    );
    let result = by_user(&format!("-D FORWARD {}", target(UNREAD)));
    note("the user deletes another account's rule", result);
    note("meanwhile", bystander.goes_on());
    for name in COUNTED {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .arg(format!("--net={}", tenant.netns().path()))
            .args(["iptables-nft", "-w"])
            .env("XTABLES_LIBDIR", guest.plugin_path());
        let result = in_time(nsenter, &format!("-D OUTPUT {}", target(name)));
        note("the host deletes the user's rule", result);
    }
    let mut list = tenant.command(&["cat", "/proc/self/net/trafstat/accounts"]);
    let result = bystander::succeed_in_time(&mut list);
    note("the user lists its accounts", result);
    let comes_and_goes = || -> Result<()> {
        for _ in 0..5 {
            by_user(&format!("-A FORWARD {}", target(UNREAD)))?;
            by_user(&format!("-D FORWARD {}", target(UNREAD)))?;
        }
        Ok(())
    };
    note("the user's rule comes and goes", comes_and_goes());
    // The name may be taken for as long as somebody reads, but nobody waits for that.
    let mut again = tenant.command(&["iptables-nft", "-w", "-A", "FORWARD"]);
    let result = process::end_within(again.args(target(LIVE).split(' ')), LIMIT).map(drop);
    note("the user adds the rule again", result);
    note("at the end", bystander.goes_on());
    ensure!(failures.is_empty(), "{}", failures.join("\n"));

    blocked.kill()?;
    bystander::nobody_waits()?;
    leaves_no_account(&tenant)
}

/// One rule for each account.
fn rules() -> String {
    let mut rules = "*filter\n".to_owned();
    for name in [LIVE, UNREAD] {
        rules += &format!("-A FORWARD {}\n", target(name));
    }
    for name in COUNTED {
        rules += &format!("-A OUTPUT {}\n", target(name));
    }
    rules + "COMMIT\n"
}

fn target(name: &str) -> String {
    format!("-j TRAFSTAT --local-net 127.0.0.0/8 --name {name}")
}

fn in_time(mut iptables: Command, rule: &str) -> Result<()> {
    bystander::succeed_in_time(iptables.args(rule.split(' ')))
}

/// Deletes the rules that are left, and acknowledges what was counted.
fn leaves_no_account(tenant: &Tenant) -> Result<()> {
    tenant.succeed(&["iptables-nft", "-F"])?;
    for name in COUNTED {
        tenant.succeed(&["cat", &format!("/proc/self/net/trafstat/csv/ipv4/{name}")])?;
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = proc::accounts(tenant.netns())?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "accounts are left: {left:?}");
        thread::sleep(Duration::from_millis(100));
    }
}
