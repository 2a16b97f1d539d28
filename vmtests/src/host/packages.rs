// SPDX-License-Identifier: GPL-2.0-or-later
//! From the packages' installation over setup, traffic, a reboot and an upgrade to their purge,
//! after which the host is as it was.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::listing::Listing;
use super::{
    BootEnd, FOLDER, LOCAL, Pings, counted_by_mark, install, install_debian, ping, rules,
    set_other_rules, step, stored_packets, succeed, wait_for,
};
use crate::process;

const DATABASE: &str = "/var/lib/trafstat/trafstat.db";

/// What a host has in addition to Debian's minimal system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// systemd and no more.
    Systemd,
    /// MariaDB.
    Mariadb,
    /// cron and System V's init, and no systemd as init.
    Cron,
    /// A kernel that was told to have no IPv6.
    WithoutIpv6,
}

pub fn run(kind: Kind) -> Result<BootEnd> {
    let stage = Path::new(FOLDER).join("stage");
    let at = fs::read_to_string(&stage).unwrap_or_default();
    let next = match at.as_str() {
        "" if kind == Kind::Cron => {
            change_init()?;
            "init"
        }
        "" | "init" => {
            first_boot(kind)?;
            "rebooted"
        }
        "rebooted" => {
            second_boot(kind)?;
            return Ok(BootEnd::Complete);
        }
        stage => bail!("the stage is {stage}"),
    };
    fs::write(&stage, next)?;
    // The init that runs knows the command by its own name.
    match Path::new("/run/systemd/system").exists() {
        true => succeed("systemctl reboot")?,
        false => succeed("reboot")?,
    };
    Ok(BootEnd::Reboot)
}

/// From the next boot on, System V's init starts cron, and cron this.
fn change_init() -> Result<()> {
    step("another init")?;
    install_debian(&["cron", "sysvinit-core", "systemd-sysv-"])?;
    fs::write(
        "/etc/cron.d/host-test",
        format!(
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
             @reboot root {FOLDER}/trafstat-vmtests host-test >/dev/ttyS1 2>&1\n"
        ),
    )?;
    Ok(())
}

fn first_boot(kind: Kind) -> Result<()> {
    if kind == Kind::Mariadb {
        step("install MariaDB")?;
        install_debian(&["mariadb-server"])?;
    }
    set_other_rules()?;
    let before = Listing::now()?;
    before.write()?;
    fs::write(Path::new(FOLDER).join("users"), users(kind)?)?;

    step("install the packages")?;
    install(1)?;
    let setup = match kind {
        Kind::Mariadb => "trafstat setup --backend mysql",
        _ => "trafstat setup",
    };
    step("say what setup would do, and do nothing")?;
    let plan = succeed(&format!("{setup} --dry-run"))?;
    ensure!(plan.contains(&format!("-d {LOCAL}/32")), "{plan}");
    ensure!(rules()?.is_empty(), "a dry run sets rules");
    step("set up, twice")?;
    ping(3)?;
    let others = others()?;
    print!("{}", succeed(setup)?);
    let set = rules()?;
    ensure!(set.len() == 2, "{set:?}");
    let again = succeed(setup)?;
    ensure!(
        again.lines().all(|line| !line.starts_with("done: ")),
        "the second setup does something:\n{again}"
    );
    ensure!(rules()? == set, "the second setup changes rules");
    let now = self::others()?;
    ensure!(now == others, "others' rules were\n{others}and are\n{now}");

    step("traffic, and what collects by itself")?;
    ping(20)?;
    wait_for("the collector collects", || {
        Ok((kind == Kind::Mariadb || Path::new(DATABASE).exists()) && stored_packets()? > 0)
    })?;
    print!("{}", succeed("trafstat show")?);
    if kind == Kind::Mariadb {
        ensure!(!Path::new(DATABASE).exists(), "there is an SQLite database");
    } else {
        let mode = fs::metadata(DATABASE)?.mode();
        ensure!(mode & 0o777 == 0o640, "mode {mode:o}");
        let group = succeed(&format!("stat -c %G {DATABASE}"))?;
        ensure!(group.trim() == "trafstat", "the database is {group}'s");
    }
    if kind == Kind::Systemd {
        let security = succeed("systemd-analyze security --no-pager trafstat-collect.service")?;
        println!("{}", security.lines().last().unwrap_or_default());
    }
    let status = succeed("trafstat status")?;
    println!("{status}");

    step("traffic just before the reboot")?;
    ping(20)?;
    let counted = counted_by_mark()?;
    fs::write(Path::new(FOLDER).join("counted"), counted.to_string())?;
    Ok(())
}

