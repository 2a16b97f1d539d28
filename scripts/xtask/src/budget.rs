// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask budget`: the instructions that the kernel's object takes for a packet, against what
//! is committed.
//!
//! The object that the module links runs in a program of user space, `bench/budget/hot_path.c`,
//! under valgrind, which counts the same on every machine. There it is seen, too, that a packet of a
//! known flow writes no cache line that another CPU's packets write.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol};

use crate::progress::Step;
use crate::{command, kernel_object, packages, paths};

const PACKAGES: &[&str] = &["gcc", "libc6-dev", "valgrind"];
/// Each line has the arguments of the program and the instructions of one packet.
const FIGURES: &str = "bench/budget/figures";
const PROGRAM: &str = "bench/budget/hot_path.c";
const HEADER: &str = "\
# SPDX-License-Identifier: GPL-2.0-or-later
# Instructions of a packet of a known flow in the module's Rust object, by family, protocol,
# ports and flows: `cargo xtask budget --write`.
";
/// Of two CPUs, for each family.
const SHARING: [&str; 2] = ["4 tcp all 64 2", "6 tcp all 64 2"];
/// Bytes of a cache line.
const LINE: u64 = 64;
/// More than the calls below the program's main() take of the stack.
const STACK: u64 = 1 << 16;
/// How much a figure may grow without being changed here.
const TOLERANCE: f64 = 1.03;

/// What one packet costs with the given arguments of the program.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    arguments: String,
    instructions: f64,
}

/// Counts, and compares with the committed figures or, with `write`, replaces them.
///
/// # Errors
///
/// A figure grew by more than 3 percent, or something does not build.
pub fn run(write: bool) -> Result<()> {
    packages::install(PACKAGES)?;
    let object = kernel_object::build(kernel_object::Variant::Plain)?;
    let step = Step::begin("Counting the hot path's instructions");
    let program = link(&object, &step)?;
    let path = paths::repository().join(FIGURES);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {FIGURES}"))?;
    let mut counted = Vec::new();
    let mut grown = Vec::new();
    for committed in parse(&text)? {
        let now = count(&program, &committed.arguments, &step)?;
        step.print(&format!(
            "{}: {now:.1} instructions a packet, committed {:.1}",
            committed.arguments, committed.instructions
        ));
        if now > committed.instructions * TOLERANCE {
            grown.push(committed.arguments.clone());
        }
        counted.push(Figure {
            instructions: now,
            ..committed
        });
    }
    for arguments in SHARING {
        let lines = written_lines(&program, arguments, &step)?;
        step.print(&format!(
            "{arguments}: the CPUs write {} and {} cache lines",
            lines[0].len(),
            lines[1].len()
        ));
        ensure!(
            lines.iter().all(|lines| !lines.is_empty()),
            "{arguments}: a CPU that counts writes nothing"
        );
        let shared: Vec<_> = lines[0].intersection(&lines[1]).collect();
        ensure!(
            shared.is_empty(),
            "{arguments}: packets of both CPUs write the lines at {shared:x?}"
        );
    }
    step.done();
    if write {
        return fs::write(&path, render(&counted)).map_err(Into::into);
    }
    ensure!(
        grown.is_empty(),
        "more instructions than {FIGURES} allows for: {}; if they are worth it, commit what \
         `cargo xtask budget --write` writes together with what needs them",
        grown.join(", ")
    );
    Ok(())
}

fn link(object: &[u8], step: &Step) -> Result<PathBuf> {
    let folder = paths::target().join("budget");
    fs::create_dir_all(&folder)?;
    let object_path = folder.join("trafstat_core.o");
    fs::write(&object_path, object)?;
    let program = folder.join("hot_path");
    let repository = paths::repository();
    command::run(
        Command::new("gcc")
            // The object has the kernel's code model: it must lie where 32 bits reach.
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-no-pie"])
            .arg("-I")
            .arg(repository.join("module/glue"))
            .arg("-I")
            .arg(repository.join("module/uapi"))
            .arg(repository.join(PROGRAM))
            .arg(object_path)
            .arg("-o")
            .arg(&program),
        step,
    )?;
    Ok(program)
}

fn count(program: &Path, arguments: &str, step: &Step) -> Result<f64> {
    let output = command::run(
        Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .args(
                ["trafstat_count_ipv4", "trafstat_count_ipv6"]
                    .map(|function| format!("--toggle-collect={function}")),
            )
            .arg("--zero-before=measure")
            .arg(program)
            .args(arguments.split(' ')),
        step,
    )?;
    let packets = arguments.rsplit(' ').next().and_then(|n| n.parse().ok());
    collected(&output)
        .zip(packets)
        .map(|(instructions, packets): (f64, f64)| instructions / packets)
        .with_context(|| format!("valgrind says {output}"))
}

