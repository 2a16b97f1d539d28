// SPDX-License-Identifier: GPL-2.0-or-later
//! Everything that `trafstat doctor` finds, brought about for real and then put right.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{LOCAL, REMOTE, install, install_debian, ping, step, succeed};
use crate::process;

const CONFIG: &str = "/etc/trafstat/trafstat.toml";
const DATABASE: &str = "/var/lib/trafstat/trafstat.db";
/// A table of the database: sums by day.
const DAYS: &str = "local_daily";
const COLLECT: &str = "trafstat-collect.service";
/// Longer than the time within which the collector has to have run.
const A_WHILE: &str = "2 hours";

/// More flows than the fewest that a rule may limit an epoch to.
const MANY_FLOWS: u16 = 3000;

pub fn run() -> Result<()> {
    install_debian(&["nftables", "sqlite3"])?;
    install(1)?;
    before_setup()?;
    // With no port at all its rules would have no list that one can be missing from.
    let _listener = TcpListener::bind(("0.0.0.0", 8000))?;
    succeed("trafstat setup")?;
    ping(5)?;
    collect()?;
    step("a host that is well")?;
    let found = found()?;
    ensure!(found.is_empty(), "a host that is well has {found:?}");
    of_rules()?;
    of_ports()?;
    of_the_store()?;
    of_quotas()?;
    of_the_clock()
}

/// On a kernel that takes signed modules only, and does not know the key that DKMS signs with.
pub fn signature() -> Result<()> {
    install(1)?;
    expect("signature-refused")?;
    let refused = process::end(Command::new("trafstat").arg("setup"))?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("trafstat doctor"),
        "setup ends with {refused:?}"
    );
    Ok(())
}

fn before_setup() -> Result<()> {
    expect("no-rules")?;
    // Whoever looks loads it.
    let unload = || succeed("modprobe -r xt_TRAFSTAT");
    unload()?;
    without_module("xt_TRAFSTAT", "module-missing")?;
    // Another rule's may be loaded.
    process::end(Command::new("modprobe").args(["-r", "nft_compat"]))?;
    without_module("nft_compat", "nft-compat-missing")?;

    unload()?;
    let refusing = "/etc/modprobe.d/refusing.conf";
    fs::write(refusing, "install xt_TRAFSTAT /bin/false\n")?;
    expect("module-refused")?;
    fs::remove_file(refusing)?;
    gone("module-refused")
}

/// Takes a module's file away for a while.
fn without_module(module: &str, kind: &str) -> Result<()> {
    let path = PathBuf::from(succeed(&format!("modinfo -n {module}"))?.trim());
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside)?;
    succeed("depmod -a")?;
    expect(kind)?;
    fs::rename(&aside, &path)?;
    succeed("depmod -a")?;
    gone(kind)
}

fn of_rules() -> Result<()> {
    for (kind, rules) in [
        (
            "shadowed",
            &[&format!("INPUT -s {REMOTE} -p icmp -j ACCEPT")[..]][..],
        ),
        (
            "counted-twice",
            &[&format!("INPUT -d {LOCAL} -j TRAFSTAT --local-net {LOCAL}")],
        ),
        (
            "own-traffic-twice",
            &[
                "INPUT -d 203.0.113.1 -j TRAFSTAT --local-net 203.0.113.1",
                "OUTPUT -s 203.0.113.1 -j TRAFSTAT --local-net 203.0.113.1",
            ],
        ),
        (
            "untracked",
            &[
                "PREROUTING -t raw -p udp --dport 53 -j CT --notrack",
                "INPUT -d 203.0.113.1 -m conntrack --ctstate NEW -j TRAFSTAT --local-net 203.0.113.1",
            ],
        ),
    ] {
        for rule in rules {
            succeed(&format!("iptables -I {rule}"))?;
        }
        ping(2)?;
        expect(kind)?;
        for rule in rules {
            succeed(&format!("iptables -D {rule}"))?;
        }
        gone(kind)?;
    }

    let ruleset = Path::new(super::FOLDER).join("flowtable");
    fs::write(
        &ruleset,
        "table inet f {\n\
         flowtable t { hook ingress priority 0; devices = { wan }; }\n\
         chain c { type filter hook forward priority 0; ip protocol tcp flow add @t; }\n\
         }\n",
    )?;
    succeed(&format!("nft -f {}", ruleset.display()))?;
    expect("flow-offload")?;
    succeed("nft delete table inet f")?;
    gone("flow-offload")?;

    let few = format!(
        "OUTPUT -s {LOCAL} -p udp -j TRAFSTAT --local-net {LOCAL} --name few \
         --remote-udp-ports all --max-entries 1"
    );
    succeed(&format!("iptables -I {few}"))?;
    let socket = UdpSocket::bind((LOCAL, 0))?;
    for port in 1..=MANY_FLOWS {
        // What comes back for the one before, a port that nobody listens on, is no matter.
        let _ = socket.send_to(b"x", (REMOTE, port));
    }
    expect("folded")?;
    succeed(&format!("iptables -D {few}"))?;
    collect()?;
    gone("folded")
}

fn of_ports() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", 8080))?;
    expect("port-not-listed")?;
    drop(listener);
    gone("port-not-listed")
}