fn second_boot(kind: Kind) -> Result<()> {
    set_other_rules()?;
    step("after the reboot: rules, module, and what was collected before it")?;
    wait_for("the rules come back", || Ok(rules()?.len() == 2))?;
    if kind == Kind::Mariadb {
        wait_for("MariaDB comes back", || {
            Ok(process::end(Command::new("mariadb-admin").arg("ping"))?.code == Some(0))
        })?;
    }
    let counted: u64 = fs::read_to_string(Path::new(FOLDER).join("counted"))?.parse()?;
    let stored = stored_packets()?;
    // The shutdown itself may have sent something more.
    ensure!(
        stored >= counted,
        "{counted} packets were counted before the reboot, {stored} are stored"
    );
    let account = succeed("cat /proc/net/trafstat/accounts")?;
    ensure!(account.contains(LOCAL), "{account}");

    step("an upgrade under traffic")?;
    let chosen = match kind {
        Kind::Cron => String::new(),
        _ => choose_units()?,
    };
    let pings = Pings::start()?;
    install(2)?;
    pings.stop()?;
    if kind != Kind::Cron {
        let now = units()?;
        ensure!(now == chosen, "units were\n{chosen}and are\n{now}");
        undo_choice()?;
    }
    ensure!(
        succeed("dpkg-query -W -f ${Version} trafstat")?.ends_with("-2"),
        "the upgrade is not installed"
    );
    ensure!(rules()?.len() == 2, "the upgrade takes the rules away");
    match kind {
        Kind::Cron => succeed("trafstat-store --once")?,
        _ => succeed("systemctl start trafstat-collect.service")?,
    };
    let (counted, stored) = (counted_by_mark()?, stored_packets()? - stored);
    ensure!(
        stored == counted,
        "the rules counted {counted} packets since the reboot, {stored} are stored"
    );

    step("undo")?;
    print!("{}", succeed("trafstat setup --undo")?);
    ensure!(rules()?.is_empty(), "undo leaves rules");
    ensure!(
        !Path::new("/sys/module/xt_TRAFSTAT").exists(),
        "undo leaves the module"
    );
    if kind == Kind::Cron {
        let left = Path::new("/etc/cron.d/trafstat").exists();
        ensure!(!left, "undo leaves cron's file");
    } else {
        let units = units()?;
        ensure!(!units.contains("enabled"), "undo leaves units:\n{units}");
    }
    if kind == Kind::Systemd {
        remove_and_install()?;
    }
    purge(kind)?;
    if kind == Kind::Systemd {
        // The administrator's own.
        succeed(&format!("systemctl unmask {MASKED}"))?;
    }
    let left = Listing::now()?.differences(&Listing::read()?);
    ensure!(
        left.is_empty(),
        "the host is not as it was before:\n{}",
        left.join("\n")
    );
    let before = fs::read_to_string(Path::new(FOLDER).join("users"))?;
    let now = users(kind)?;
    ensure!(
        now == before,
        "MariaDB's users were\n{before}and are\n{now}"
    );
    Ok(())
}

