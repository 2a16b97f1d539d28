// SPDX-License-Identifier: GPL-2.0-or-later
//! Setup on a fake host: a folder for its files, and programs that do what the real ones do to
//! a filter table, to units and to the module.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::host::Host;
use super::journal::{self, Journal};
use super::login::Login;
use super::original;
use super::plan::{self, Original, PortChoice, SetupRequest};
use super::step::{Before, Server, Step};
use super::{drop_rules, restore, upgrade};
use trafstat_store::options::config::DEFAULT_CONFIG_PATH;

use super::configuration::PASSWORD_PATH;
use crate::system::{ProgramOutput, System};

const FIREWALL_FILE: &str = "/etc/iptables/rules.v4";
const OTHERS: &str = "-A INPUT -i lo -j ACCEPT";

const CRONTAB: &str = "SHELL=/bin/sh\n\
    */5 *   * * *   root    /usr/local/bin/trafstat_dumper.sh >> /tmp/trafstat_dumper.log\n";
const COUNTED: &str = "17,1,2,53,0,1,1,60,60,0\n";
const ORIGINAL_MODULE: &str = "/lib/modules/6.1.0/kernel/net/netfilter/xt_TRAFSTAT.ko";

struct FakeHost {
    root: tempfile::TempDir,
    /// Filter tables as lines of iptables-save, by program.
    tables: RefCell<BTreeMap<String, Vec<String>>>,
    units: RefCell<BTreeSet<String>>,
    /// Users of the MySQL server, by URL.
    users: RefCell<BTreeSet<String>>,
    /// What was given to the import, in its order.
    imported: RefCell<Vec<String>>,
    /// How many changes are let through before the host "loses power".
    changes_left: Cell<usize>,
    changes: Cell<usize>,
}

impl FakeHost {
    fn new() -> Self {
        let tables =
            ["iptables", "ip6tables"].map(|program| (program.to_owned(), vec![OTHERS.to_owned()]));
        let fake = Self {
            root: tempfile::tempdir().unwrap(),
            tables: RefCell::new(tables.into()),
            units: RefCell::default(),
            users: RefCell::default(),
            imported: RefCell::default(),
            changes_left: Cell::new(usize::MAX),
            changes: Cell::new(0),
        };
        fake.write(FIREWALL_FILE, &saved(&[OTHERS.to_owned()]), 0o640)
            .unwrap();
        let uuid = "8d7b2c0e-2f6f-4d8a-9a57-3a1f5d5c0b11\n";
        fake.write("/proc/sys/kernel/random/uuid", uuid, 0o444)
            .unwrap();
        fake.changes.set(0);
        fake
    }

    /// Counts a change; those past the limit do not happen.
    fn change(&self) -> Result<()> {
        if self.changes_left.get() == 0 {
            bail!("the power is gone");
        }
        self.changes_left.set(self.changes_left.get() - 1);
        self.changes.set(self.changes.get() + 1);
        Ok(())
    }

