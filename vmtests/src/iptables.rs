//! Rules of the local namespace, through the system's own iptables and the plugin beside this program.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::process::{self, Ended};
use crate::topology::{LOCAL, Netns};

/// Options that give every flow a record of its own.
pub const ALL_PORTS: &str = "--local-tcp-ports all --local-udp-ports all \
                             --remote-tcp-ports all --remote-udp-ports all";

/// iptables in one namespace.
pub struct Iptables<'a> {
    guest: &'a Guest,
    netns: &'a Netns,
}

/// What a rule's or several rules' counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounters {
    /// Socket buffers.
    pub packets: u64,
    /// Layer-3 bytes of them.
    pub bytes: u64,
}

impl<'a> Iptables<'a> {
    /// iptables in `netns`.
    pub fn new(guest: &'a Guest, netns: &'a Netns) -> Self {
        Self { guest, netns }
    }

    /// Counts everything that the local address receives and sends, as the manual says to.
    ///
    /// # Errors
    ///
    /// A rule is refused.
    pub fn count_local(&self, options: &str) -> Result<()> {
        for end in ["INPUT -d", "OUTPUT -s"] {
            self.succeed(&format!(
                "-I {end} {LOCAL} -j TRAFSTAT --local-net {LOCAL} {options}"
            ))?;
        }
        Ok(())
    }

    /// Deletes all rules.
    ///
    /// # Errors
    ///
    /// iptables fails.
    pub fn flush(&self) -> Result<()> {
        self.succeed("-F")
    }

    /// Runs iptables with `arguments`, separated by spaces; it must exit with 0.
    ///
    /// # Errors
    ///
    /// It exits otherwise.
    pub fn succeed(&self, arguments: &str) -> Result<()> {
        self.netns
            .succeed(&mut self.command("iptables", arguments))
            .map(drop)
    }

    /// Runs iptables with `arguments`, however it ends.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end(&self, arguments: &str) -> Result<Ended> {
        self.netns.end(&mut self.command("iptables", arguments))
    }

    /// What `iptables-save` prints, without comments and counters.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn save(&self) -> Result<String> {
        let saved = self.netns.succeed(&mut self.command("iptables-save", ""))?;
        let rules = saved.lines().filter(|line| !line.starts_with('#'));
        Ok(rules
            // A chain's line ends with its policy's counters.
            .map(|line| match line.starts_with(':') {
                true => line.split(" [").next().unwrap_or(line),
                false => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect())
    }

    /// Replaces all rules by `rules`, as `iptables-save` prints them.
    ///
    /// # Errors
    ///
    /// A rule is refused.
    pub fn restore(&self, rules: &str) -> Result<()> {
        let mut command = self.command("iptables-restore", "");
        let ended = self
            .netns
            .enter(|| process::end_with_input(&mut command, rules))?;
        ensure!(ended.code == Some(0), "iptables-restore: {ended:?}");
        Ok(())
    }

    /// What `iptables -nvxL` prints.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn list(&self) -> Result<String> {
        self.netns.succeed(&mut self.command("iptables", "-nvxL"))
    }

    /// The counters of all TRAFSTAT rules together.
    ///
    /// # Errors
    ///
    /// iptables prints something unknown.
    pub fn counters(&self) -> Result<RuleCounters> {
        let mut sum = RuleCounters::default();
        // pkts bytes target ...
        for line in self.list()?.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [packets, bytes, "TRAFSTAT", ..] = fields[..] {
                sum.packets += packets.parse::<u64>().with_context(|| line.to_owned())?;
                sum.bytes += bytes.parse::<u64>().with_context(|| line.to_owned())?;
            }
        }
        Ok(sum)
    }

    fn command(&self, program: &str, arguments: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("XTABLES_LIBDIR", self.guest.plugin_path())
            .args(arguments.split_whitespace());
        command
    }
}
