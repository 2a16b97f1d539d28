// SPDX-License-Identifier: GPL-2.0-or-later
//! Plugins and modules of different versions work together as `uapi/xt_TRAFSTAT.h` says.
//!
//! The older module and the older plugin have the target's oldest revision alone. The newer plugin
//! gives every rule an option that nothing here knows.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Backend, Iptables, Plugin, RuleCounters};
use crate::kernel_log::KernelLog;
use crate::module;
use crate::proc::{self, AccountKey};
use crate::topology::{Netns, Topology};
use crate::traffic;

/// The first revision and the second.
const FIRST: u8 = 1;
const SECOND: u8 = 2;

/// Options of two rules, as they are saved, behind the local net.
const OPTIONS: [&str; 2] = [
    "--local-tcp-ports 22,80 --name few",
    "--local-tcp-ports 22,80 --local-udp-ports all --remote-tcp-ports 443 \
     --remote-udp-ports 53,123 --max-entries 2000 --traf-policy accept --min-pkt-spoof 3 \
     --sample-tcp-syn 10 --sample-tcp-any 20 --sample-udp-any 30 --fast-aggregate \
     --dump-priority 5 --name all-of-them",
];

/// What iptables-legacy prints for a rule of a revision that the plugin does not have.
const UNSUPPORTED: &str = "[unsupported revision]";

/// What the kernel's log has of an option that the module does not know.
const MODULE_IS_OLDER: &str = "the module is older than libxt_TRAFSTAT";

/// Prints the revision of every TRAFSTAT rule of the filter table, in the rules' order. Arguments
/// are the family, 4 or 6, and the backend.
///
/// x_tables gives a table as one block, in which struct xt_entry_target has the name in 29 bytes
/// before the revision. nf_tables gives attributes (linux/netfilter/nf_tables_compat.h): the name,
/// and then the revision in network byte order.
const REVISIONS: &str = r#"
import ctypes, socket, struct, sys
family, backend = sys.argv[1:]
NAME = b"TRAFSTAT\0"
if backend == "legacy":
    domain, level = (socket.AF_INET, 0) if family == "4" else (socket.AF_INET6, 41)
    table = socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW)
    libc = ctypes.CDLL(None, use_errno=True)
    def ask(option, request, size):
        answer = ctypes.create_string_buffer(request, size)
        length = ctypes.c_uint(size)
        if libc.getsockopt(table.fileno(), level, option, answer, ctypes.byref(length)):
            raise OSError(ctypes.get_errno(), "getsockopt")
        return answer.raw
    GET_INFO, GET_ENTRIES = 64, 65
    size, = struct.unpack_from("<I", ask(GET_INFO, b"filter", 84), 80)
    dump = ask(GET_ENTRIES, struct.pack("<32sI", b"filter", size), 40 + size)
    revision = lambda at: dump[at + 29]
else:
    NETLINK_NETFILTER, GETRULE, REQUEST_DUMP, NLMSG_DONE = 12, 0xa07, 0x301, 3
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    netlink.settimeout(10)
    protocol = 2 if family == "4" else 10
    netlink.send(struct.pack("<IHHIIBBH", 20, GETRULE, REQUEST_DUMP, 1, 0, protocol, 0, 0))
    dump = b""
    while True:
        part = netlink.recv(1 << 20)
        dump += part
        if struct.unpack_from("<H", part, 4)[0] == NLMSG_DONE:
            break
    def revision(at):
        length, kind = struct.unpack_from("<HH", dump, at + 12)
        assert (length, kind) == (8, 2), (length, kind)
        return struct.unpack_from(">I", dump, at + 16)[0]
at = dump.find(NAME)
while at >= 0:
    print(revision(at))
    at = dump.find(NAME, at + 1)
"#;