    fn restore(&self, program: &str, input: &str) -> Result<ProgramOutput> {
        self.change()?;
        let mut tables = self.tables.borrow_mut();
        let table = tables.get_mut(program).unwrap();
        for line in input.lines() {
            if let Some(rule) = line.strip_prefix("-D ") {
                let position = table.iter().position(|other| other[3..] == *rule);
                table.remove(position.expect("a rule that is not there is deleted"));
            } else if let Some(rule) = line.strip_prefix("-I ") {
                let [chain, place, words] = rule.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                    panic!("a rule without its place: {rule}");
                };
                let chain_begins = format!("-A {chain} ");
                let mut of_chain =
                    (0..table.len()).filter(|at| table[*at].starts_with(&chain_begins));
                let at = match place.parse().unwrap() {
                    1 => 0,
                    place => of_chain.nth(place - 1).unwrap_or(table.len()),
                };
                table.insert(at, format!("-A {chain} {words}"));
            }
        }
        Ok(well(""))
    }

    /// All that can be told of the host.
    fn state(&self) -> String {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.to_string_lossy().contains("backups") {
                    files.insert(path.clone(), fs::read_to_string(path).unwrap());
                }
            }
        }
        format!(
            "{:#?}\n{:#?}\n{:#?}\n{files:#?}",
            self.tables.borrow(),
            self.units.borrow(),
            self.users.borrow()
        )
    }

    /// Every chain's rules in their order; between chains there is none.
    fn chains(&self) -> BTreeMap<String, Vec<String>> {
        let mut tables = self.tables.borrow().clone();
        for table in tables.values_mut() {
            table.sort_by_key(|rule| rule.split(' ').nth(1).map(str::to_owned));
        }
        tables
    }

    fn set_up(&self, request: &SetupRequest, host: &Host) -> Result<()> {
        let steps = plan::steps(host, request)?;
        Journal::read(self)?.bring_about(&steps, self, |_, _| ())
    }

    /// Boots anew, without the module until it is asked for, and with those of iptables' rules that
    /// are restored.
    fn reboot(&self, restored: impl Fn(&str) -> bool) {
        for volatile in ["/sys/module/xt_TRAFSTAT", "/proc/trafstat"] {
            fs::remove_dir_all(self.path(volatile)).unwrap();
        }
        let mut tables = self.tables.borrow_mut();
        let rules = tables.get_mut("iptables").unwrap();
        rules.retain(|rule| restored(rule));
        if rules.iter().any(|rule| rule.contains("TRAFSTAT")) {
            assert!(!self.path(ORIGINAL_MODULE).exists(), "the original again");
            self.write("/proc/net/trafstat/accounts", "", 0o400)
                .unwrap();
        }
    }

    fn undo(&self) -> Result<()> {
        Journal::read(self)?.undo(self, |_| ())
    }
}

impl System for FakeHost {
    fn run(&self, words: &[&str], input: &str) -> Result<ProgramOutput> {
        let module = self.path("/proc/net/trafstat/accounts");
        match words {
            [program, "-t", "filter"] => {
                let program = program.strip_suffix("-save").unwrap();
                Ok(well(&saved(&self.tables.borrow()[program])))
            }
            [program, "--noflush", _] => {
                self.restore(program.strip_suffix("-restore").unwrap(), input)
            }
            ["env", folders, rest @ ..] => {
                assert!(folders.starts_with("XTABLES_LIBDIR=/var/lib/trafstat/original:"));
                self.run(rest, input)
            }
            ["depmod", "--all"] => Ok(well("")),
            [
                "trafstat-store",
                "import",
                "--format",
                "csv",
                "--whole",
                "--origin",
                origin,
                files @ ..,
            ] => {
                assert!(!origin.is_empty());
                self.change()?;
                self.imported
                    .borrow_mut()
                    .extend(files.iter().map(|file| (*file).to_owned()));
                Ok(well(""))
            }
            ["systemctl", "is-enabled" | "is-active", unit] => Ok(ProgramOutput {
                code: Some(i32::from(!self.units.borrow().contains(*unit))),
                ..ProgramOutput::default()
            }),
            ["systemctl", "enable", "--now", unit] => {
                self.change()?;
                self.units.borrow_mut().insert((*unit).to_owned());
                Ok(well(""))
            }
            ["update-rc.d", script, "defaults"] => {
                assert!(self.path(&format!("/etc/init.d/{script}")).exists());
                self.change()?;
                let links = self.path("/etc/rc0.d");
                fs::create_dir_all(&links)?;
                fs::write(links.join(format!("K01{script}")), "")?;
                Ok(well(""))
            }
            ["update-rc.d", "-f", script, "remove"] => {
                self.change()?;
                let link = self.path(&format!("/etc/rc0.d/K01{script}"));
                if link.exists() {
                    fs::remove_file(link)?;
                }
                Ok(well(""))
            }
            ["systemctl", "disable", "--now", unit] => {
                self.change()?;
                self.units.borrow_mut().remove(*unit);
                Ok(well(""))
            }
            ["modprobe", "xt_TRAFSTAT"] => {
                self.change()?;
                fs::create_dir_all(module.parent().unwrap())?;
                fs::write(module, "")?;
                Ok(well(""))
            }
            ["modprobe", "-r", "xt_TRAFSTAT"] => {
                self.change()?;
                fs::remove_dir_all(module.parent().unwrap())?;
                Ok(well(""))
            }
            [
                "trafstat-store",
                "hosts",
                "--format",
                "csv",
                "--url",
                url,
                "--defaults-file",
                _,
            ] => Ok(ProgramOutput {
                code: Some(i32::from(!self.users.borrow().contains(*url))),
                ..ProgramOutput::default()
            }),
            ["trafstat-store", "init" | "create-user", "--url", url, ..] => {
                assert!(self.path(PASSWORD_PATH).exists());
                self.change()?;
                self.users.borrow_mut().insert((*url).to_owned());
                Ok(well(""))
            }
            ["trafstat-store", "drop-user", "--url", url, ..] => {
                assert!(self.path(PASSWORD_PATH).exists());
                self.change()?;
                self.users.borrow_mut().remove(*url);
                Ok(well(""))
            }
            ["trafstat-store", "--once", ..] => {
                // Where the configuration says, if it says so.
                let text = self.read(DEFAULT_CONFIG_PATH)?.unwrap_or_default();
                let users = self.users.borrow();
                let known = users.iter().any(|url| text.contains(&format!("{url:?}")));
                assert!(known || !text.contains("url"), "{text}");
                Ok(well(""))
            }
            _ => panic!("nothing here runs {words:?}"),
        }
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.change()?;
        let to = self.path(to);
        fs::create_dir_all(to.parent().unwrap())?;
        Ok(fs::rename(self.path(from), to)?)
    }

