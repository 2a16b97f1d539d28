// SPDX-License-Identifier: GPL-2.0-or-later
//! The report for programs: plain numbers, times in UTC.

use std::io::{self, Write};

use serde_json::{Map, Value as Json, json};
use trafstat_store::query::Missing;

use super::figures::{Figures, Line, Section};
use super::period::Length;
use crate::accuracy;
use crate::inexact;

const P95: [&str; 2] = ["p95_sent_bits_per_second", "p95_received_bits_per_second"];

/// A line for all, then one for each address and each service.
pub(super) fn write_csv(figures: &Figures, writer: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    let keys = ["local_ip", "protocol", "local_port"];
    let counters = figures.total.counters.columns().map(|(name, _)| name);
    let previous = counters.map(|name| format!("previous_{name}"));
    let error_columns = match figures.accuracy.is_sampled() {
        true => accuracy::COLUMNS.len(),
        false => 0,
    };
    csv.write_record(
        (["section"]
            .into_iter()
            .chain(keys)
            .chain(counters)
            .chain(P95)
            .map(str::to_owned))
        .chain(previous)
        .chain(
            accuracy::COLUMNS
                .iter()
                .take(error_columns)
                .map(|&name| name.to_owned()),
        ),
    )?;
    let all = Section {
        by: &[],
        lines: Vec::new(),
        count: 1,
    };
    let sections = [
        ("total", &all, std::slice::from_ref(&figures.total)),
        ("address", &figures.addresses, &figures.addresses.lines),
        ("service", &figures.services, &figures.services.lines),
    ];
    for (name, section, lines) in sections {
        for line in lines {
            let key = keys.map(|column| {
                let of_line = section.by.iter().zip(&line.key);
                let mut found = of_line.filter(|(field, _)| field.column() == column);
                found
                    .next()
                    .map_or_else(String::new, |(_, value)| value.to_string())
            });
            let numbers = line
                .counters
                .columns()
                .map(|(_, number)| number.to_string());
            let p95 = [line.sent_p95, line.received_p95].map(|rate| rate.to_string());
            let previous = line
                .previous
                .columns()
                .map(|(_, number)| number.to_string());
            let errors = accuracy::columns(line.error)
                .into_iter()
                .take(error_columns);
            let errors = errors.map(|error| error.map_or_else(String::new, |e| e.to_string()));
            csv.write_record(
                ([name.to_owned()]
                    .into_iter()
                    .chain(key)
                    .chain(numbers)
                    .chain(p95))
                .chain(previous)
                .chain(errors),
            )?;
        }
    }
    csv.flush()
}

/// One object with everything.
pub(super) fn write_json(figures: &Figures, writer: &mut dyn Write) -> io::Result<()> {
    let (previous, previous_until) = &figures.previous;
    let time = |time: anyhow::Result<jiff::Timestamp>| time.map(|time| time.to_string()).ok();
    let steps: Vec<Json> = figures
        .steps
        .iter()
        .zip(&figures.total.steps)
        .zip(&figures.step_seconds)
        .map(|((begin, (sent, received)), seconds)| {
            json!({
                "begin": begin.to_string(),
                "sent_bytes": sent,
                "received_bytes": received,
                "counted_seconds": seconds,
            })
        })
        .collect();
    let section = |section: &Section| {
        json!({
            "count": section.count,
            "lines": section
                .lines
                .iter()
                .map(|line| of_line(line, section, figures))
                .collect::<Vec<_>>(),
        })
    };
    let all = Section {
        by: &[],
        lines: Vec::new(),
        count: 1,
    };
    let mut object = json!({
        "length": match figures.period.length() {
            Length::Day => "day",
            Length::Month => "month",
        },
        "name": figures.period.name(),
        "begin": time(figures.period.begin()),
        "until": figures.until.to_string(),
        "previous": {
            "name": previous.name(),
            "begin": time(previous.begin()),
            "until": previous_until.to_string(),
        },
        "epochs": figures.epochs,
        "sample_seconds": figures.sample.seconds(),
        "samples_are_spread": figures.samples_are_spread,
        "total": of_line(&figures.total, &all, figures),
        "addresses": section(&figures.addresses),
        "services": section(&figures.services),
        "steps": steps,
    });
    inexact::add(&mut object, figures.inexact.as_ref());
    if figures.previous_inexact.is_some() {
        object["previous"]["inexact"] = inexact::json(figures.previous_inexact.as_ref());
    }
    for (name, missing) in [
        ("missing_samples", figures.missing_samples),
        ("missing_steps", figures.missing_steps),
    ] {
        if let Some(Missing { since, until }) = missing {
            object[name] = json!({"since": since.to_string(), "until": until.to_string()});
        }
    }
    accuracy::add_accuracy(&mut object, &figures.accuracy);
    writeln!(writer, "{object}")
}

fn of_line(line: &Line, section: &Section, figures: &Figures) -> Json {
    let mut object = Map::new();
    for (field, value) in section.by.iter().zip(&line.key) {
        object.insert(field.column().to_owned(), json!(value));
    }
    for (name, number) in line.counters.columns() {
        object.insert(name.to_owned(), number.into());
    }
    for (name, rate) in P95.into_iter().zip([line.sent_p95, line.received_p95]) {
        object.insert(name.to_owned(), rate.into());
    }
    if figures.accuracy.is_sampled() {
        accuracy::add_error(&mut object, line.error);
    }
    let previous = line.previous.columns().into_iter();
    let previous: Map<String, Json> = previous
        .map(|(name, number)| (name.to_owned(), number.into()))
        .collect();
    object.insert("previous".to_owned(), previous.into());
    Json::Object(object)
}