pub fn run(guest: &Guest) -> Result<()> {
    for family in [Family::Ipv4, Family::Ipv6] {
        for backend in Backend::all()? {
            let test = |module: &str, load: fn(&Guest) -> Result<()>, run: fn(&Setup<'_>) -> _| {
                load(guest)?;
                let topology = Topology::new(family)?;
                let setup = Setup {
                    guest,
                    backend: *backend,
                    topology: &topology,
                };
                let done: Result<()> = run(&setup);
                drop(topology);
                let program = setup_name(family, *backend);
                done.with_context(|| format!("{program}, {module}"))?;
                module::unload()
            };
            test("this module", module::load, with_this_module)?;
            test("an older module", load_older_module, with_older_module)?;
        }
    }
    Ok(())
}

fn load_older_module(guest: &Guest) -> Result<()> {
    module::load_with_tests(guest, &[&format!("newest_revision={FIRST}")])
}

fn setup_name(family: Family, backend: Backend) -> String {
    format!("{family:?} through {backend:?}")
}

/// Rules of both plugins are side by side: each is of its plugin's highest revision, counts, is
/// saved as the same text, and is found by the other plugin.
fn with_this_module(setup: &Setup<'_>) -> Result<()> {
    let [this, older, newer] =
        [Plugin::This, Plugin::Older, Plugin::Newer].map(|plugin| setup.iptables(plugin));
    for options in OPTIONS {
        older.succeed(&setup.rule("-A INPUT", options))?;
        this.succeed(&setup.rule("-A OUTPUT", options))?;
    }
    let saved = setup.saved(&["INPUT", "OUTPUT"]);
    setup.has_revisions(&[FIRST, FIRST, SECOND, SECOND])?;
    setup.saves(&this, &saved)?;
    ensure!(
        !this.list()?.contains(UNSUPPORTED),
        "listed as\n{}",
        this.list()?
    );
    match setup.backend {
        Backend::Nft => setup.saves(&older, &saved)?,
        // iptables does not ask the plugin.
        Backend::Legacy => {
            let found = older.save()?;
            let unsupported = found.lines().filter(|line| line.contains(UNSUPPORTED));
            ensure!(unsupported.count() == 2, "saved as\n{found}");
        }
    }
    setup.counts("few")?;

    refuses_an_unknown_option(setup, &newer)?;
    setup.has_revisions(&[FIRST, FIRST, SECOND, SECOND])?;
    for options in OPTIONS {
        for (other, rule) in [(&this, "INPUT"), (&older, "OUTPUT")] {
            other.succeed(&setup.rule(&format!("-C {rule}"), options))?;
            other.succeed(&setup.rule(&format!("-D {rule}"), options))?;
            let gone = other.end(&setup.rule(&format!("-C {rule}"), options))?;
            ensure!(gone.code == Some(1), "a deleted rule is found: {gone:?}");
        }
    }
    setup.has_revisions(&[])?;

    // What one plugin saved, the other restores.
    for (plugin, revision) in [(&older, FIRST), (&this, SECOND)] {
        plugin.restore(&format!("*filter\n{}\nCOMMIT\n", saved.join("\n")))?;
        setup.has_revisions(&[revision; 4])?;
        setup.saves(plugin, &saved)?;
        setup.saves(&this, &saved)?;
    }
    Ok(())
}

/// With a module that lacks the plugin's highest revision, rules are of the one that it has.
fn with_older_module(setup: &Setup<'_>) -> Result<()> {
    let [this, older] = [Plugin::This, Plugin::Older].map(|plugin| setup.iptables(plugin));
    for options in OPTIONS {
        for end in ["-A INPUT", "-A OUTPUT"] {
            succeeds_quietly(&this, &setup.rule(end, options))?;
        }
    }
    succeeds_quietly(&this, "-nL")?;
    setup.has_revisions(&[FIRST; 4])?;
    let saved = setup.saved(&["INPUT", "OUTPUT"]);
    setup.saves(&this, &saved)?;
    setup.saves(&older, &saved)?;
    setup.counts("few")?;
    for options in OPTIONS {
        succeeds_quietly(&this, &setup.rule("-D INPUT", options))?;
        older.succeed(&setup.rule("-D OUTPUT", options))?;
    }
    setup.has_revisions(&[])
}

