// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask vmbench`: what a packet costs in the kernel, in instructions, under different rules,
//! and with what else counts traffic; and what memory a flow takes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::build::Parts;
use crate::lanes;
use crate::platform::Platform;
use crate::progress::{self, Step};
use crate::rootfs::Rootfs;
use crate::vm::{self, Guest};

/// All measurements of one kernel, emulated on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180 * 60);

/// What a line with a measurement begins with in the guest.
const MEASURED: &str = "measured ";
/// The rules that the others are compared with.
const NO_RULE: &str = "no rule";
const EMPTY_RULE: &str = "empty rule";
/// What nftables' own set is compared with, and the set.
const NFTABLES_RULE: &str = "nftables rule";
const NFTABLES_SET: &str = "nftables set";

/// How the measurements are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table of Markdown a kernel.
    Md,
    /// One JSON array.
    Json,
}

/// All that was measured on one kernel.
#[derive(Serialize)]
struct Report {
    kernel: String,
    /// Debian packages.
    versions: BTreeMap<&'static str, String>,
    /// Those that do not build for this kernel.
    not_built: Vec<&'static str>,
    costs: Vec<Cost>,
}

/// What one packet costs, in instructions: its generation, its way to the rule and the rule.
#[derive(Serialize, Deserialize)]
struct Cost {
    traffic: String,
    rule: String,
    instructions: f64,
    memory: Option<Memory>,
}

/// Bytes of the system's memory that each flow takes.
#[derive(Serialize, Deserialize)]
struct Memory {
    /// Of pages that are not free.
    taken: f64,
    /// Of slab caches.
    slab: f64,
    /// Of vmalloc().
    vmalloc: f64,
    /// Of what each CPU has its own of.
    percpu: f64,
}

/// Measures on each of `platforms` what has `filter` in its name, and prints it.
///
/// # Errors
///
/// Something does not build or run.
pub fn run(platforms: &[Platform], filter: Option<&str>, format: Format) -> Result<()> {
    let parts = Parts::build()?;
    let filter = filter.unwrap_or_default();
    let mut staged = Vec::new();
    for platform in platforms {
        let (rootfs, share) = parts.stage_for(platform)?;
        staged.push((rootfs.with_peers()?, share));
    }
    let measured = lanes::run(staged, |(rootfs, share)| {
        measure(&rootfs, &share, filter)
            .inspect_err(|error| progress::above(|| eprintln!("{}: {error:#}", rootfs.kernel)))
    });
    // What was measured is printed, whatever became of another kernel.
    let kernels = measured.len();
    let reports: Vec<_> = measured.into_iter().flatten().collect();
    match format {
        Format::Md => reports
            .iter()
            .for_each(|report| println!("{}", report.to_markdown())),
        Format::Json => println!("{}", serde_json::to_string_pretty(&reports)?),
    }
    ensure!(reports.len() == kernels, "not every kernel was measured");
    Ok(())
}

