// SPDX-License-Identifier: GPL-2.0-or-later
//! The schema: what is the same of it in every database.
//!
//! Tables come by versioned migrations, which each backend has in files of its own.
//! Views hold nothing, so they are made anew whenever the schema changes.

use crate::account::{Account, Family};

/// What the tables have that a view shows, in a database's own words.
pub(in crate::backend) struct ViewWords {
    /// An address as people write it.
    pub(in crate::backend) ip_text: fn(&str) -> String,
    /// An IPv4 address as a number.
    pub(in crate::backend) ipv4_number: fn(&str) -> String,
    /// A number of record `r` that no other of its account has.
    pub(in crate::backend) record_id: &'static str,
    /// Seconds since 1970 as a date and time, UTC.
    pub(in crate::backend) time: fn(&str) -> String,
    /// The same as the original's table shows it: where sessions have a time zone, in theirs.
    pub(in crate::backend) original_time: fn(&str) -> String,
    /// Which records `r` are those of snapshot `s`.
    pub(in crate::backend) records_of_snapshot: &'static str,
    /// Nanoseconds to seconds.
    pub(in crate::backend) seconds: fn(&str) -> String,
}

/// The name of the view that shows an account as the original's table of it; none for
/// IPv6, which the original did not count.
///
/// Names of accounts have letters, digits and `_.:-` only, so this is an identifier.
/// Accounts whose names differ in nothing else share a view.
pub(in crate::backend) fn account_view(account: &Account) -> Option<String> {
    let identifier = |character: char| match character.is_ascii_alphanumeric() {
        true => character,
        false => '_',
    };
    (account.family == Family::Ipv4).then(|| {
        let name: String = account.name.as_str().chars().map(identifier).collect();
        format!("trafstat_{name}")
    })
}

/// What an account's view selects; `view` is a name by [`account_view`].
pub(in crate::backend) fn account_view_select(view: &str, words: &ViewWords) -> String {
    format!(
        "SELECT {record_id} AS _traf_id, r.protocol AS protocol, {local_ip} AS local_ip,
    {remote_ip} AS remote_ip, r.local_port AS local_port, r.remote_port AS remote_port,
    r.sent_packets AS local_pkt, r.received_packets AS remote_pkt,
    r.sent_bytes AS local_data, r.received_bytes AS remote_data,
    r.syn_packets AS syn_count, {timestamp} AS timestamp
FROM account AS a
JOIN snapshot AS s ON s.host_id = a.host_id AND s.account_id = a.id
JOIN record AS r ON {records}
WHERE a.view_name = '{view}'",
        record_id = words.record_id,
        local_ip = (words.ipv4_number)("r.local_ip"),
        remote_ip = (words.ipv4_number)("r.remote_ip"),
        timestamp = (words.original_time)(&(words.seconds)("s.closed_ns")),
        records = words.records_of_snapshot,
    )
}

/// The views for people, with their names.
pub(in crate::backend) fn views(words: &ViewWords) -> Vec<(&'static str, String)> {
    let counters = "sent_packets, received_packets, sent_bytes, received_bytes, syn_packets";
    let owner = "h.hostname AS host, a.family AS family, a.name AS account";
    let of = |table: &str, period: &str, keys: &str| {
        format!(
            "SELECT {owner}, {time} AS {period}, {keys}, {counters}
FROM host AS h
JOIN account AS a ON a.host_id = h.id
JOIN {table} AS t ON t.host_id = a.host_id AND t.account_id = a.id",
            time = (words.time)(&format!("t.{period}")),
        )
    };
    let ip = |column: &str, name: &str| format!("{} AS {name}", (words.ip_text)(column));
    let service = "t.protocol AS protocol, t.local_port AS local_port";
    let local = ip("t.local_ip", "local_ip");
    let local_service = format!("{local}, {service}");
    let flow = format!(
        "SELECT {owner}, s.epoch AS epoch, {closed} AS closed, r.protocol AS protocol,
    {local_ip}, r.local_port AS local_port, {remote_ip}, r.remote_port AS remote_port,
    {counters}, r.flags AS flags
FROM host AS h
JOIN account AS a ON a.host_id = h.id
JOIN snapshot AS s ON s.host_id = a.host_id AND s.account_id = a.id
JOIN record AS r ON {records}",
        closed = (words.time)(&(words.seconds)("s.closed_ns")),
        local_ip = ip("r.local_ip", "local_ip"),
        remote_ip = ip("r.remote_ip", "remote_ip"),
        records = words.records_of_snapshot,
    );
    // What is packed in parts yet, from the records that it sums up.
    let remote_month = format!(
        "{table}
UNION ALL
SELECT {owner}, {time} AS month, {remote_ip}, {counters}
FROM host AS h
JOIN account AS a ON a.host_id = h.id
JOIN remote_part AS p ON p.host_id = a.host_id AND p.account_id = a.id AND p.part = 0
JOIN snapshot AS s ON s.host_id = p.host_id AND s.account_id = p.account_id
    AND s.epoch = p.epoch
JOIN record AS r ON {records}",
        table = of("remote_monthly", "month", &ip("t.remote_ip", "remote_ip")),
        time = (words.time)("p.month"),
        remote_ip = ip("r.remote_ip", "remote_ip"),
        records = words.records_of_snapshot,
    );
    vec![
        ("flow", flow),
        ("local_hour", of("local_hourly", "hour", &local)),
        ("local_day", of("local_daily", "day", &local)),
        ("service_hour", of("service_hourly", "hour", service)),
        ("service_day", of("service_daily", "day", service)),
        (
            "local_service_quarter",
            of("local_service_quarterly", "quarter", &local_service),
        ),
        (
            "local_service_hour",
            of("local_service_hourly", "hour", &local_service),
        ),
        (
            "local_service_day",
            of("local_service_daily", "day", &local_service),
        ),
        ("remote_month", remote_month),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str, family: Family) -> Option<String> {
        account_view(&Account {
            family,
            name: name.parse().unwrap(),
        })
    }

    #[test]
    fn view_has_the_name_of_the_originals_table() {
        assert_eq!(
            view("192.0.2.0_24", Family::Ipv4).unwrap(),
            "trafstat_192_0_2_0_24"
        );
        assert_eq!(view("2001:db8::_32", Family::Ipv6), None);
    }

    #[test]
    fn view_name_is_an_identifier_whatever_the_account_is_called() {
        let name = view("a.b:c-d_E-9", Family::Ipv4).unwrap();
        assert_eq!(name, "trafstat_a_b_c_d_E_9");
    }
}
