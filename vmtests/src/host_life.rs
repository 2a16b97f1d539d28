//! The life of a host: the packages installed, traffic counted and collected, a reboot, an
//! upgrade, and everything taken away again.
//!
//! A unit of the guest's systemd runs this at each boot; a file says how far it has come.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process;

/// Where this keeps what it must know after the reboot, and the packages lie.
const FOLDER: &str = "/var/tmp/host-life";
const LOCAL: &str = "192.0.2.1";
const REMOTE: &str = "192.0.2.2";
const MARK: &str = "trafstat-setup-";
/// For what waits for a timer of five minutes.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Pings under way while something is done to the host.
const UNDER_TRAFFIC: &str = "0.2";

/// Goes on from where the last boot came to; returns whether all is done, and not a reboot under
/// way.
///
/// # Errors
///
/// Something is not as it should be.
pub fn run() -> Result<bool> {
    connect()?;
    let stage = Path::new(FOLDER).join("stage");
    match fs::read_to_string(&stage).unwrap_or_default().as_str() {
        "" => {
            first_boot()?;
            fs::write(&stage, "rebooted")?;
            succeed("systemctl reboot")?;
            Ok(false)
        }
        "rebooted" => second_boot().map(|()| true),
        stage => bail!("the stage is {stage}"),
    }
}

/// A link to another host, over which the default route goes.
fn connect() -> Result<()> {
    for command in [
        "ip netns add remote",
        "ip link add wan type veth peer name wan netns remote",
        &format!("ip address add {LOCAL}/24 dev wan"),
        "ip link set wan up",
        &format!("ip -n remote address add {REMOTE}/24 dev wan"),
        "ip -n remote link set wan up",
        &format!("ip route add default via {REMOTE}"),
    ] {
        succeed(command)?;
    }
    Ok(())
}

fn first_boot() -> Result<()> {
    set_other_rules()?;
    let before = Listing::now()?;
    before.write()?;

    step("install the packages")?;
    install(1)?;
    step("say what setup would do, and do nothing")?;
    let plan = succeed("trafstat setup --dry-run")?;
    ensure!(plan.contains(&format!("-d {LOCAL}/32")), "{plan}");
    ensure!(rules()?.is_empty(), "a dry run sets rules");
    step("set up, twice")?;
    print!("{}", succeed("trafstat setup")?);
    let (set, counted) = (rules()?, succeed("iptables-save -c -t filter")?);
    ensure!(set.len() == 2, "{set:?}");
    let again = succeed("trafstat setup")?;
    ensure!(
        again.lines().all(|line| !line.starts_with("done: ")),
        "the second setup does something:\n{again}"
    );
    ensure!(rules()? == set, "the second setup changes rules");
    ensure!(counted.contains("-i lo -j ACCEPT"), "{counted}");

    step("traffic, and the timer")?;
    ping(20)?;
    let deadline = Instant::now() + PATIENCE;
    while stored_packets()? == 0 {
        ensure!(
            Instant::now() < deadline,
            "the timer does not collect:\n{}",
            units()?
        );
        thread::sleep(Duration::from_secs(5));
    }
    print!("{}", succeed("trafstat show")?);
    let readable = fs::metadata("/var/lib/trafstat/trafstat.db")?;
    ensure!(
        readable.mode() & 0o777 == 0o640,
        "mode {:o}",
        readable.mode()
    );
    ensure!(
        succeed("stat -c %G /var/lib/trafstat/trafstat.db")?.trim() == "trafstat",
        "the database does not belong to the group"
    );
    print!(
        "{}",
        succeed("systemd-analyze security --no-pager trafstat-collect.service")?
            .lines()
            .last()
            .unwrap_or_default()
    );
    println!();

    step("traffic just before the reboot")?;
    ping(20)?;
    let counted = counted_by_mark()?;
    fs::write(Path::new(FOLDER).join("counted"), counted.to_string())?;
    Ok(())
}

/// Rules that are not setup's keep their place and their counters; no reboot, as nobody saves them.
fn set_other_rules() -> Result<()> {
    succeed("iptables -A INPUT -i lo -j ACCEPT")?;
    succeed(&format!("iptables -A INPUT -s {REMOTE} -p icmp")).map(drop)
}

