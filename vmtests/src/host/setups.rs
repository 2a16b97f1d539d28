// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat setup` killed on its way, with very many ports, and beside everything else that sets
//! rules on a Debian host.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::{
    LOCAL, MARK, REMOTE, install, install_debian, ping, rules, set_other_rules, step, succeed,
    wait_for,
};
use crate::process;

/// Ports that listen, no two beside each other.
const MANY_PORTS: u16 = 200;
const FIRST_PORT: u16 = 10_001;
/// Moments at which setup is killed.
const KILLS: u32 = 6;
const SAVED_RULES: &str = "/etc/iptables/rules.v4";
/// Keeps modprobe from loading the module.
const NO_MODULE: &str = "/etc/modprobe.d/no-trafstat.conf";

pub fn run() -> Result<()> {
    set_other_rules()?;
    install(1)?;
    many_ports()?;
    killed()?;
    beside_nftables()?;
    with_netfilter_persistent()?;
    with_ufw()?;
    with_docker()?;
    with_firewalld()
}

fn many_ports() -> Result<()> {
    step("very many ports")?;
    let listeners: Vec<_> = (0..MANY_PORTS)
        .map(|number| TcpListener::bind(("0.0.0.0", FIRST_PORT + 2 * number)))
        .collect::<Result<_, _>>()?;
    succeed("trafstat setup")?;
    let last = FIRST_PORT + 2 * (MANY_PORTS - 1);
    let connect = format!("exec 3<>/dev/tcp/{LOCAL}/{last}");
    let words = ["netns", "exec", "remote", "bash", "-c", &connect];
    process::succeed(Command::new("ip").args(words))?;
    succeed("systemctl start trafstat-collect.service")?;
    let shown = succeed("trafstat show --by local-port --numeric --format csv")?;
    ensure!(
        shown.contains(&last.to_string()),
        "no port {last}:\n{shown}"
    );
    drop(listeners);
    undone()
}

fn killed() -> Result<()> {
    step("killed")?;
    let before = others()?;
    let began = Instant::now();
    succeed("trafstat setup")?;
    let whole = began.elapsed();
    let wanted = rules()?;
    for kill in 1..=KILLS {
        undone()?;
        let mut setup = Command::new("trafstat")
            .arg("setup")
            .stdout(Stdio::null())
            .spawn()?;
        thread::sleep(whole * kill / (KILLS + 1));
        // It may have been faster this time.
        let _ = setup.kill();
        setup.wait()?;
        let after = rules()?.len();
        succeed("trafstat setup")?;
        ensure!(
            rules()? == wanted && others()? == before,
            "killed at {kill}/{}, with {after} rules set: {:?}",
            KILLS + 1,
            rules()?
        );
    }
    undone()
}

fn beside_nftables() -> Result<()> {
    step("nftables that flushes all rules")?;
    install_debian(&["nftables"])?;
    let configuration = "/etc/nftables.conf";
    let before = fs::read(configuration)?;
    fs::write(
        configuration,
        "flush ruleset\n\
         table inet own {\n\
         chain input { type filter hook input priority 0; tcp dport 9 drop; }\n\
         }\n",
    )?;
    succeed("systemctl enable --now nftables.service")?;
    succeed("trafstat setup")?;
    for verb in ["reload", "restart"] {
        succeed(&format!("systemctl {verb} nftables.service"))?;
        wait_for("the rules come back", || Ok(rules()?.len() == 2))?;
    }
    ensure!(
        succeed("nft list tables")?.contains("table inet own"),
        "nftables' own table is gone"
    );
    undone()?;
    succeed("systemctl disable --now nftables.service")?;
    fs::write(configuration, before)?;
    set_other_rules()
}

