//! The answer as a table for people.

use std::io::{self, IsTerminal, Write};

use bytesize::ByteSize;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use trafstat_store::protocol;
use trafstat_store::query::{Answer, Field, Value};
use trafstat_store::snapshot::Counters;

/// Writes the table, its total, and how much of the answer it shows.
pub(super) fn write(answer: &Answer, writer: &mut dyn Write) -> io::Result<()> {
    let styled = io::stdout().is_terminal() && !no_color();
    let strong = |text: String| match styled {
        true => Cell::new(text).add_attribute(Attribute::Bold),
        false => Cell::new(text),
    };
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(
            answer
                .by
                .iter()
                .map(|&field| title(field))
                .chain(COUNTERS)
                .map(|title| strong(title.to_owned())),
        );
    for group in &answer.groups {
        table.add_row(group.key.iter().map(name).chain(counters(&group.counters)));
    }
    // The check of usage makes sure that there is a first field.
    let label = std::iter::once("total".to_owned());
    let blanks = std::iter::repeat_n(String::new(), answer.by.len().saturating_sub(1));
    table.add_row(
        label
            .chain(blanks)
            .chain(counters(&answer.total))
            .map(strong),
    );
    for column in table.column_iter_mut().skip(answer.by.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(writer, "{}", table.trim_fmt())?;
    let shown = answer.groups.len() as u64;
    if shown < answer.group_count {
        writeln!(
            writer,
            "\n{shown} of {} lines are shown, the total is over all; --top 0 shows all.",
            separated(answer.group_count)
        )?;
    }
    Ok(())
}

const COUNTERS: [&str; 5] = [
    "SENT",
    "RECEIVED",
    "PACKETS SENT",
    "PACKETS RECEIVED",
    "SYN",
];

/// Whether the user asked for no colour (<https://no-color.org>).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn title(field: Field) -> &'static str {
    match field {
        Field::Protocol => "PROTOCOL",
        Field::LocalIp => "LOCAL IP",
        Field::RemoteIp => "REMOTE IP",
        Field::LocalPort => "LOCAL PORT",
        Field::RemotePort => "REMOTE PORT",
    }
}

fn name(value: &Value) -> String {
    match *value {
        Value::Protocol(number) => {
            protocol::name(number).map_or_else(|| number.to_string(), str::to_owned)
        }
        Value::Ip(_) | Value::Port(_) => value.to_string(),
    }
}

fn counters(counters: &Counters) -> [String; 5] {
    [
        human_bytes(counters.sent_bytes),
        human_bytes(counters.received_bytes),
        separated(counters.sent_packets),
        separated(counters.received_packets),
        separated(counters.syn_packets),
    ]
}

fn human_bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A number with its thousands set apart.
fn separated(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(separated(number), text);
        }
    }

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn protocol_without_a_name_is_its_number() {
        assert_eq!(name(&Value::Protocol(6)), "TCP");
        assert_eq!(name(&Value::Protocol(200)), "200");
    }
}