fn second_boot() -> Result<()> {
    set_other_rules()?;
    step("after the reboot: rules, module, and what the shutdown collected")?;
    let deadline = Instant::now() + PATIENCE;
    while rules()?.len() != 2 {
        ensure!(
            Instant::now() < deadline,
            "the rules do not come back:\n{}",
            units()?
        );
        thread::sleep(Duration::from_secs(2));
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
    let pings = Pings::start()?;
    install(2)?;
    pings.stop()?;
    ensure!(
        succeed("dpkg-query -W -f ${Version} trafstat")?.ends_with("-2"),
        "the upgrade is not installed"
    );
    ensure!(rules()?.len() == 2, "the upgrade takes the rules away");
    succeed("systemctl start trafstat-collect.service")?;
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
    let units = units()?;
    ensure!(!units.contains("enabled"), "undo leaves units:\n{units}");
    step("purge")?;
    succeed("dpkg --purge trafstat trafstat-dkms")?;
    let left = Listing::now()?.differences(&Listing::read()?);
    ensure!(
        left.is_empty(),
        "the host is not as it was before:\n{}",
        left.join("\n")
    );
    Ok(())
}

fn install(revision: u32) -> Result<()> {
    let mut packages: Vec<_> =
        fs::read_dir(Path::new(FOLDER).join(format!("packages-{revision}")))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
    packages.sort();
    print!(
        "{}",
        process::succeed(Command::new("dpkg").arg("--install").args(packages))?
    );
    Ok(())
}

/// Setup's rules.
fn rules() -> Result<Vec<String>> {
    let saved = succeed("iptables-save -t filter")?;
    Ok(saved
        .lines()
        .filter(|line| line.contains(MARK))
        .map(str::to_owned)
        .collect())
}

/// The packets that setup's rules counted.
fn counted_by_mark() -> Result<u64> {
    let saved = succeed("iptables-save -c -t filter")?;
    let counters = saved.lines().filter(|line| line.contains(MARK));
    counters
        .map(|line| {
            // [PACKETS:BYTES] -A ...
            line.strip_prefix('[')
                .and_then(|rest| rest.split(':').next())
                .and_then(|packets| packets.parse::<u64>().ok())
                .with_context(|| line.to_owned())
        })
        .sum()
}

/// The packets in the database; none where there is no database.
fn stored_packets() -> Result<u64> {
    if !Path::new("/var/lib/trafstat/trafstat.db").exists() {
        return Ok(0);
    }
    let json = succeed("trafstat show --top 0 --format json")?;
    let answer: Value = serde_json::from_str(&json)?;
    let records = answer["records"].as_array().context("no records")?;
    let number = |record: &Value, name: &str| record[name].as_u64().with_context(|| json.clone());
    records
        .iter()
        .map(|record| Ok(number(record, "sent_packets")? + number(record, "received_packets")?))
        .sum()
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

fn ping(count: u32) -> Result<()> {
    succeed(&format!(
        "ip netns exec remote ping -q -i 0.2 -c {count} {LOCAL}"
    ))
    .map(drop)
}

/// Pings until they are stopped.
struct Pings(Child);

impl Pings {
    fn start() -> Result<Self> {
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                "remote",
                "ping",
                "-q",
                "-i",
                UNDER_TRAFFIC,
                LOCAL,
            ])
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn stop(mut self) -> Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "ping ended by itself");
        self.0.kill()?;
        self.0.wait()?;
        // The last reply may still be under way.
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }
}

/// What there is on the host: files with their kind, mode, owner and content, rules, groups.
struct Listing(BTreeMap<String, String>);

/// Where packages and setup put things, or could.
const LISTED: &[&str] = &[
    "/boot",
    "/etc",
    "/lib/modules",
    "/usr",
    "/var/lib",
    "/var/spool",
];

/// What changes by itself, or is another's account of what was installed.
const NOT_LISTED: &[&str] = &[
    "/etc/resolv.conf",
    // The databases of groups as they were before the last change.
    "/etc/group-",
    "/etc/gshadow-",
    "/usr/share/man/man",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/catalog",
    "/var/lib/systemd/timers/stamp-apt",
    "/var/lib/systemd/timers/stamp-dpkg",
    "/var/lib/systemd/timers/stamp-e2scrub",
    "/var/lib/systemd/timers/stamp-fstrim",
    "/var/lib/systemd/timesync",
];

/// Files that say when something ran, or that depmod writes anew.
const CONTENT_NOT_COMPARED: &[&str] = &["/etc/.pwd.lock", "/lib/modules", "/usr/lib/modules"];

impl Listing {
    fn now() -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut folders: Vec<PathBuf> = LISTED.iter().map(PathBuf::from).collect();
        while let Some(folder) = folders.pop() {
            let Ok(listed) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in listed {
                let path = entry?.path();
                let text = path.to_string_lossy().into_owned();
                if NOT_LISTED.iter().any(|left_out| text.starts_with(left_out)) {
                    continue;
                }
                let metadata = fs::symlink_metadata(&path)?;
                let mut what = format!(
                    "{:o} {}:{}",
                    metadata.permissions().mode(),
                    metadata.uid(),
                    metadata.gid()
                );
                let is_compared = text.starts_with("/etc")
                    && !CONTENT_NOT_COMPARED
                        .iter()
                        .any(|other| text.starts_with(other));
                if metadata.is_symlink() {
                    what += &format!(" -> {}", fs::read_link(&path)?.display());
                } else if metadata.is_dir() {
                    folders.push(path);
                } else if is_compared {
                    what += &format!("\n{}", String::from_utf8_lossy(&fs::read(&path)?));
                }
                entries.insert(text, what);
            }
        }
        for program in ["iptables-save", "ip6tables-save"] {
            let rules = succeed(program)?;
            let rules = rules.lines().filter(|line| line.starts_with("-A"));
            entries.insert(program.to_owned(), rules.collect::<Vec<_>>().join("\n"));
        }
        Ok(Self(entries))
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string(&self.0)?;
        Ok(fs::write(Path::new(FOLDER).join("listing"), text)?)
    }

    fn read() -> Result<Self> {
        let text = fs::read_to_string(Path::new(FOLDER).join("listing"))?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    fn differences(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, what) in &self.0 {
            match before.0.get(path) {
                None => lines.push(format!("new: {path}")),
                Some(was) if was != what => {
                    lines.push(format!("changed: {path}\n{was}\nis now\n{what}"))
                }
                Some(_) => {}
            }
        }
        let gone = before.0.keys().filter(|path| !self.0.contains_key(*path));
        lines.extend(gone.map(|path| format!("gone: {path}")));
        lines
    }
}

fn step(what: &str) -> Result<()> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split('.').next().unwrap_or_default();
    println!("# {what} ({seconds} s after boot)");
    Ok(())
}

/// Runs a command line without quotes; it must exit with 0.
fn succeed(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("no program")?;
    process::succeed(Command::new(program).args(words))
}