    fn write(&self, absolute: &str, text: &str, _mode: u32) -> Result<()> {
        self.change()?;
        let path = self.path(absolute);
        fs::create_dir_all(path.parent().unwrap())?;
        Ok(fs::write(path, text)?)
    }

    fn write_new(&self, absolute: &str, text: &str, mode: u32) -> Result<bool> {
        let is_new = !self.path(absolute).exists();
        if is_new {
            self.write(absolute, text, mode)?;
        }
        Ok(is_new)
    }

    fn remove(&self, absolute: &str) -> Result<()> {
        self.change()?;
        let path = self.path(absolute);
        match path.exists() {
            true => Ok(fs::remove_file(path)?),
            false => Ok(()),
        }
    }
}

fn well(stdout: &str) -> ProgramOutput {
    ProgramOutput {
        code: Some(0),
        stdout: stdout.to_owned(),
        stderr: String::new(),
    }
}

fn saved(rules: &[String]) -> String {
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n{}\nCOMMIT\n",
        rules.join("\n")
    )
}

fn host() -> Host {
    Host {
        addresses: vec![
            "192.0.2.1/32".parse().unwrap(),
            "2001:db8::1/128".parse().unwrap(),
        ],
        tcp_ports: [22].into(),
        iptables: Some("iptables".to_owned()),
        ip6tables: Some("ip6tables".to_owned()),
        systemd: true,
        ..Host::default()
    }
}

/// Every way in which rules persist and the collector runs.
fn hosts() -> [Host; 3] {
    [
        host(),
        Host {
            netfilter_persistent: true,
            ..host()
        },
        Host {
            systemd: false,
            cron: true,
            init_scripts: true,
            ..host()
        },
    ]
}

/// Every host as it is, and one with its store on a MySQL server.
fn cases() -> Vec<(Host, SetupRequest)> {
    let mut cases: Vec<_> = hosts().map(|host| (host, SetupRequest::default())).into();
    cases.push((host(), with_server(None)));
    cases
}

fn with_server(administrator: Option<&str>) -> SetupRequest {
    SetupRequest {
        server: Some(Server {
            url: "mysql://trafstat@localhost/trafstat".to_owned(),
            administrator: administrator.map(Into::into),
            login: None,
        }),
        ..SetupRequest::default()
    }
}