/// Purges the packages. Nobody is there to answer, so what was counted stays at first; a mount does
/// not keep the purge from its end.
fn purge(kind: Kind) -> Result<()> {
    let folder = Path::new("/var/lib/trafstat");
    if kind == Kind::Systemd {
        step("purge without an answer")?;
        let names = |path: &Path| -> Result<Vec<_>> {
            let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
            let mut names: Vec<_> = entries.collect::<Result<_>>()?;
            names.sort();
            Ok(names)
        };
        let kept = names(folder)?;
        succeed("dpkg --purge trafstat")?;
        ensure!(
            names(folder)? == kept && !Path::new("/etc/trafstat").exists(),
            "{kept:?} became {:?}",
            names(folder)?
        );
        install_programs()?;

        step("purge with a mount")?;
        fs::rename(folder, "/var/lib/aside")?;
        fs::create_dir(folder)?;
        succeed("mount -t tmpfs none /var/lib/trafstat")?;
        fs::write(folder.join("counted"), "")?;
        answer_purge()?;
        succeed("dpkg --purge trafstat")?;
        ensure!(names(folder)?.is_empty(), "{:?}", names(folder)?);
        succeed("umount /var/lib/trafstat")?;
        fs::remove_dir(folder)?;
        fs::rename("/var/lib/aside", folder)?;
        install_programs()?;
    }
    step("purge")?;
    answer_purge()?;
    succeed("dpkg --purge trafstat trafstat-dkms").map(drop)
}

fn answer_purge() -> Result<()> {
    let answer = "echo trafstat trafstat/purge-data boolean true | debconf-set-selections";
    process::succeed(Command::new("sh").args(["-c", answer])).map(drop)
}

/// Installs the programs' package of the upgrade.
fn install_programs() -> Result<()> {
    for entry in fs::read_dir(Path::new(FOLDER).join("packages-2"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("trafstat_") {
            process::succeed(Command::new("dpkg").arg("--install").arg(&path))?;
        }
    }
    Ok(())
}

/// Units whose state is changed here, as an administrator may.
const MASKED: &str = "trafstat-quota.timer";
const DISABLED: &str = "trafstat-prune.timer";
const ENABLED: &str = "trafstat-store.service";

/// Masks, disables and enables a unit; returns the states of all.
fn choose_units() -> Result<String> {
    succeed(&format!("systemctl mask {MASKED}"))?;
    succeed(&format!("systemctl disable {DISABLED}"))?;
    succeed(&format!("systemctl enable {ENABLED}"))?;
    let units = units()?;
    for state in [
        format!("{MASKED} masked\n"),
        format!("{DISABLED} disabled\n"),
        format!("{ENABLED} enabled\n"),
    ] {
        ensure!(units.contains(&state), "not {state}{units}");
    }
    Ok(units)
}

/// Makes the units as setup made them.
fn undo_choice() -> Result<()> {
    succeed(&format!("systemctl unmask {MASKED}"))?;
    succeed(&format!("systemctl enable {DISABLED}"))?;
    succeed(&format!("systemctl disable {ENABLED}")).map(drop)
}

/// Removes the programs' package and installs it again: the units are as they were chosen. One
/// stays masked.
fn remove_and_install() -> Result<()> {
    step("remove and install again")?;
    let chosen = choose_units()?;
    succeed("dpkg --remove trafstat")?;
    let left = units()?;
    ensure!(
        !left.contains("static"),
        "the removal leaves units:\n{left}"
    );
    install_programs()?;
    let now = units()?;
    ensure!(now == chosen, "units were\n{chosen}and are\n{now}");
    Ok(())
}

/// Rules that are not setup's, with their counters.
fn others() -> Result<String> {
    let saved = succeed("iptables-save -c -t filter")?;
    Ok(saved
        .lines()
        .filter(|line| line.starts_with('[') && !line.contains(super::MARK))
        .map(|line| format!("{line}\n"))
        .collect())
}

/// MariaDB's users.
fn users(kind: Kind) -> Result<String> {
    match kind {
        Kind::Mariadb => process::succeed(Command::new("mariadb").args([
            "--skip-column-names",
            "--execute",
            "SELECT user, host FROM mysql.user ORDER BY user, host",
        ])),
        _ => Ok(String::new()),
    }
}

fn units() -> Result<String> {
    let listed = process::end(Command::new("systemctl").args([
        "list-unit-files",
        "--no-pager",
        "--no-legend",
        "trafstat*",
    ]))?;
    Ok(listed
        .stdout
        .lines()
        // The second column; the third is what the distribution would have.
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(format!("{} {}\n", words.next()?, words.next()?))
        })
        .collect())
}