fn measure(rootfs: &Rootfs, share: &Path, filter: &str) -> Result<Report> {
    let guest = Guest::ensure_counting(rootfs)?;
    let step = Step::begin(format!("Costs on {}", guest.describe()));
    // The shell has a word of what may have spaces.
    let script = format!("{}/trafstat-vmtests costs '{filter}'", vm::PROGRAMS);
    let mut costs = Vec::new();
    let mut unknown = None;
    guest.run(&script, share, PATIENCE, |line| {
        step.note(&format!("{}: {line}", rootfs.kernel));
        if let Some(json) = line.strip_prefix(MEASURED) {
            match serde_json::from_str(json) {
                Ok(cost) => costs.push(cost),
                Err(error) => unknown = Some((line.to_owned(), error)),
            }
        }
    })?;
    if let Some((line, error)) = unknown {
        return Err(error).context(line);
    }
    step.done();
    let image = format!("linux-image-{}", rootfs.kernel);
    let mut versions = BTreeMap::from([
        ("kernel", rootfs.package_version(&image)?),
        ("iptables", rootfs.package_version("iptables")?),
        ("nftables", rootfs.package_version("nftables")?),
        ("trafstat", env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    let mut not_built = Vec::new();
    for (package, version) in rootfs.peer_versions() {
        match version {
            Some(version) => drop(versions.insert(package, version)),
            None => not_built.push(package),
        }
    }
    Ok(Report {
        kernel: rootfs.kernel.clone(),
        versions,
        not_built,
        costs,
    })
}

impl Report {
    /// A row for each kind of traffic: the whole cost of a packet without a rule, then what an
    /// empty rule adds to it, then what others add to the one that they are compared with. Then
    /// the memory of each flow, where it was measured.
    fn to_markdown(&self) -> String {
        let mut rules = Vec::new();
        let mut rows: Vec<(&str, BTreeMap<&str, f64>)> = Vec::new();
        for cost in &self.costs {
            if !rules.contains(&cost.rule.as_str()) {
                rules.push(&cost.rule);
            }
            if rows
                .last()
                .is_none_or(|(traffic, _)| *traffic != cost.traffic)
            {
                rows.push((&cost.traffic, BTreeMap::new()));
            }
            if let Some((_, costs)) = rows.last_mut() {
                costs.insert(&cost.rule, cost.instructions);
            }
        }
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(package, version)| format!("{package} {version}"))
            .collect();
        let mut text = format!("Kernel {} ({})\n", self.kernel, versions.join(", "));
        for package in &self.not_built {
            let _ = writeln!(text, "{package} does not build for this kernel.");
        }
        text.push_str("\n| traffic |");
        for rule in &rules {
            let against = against(rule).map_or(String::new(), |base| format!(", above {base}"));
            let _ = write!(text, " {rule}{against} |");
        }
        let _ = write!(text, "\n| --- |{}", " ---: |".repeat(rules.len()));
        for (traffic, costs) in rows {
            let _ = write!(text, "\n| {traffic} |");
            for rule in &rules {
                let base = against(rule).map_or(Some(0.0), |base| costs.get(base).copied());
                let _ = match (costs.get(rule), base) {
                    (Some(cost), Some(base)) => write!(text, " {:.0} |", cost - base),
                    _ => write!(text, " |"),
                };
            }
        }
        text.push('\n');
        let mut measured = self
            .costs
            .iter()
            .filter_map(|cost| Some((cost, cost.memory.as_ref()?)))
            .peekable();
        if measured.peek().is_some() {
            text.push_str(
                "\n| traffic | rule | bytes a flow | of slab caches | of vmalloc() | per CPU | \
                 of free pages |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
            );
        }
        for (cost, memory) in measured {
            let Cost { traffic, rule, .. } = cost;
            let Memory {
                taken,
                slab,
                vmalloc,
                percpu,
            } = memory;
            let sum = slab + vmalloc + percpu;
            let _ = writeln!(
                text,
                "| {traffic} | {rule} | {sum:.0} | {slab:.0} | {vmalloc:.0} | {percpu:.0} | {taken:.0} |"
            );
        }
        text
    }
}

/// The rule whose cost is taken off.
fn against(rule: &str) -> Option<&'static str> {
    match rule {
        NO_RULE => None,
        EMPTY_RULE | NFTABLES_RULE => Some(NO_RULE),
        NFTABLES_SET => Some(NFTABLES_RULE),
        _ => Some(EMPTY_RULE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_stands_above_the_one_it_is_compared_with() {
        let cost = |rule: &str, instructions| Cost {
            traffic: "IPv4".to_owned(),
            rule: rule.to_owned(),
            instructions,
            memory: None,
        };
        let report = Report {
            kernel: "6.1".to_owned(),
            versions: BTreeMap::new(),
            not_built: Vec::new(),
            costs: vec![
                cost("no rule", 1000.0),
                cost("empty rule", 1092.4),
                cost("TRAFSTAT", 1200.0),
            ],
        };
        assert!(
            report
                .to_markdown()
                .ends_with("| IPv4 | 1000 | 92 | 108 |\n")
        );
    }
}