#[test]
fn second_setup_changes_nothing() {
    for (host, request) in cases() {
        let fake = FakeHost::new();
        fake.set_up(&request, &host).unwrap();
        let (state, changes) = (fake.state(), fake.changes.get());
        fake.set_up(&request, &host).unwrap();
        assert_eq!(fake.state(), state);
        assert_eq!(fake.changes.get(), changes);
    }
}

#[test]
fn undo_leaves_the_host_as_it_was() {
    for (host, request) in cases() {
        let fake = FakeHost::new();
        fake.units
            .borrow_mut()
            .insert("trafstat-collect.timer".to_owned());
        let before = fake.state();
        fake.set_up(&request, &host).unwrap();
        assert_ne!(fake.state(), before);
        fake.undo().unwrap();
        assert_eq!(fake.state(), before);
        // Once more has nothing left to do.
        fake.undo().unwrap();
    }
}

#[test]
fn setup_interrupted_anywhere_is_finished_by_the_next_and_undone_by_undo() {
    for (host, request) in cases() {
        let whole = FakeHost::new();
        let before = whole.state();
        whole.set_up(&request, &host).unwrap();
        let after = comparable(&whole, &whole.state());
        for limit in 0..whole.changes.get() {
            let fake = FakeHost::new();
            fake.changes_left.set(limit);
            assert!(fake.set_up(&request, &host).is_err());
            fake.changes_left.set(usize::MAX);
            fake.set_up(&request, &host).unwrap();
            assert_eq!(
                comparable(&fake, &fake.state()),
                after,
                "after {limit} changes"
            );
            fake.undo().unwrap();
            assert_eq!(
                comparable(&fake, &fake.state()),
                comparable(&whole, &before),
                "after {limit} changes"
            );
        }
    }
}