/// The cache lines that packets of known flows write on each of two CPUs.
fn written_lines(program: &Path, arguments: &str, step: &Step) -> Result<[BTreeSet<u64>; 2]> {
    let trace = program.with_file_name("trace");
    let output = command::run(
        Command::new("valgrind")
            .args(["--tool=lackey", "--trace-mem=yes"])
            .arg(format!("--log-file={}", trace.display()))
            .arg(program)
            .args(arguments.split(' ')),
        step,
    )?;
    let stack = output
        .trim()
        .strip_prefix("0x")
        .and_then(|top| u64::from_str_radix(top, 16).ok())
        .with_context(|| format!("the program says {output}"))?;
    let binary = fs::read(program)?;
    let binary = object::File::parse(&*binary)?;
    let address = |name| {
        let symbol = binary.symbol_by_name(name);
        let symbol = symbol.with_context(|| format!("the program has no {name}"))?;
        Ok::<_, anyhow::Error>(symbol.address())
    };
    let (begin, end) = (address("measure")?, address("measured")?);
    let mut measured = None;
    let mut lines = [BTreeSet::new(), BTreeSet::new()];
    for line in BufReader::new(File::open(&trace)?).lines() {
        match parse_access(&line?) {
            Some(Access::Instruction(at)) if at == begin => {
                measured = Some(measured.map_or(0, |cpu: usize| cpu + 1));
            }
            Some(Access::Instruction(at)) if at == end => break,
            Some(Access::Write(bytes)) if !(stack - STACK..stack + LINE).contains(&bytes.start) => {
                if let Some(lines) = measured.and_then(|cpu| lines.get_mut(cpu)) {
                    lines.extend((bytes.start / LINE..=(bytes.end - 1) / LINE).map(|at| at * LINE));
                }
            }
            _ => {}
        }
    }
    Ok(lines)
}

/// What an instruction does, as lackey tells.
#[derive(Debug, PartialEq)]
enum Access {
    /// Stands at this address.
    Instruction(u64),
    /// Writes these bytes.
    Write(Range<u64>),
}

/// Parses `I  04000bd0,3`, ` S 1ffefffe70,8` and ` M 04000bd0,4`; the numbers are an address in
/// hexadecimal and a size.
fn parse_access(line: &str) -> Option<Access> {
    let (what, place) = line.trim_start().split_once(' ')?;
    let (address, size) = place.trim_start().split_once(',')?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let size: u64 = size.parse().ok()?;
    match what {
        "I" => Some(Access::Instruction(address)),
        "S" | "M" => Some(Access::Write(address..address + size.max(1))),
        _ => None,
    }
}

/// The number in `==1234== Collected : 5678`.
fn collected(output: &str) -> Option<f64> {
    let (_, rest) = output.split_once("Collected :")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn parse(text: &str) -> Result<Vec<Figure>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (arguments, instructions) = line.rsplit_once(' ')?;
            Some(Figure {
                arguments: arguments.to_owned(),
                instructions: instructions.parse().ok()?,
            })
        })
        .collect::<Option<_>>()
        .with_context(|| format!("{FIGURES} has a line that is no figure"))
}

fn render(figures: &[Figure]) -> String {
    let lines = figures.iter().map(|figure| {
        let Figure {
            arguments,
            instructions,
        } = figure;
        format!("{arguments} {instructions:.1}\n")
    });
    HEADER.to_owned() + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_they_are_written() {
        let figures = vec![Figure {
            arguments: "4 udp all 256".to_owned(),
            instructions: 113.5,
        }];
        assert_eq!(parse(&render(&figures)).unwrap(), figures);
        assert!(parse("4 udp all 256 many").is_err());
    }

    #[test]
    fn writes_are_told_from_reads() {
        assert_eq!(
            parse_access("I  04000bd0,3"),
            Some(Access::Instruction(0x400_0bd0))
        );
        let write = Some(Access::Write(0x1_ffef_fe70..0x1_ffef_fe78));
        assert_eq!(parse_access(" S 1ffeffe70,8"), write);
        assert_eq!(parse_access(" M 1ffeffe70,8"), write);
        assert_eq!(parse_access(" L 1ffeffe70,8"), None);
        assert_eq!(
            parse_access("==77== Lackey, an example Valgrind tool"),
            None
        );
    }

    #[test]
    fn collected_instructions_are_found_among_what_valgrind_says() {
        assert_eq!(
            collected("==7== Events : Ir\n==7== Collected : 5678\n"),
            Some(5678.0)
        );
    }
}
