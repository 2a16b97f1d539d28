//! `cargo xtask budget`: the instructions that the kernel's object takes for a packet, against what
//! is committed.
//!
//! The object that the module links runs in a program of user space, `bench/budget/hot_path.c`,
//! under valgrind, which counts the same on every machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::progress::Step;
use crate::{command, kernel_object, packages, paths};

const PACKAGES: &[&str] = &["gcc", "libc6-dev", "valgrind"];
/// Each line has the arguments of the program and the instructions of one packet.
const FIGURES: &str = "bench/budget/figures";
const PROGRAM: &str = "bench/budget/hot_path.c";
const HEADER: &str = "\
# Instructions of a packet of a known flow in the module's Rust object, by family, protocol,
# ports and flows: `cargo xtask budget --write`.
";
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
    fn collected_instructions_are_found_among_what_valgrind_says() {
        assert_eq!(
            collected("==7== Events : Ir\n==7== Collected : 5678\n"),
            Some(5678.0)
        );
    }
}
