//! The answer as a table for people.

use std::io::{self, IsTerminal, Write};

use bytesize::ByteSize;
use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets,
};
use trafstat_store::protocol;
use trafstat_store::query::{Answer, Field, Value};
use trafstat_store::snapshot::Counters;

/// Writes the table, its total, and how much of the answer it shows.
pub(super) fn write(answer: &Answer, writer: &mut dyn Write) -> io::Result<()> {
    let titles: Vec<&str> = answer
        .by
        .iter()
        .map(|&field| title(field))
        .chain(COUNTERS)
        .collect();
    let lines: Vec<Vec<String>> = answer
        .groups
        .iter()
        .map(|group| {
            group
                .key
                .iter()
                .map(name)
                .chain(counters(&group.counters))
                .collect()
        })
        .collect();
    let total = total_line(answer);
    writeln!(
        writer,
        "{}",
        table(answer, &titles, &lines, &total).trim_fmt()
    )?;
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

fn table(answer: &Answer, titles: &[&str], lines: &[Vec<String>], total: &[String]) -> Table {
    let styled = io::stdout().is_terminal() && !no_color();
    let strong = |text: &str| match styled {
        true => Cell::new(text).add_attribute(Attribute::Bold),
        false => Cell::new(text),
    };
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(titles.iter().map(|title| strong(title)))
        .add_rows(lines)
        .add_row(total.iter().map(|cell| strong(cell)));
    for (index, column) in table.column_iter_mut().enumerate() {
        // A narrow terminal may break titles between their words, and numbers never.
        let words = titles[index].split(' ').map(str::len);
        let cells = lines.iter().map(|line| line[index].len());
        let least = words.chain(cells).chain([total[index].len()]).max();
        let padded = least.unwrap_or_default() + usize::from(column.padding_width());
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(
            u16::try_from(padded).unwrap_or(u16::MAX),
        )));
        if index >= answer.by.len() {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The sum over all groups under the counters, named under the first field.
fn total_line(answer: &Answer) -> Vec<String> {
    let mut line = vec![String::new(); answer.by.len()];
    if let Some(first) = line.first_mut() {
        "total".clone_into(first);
    }
    line.extend(counters(&answer.total));
    line
}

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
        human_count(counters.sent_packets),
        human_count(counters.received_packets),
        human_count(counters.syn_packets),
    ]
}

fn human_bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A number with a decimal unit, exact below 10,000.
fn human_count(number: u64) -> String {
    if number < 10_000 {
        return separated(number);
    }
    let mut scaled = number as f64;
    let mut units = ["", " k", " M", " G", " T", " P", " E"].into_iter();
    let mut unit = units.next();
    // 999.95 would round to a thousand of its own unit.
    while scaled >= 999.95 {
        scaled /= 1000.0;
        unit = units.next();
    }
    format!("{scaled:.1}{}", unit.unwrap_or_default())
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
    fn counts_have_decimal_units() {
        for (number, text) in [
            (0, "0"),
            (9_999, "9,999"),
            (10_000, "10.0 k"),
            (999_949, "999.9 k"),
            (999_950, "1.0 M"),
            (150_190_118, "150.2 M"),
            (u64::MAX, "18.4 E"),
        ] {
            assert_eq!(human_count(number), text);
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