/// libxtables warns of a revision that the kernel lacks, where the plugin registers one.
fn succeeds_quietly(iptables: &Iptables<'_>, arguments: &str) -> Result<()> {
    let ended = iptables.end(arguments)?;
    ensure!(
        ended.code == Some(0) && ended.stderr.is_empty(),
        "{arguments}: {ended:?}"
    );
    Ok(())
}

fn refuses_an_unknown_option(setup: &Setup<'_>, newer: &Iptables<'_>) -> Result<()> {
    let log = KernelLog::from_now()?;
    let refused = newer.end(&setup.rule("-A INPUT", OPTIONS[0]))?;
    ensure!(
        refused.code.is_some_and(|code| code != 0),
        "the kernel took an option that it does not know: {refused:?}"
    );
    let lines = log.lines()?;
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("account few") && line.contains(MODULE_IS_OLDER)),
        "the log does not say that the module is older: {lines:?}"
    );
    Ok(())
}

struct Setup<'a> {
    guest: &'a Guest,
    backend: Backend,
    topology: &'a Topology,
}

impl Setup<'_> {
    fn family(&self) -> Family {
        self.topology.family
    }

    fn netns(&self) -> &Netns {
        &self.topology.local
    }

    fn iptables(&self, plugin: Plugin) -> Iptables<'_> {
        Iptables::new(self.guest, self.netns(), self.family())
            .through(self.backend)
            .with_plugin(plugin)
    }

    /// A rule with these options, for iptables and as iptables-save prints it.
    fn rule(&self, command: &str, options: &str) -> String {
        let local = self.family().local();
        format!("{command} -j TRAFSTAT --local-net {local} {options}")
    }

    /// All rules, one of each options for each chain, as iptables-save prints them.
    fn saved(&self, chains: &[&str]) -> Vec<String> {
        let of_chain = |chain| OPTIONS.map(|options| self.rule(&format!("-A {chain}"), options));
        chains.iter().flat_map(of_chain).collect()
    }

    fn saves(&self, iptables: &Iptables<'_>, expected: &[String]) -> Result<()> {
        let saved = iptables.save()?;
        let rules: Vec<_> = saved
            .lines()
            .filter(|line| line.starts_with("-A"))
            .collect();
        ensure!(
            rules == expected,
            "saved as\n{saved}instead of\n{expected:#?}"
        );
        Ok(())
    }

    /// Checks the revisions of all rules, in their order.
    fn has_revisions(&self, expected: &[u8]) -> Result<()> {
        let family = match self.family() {
            Family::Ipv4 => "4",
            Family::Ipv6 => "6",
        };
        let backend = match self.backend {
            Backend::Nft => "nft",
            Backend::Legacy => "legacy",
        };
        let mut python = Command::new("python3");
        let printed = self
            .netns()
            .succeed(python.args(["-c", REVISIONS, family, backend]))?;
        let revisions: Result<Vec<u8>, _> = printed.lines().map(str::parse).collect();
        let revisions = revisions.with_context(|| printed.clone())?;
        ensure!(
            revisions == expected,
            "rules are of the revisions {revisions:?} instead of {expected:?}"
        );
        Ok(())
    }

    /// Checks that the first rules of both directions count into the account what they see.
    fn counts(&self, name: &str) -> Result<()> {
        let volume = traffic::ping(self.topology, 3)?;
        let key = AccountKey {
            family: self.family(),
            name,
        };
        let iptables = self.iptables(Plugin::This);
        let mut seen = RuleCounters::default();
        let counters = super::collect_all(
            || iptables.counters_by_name(),
            || {
                let account = proc::account(self.netns(), key)?.context("no account")?;
                seen = RuleCounters {
                    packets: proc::number(&account, "seen_packets")?,
                    bytes: proc::number(&account, "seen_bytes")?,
                };
                Ok(())
            },
        )?;
        let counted = counters.get(name).copied().unwrap_or_default();
        ensure!(
            seen == counted && seen.packets >= volume.total().packets,
            "the account saw {seen:?}, its rules {counted:?}, of {volume:?}"
        );
        Ok(())
    }
}
