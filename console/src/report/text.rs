// SPDX-License-Identifier: GPL-2.0-or-later
//! The report as text.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};

use trafstat_store::query::Missing;

use super::figures::{Figures, Line, Section, change};
use super::samples::SampleInterval;
use crate::accuracy;
use crate::inexact;
use crate::names::{Names, title};
use trafstat_cli::units;

/// Writes a headline, the steps with bars, and a table for each section.
pub(super) fn write(figures: &Figures, names: &Names, writer: &mut dyn Write) -> io::Result<()> {
    writeln!(writer, "{}", headline(figures, names))?;
    let accuracy = accuracy::sentences(&figures.accuracy, figures.total.error);
    for sentence in inexact(figures, names).iter().chain(&accuracy) {
        writeln!(writer, "{sentence}")?;
    }
    writeln!(writer)?;
    write_steps(figures, writer)?;
    for (name, section) in [
        ("Local addresses", &figures.addresses),
        ("Services", &figures.services),
    ] {
        write_section(name, section, figures, names, writer)?;
    }
    writeln!(writer, "\n{}", footnote(figures, names))
}

/// What the report is about and what it came to.
pub(super) fn headline(figures: &Figures, names: &Names) -> String {
    let total = &figures.total;
    let until = match figures.period.end() {
        Ok(end) if figures.until < end => format!(", until {}", names.time(figures.until)),
        _ => String::new(),
    };
    format!(
        "{}{until}: {} sent, {} received, {} all in all ({}).",
        figures.period.name(),
        units::bytes(total.counters.sent_bytes),
        units::bytes(total.counters.received_bytes),
        units::bytes(total.counters.bytes()),
        changed(total),
    )
}

/// What the figures do not tell exactly, a sentence each.
pub(super) fn inexact(figures: &Figures, names: &Names) -> Vec<String> {
    let mut sentences = inexact::sentences(figures.inexact.as_ref(), names);
    if figures.previous_inexact.is_some() {
        sentences.push(format!(
            "The figures of {} are not exact: finer ones were deleted.",
            figures.previous.0.name()
        ));
    }
    let between = |missing: Missing| {
        let [since, until] = [missing.since, missing.until].map(|time| names.time(time));
        format!("from {since} to {until}: the figures that would tell were deleted.")
    };
    if let Some(missing) = figures.missing_steps {
        sentences.push(format!(
            "The chart lacks what was counted {}",
            between(missing)
        ));
    }
    if let Some(missing) = figures.missing_samples {
        sentences.push(format!(
            "The percentiles have no samples of what was counted {}",
            between(missing)
        ));
    }
    if figures.samples_are_spread {
        sentences.push(format!(
            "Some epochs were longer than {}: for the percentiles, what they counted is spread \
             evenly over their time.",
            sample(figures)
        ));
    }
    sentences
}

fn sample(figures: &Figures) -> &'static str {
    match figures.sample {
        SampleInterval::Hour => "an hour",
        SampleInterval::FiveMinutes => "five minutes",
    }
}

/// What the columns mean.
pub(super) fn footnote(figures: &Figures, names: &Names) -> String {
    let (previous, until) = &figures.previous;
    let part = match previous.end() {
        Ok(end) if *until < end => format!(" until {}", names.time(*until)),
        _ => String::new(),
    };
    format!(
        "95%: the 95th percentile of the averages over {sample}. Change: in bytes, against {}{part}. Times are {}.",
        previous.name(),
        names.zone(figures.until),
        sample = sample(figures),
    )
}

/// `+12.5 %`, or `new`.
pub(super) fn changed(line: &Line) -> String {
    match change(&line.counters, &line.previous) {
        None if line.counters.bytes() == 0 => "-".to_owned(),
        None => "new".to_owned(),
        // Beyond this, a percentage says no more than that it is a lot.
        Some(change) if change >= 10.0 => format!("{:.0} times", change + 1.0),
        Some(change) => format!("{:+.1} %", change * 100.0),
    }
}

fn write_steps(figures: &Figures, writer: &mut dyn Write) -> io::Result<()> {
    let bytes = |step: &(u64, u64)| step.0 + step.1;
    let largest = figures
        .total
        .steps
        .iter()
        .map(bytes)
        .max()
        .unwrap_or_default();
    let steps = figures.steps.iter().zip(&figures.total.steps);
    for ((begin, step), &seconds) in steps.zip(&figures.step_seconds) {
        if *begin >= figures.until {
            break;
        }
        if seconds == 0.0 && bytes(step) == 0 {
            let name = figures.period.step_name(*begin);
            writeln!(writer, "{name:>6} not counted")?;
            continue;
        }
        let part = bytes(step) as f64 / largest.max(1) as f64;
        let name = figures.period.step_name(*begin);
        let line = format!(
            "{name:>6} {:>11}  {}",
            units::bytes(bytes(step)),
            units::bar(part, 50)
        );
        writeln!(writer, "{}", line.trim_end())?;
    }
    Ok(())
}

fn write_section(
    name: &str,
    section: &Section,
    figures: &Figures,
    names: &Names,
    writer: &mut dyn Write,
) -> io::Result<()> {
    if section.lines.is_empty() {
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(
        (section.by.iter().map(|&field| title(field))).chain(titles(figures).iter().copied()),
    );
    for line in &section.lines {
        let cells = cells(line, figures);
        table.add_row(names.key(&line.key).into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(section.by.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(writer, "\n{name}\n{}", table.trim_fmt())?;
    let shown = section.lines.len() as u64;
    if shown < section.count {
        writeln!(
            writer,
            "{shown} of {} are shown; --top 0 shows all.",
            units::separated(section.count)
        )?;
    }
    Ok(())
}

/// The titles of [`cells`].
pub(super) fn titles(figures: &Figures) -> &'static [&'static str] {
    const TITLES: [&str; 6] = [
        "SENT",
        "RECEIVED",
        "95% SENT",
        "95% RECEIVED",
        "CHANGE",
        accuracy::TITLE,
    ];
    match figures.accuracy.is_sampled() {
        true => &TITLES,
        false => &TITLES[..5],
    }
}

/// The figures of a line; with a standard error where something was sampled.
pub(super) fn cells(line: &Line, figures: &Figures) -> Vec<String> {
    let mut cells = vec![
        units::bytes(line.counters.sent_bytes),
        units::bytes(line.counters.received_bytes),
        units::bit_rate(line.sent_p95),
        units::bit_rate(line.received_p95),
        changed(line),
    ];
    if figures.accuracy.is_sampled() {
        cells.push(accuracy::cell(line.error));
    }
    cells
}
