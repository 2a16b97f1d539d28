// SPDX-License-Identifier: GPL-2.0-or-later
//! A host that counts with the original xt_TRAFSTAT, installed and set up as its README says, and
//! changes to this one.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{
    BootEnd, FOLDER, LOCAL, install, install_debian, ping, set_other_rules, step, stored_packets,
    succeed, wait_for,
};
use crate::process;

const CRONTAB: &str = "/etc/crontab";
const SAVED_RULES: &str = "/etc/iptables/rules.v4";
const DUMPER: &str = "/usr/local/bin/trafstat_dumper.sh";
const DUMPER_LINE: &str =
    "*/5 *   * * *   root    /usr/local/bin/trafstat_dumper.sh >> /tmp/trafstat_dumper.log\n";
/// Pings whose packets were rotated, are in a table, are not read yet, and come after the change.
const PINGS: [u32; 4] = [10, 20, 30, 40];

pub fn run() -> Result<BootEnd> {
    let rules = Path::new(FOLDER).join("rules");
    if rules.exists() {
        second_boot(&fs::read_to_string(rules)?)?;
        return Ok(BootEnd::Complete);
    }
    first_boot()?;
    fs::write(rules, counting_rules()?)?;
    succeed("systemctl reboot")?;
    Ok(BootEnd::Reboot)
}

fn first_boot() -> Result<()> {
    let [rotated, dumped, unread, _] = PINGS;
    step("the original")?;
    set_other_rules()?;
    install_original()?;
    ping(rotated)?;
    dump()?;
    succeed("/etc/cron.weekly/trafstat_rotater")?;
    ping(dumped)?;
    dump()?;
    install_debian(&["iptables-persistent"])?;
    fs::write(SAVED_RULES, rules_to_restore()?)?;

    step("this one prepares to take its place")?;
    install(1)?;
    let rules = counting_rules()?;
    ping(unread)?;
    print!("{}", succeed("trafstat setup --from-original --dry-run")?);
    let ended = process::end(Command::new("trafstat").args(["setup", "--from-original"]))?;
    print!("{}", ended.stderr);
    ensure!(
        ended.code == Some(1) && ended.stderr.contains("reboot now"),
        "setup takes the original's place while it runs: {ended:?}"
    );
    ensure!(counting_rules()? == rules, "setup changed rules");
    ensure!(
        Path::new("/proc/trafstat").exists() && !Path::new("/proc/net/trafstat").exists(),
        "the original does not count on"
    );
    ensure!(
        fs::read_to_string(CRONTAB)?.ends_with(DUMPER_LINE) && Path::new(DUMPER).exists(),
        "the original's script stops before the reboot"
    );
    Ok(())
}

fn second_boot(before: &str) -> Result<()> {
    step("after the reboot")?;
    wait_for("MariaDB comes back", || {
        Ok(process::end(Command::new("mariadb-admin").arg("ping"))?.code == Some(0))
    })?;
    ensure!(
        Path::new("/proc/net/trafstat").exists(),
        "the restored rules did not load this module"
    );
    print!("{}", succeed("trafstat setup --from-original")?);
    let after = counting_rules()?;
    ensure!(
        after == before,
        "the rules were\n{before}\nand are\n{after}"
    );
    let crontab = fs::read_to_string(CRONTAB)?;
    ensure!(
        !crontab.lines().any(|line| line == DUMPER_LINE.trim_end()) && !Path::new(DUMPER).exists(),
        "the original's script still runs:\n{crontab}"
    );
    let again = succeed("trafstat setup --from-original")?;
    ensure!(
        again.lines().all(|line| !line.starts_with("done: ")) && counting_rules()? == before,
        "the second setup does something:\n{again}"
    );

    step("all is in the store")?;
    ping(PINGS[3])?;
    succeed("systemctl start trafstat-collect.service")?;
    // Each ping has a reply.
    let expected = u64::from(2 * PINGS.iter().sum::<u32>());
    let stored = stored_packets()?;
    ensure!(stored == expected, "{stored} packets, not {expected}");
    print!("{}", succeed("trafstat status")?);

    step("undone")?;
    print!("{}", succeed("trafstat setup --undo")?);
    let crontab = fs::read_to_string(CRONTAB)?;
    ensure!(
        crontab.ends_with(DUMPER_LINE) && Path::new(DUMPER).exists(),
        "the original's script is not back:\n{crontab}"
    );
    let kernel = succeed("uname -r")?;
    let module = format!(
        "/lib/modules/{}/kernel/net/netfilter/xt_TRAFSTAT.ko",
        kernel.trim()
    );
    ensure!(Path::new(&module).exists(), "{module} is not back");
    Ok(())
}

