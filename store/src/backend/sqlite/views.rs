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
    time: |seconds| format!("datetime({seconds}, 'unixepoch')"),
    records_of_snapshot: RECORDS_OF_SNAPSHOT,
    seconds: |nanoseconds| format!("{nanoseconds} / 1000000000"),
};

/// SQLite has no word for a byte's number, but hex() for its two digits.
fn octet(column: &str, index: usize) -> String {
    let digit =
        |place: usize| format!("instr('123456789ABCDEF', substr(hex({column}), {place}, 1))");
    format!("({} * 16 + {})", digit(2 * index + 1), digit(2 * index + 2))
}

fn ip_text(column: &str) -> String {
    let ipv4: Vec<String> = (0..4).map(|index| octet(column, index)).collect();
    let ipv6: Vec<String> = (0..8)
        .map(|group| format!("substr(hex({column}), {}, 4)", 4 * group + 1))
        .collect();
    format!(
        "CASE length({column}) WHEN 4 THEN {} ELSE lower({}) END",
        ipv4.join(" || '.' || "),
        ipv6.join(" || ':' || ")
    )
}

fn ipv4_number(column: &str) -> String {
    let octets: Vec<String> = (0..4)
        .map(|index| format!("({} << {})", octet(column, index), 24 - 8 * index))
        .collect();
    format!("({})", octets.join(" | "))
}