/// The firewall stands though its file names the target and the module is missing.
fn with_netfilter_persistent() -> Result<()> {
    step("netfilter-persistent")?;
    install_debian(&["iptables-persistent"])?;
    succeed("netfilter-persistent save")?;
    let before = without_comments(&fs::read_to_string(SAVED_RULES)?);
    let firewall = others()?;
    succeed("trafstat setup")?;
    let saved = || fs::read_to_string(SAVED_RULES);
    ensure!(
        without_comments(&saved()?) == before,
        "setup writes into the firewall's file:\n{}",
        saved()?
    );
    succeed("netfilter-persistent save")?;
    let doctor = process::end(Command::new("trafstat").args(["doctor", "--format", "csv"]))?;
    ensure!(
        doctor.stdout.contains("rules-in-firewall"),
        "doctor finds {doctor:?}"
    );

    succeed("systemctl stop trafstat-collect.timer trafstat-rules.service")?;
    succeed("iptables -F")?;
    succeed("modprobe -r xt_TRAFSTAT")?;
    fs::write(NO_MODULE, "install xt_TRAFSTAT /bin/false\n")?;
    succeed("systemctl restart netfilter-persistent.service")?;
    ensure!(
        others()? == firewall && rules()?.is_empty(),
        "without the module the firewall is {:?} instead of {firewall:?}",
        others()?
    );
    fs::remove_file(NO_MODULE)?;
    succeed("systemctl restart netfilter-persistent.service")?;
    ensure!(
        others()? == firewall && rules()?.len() == 2,
        "with the module the firewall is {:?} instead of {firewall:?}",
        others()?
    );

    succeed("trafstat setup")?;
    let backups = succeed("ls /var/lib/trafstat/backups")?;
    ensure!(backups.contains("etc-iptables-rules.v4."), "{backups:?}");
    ensure!(
        without_comments(&saved()?) == before,
        "setup leaves its rules in the firewall's file:\n{}",
        saved()?
    );
    succeed("netfilter-persistent save")?;
    undone()?;
    let after = without_comments(&saved()?);
    ensure!(after == before, "saved are\n{after}instead of\n{before}");
    succeed("dpkg --purge iptables-persistent netfilter-persistent").map(drop)
}

fn with_ufw() -> Result<()> {
    step("ufw")?;
    install_debian(&["ufw"])?;
    succeed("ufw --force enable")?;
    succeed("trafstat setup")?;
    succeed("ufw reload")?;
    ensure!(rules()?.len() == 2, "ufw takes rules away: {:?}", rules()?);
    undone()?;
    let defaults = fs::read_to_string("/etc/default/ufw")?;
    let managing = defaults.replace("MANAGE_BUILTINS=no", "MANAGE_BUILTINS=yes");
    ensure!(managing != defaults, "{defaults}");
    fs::write("/etc/default/ufw", managing)?;
    refused("MANAGE_BUILTINS=no")?;
    succeed("ufw disable")?;
    succeed("dpkg --purge ufw").map(drop)
}

fn with_docker() -> Result<()> {
    step("Docker")?;
    install_debian(&["docker.io"])?;
    succeed("systemctl start docker.service")?;
    succeed("trafstat setup --router --local-net 172.17.0.0/16")?;
    let in_dockers_chain = || -> Result<bool> {
        let rules = rules()?;
        let begins = rules
            .iter()
            .filter(|rule| rule.starts_with("-A DOCKER-USER"));
        Ok(begins.count() == 2)
    };
    ensure!(in_dockers_chain()?, "{:?}", rules()?);
    succeed("systemctl restart docker.service")?;
    wait_for(
        "the rules are there after Docker's restart",
        in_dockers_chain,
    )?;
    undone()?;
    succeed("systemctl stop docker.service docker.socket").map(drop)
}

/// Setup says what to do instead, and that does it.
fn with_firewalld() -> Result<()> {
    step("firewalld")?;
    install_debian(&["firewalld"])?;
    succeed("systemctl start firewalld.service")?;
    let advice = refused("firewall-cmd")?;
    for line in advice.lines().filter(|line| line.starts_with("    ")) {
        println!("{line}");
        process::succeed(Command::new("sh").args(["-c", line]))?;
    }
    succeed("firewall-cmd --reload")?;
    ping(5)?;
    succeed("systemctl start trafstat-collect.service")?;
    let shown = succeed("trafstat show --by remote-ip,protocol --format csv")?;
    ensure!(
        shown.contains(&format!("\n{REMOTE},1,5,5,")),
        "not five pings and their replies:\n{shown}"
    );
    succeed("systemctl disable --now trafstat-collect.timer").map(drop)
}

fn refused(word: &str) -> Result<String> {
    let ended = process::end(Command::new("trafstat").arg("setup"))?;
    ensure!(
        ended.code == Some(1) && ended.stderr.contains(word),
        "setup ends with {ended:?}"
    );
    ensure!(rules()?.is_empty(), "refused, and rules are set");
    Ok(ended.stderr)
}

fn undone() -> Result<()> {
    succeed("trafstat setup --undo")?;
    ensure!(rules()?.is_empty(), "undo leaves {:?}", rules()?);
    let journal = Path::new("/var/lib/trafstat/setup.json");
    ensure!(!journal.exists(), "undo leaves its journal");
    Ok(())
}

/// Rules that are not setup's, in their order.
fn others() -> Result<Vec<String>> {
    let saved = succeed("iptables-save")?;
    Ok(saved
        .lines()
        .filter(|line| line.starts_with("-A ") && !line.contains(MARK))
        .map(str::to_owned)
        .collect())
}

/// iptables-save says when it ran, and counters go on.
fn without_comments(saved: &str) -> String {
    saved
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{}\n", line.split(" [").next().unwrap_or_default()))
        .collect()
}