fn of_the_store() -> Result<()> {
    succeed("mount -t tmpfs -o size=100m none /var/lib/trafstat")?;
    expect("store-nearly-full")?;
    succeed("umount /var/lib/trafstat")?;
    gone("store-nearly-full")?;

    succeed("systemctl stop trafstat-collect.timer")?;
    let aside = Path::new(super::FOLDER).join("aside.db");
    fs::rename(DATABASE, &aside)?;
    fs::write(DATABASE, "no database at all\n".repeat(1000))?;
    expect("store-unreadable")?;
    fs::rename(&aside, DATABASE)?;
    gone("store-unreadable")
}

fn of_quotas() -> Result<()> {
    let before = fs::read(CONFIG).ok();
    let put_back = || match &before {
        Some(text) => fs::write(CONFIG, text),
        None => fs::remove_file(CONFIG),
    };
    let quota = "[quota]\nwarn-at = [50]\n[[quota.limit]]\nname = \"all\"\n";
    for (rest, kind) in [
        ("bytes = \"1 B\"\nper = \"month\"\n", "quota"),
        ("bytes = \"much\"\n", "configuration-wrong"),
    ] {
        fs::write(CONFIG, format!("{quota}{rest}"))?;
        expect(kind)?;
        put_back()?;
        gone(kind)?;
    }

    let (command, log) = ("/usr/local/sbin/quota-warning", "/run/quota-warnings");
    fs::write(
        command,
        format!("#!/bin/sh\necho $TRAFSTAT_QUOTA_PERCENT $TRAFSTAT_QUOTA_NAME >>{log}\n"),
    )?;
    fs::set_permissions(command, fs::Permissions::from_mode(0o755))?;
    fs::write(
        CONFIG,
        "[quota]\nwarn-at = [50]\ncommand = [\"/usr/local/sbin/quota-warning\"]\n\
         [[quota.limit]]\nname = \"the: whole-office\"\nbytes = \"1 B\"\nper = \"month\"\n",
    )?;
    for _ in 0..2 {
        succeed("systemctl start trafstat-quota.service")?;
    }
    ensure!(
        fs::read_to_string(log)? == "50 the: whole-office\n",
        "the command of the quota ran for {:?}",
        fs::read_to_string(log)?
    );
    put_back()?;

    // A month's sums are read from a table of days, once days of it have passed.
    let today: u32 = succeed("date +%-d")?.trim().parse()?;
    let reset_day = if today < 8 { 15 } else { 1 };
    let rename = |from: &str, to: &str| {
        process::succeed(
            Command::new("sqlite3").args([DATABASE, &format!("ALTER TABLE {from} RENAME TO {to}")]),
        )
    };
    fs::write(
        CONFIG,
        format!("{quota}bytes = \"1 TB\"\nper = \"month\"\nreset-day = {reset_day}\n"),
    )?;
    rename(DAYS, "aside")?;
    expect("quota-unknown")?;
    rename("aside", DAYS)?;
    gone("quota-unknown")?;
    Ok(put_back()?)
}

/// The timer does not run any more.
fn of_the_clock() -> Result<()> {
    let set = |sign: &str| {
        process::succeed(Command::new("date").args(["-s", &format!("{sign}{A_WHILE}")]))
    };
    set("+")?;
    expect("not-collected")?;
    ping(2)?;
    collect()?;
    gone("not-collected")?;
    set("-")?;
    expect("clock-skew")
}

fn collect() -> Result<()> {
    let ended = process::end(Command::new("systemctl").args(["start", COLLECT]))?;
    if ended.code != Some(0) {
        let log = succeed(&format!(
            "journalctl --no-pager --lines 20 --unit {COLLECT}"
        ))?;
        bail!("the collector failed:\n{log}");
    }
    Ok(())
}

fn expect(kind: &str) -> Result<()> {
    step(kind)?;
    let found = found()?;
    ensure!(
        found.iter().any(|(found, _)| found == kind),
        "{kind} is not found, but {found:?}"
    );
    for (_, sentence) in &found {
        println!("    {sentence}");
    }
    Ok(())
}

fn gone(kind: &str) -> Result<()> {
    let found = found()?;
    ensure!(
        found.iter().all(|(found, _)| found != kind),
        "{kind} is found after it was put right: {found:?}"
    );
    Ok(())
}

/// What doctor finds: the kinds, and its sentences.
fn found() -> Result<Vec<(String, String)>> {
    let ended = process::end(Command::new("trafstat").args(["doctor", "--format", "json"]))?;
    let answer: Value =
        serde_json::from_str(&ended.stdout).with_context(|| format!("doctor ends {ended:?}"))?;
    let findings = answer["findings"].as_array().context("no findings")?;
    let expected = if findings.is_empty() { 0 } else { 1 };
    ensure!(ended.code == Some(expected), "doctor ends with {ended:?}");
    let text = |finding: &Value, name: &str| {
        let text = finding[name].as_str();
        text.map(str::to_owned)
            .with_context(|| ended.stdout.clone())
    };
    findings
        .iter()
        .map(|finding| {
            let sentence = format!("{}: {}", text(finding, "what")?, text(finding, "remedy")?);
            Ok((text(finding, "kind")?, sentence))
        })
        .collect()
}
