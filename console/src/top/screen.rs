// SPDX-License-Identifier: GPL-2.0-or-later
//! What the screen shows, and what keys do to it.

use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use trafstat_store::query::Field;

use super::meter::{Line, Meter, Rates, Sort};
use crate::names::{Names, title};
use trafstat_cli::{text, units};

/// What lines can be made by.
pub const FIELDS: [Field; 6] = [
    Field::LocalIp,
    Field::RemoteIp,
    Field::LocalPort,
    Field::RemotePort,
    Field::Protocol,
    Field::Account,
];

/// What `g` goes through, after what the command line said.
const GROUPINGS: [&[Field]; 5] = [
    &[Field::LocalIp, Field::Protocol, Field::LocalPort],
    &[Field::LocalIp],
    &[Field::RemoteIp],
    &[
        Field::Protocol,
        Field::LocalIp,
        Field::LocalPort,
        Field::RemoteIp,
        Field::RemotePort,
    ],
    &[Field::Account],
];

const GAP: usize = 2;

const WIDEST_BAR: usize = 30;

/// What the user chose.
pub struct Screen {
    by: Vec<Field>,
    sort: Sort,
    names: Names,
    numeric: bool,
    every: Duration,
    holds_still: bool,
    /// The first line that is shown, and how many the screen has room for.
    first: usize,
    room: usize,
}

/// The effect of a key on the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The program ends.
    Quit,
    /// The screen stays.
    Continue,
}

impl Screen {
    /// The screen at its beginning.
    pub fn new(by: Vec<Field>, names: Names, numeric: bool, every: Duration) -> Self {
        Self {
            by,
            sort: Sort::Received,
            names,
            numeric,
            every,
            holds_still: false,
            first: 0,
            room: 0,
        }
    }

    /// How often to look.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// Whether the figures stay as they are.
    pub fn holds_still(&self) -> bool {
        self.holds_still
    }

