// SPDX-License-Identifier: GPL-2.0-or-later
//! Rules as iptables-save -c prints them, as far as doctor must understand them.

/// A rule of a filter table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRule {
    /// Packets that fitted it.
    pub packets: u64,
    /// Its chain.
    pub chain: String,
    /// All after the chain.
    pub words: Vec<String>,
}

impl SavedRule {
    /// The rules of `table` in the text, in their order.
    pub fn of_table(saved: &str, table: &str) -> Vec<Self> {
        let mut current = "";
        let mut rules = Vec::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                current = name;
            } else if current == table {
                rules.extend(Self::parse(line));
            }
        }
        rules
    }

    fn parse(line: &str) -> Option<Self> {
        // [PACKETS:BYTES] -A CHAIN ...
        let (counters, rule) = line.strip_prefix('[')?.split_once("] -A ")?;
        let mut words = rule.split_whitespace().map(str::to_owned);
        Some(Self {
            packets: counters.split(':').next()?.parse().ok()?,
            chain: words.next()?,
            words: words.collect(),
        })
    }

    /// The value of an option; none if the option is not there or is negated.
    pub fn value(&self, option: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == option)?;
        let negated = at > 0 && self.words[at - 1] == "!";
        (!negated)
            .then(|| self.words.get(at + 1).map(String::as_str))
            .flatten()
    }

    /// All values of an option that may be given several times.
    pub fn values<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        self.words
            .windows(2)
            .filter(move |pair| pair[0] == option)
            .map(|pair| pair[1].as_str())
    }

    /// The value of an option that is negated.
    pub fn excluded(&self, option: &str) -> Option<&str> {
        self.words
            .windows(3)
            .find(|three| three[0] == "!" && three[1] == option)
            .map(|three| three[2].as_str())
    }

    /// Whether it counts.
    pub fn counts(&self) -> bool {
        self.value("-j") == Some("TRAFSTAT")
    }

    /// What tells its account apart from others of its family: name or local net.
    pub fn account(&self) -> &str {
        self.value("--name")
            .or_else(|| self.value("--local-net"))
            .unwrap_or_default()
    }

    /// Whether a packet that fits it sees no later rule of the chain.
    pub fn ends_the_walk(&self) -> bool {
        let ends = ["ACCEPT", "DROP", "REJECT", "QUEUE", "NFQUEUE"];
        self.value("-j")
            .is_some_and(|target| ends.contains(&target))
            || self.value("-g").is_some()
            || self
                .value("--traf-policy")
                .is_some_and(|policy| policy != "continue")
    }

    /// Whether the chain is one that the kernel itself walks.
    pub fn is_in_builtin_chain(&self) -> bool {
        ["INPUT", "FORWARD", "OUTPUT"].contains(&self.chain.as_str())
    }
}