/// The rules as the original's plugin prints them, but for one that nothing restores.
fn rules_to_restore() -> Result<String> {
    let saved = succeed("iptables-save")?;
    let is_forgotten = |line: &str| line.starts_with("-A INPUT") && line.contains("TRAFSTAT");
    ensure!(saved.lines().any(is_forgotten), "{saved}");
    let kept = saved.lines().filter(|line| !is_forgotten(line));
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

/// Has the original's script read its counters into its table.
fn dump() -> Result<()> {
    let said = || fs::read_to_string(format!("/tmp/trafstat_{LOCAL}_32")).unwrap_or_default();
    succeed(DUMPER).map(drop).with_context(said)
}

/// What the original's README tells to do, in its order.
fn install_original() -> Result<()> {
    let sources = Path::new(FOLDER).join("original");
    process::succeed(Command::new("make").arg("install").current_dir(&sources))?;
    succeed("depmod --all")?;
    install_debian(&["mariadb-server"])?;
    fs::write(
        "/root/.my.cnf",
        "[client]\nuser = root\n[mysql]\ndatabase = trafstat\nlocal-infile = 1\n",
    )?;
    let create = "CREATE DATABASE trafstat";
    process::succeed(Command::new("mysql").args(["--database=mysql", "--execute", create]))?;
    let scripts = sources.join("misc");
    fs::copy(scripts.join("trafstat_dumper.sh"), DUMPER)?;
    // Today's MariaDB of Debian 12 refuses to read a file below /proc by itself.
    let dumper = fs::read_to_string(DUMPER)?;
    fs::write(
        DUMPER,
        dumper.replace("LOAD DATA INFILE", "LOAD DATA LOCAL INFILE"),
    )?;
    let crontab = fs::read_to_string(CRONTAB).unwrap_or_default();
    fs::write(CRONTAB, crontab + DUMPER_LINE)?;
    succeed("mkdir --mode=770 /var/trafstat")?;
    succeed("chown mysql:mysql /var/trafstat")?;
    succeed("mkdir --parents /etc/cron.weekly")?;
    fs::copy(
        scripts.join("trafstat_rotater.sh"),
        "/etc/cron.weekly/trafstat_rotater",
    )?;
    for (chain, flag) in [("INPUT", "-d"), ("OUTPUT", "-s")] {
        succeed(&format!(
            "iptables -I {chain} {flag} {LOCAL} -j TRAFSTAT --local-net {LOCAL} \
             --local-tcp-ports 22,80,443 --local-udp-ports none --max-entries 2000"
        ))?;
    }
    Ok(())
}

/// All rules of the filter table, by their places, without counters.
fn counting_rules() -> Result<String> {
    let folders = "XTABLES_LIBDIR=/var/lib/trafstat/original:/usr/lib/x86_64-linux-gnu/xtables";
    let saved = match Path::new("/proc/net/trafstat").exists() {
        true => succeed("iptables-save -t filter")?,
        false => succeed(&format!("env {folders} iptables-save -t filter"))?,
    };
    let rules = saved.lines().filter(|line| line.starts_with("-A "));
    Ok(rules.map(|rule| format!("{rule}\n")).collect())
}
