// SPDX-License-Identifier: GPL-2.0-or-later
//! The answer as a table for people.

use std::io::{self, IsTerminal, Write};

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets,
};
use trafstat_store::query::{Answer, Order, StandardError};
use trafstat_store::snapshot::Counters;

use super::rates::{self, Rates};
use crate::accuracy;
use crate::inexact;
use crate::names::{Names, title};
use trafstat_cli::text::width;
use trafstat_cli::units;

const LEAST_BAR: usize = 6;
const WIDEST_BAR: usize = 30;

/// What stands beside a cell.
const PADDING: usize = 2;

/// How to show it.
pub(super) struct Style {
    /// Averages a second instead of sums.
    pub rates: bool,
    /// What bars show.
    pub order: Order,
    pub names: Names,
}

/// Writes the table, its total, the time that it is about, and how much of the answer it shows.
pub(super) fn write(answer: &Answer, style: &Style, writer: &mut dyn Write) -> io::Result<()> {
    let table = arranged(answer, style);
    writeln!(writer, "{}", table.trim_fmt())?;
    if let Some(time) = time_line(answer, &style.names) {
        writeln!(writer, "\n{time}")?;
    }
    let inexact = inexact::sentences(answer.inexact.as_ref(), &style.names);
    let accuracy = accuracy::sentences(&answer.accuracy, answer.error);
    for sentences in [inexact, accuracy] {
        if !sentences.is_empty() {
            writeln!(writer, "\n{}", sentences.join("\n"))?;
        }
    }
    let shown = answer.groups.len() as u64;
    if shown < answer.group_count {
        writeln!(
            writer,
            "\n{shown} of {} lines are shown, the total is over all; --top 0 shows all.",
            units::separated(answer.group_count)
        )?;
    }
    Ok(())
}

/// A column of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Sent,
    Received,
    PacketsSent,
    PacketsReceived,
    Syn,
    Error,
}

impl Column {
    /// In their order; a terminal too narrow for all goes without the last. The last is of use
    /// only where something was sampled.
    const ALL: [Self; 6] = [
        Self::Sent,
        Self::Received,
        Self::PacketsSent,
        Self::PacketsReceived,
        Self::Syn,
        Self::Error,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Sent => "SENT",
            Self::Received => "RECEIVED",
            Self::PacketsSent => "PACKETS SENT",
            Self::PacketsReceived => "PACKETS RECEIVED",
            Self::Syn => "SYN",
            Self::Error => accuracy::TITLE,
        }
    }

    fn sum(self, counters: &Counters, error: Option<StandardError>) -> String {
        match self {
            Self::Sent => units::bytes(counters.sent_bytes),
            Self::Received => units::bytes(counters.received_bytes),
            Self::PacketsSent => units::count(counters.sent_packets),
            Self::PacketsReceived => units::count(counters.received_packets),
            Self::Syn => units::count(counters.syn_packets),
            Self::Error => accuracy::cell(error),
        }
    }

    fn rate(self, rates: &Rates, error: Option<StandardError>, seconds: f64) -> String {
        match self {
            Self::Sent => units::bit_rate(rates.sent_bits),
            Self::Received => units::bit_rate(rates.received_bits),
            Self::PacketsSent => units::per_second(rates.sent_packets),
            Self::PacketsReceived => units::per_second(rates.received_packets),
            Self::Syn => units::per_second(rates.syn_packets),
            Self::Error => error.map_or_else(
                || accuracy::cell(None),
                |error| units::per_second(error.packets / seconds),
            ),
        }
    }
}

/// The table with as many columns as the terminal has room for.
fn arranged(answer: &Answer, style: &Style) -> Table {
    let width = Table::new().width().map(usize::from);
    let all = match answer.accuracy.is_sampled() {
        true => &Column::ALL[..],
        false => &Column::ALL[..5],
    };
    let mut grid = Grid::new(answer, style, all);
    // One side without the other would mislead.
    for fewer in [5, 4, 2] {
        if width.is_some_and(|width| grid.least_width() > width) {
            grid = Grid::new(answer, style, &all[..fewer]);
        }
    }
    let room = width.map(|width| width.saturating_sub(grid.least_width() + PADDING));
    if let Some(room) = room.filter(|&room| room >= LEAST_BAR && !answer.groups.is_empty()) {
        grid.add_bars(answer, style.order, room.min(WIDEST_BAR));
    }
    grid.table()
}