    /// Does what a key asks for.
    pub fn press(&mut self, key: KeyEvent) -> Action {
        let page = self.room.max(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Action::Quit;
            }
            KeyCode::Right | KeyCode::Char('>' | 's') => self.sort = self.sort.moved(1),
            KeyCode::Left | KeyCode::Char('<') => self.sort = self.sort.moved(Sort::ALL.len() - 1),
            KeyCode::Char('g') => {
                let next = GROUPINGS.iter().position(|&grouping| grouping == self.by);
                let next = next.map_or(0, |index| (index + 1) % GROUPINGS.len());
                self.by = GROUPINGS[next].to_vec();
                self.first = 0;
            }
            KeyCode::Char(' ') => self.holds_still = !self.holds_still,
            KeyCode::Char('n') => {
                self.numeric = !self.numeric;
                self.names.set_numeric(self.numeric);
            }
            KeyCode::Down => self.first += 1,
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => self.first += page,
            KeyCode::PageUp => self.first = self.first.saturating_sub(page),
            KeyCode::Home => self.first = 0,
            _ => {}
        }
        Action::Continue
    }

    /// Draws the figures.
    pub fn draw(&mut self, meter: &Meter, frame: &mut Frame) {
        let [head, body, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let lines = meter.lines(&self.by, self.sort);
        self.room = usize::from(body.height.saturating_sub(1));
        self.first = self.first.min(lines.len().saturating_sub(self.room));
        frame.render_widget(self.head(meter, lines.len()), head);
        frame.render_widget(self.table(&lines, usize::from(body.width)), body);
        let keys = "q end  ←→ sort  ↑↓ move  g group  space hold  n names";
        frame.render_widget(
            Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)),
            foot,
        );
    }

    fn head(&self, meter: &Meter, lines: usize) -> Paragraph<'static> {
        let total = meter.total();
        let now = match total.rates {
            None => "measuring".to_owned(),
            Some(rates) => format!(
                "sent {}, received {}, {}",
                units::bit_rate(rates.sent_bits),
                units::bit_rate(rates.received_bits),
                units::per_second(rates.packets),
            ),
        };
        let mut second = format!(
            "accounts {}, lines {}, {} since the epochs opened",
            meter.accounts(),
            units::separated(lines as u64),
            units::bytes(total.counters.bytes())
        );
        if meter.accounts() == 0 {
            second = "there is no account: \"trafstat setup\" makes rules that count".to_owned();
        }
        if self.holds_still {
            second.push_str(" (held)");
        }
        Paragraph::new(vec![
            Text::from(vec![
                Span::styled("trafstat top  ", Style::new().add_modifier(Modifier::BOLD)),
                Span::raw(now),
            ]),
            Text::from(second),
        ])
    }

    fn table(&self, lines: &[Line], width: usize) -> Table<'static> {
        let shown = &lines[self.first..lines.len().min(self.first + self.room)];
        let keys: Vec<Vec<String>> = shown.iter().map(|line| self.names.key(&line.key)).collect();
        let key_widths: Vec<usize> = (self.by.iter().enumerate())
            .map(|(index, &field)| {
                let cells = keys.iter().map(|key| text::width(&key[index]));
                cells.chain([title(field).len()]).max().unwrap_or_default()
            })
            .collect();
        let numbers: Vec<[String; 4]> = shown.iter().map(numbers).collect();
        let number_widths: Vec<usize> = Sort::ALL
            .iter()
            .enumerate()
            .map(|(index, &sort)| {
                let cells = numbers.iter().map(|line| line[index].len());
                cells.chain([column(sort).len()]).max().unwrap_or_default()
            })
            .collect();
        let taken = |columns: &[usize]| -> usize {
            let numbers = columns.iter().map(|&index| number_widths[index]);
            key_widths
                .iter()
                .copied()
                .chain(numbers)
                .map(|width| width + GAP)
                .sum()
        };
        // A narrow screen goes without the last ones, and never without the one that sorts.
        let mut columns: Vec<usize> = (0..Sort::ALL.len()).collect();
        while columns.len() > 2 && taken(&columns) > width {
            let last = columns
                .iter()
                .rposition(|&index| Sort::ALL[index] != self.sort);
            columns.remove(last.unwrap_or_default());
        }
        let bar = width.saturating_sub(taken(&columns)).min(WIDEST_BAR);
        let largest = lines
            .first()
            .map_or(0, |line| line.measure(self.sort))
            .max(1);
        let rows = keys
            .into_iter()
            .zip(numbers)
            .zip(shown)
            .map(|((key, numbers), line)| {
                let part = line.measure(self.sort) as f64 / largest as f64;
                let numbers: Vec<Cell> = columns
                    .iter()
                    .map(|&index| right(&numbers[index]))
                    .collect();
                Row::new(
                    key.into_iter()
                        .map(Cell::from)
                        .chain(numbers)
                        .chain([Cell::from(units::bar(part, bar))]),
                )
            });
        let titles = self.by.iter().map(|&field| Cell::from(title(field)));
        let counters = columns.iter().map(|&index| {
            let cell = right(column(Sort::ALL[index]));
            match Sort::ALL[index] == self.sort {
                true => cell.style(Style::new().add_modifier(Modifier::REVERSED)),
                false => cell,
            }
        });
        let widths = (key_widths.iter().copied())
            .chain(columns.iter().map(|&index| number_widths[index]))
            .chain([bar])
            .map(|cells| Constraint::Length(u16::try_from(cells).unwrap_or(u16::MAX)));
        Table::new(rows, widths)
            .header(
                Row::new(titles.chain(counters)).style(Style::new().add_modifier(Modifier::BOLD)),
            )
            .column_spacing(GAP as u16)
    }
}

fn column(sort: Sort) -> &'static str {
    match sort {
        Sort::Sent => "SENT",
        Sort::Received => "RECEIVED",
        Sort::Packets => "PACKETS",
        Sort::Total => "TOTAL",
    }
}

/// The cells of [`Sort::ALL`].
fn numbers(line: &Line) -> [String; 4] {
    let rate = |of: fn(&Rates) -> String| line.rates.as_ref().map_or_else(|| "-".to_owned(), of);
    [
        rate(|rates| units::bit_rate(rates.sent_bits)),
        rate(|rates| units::bit_rate(rates.received_bits)),
        rate(|rates| units::per_second(rates.packets)),
        units::bytes(line.counters.bytes()),
    ]
}

fn right(text: &str) -> Cell<'static> {
    Cell::from(Text::from(text.to_owned()).alignment(Alignment::Right))
}
