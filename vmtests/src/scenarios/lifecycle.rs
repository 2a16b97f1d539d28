// SPDX-License-Identifier: GPL-2.0-or-later
//! The lifecycle of accounts: rules come and go, the module too, and no epoch is lost or taken for another.

use anyhow::{Context, Result, ensure};

use crate::collector::Collector;
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{self, ACCOUNT, AccountKey, Snapshot};
use crate::topology::Topology;
use crate::traffic::{self, EchoServer};

/// How often all rules go and all accounts are read.
const ENDS: u32 = 10;
/// Accounts that are read one after the other.
const NAMES: [&str; 3] = ["first", "second", "third"];

pub fn run(guest: &Guest) -> Result<()> {
    let collector = Collector::new(guest, guest.scratch()?);
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    let echo = EchoServer::bind(&topology, 5000)?;
    let account = || proc::account(&topology.local, ACCOUNT);

    // An account that saw nothing leaves nothing behind.
    iptables.count_local(ALL_PORTS)?;
    iptables.flush()?;
    ensure!(
        account()?.is_none(),
        "an account without rule or packet is still there"
    );

    // Without a rule its epoch waits.
    iptables.count_local(ALL_PORTS)?;
    echo.exchange(&topology, 30, 100)?;
    let rules = iptables.save()?;
    let mut counted = iptables.counters()?;
    let first_id = id(&topology)?;
    iptables.flush()?;
    let waiting = account()?.context("the account went with its last rule")?;
    ensure!(
        proc::number(&waiting, "rules")? == 0 && proc::number(&waiting, "unread")? > 0,
        "no epoch waits: {waiting:?}"
    );

    // A rule of its name takes it up again.
    iptables.restore(&rules)?;
    let adopted = account()?.context("no account")?;
    ensure!(
        proc::number(&adopted, "rules")? == 2,
        "not the rules' account: {adopted:?}"
    );
    echo.exchange(&topology, 7, 100)?;
    // The restored rules start from 0.
    let restored = iptables.counters()?;
    counted.packets += restored.packets;
    counted.bytes += restored.bytes;
    collector.collect(&topology.local)?;
    ensure!(
        id(&topology)? == first_id,
        "the restored rules count into another account"
    );
    collector.collect(&topology.local)?;
    ensure!(
        collector.totals()?.as_rules_count() == counted,
        "stored {:?}, counted {counted:?}",
        collector.totals()?
    );

    // A deleted rule's epoch is collected, and the account is gone once it is.
    traffic::ping(&topology, 3)?;
    counted.packets += 6;
    counted.bytes += 6 * 84;
    iptables.flush()?;
    collector.collect(&topology.local)?;
    ensure!(
        account()?.is_none(),
        "an account without rule or epoch is still there"
    );
    let totals = collector.totals()?;
    ensure!(
        totals.as_rules_count() == counted,
        "stored {totals:?}, counted {counted:?}"
    );

    // The same name, the same epoch numbers, but no copy.
    iptables.count_local(ALL_PORTS)?;
    traffic::ping(&topology, 3)?;
    let second_id = id(&topology)?;
    ensure!(second_id != first_id, "two accounts with one identity");
    collector.collect(&topology.local)?;
    iptables.flush()?;
    module::unload()?;

    // Nor after the module was loaded again.
    module::load(guest)?;
    iptables.count_local(ALL_PORTS)?;
    traffic::ping(&topology, 3)?;
    let third_id = id(&topology)?;
    ensure!(
        third_id != first_id && third_id != second_id,
        "a reload repeats an identity"
    );
    collector.collect(&topology.local)?;

    counted.packets += 12;
    counted.bytes += 12 * 84;
    let totals = collector.totals()?;
    ensure!(
        totals.as_rules_count() == counted,
        "stored {totals:?}, counted {counted:?}"
    );
    for id in [first_id, second_id, third_id] {
        ensure!(
            collector
                .epochs()?
                .iter()
                .any(|stored| stored.account_id == id && stored.epoch == 1),
            "epoch 1 of account {id} is not stored: {:?}",
            collector.epochs()?
        );
    }
    iptables.flush()?;
    accounts_without_rules_are_read_in_turn(&topology, &iptables)
}

/// Closes the epoch, where none waits: only a snapshot has the account's identity.
fn id(topology: &Topology) -> Result<String> {
    let snapshot = Snapshot::peek(&topology.local, ACCOUNT)?;
    Ok(snapshot
        .header
        .account_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The end of one account's reader has accounts looked for that nothing needs, while the next one
/// has its epoch closed: that one may not go.
fn accounts_without_rules_are_read_in_turn(
    topology: &Topology,
    iptables: &Iptables<'_>,
) -> Result<()> {
    let local = topology.family.local();
    for end in 0..ENDS {
        for name in NAMES {
            iptables.succeed(&format!(
                "-A INPUT -d {local} -j TRAFSTAT --local-net {local} --name {name}"
            ))?;
        }
        traffic::ping(topology, 1)?;
        iptables.flush()?;
        for name in NAMES {
            let key = AccountKey {
                family: topology.family,
                name,
            };
            let seen = Snapshot::collect(&topology.local, key)
                .with_context(|| format!("round {end}"))?
                .header
                .seen_packets;
            ensure!(seen == 1, "{seen} packets instead of one, round {end}");
        }
    }
    Ok(())
}