/// The cells as text.
struct Grid {
    keys: usize,
    titles: Vec<&'static str>,
    lines: Vec<Vec<String>>,
    total: Vec<String>,
    bar: Option<usize>,
}

impl Grid {
    fn new(answer: &Answer, style: &Style, columns: &[Column]) -> Self {
        let cells = |counters: &Counters, error, seconds: Option<f64>| -> Vec<String> {
            columns
                .iter()
                .map(|column| match seconds {
                    _ if !style.rates => column.sum(counters, error),
                    Some(seconds) => column.rate(&Rates::new(counters, seconds), error, seconds),
                    None => "-".to_owned(),
                })
                .collect()
        };
        let mut total = vec![String::new(); answer.by.len()];
        if let Some(first) = total.first_mut() {
            "total".clone_into(first);
        }
        total.extend(cells(
            &answer.total,
            answer.error,
            rates::seconds_of_all(answer),
        ));
        Self {
            keys: answer.by.len(),
            titles: answer
                .by
                .iter()
                .map(|&field| title(field))
                .chain(columns.iter().map(|column| column.title()))
                .collect(),
            lines: answer
                .groups
                .iter()
                .map(|group| {
                    let mut line = style.names.key(&group.key);
                    let seconds = rates::seconds(group.counted);
                    line.extend(cells(&group.counters, group.error, seconds));
                    line
                })
                .collect(),
            total,
            bar: None,
        }
    }

    /// Adds a column of bars, the longest for the largest group.
    fn add_bars(&mut self, answer: &Answer, order: Order, cells: usize) {
        let order = match order {
            Order::Fields => Order::Bytes,
            counter => counter,
        };
        let measures = answer
            .groups
            .iter()
            .map(|group| order.measure(&group.counters));
        let largest = measures.clone().max().unwrap_or_default().max(1);
        for (line, measure) in self.lines.iter_mut().zip(measures) {
            line.push(units::bar(measure as f64 / largest as f64, cells));
        }
        self.titles.push("");
        self.total.push(String::new());
        self.bar = Some(cells);
    }

    /// The cells that a column needs: titles may break between their words, numbers never.
    fn least(&self, index: usize) -> usize {
        let words = self.titles[index].split(' ').map(str::len);
        let cells = self.lines.iter().map(|line| width(&line[index]));
        let least = words.chain(cells).chain([width(&self.total[index])]).max();
        least.unwrap_or_default()
    }

    fn least_width(&self) -> usize {
        (0..self.titles.len())
            .map(|index| self.least(index) + PADDING)
            .sum()
    }

    fn table(&self) -> Table {
        let styled = io::stdout().is_terminal() && !no_color();
        let strong = |text: &str| match styled {
            true => Cell::new(text).add_attribute(Attribute::Bold),
            false => Cell::new(text),
        };
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(self.titles.iter().map(|title| strong(title)))
            .add_rows(&self.lines)
            .add_row(self.total.iter().map(|cell| strong(cell)));
        for (index, column) in table.column_iter_mut().enumerate() {
            let is_bar = index >= self.keys && index + 1 == self.titles.len() && self.bar.is_some();
            let least = match self.bar {
                Some(cells) if is_bar => cells,
                _ => self.least(index),
            };
            let padded = u16::try_from(least + PADDING).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(padded)));
            if index >= self.keys && !is_bar {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// Which time the figures are about, and the average over it.
fn time_line(answer: &Answer, names: &Names) -> Option<String> {
    let covered = answer.covered?;
    let mut line = format!(
        "{}, counted from {} to {} {}.",
        accuracy::epochs(answer.epochs),
        names.time(covered.opened),
        names.time(covered.closed),
        names.zone(covered.closed)
    );
    if let Some(seconds) = rates::seconds_of_all(answer) {
        let rates = Rates::new(&answer.total, seconds);
        line.push_str(&format!(
            "\nOn average {} sent, {} received.",
            units::bit_rate(rates.sent_bits),
            units::bit_rate(rates.received_bits)
        ));
    }
    Some(line)
}

/// Whether the user asked for no colour (<https://no-color.org>).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