#[test]
fn undo_interrupted_anywhere_is_finished_by_the_next() {
    for (host, request) in cases() {
        for limit in 0.. {
            let fake = FakeHost::new();
            let before = fake.state();
            fake.set_up(&request, &host).unwrap();
            fake.changes_left.set(limit);
            let undone = fake.undo();
            fake.changes_left.set(usize::MAX);
            fake.undo().unwrap();
            assert_eq!(fake.state(), before, "after {limit} changes");
            if undone.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn others_rules_keep_their_order_and_ours_come_first() {
    let fake = FakeHost::new();
    fake.set_up(&SetupRequest::default(), &host()).unwrap();
    let table = fake.tables.borrow()["iptables"].clone();
    assert_eq!(table.len(), 3);
    assert!(table[0].starts_with("-A INPUT -d 192.0.2.1/32"));
    assert_eq!(table[2], OTHERS);
}

#[test]
fn other_ports_replace_the_rules_and_undo_still_takes_all() {
    let fake = FakeHost::new();
    let before = fake.state();
    fake.set_up(&SetupRequest::default(), &host()).unwrap();
    let other = SetupRequest {
        ports: PortChoice::All,
        ..SetupRequest::default()
    };
    fake.set_up(&other, &host()).unwrap();
    let table = fake.tables.borrow()["iptables"].clone();
    assert_eq!(table.len(), 3);
    assert!(table[0].ends_with("--local-udp-ports all"));
    fake.undo().unwrap();
    assert_eq!(fake.state(), before);
}

#[test]
fn step_that_is_no_longer_wanted_is_taken_back() {
    let fake = FakeHost::new();
    let [with_units, _, with_cron] = hosts();
    fake.set_up(&SetupRequest::default(), &with_units).unwrap();
    fake.set_up(&SetupRequest::default(), &with_cron).unwrap();
    assert!(fake.units.borrow().is_empty());
    assert!(fake.path(plan::CRON_PATH).exists());
    fake.set_up(&SetupRequest::default(), &with_units).unwrap();
    assert!(!fake.path(plan::CRON_PATH).exists());
}

#[test]
fn file_that_was_there_is_copied_away_and_comes_back() {
    let fake = FakeHost::new();
    let host = &hosts()[2];
    fake.write(plan::CRON_PATH, "# mine\n", 0o644).unwrap();
    fake.set_up(&SetupRequest::default(), host).unwrap();
    let journal = fake.read(journal::PATH).unwrap().unwrap();
    assert!(journal.contains("/var/lib/trafstat/backups/etc-cron.d-trafstat."));
    fake.undo().unwrap();
    assert_eq!(fake.read(plan::CRON_PATH).unwrap().unwrap(), "# mine\n");
}

#[test]
fn rules_that_are_dropped_are_restored_as_they_were() {
    let fake = FakeHost::new();
    fake.set_up(&SetupRequest::default(), &host()).unwrap();
    let set = fake.chains();
    drop_rules(&fake).unwrap();
    assert!(!format!("{:?}", fake.chains()).contains("TRAFSTAT"));
    restore(&fake).unwrap();
    assert_eq!(fake.chains(), set);
    fake.undo().unwrap();
}

/// The file as it is after the standing rules were saved into it.
fn save_rules(fake: &FakeHost) {
    let text = saved(&fake.tables.borrow()["iptables"]);
    assert!(text.contains("-j TRAFSTAT"));
    fake.write(FIREWALL_FILE, &text, 0o640).unwrap();
}

#[test]
fn rules_that_were_saved_with_a_firewall_are_taken_out_again() {
    let fake = FakeHost::new();
    let host = &hosts()[1];
    let before = fake.read(FIREWALL_FILE).unwrap().unwrap();
    fake.set_up(&SetupRequest::default(), host).unwrap();
    assert_eq!(fake.read(FIREWALL_FILE).unwrap().unwrap(), before);

    save_rules(&fake);
    fake.set_up(&SetupRequest::default(), host).unwrap();
    assert_eq!(fake.read(FIREWALL_FILE).unwrap().unwrap(), before);
    let copies = fs::read_dir(fake.path("/var/lib/trafstat/backups")).unwrap();
    let copy = copies.map(|copy| fs::read_to_string(copy.unwrap().path()).unwrap());
    assert!(copy.into_iter().any(|text| text.contains("-j TRAFSTAT")));

    save_rules(&fake);
    fake.undo().unwrap();
    assert_eq!(fake.read(FIREWALL_FILE).unwrap().unwrap(), before);
}

/// What version 0.2.0 leaves on a host with netfilter-persistent.
fn set_up_by_an_earlier_version(fake: &FakeHost) {
    let host = &hosts()[1];
    fake.set_up(&SetupRequest::default(), host).unwrap();
    let rules = fake.read(plan::RULES_PATH).unwrap().unwrap();
    let journal = fake.read(journal::PATH).unwrap().unwrap();
    let mut journal: serde_json::Value = serde_json::from_str(&journal).unwrap();
    let entries = journal["entries"].as_array_mut().unwrap();
    entries.retain(|entry| {
        let text = entry.to_string();
        !text.contains(plan::RULES_PATH) && !text.contains("trafstat-rules.service")
    });
    let sets: serde_json::Value = serde_json::from_str(&rules).unwrap();
    for entry in entries {
        let set = match entry["step"]["saved-rules"]["path"].as_str() {
            Some(FIREWALL_FILE) => 0,
            Some(_) => 1,
            None => continue,
        };
        entry["step"]["saved-rules"]["rules"] = sets[set]["rules"].clone();
        entry["before"] = match set {
            0 => serde_json::json!({ "copied": "/var/lib/trafstat/backups/x" }),
            _ => "nothing".into(),
        };
    }
    fake.write(journal::PATH, &journal.to_string(), 0o600)
        .unwrap();
    fake.remove(plan::RULES_PATH).unwrap();
    fake.units.borrow_mut().remove("trafstat-rules.service");
    save_rules(fake);
    let made = saved(&fake.tables.borrow()["ip6tables"]).replace(&format!("{OTHERS}\n"), "");
    fake.write("/etc/iptables/rules.v6", &made, 0o640).unwrap();
}

#[test]
fn upgrade_takes_the_rules_out_of_a_firewalls_files() {
    for limit in 0.. {
        let fake = FakeHost::new();
        let before = fake.read(FIREWALL_FILE).unwrap().unwrap();
        set_up_by_an_earlier_version(&fake);
        let tables = fake.chains();
        fake.changes_left.set(limit);
        let whole = upgrade(&fake, &host()).is_ok();
        fake.changes_left.set(usize::MAX);
        // It was cut off, and is run again.
        upgrade(&fake, &host()).unwrap();
        assert_eq!(fake.read(FIREWALL_FILE).unwrap().unwrap(), before);
        let ipv6 = fake.read("/etc/iptables/rules.v6").unwrap().unwrap();
        assert!(!ipv6.contains("TRAFSTAT"), "{ipv6}");
        assert!(fake.read(plan::RULES_PATH).unwrap().is_some());
        assert!(fake.units.borrow().contains("trafstat-rules.service"));
        assert_eq!(fake.chains(), tables);
        fake.undo().unwrap();
        assert_eq!(fake.read(FIREWALL_FILE).unwrap().unwrap(), before);
        // Setup had made this one.
        assert_eq!(fake.read("/etc/iptables/rules.v6").unwrap(), None);
        if whole {
            break;
        }
    }
}

#[test]
fn server_stays_until_another_store_is_wanted() {
    let fake = FakeHost::new();
    let url = |request: &SetupRequest| request.server.as_ref().unwrap().url.clone();
    let request = with_server(Some("/root/administrator.cnf"));
    fake.set_up(&request, &host()).unwrap();
    assert!(fake.users.borrow().contains(&url(&request)));
    assert_eq!(Journal::read(&fake).unwrap().server(), request.server);

    let mut other = with_server(None);
    other.server.as_mut().unwrap().url = "mysql://other@db/trafstat".to_owned();
    fake.set_up(&other, &host()).unwrap();
    assert_eq!(
        fake.users.borrow().iter().collect::<Vec<_>>(),
        [&url(&other)]
    );

    fake.set_up(&SetupRequest::default(), &host()).unwrap();
    assert!(fake.users.borrow().is_empty());
    assert!(!fake.path(PASSWORD_PATH).exists());
    assert!(!fake.path(DEFAULT_CONFIG_PATH).exists());
    assert_eq!(Journal::read(&fake).unwrap().server(), None);
}

#[test]
fn user_that_is_there_needs_no_administrator_and_stays() {
    let fake = FakeHost::new();
    let before = fake.state();
    let password_file = fake.root.path().join("password");
    fs::write(&password_file, "se#cret\n").unwrap();
    let mut request = with_server(None);
    let server = request.server.as_mut().unwrap();
    server.login = Some(Login {
        password_file: password_file.clone(),
        ssl_mode: None,
        ssl_ca: None,
    });
    let url = server.url.clone();
    let others = "[client]\npassword=old\n";
    fake.write(PASSWORD_PATH, others, 0o644).unwrap();
    fake.set_up(&request, &host()).unwrap();
    let written = fake.read(PASSWORD_PATH).unwrap().unwrap();
    assert_eq!(written, "[client]\npassword=\"se#cret\"\n");
    assert!(fake.users.borrow().contains(&url));
    assert_eq!(Journal::read(&fake).unwrap().server(), request.server);

    // The file with the password may go once setup has read it.
    fs::remove_file(&password_file).unwrap();
    fake.set_up(&request, &host()).unwrap();
    fake.undo().unwrap();
    assert_eq!(fake.read(PASSWORD_PATH).unwrap().unwrap(), others);
    assert!(fake.users.borrow().contains(&url));
    fake.remove(PASSWORD_PATH).unwrap();
    fake.users.borrow_mut().clear();
    assert_eq!(fake.state(), before);
}

#[test]
fn copy_never_replaces_an_earlier_one() {
    let host = FakeHost::new();
    let path = "/etc/cron.d/trafstat";
    let step = Step::File {
        path: path.to_owned(),
        text: String::new(),
    };
    for text in ["first", "second", "third"] {
        host.write(path, text, 0o644).unwrap();
        let Before::Copied(copy) = step.before(&host).unwrap() else {
            panic!("no copy");
        };
        assert_eq!(host.read(&copy).unwrap().unwrap(), text);
    }
    let folder = host.path("/var/lib/trafstat/backups");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 3);
}

#[test]
fn password_and_configuration_that_were_there_stay() {
    let fake = FakeHost::new();
    let password = "[client]\npassword=mine\n";
    fake.write(PASSWORD_PATH, password, 0o600).unwrap();
    let configuration = "[quota]\nwarn-at = [50]\n";
    fake.write(DEFAULT_CONFIG_PATH, configuration, 0o644)
        .unwrap();
    let host = Host {
        configuration: configuration.to_owned(),
        ..host()
    };
    fake.set_up(&with_server(None), &host).unwrap();
    let read = |path| fake.read(path).unwrap().unwrap();
    assert_eq!(read(PASSWORD_PATH), password);
    assert!(read(DEFAULT_CONFIG_PATH).contains("backend = \"mysql\""));
    fake.undo().unwrap();
    assert_eq!(read(PASSWORD_PATH), password);
    assert_eq!(read(DEFAULT_CONFIG_PATH), configuration);
}

#[test]
fn damaged_journal_is_refused() {
    let fake = FakeHost::new();
    fake.write(journal::PATH, "{", 0o600).unwrap();
    let error = fake.undo().unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
}

#[test]
fn module_that_does_not_load_stops_setup_before_any_rule() {
    let steps = plan::steps(&host(), &SetupRequest::default()).unwrap();
    assert_eq!(steps[0], Step::Module);
}

/// A host as the original's README makes it, with rules between others'.
fn with_original() -> FakeHost {
    let fake = FakeHost::new();
    for (path, text) in [
        ("/etc/crontab", CRONTAB),
        ("/etc/cron.weekly/trafstat_rotater", "#!/bin/bash\n"),
        ("/usr/local/bin/trafstat_show.sh", "#!/bin/bash\n"),
        (ORIGINAL_MODULE, "\x7fELF"),
        ("/sys/module/xt_TRAFSTAT/refcnt", "2\n"),
        ("/proc/trafstat/192.0.2.1_32", COUNTED),
        (
            "/var/trafstat/trafstat_192_0_2_1_32_2024_01_07-04:22.gz",
            "",
        ),
        ("/var/trafstat/notes", ""),
    ] {
        fake.write(path, text, 0o644).unwrap();
    }
    fake.tables.borrow_mut().insert(
        "iptables".to_owned(),
        [
            OTHERS,
            "-A INPUT -d 192.0.2.1/32 -j TRAFSTAT --local-net 192.0.2.1",
            "-A INPUT -p tcp -j ACCEPT",
            "-A OUTPUT -s 192.0.2.1/32 -j TRAFSTAT --local-net 192.0.2.1",
        ]
        .map(str::to_owned)
        .into(),
    );
    fake.changes.set(0);
    fake
}

fn in_its_place() -> SetupRequest {
    SetupRequest {
        original: Some(Original {
            tables: Some("mysql://localhost/trafstat".to_owned()),
        }),
        ..SetupRequest::default()
    }
}

/// Sets up as far as the running original lets it.
fn prepared() -> FakeHost {
    let fake = with_original();
    let error = fake.set_up(&in_its_place(), &host()).unwrap_err();
    assert!(format!("{error:#}").contains("reboot now"), "{error:#}");
    fake
}

#[test]
fn original_counts_on_until_the_reboot() {
    let fake = prepared();
    let before = with_original().chains();
    assert_eq!(fake.chains(), before);
    assert!(!fake.path(ORIGINAL_MODULE).exists());
    assert!(fake.path("/usr/local/bin/trafstat_show.sh").exists());
    assert_eq!(fake.read("/etc/crontab").unwrap().unwrap(), CRONTAB);
    assert!(fake.imported.borrow().is_empty());

    // What it counts from here on, the next run keeps as well.
    assert!(fake.set_up(&in_its_place(), &host()).is_err());
    let kept = fake.read("/var/lib/trafstat/original/192.0.2.1_32");
    assert_eq!(kept.unwrap().unwrap(), COUNTED.repeat(2));

    fake.undo().unwrap();
    assert!(fake.path(ORIGINAL_MODULE).exists());
    assert_eq!(fake.chains(), before);
    let rules = "/var/lib/trafstat/original/rules.json";
    assert!(!fake.path(rules).exists());
}

#[test]
fn original_gives_way_and_its_rules_stay_where_they_were() {
    let before = with_original().chains();
    // The rules are restored at boot, all, some or none.
    for restored in ["-A ", "-A INPUT ", "-A FORWARD "] {
        let fake = prepared();
        fake.reboot(|rule| rule.starts_with(restored) || !rule.contains("TRAFSTAT"));
        fake.set_up(&in_its_place(), &host()).unwrap();
        assert_eq!(fake.chains(), before, "{restored}");
        assert!(!original::is_here(&fake).unwrap());
        let crontab = fake.read("/etc/crontab").unwrap().unwrap();
        assert!(crontab.contains("\n# trafstat setup: */5"), "{crontab}");
        assert_eq!(
            *fake.imported.borrow(),
            [
                "/var/lib/trafstat/original/192.0.2.1_32",
                "/var/trafstat/trafstat_192_0_2_1_32_2024_01_07-04:22.gz",
                "--from-url",
                "mysql://localhost/trafstat",
            ]
        );
        assert!(fake.units.borrow().contains("trafstat-collect.timer"));

        let changes = fake.changes.get();
        fake.set_up(&in_its_place(), &host()).unwrap();
        assert_eq!(fake.changes.get(), changes);

        fake.undo().unwrap();
        assert!(fake.path(ORIGINAL_MODULE).exists());
        assert_eq!(fake.read("/etc/crontab").unwrap().unwrap(), CRONTAB);
        assert_eq!(fake.chains(), before, "the rules are the administrator's");
    }
}

#[test]
fn replacement_interrupted_anywhere_is_finished_by_the_next() {
    let counting = |rule: &str| rule.contains("TRAFSTAT");
    let whole = prepared();
    let first_run = whole.changes.get();
    whole.reboot(|rule| !counting(rule));
    whole.set_up(&in_its_place(), &host()).unwrap();
    let before = with_original().chains();
    for limit in 0..whole.changes.get() {
        let fake = with_original();
        fake.changes_left.set(limit);
        let cut_off = fake.set_up(&in_its_place(), &host());
        assert!(cut_off.is_err());
        if limit < first_run {
            fake.changes_left.set(usize::MAX);
            assert!(fake.set_up(&in_its_place(), &host()).is_err());
        }
        fake.reboot(|rule| !counting(rule));
        if limit >= first_run {
            assert!(fake.set_up(&in_its_place(), &host()).is_err());
            fake.changes_left.set(usize::MAX);
        }
        fake.set_up(&in_its_place(), &host()).unwrap();
        assert_eq!(fake.chains(), before, "after {limit} changes");
        assert!(!original::is_here(&fake).unwrap(), "after {limit} changes");
        let kept = fake.read("/var/lib/trafstat/original/192.0.2.1_32");
        assert!(
            kept.unwrap().unwrap().starts_with(COUNTED),
            "after {limit} changes"
        );
    }
}

#[test]
fn store_in_the_database_of_the_originals_tables_is_refused() {
    let request = SetupRequest {
        server: with_server(None).server,
        ..in_its_place()
    };
    let error = plan::steps(&host(), &request).unwrap_err().to_string();
    assert!(error.contains("name another one"), "{error}");
}

/// The state without what is another one on each host: its folder, and the time in copies' names.
fn comparable(fake: &FakeHost, state: &str) -> String {
    const TIME: &str = "20260131T120000";
    let mut state = state.replace(&*fake.root.path().to_string_lossy(), "");
    let mut searched = 0;
    while let Some(found) = state[searched..].find("rules.v4.2") {
        let time = searched + found + "rules.v4.".len();
        state.replace_range(time..time + TIME.len(), TIME);
        searched = time;
    }
    state
}
