// SPDX-License-Identifier: GPL-2.0-or-later
//! The words of the views.

use crate::backend::sql::schema;

/// Which records `r` are those of snapshot `s`.
pub(super) const RECORDS_OF_SNAPSHOT: &str =
    "r.id BETWEEN s.first_record AND s.first_record + s.records - 1";

/// The words in which the views are written.
pub(super) const VIEW_WORDS: schema::ViewWords = schema::ViewWords {
    ip_text,
    ipv4_number,
    record_id: "r.id",
    time,
    original_time: time,
    records_of_snapshot: RECORDS_OF_SNAPSHOT,
    seconds: |nanoseconds| format!("{nanoseconds} / 1000000000"),
};

/// SQLite has no word for a byte's number, but hex() for its two digits.
fn octet(column: &str, index: usize) -> String {
    let digit =
        |place: usize| format!("instr('123456789ABCDEF', substr(hex({column}), {place}, 1))");
    format!("({} * 16 + {})", digit(2 * index + 1), digit(2 * index + 2))
}

fn time(seconds: &str) -> String {
    format!("datetime({seconds}, 'unixepoch')")
}

/// Four bytes from one on, as IPv4 addresses are written.
fn ipv4_text(column: &str, first: usize) -> String {
    let octets: Vec<String> = (first..first + 4)
        .map(|index| octet(column, index))
        .collect();
    octets.join(" || '.' || ")
}

/// An address as MySQL's INET6_NTOA() writes it.
fn ip_text(column: &str) -> String {
    format!(
        "CASE WHEN length({column}) = 4 THEN {ipv4}
    WHEN hex(substr({column}, 1, 12)) = '000000000000000000000000'
        AND hex(substr({column}, 13, 2)) <> '0000' THEN '::' || {last}
    WHEN hex(substr({column}, 1, 12)) = '00000000000000000000FFFF' THEN '::ffff:' || {last}
    ELSE {ipv6} END",
        ipv4 = ipv4_text(column, 0),
        last = ipv4_text(column, 12),
        ipv6 = ipv6_text(column),
    )
}

/// The first of the longest sequences of zeros becomes `::`.
fn ipv6_text(column: &str) -> String {
    let groups: Vec<String> = (0..8)
        .map(|group| {
            let digits = format!("substr(hex({column}), {}, 4)", 4 * group + 1);
            // The last digit stays where all are zero.
            format!("ltrim(substr({digits}, 1, 3), '0') || substr({digits}, 4)")
        })
        .collect();
    let squeezed: String = (1..=8)
        .rev()
        .map(|zeros| {
            let zeros = format!(":{}", "0:".repeat(zeros));
            format!(
                "WHEN instr(t, '{zeros}') THEN ltrim(substr(t, 1, instr(t, '{zeros}') - 1), ':') \
                 || '::' || rtrim(substr(t, instr(t, '{zeros}') + {}), ':') ",
                zeros.len()
            )
        })
        .collect();
    format!(
        "(SELECT CASE {squeezed}ELSE trim(t, ':') END \
         FROM (SELECT lower(':' || {} || ':') AS t))",
        groups.join(" || ':' || ")
    )
}

fn ipv4_number(column: &str) -> String {
    let octets: Vec<String> = (0..4)
        .map(|index| format!("({} << {})", octet(column, index), 24 - 8 * index))
        .collect();
    format!("({})", octets.join(" | "))
}
