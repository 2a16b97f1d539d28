//! Answers queries: one statement that groups, sorts and cuts.

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::types::{Type, Value as Parameter};
use rusqlite::{Connection, Row, params_from_iter};

use super::{StoreError, nanoseconds, octets};
use crate::query::{Answer, Field, Filter, Group, Order, Query, Value};
use crate::snapshot::Counters;

/// Sums up the records as of one moment.
pub(super) fn answer(connection: &mut Connection, query: &Query) -> Result<Answer, StoreError> {
    let transaction = connection.transaction()?;
    let mut window = Conditions::default();
    window.closed_within(&query.filter);
    let epochs = transaction.query_row(
        &format!(
            "SELECT COUNT(*) FROM snapshot AS s WHERE s.pruned_ns IS NULL {}",
            window.sql
        ),
        params_from_iter(&window.parameters),
        |row| counter(row, 0),
    )?;

    let conditions = Conditions::of(&query.filter);
    let mut statement = transaction.prepare(&statement(query, &conditions))?;
    let mut rows = statement.query(params_from_iter(&conditions.parameters))?;
    let keys = query.by.len();
    let mut groups = Vec::new();
    let mut group_count = 0;
    let mut total = Counters::default();
    while let Some(row) = rows.next()? {
        groups.push(Group {
            key: query
                .by
                .iter()
                .enumerate()
                .map(|(column, &field)| value(row, column, field))
                .collect::<Result<_, _>>()?,
            counters: counters(row, keys)?,
        });
        total = counters(row, keys + COUNTERS.len())?;
        group_count = counter(row, keys + 2 * COUNTERS.len())?;
    }
    Ok(Answer {
        by: query.by.clone(),
        groups,
        group_count,
        total,
        epochs,
    })
}

/// The counters' columns, in the order in which they are selected.
const COUNTERS: [&str; 5] = [
    "sent_packets",
    "received_packets",
    "sent_bytes",
    "received_bytes",
    "syn_packets",
];

/// `AND` conditions over snapshot `s` and record `r`, and their parameters.
#[derive(Default)]
struct Conditions {
    sql: String,
    parameters: Vec<Parameter>,
}

impl Conditions {
    fn of(filter: &Filter) -> Self {
        let mut conditions = Self::default();
        conditions.closed_within(filter);
        conditions.one_of("r.protocol", &filter.protocols);
        conditions.one_of("r.local_port", &filter.local_ports);
        conditions.one_of("r.remote_port", &filter.remote_ports);
        conditions.within("r.local_address_id", &filter.local);
        conditions.within("r.remote_address_id", &filter.remote);
        if !filter.accounts.is_empty() {
            let names = filter.accounts.iter().map(|name| name.as_str().to_owned());
            let places = conditions.places(names);
            conditions.and(&format!(
                "s.account_id IN (SELECT id FROM account WHERE name IN ({places}))"
            ));
        }
        conditions
    }

    fn closed_within(&mut self, filter: &Filter) {
        for (operator, time) in [(">=", filter.since), ("<", filter.until)] {
            if let Some(time) = time {
                let place = self.places([nanoseconds(time)]);
                self.and(&format!("s.closed_ns {operator} {place}"));
            }
        }
    }

    fn one_of<T: Copy + Into<i64>>(&mut self, column: &str, values: &[T]) {
        if !values.is_empty() {
            let places = self.places(values.iter().map(|&value| value.into()));
            self.and(&format!("{column} IN ({places})"));
        }
    }

    /// The addresses of a net are a range of the dictionary; the length tells IPv4
    /// from IPv6.
    fn within(&mut self, column: &str, nets: &[IpNet]) {
        if nets.is_empty() {
            return;
        }
        let ranges: Vec<String> = nets
            .iter()
            .map(|net| {
                let (first, last) = (octets(net.network()), octets(net.broadcast()));
                let length = first.len();
                let [first, last] = [first, last].map(|bound| self.places([bound]));
                format!("(length(address) = {length} AND address BETWEEN {first} AND {last})")
            })
            .collect();
        self.and(&format!(
            "{column} IN (SELECT id FROM address WHERE {})",
            ranges.join(" OR ")
        ));
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str("\n    AND ");
        self.sql.push_str(condition);
    }

    /// Takes parameters and gives their places, separated by commas.
    fn places<T: Into<Parameter>>(&mut self, parameters: impl IntoIterator<Item = T>) -> String {
        let first = self.parameters.len();
        self.parameters
            .extend(parameters.into_iter().map(Into::into));
        let places: Vec<String> = (first..self.parameters.len())
            .map(|index| format!("?{}", index + 1))
            .collect();
        places.join(", ")
    }
}

fn statement(query: &Query, conditions: &Conditions) -> String {
    let keys: Vec<&str> = query.by.iter().map(|&field| column(field)).collect();
    let sums = COUNTERS.map(|counter| format!("SUM(r.{counter}) AS {counter}"));
    let totals = COUNTERS.map(|counter| format!("SUM({counter}) OVER ()"));
    let selected: Vec<String> = keys
        .iter()
        .zip(1..)
        .map(|(key, number)| format!("{key} AS key_{number}"))
        .chain(sums)
        .collect();
    // CROSS JOIN keeps SQLite to this order: the epochs of the time first, then the
    // range of the clustered key that each is.
    let mut sql = format!(
        "WITH grouped AS (
    SELECT {selected}
    FROM snapshot AS s
    CROSS JOIN record AS r
        ON r.host_id = s.host_id AND r.account_id = s.account_id AND r.epoch = s.epoch{joins}
    WHERE TRUE {conditions}
    GROUP BY {group})
SELECT *, {totals}, COUNT(*) OVER ()
FROM grouped
ORDER BY {order} DESC",
        selected = selected.join(", "),
        joins = joins(query),
        conditions = conditions.sql,
        // A constant makes one group of everything, and none of nothing.
        group = if keys.is_empty() {
            "NULL".to_owned()
        } else {
            keys.join(", ")
        },
        totals = totals.join(", "),
        order = measure(query.order),
    );
    for (field, number) in query.by.iter().zip(1..) {
        // IPv4 before IPv6, as addresses compare.
        if matches!(field, Field::LocalIp | Field::RemoteIp) {
            sql.push_str(&format!(", length(key_{number})"));
        }
        sql.push_str(&format!(", key_{number}"));
    }
    if let Some(limit) = query.limit {
        sql.push_str(&format!(" LIMIT {limit}"));
    }
    sql
}

fn joins(query: &Query) -> String {
    [(Field::LocalIp, "local"), (Field::RemoteIp, "remote")]
        .into_iter()
        .filter(|(field, _)| query.by.contains(field))
        .map(|(_, side)| {
            format!("\n    CROSS JOIN address AS {side} ON {side}.id = r.{side}_address_id")
        })
        .collect()
}

fn column(field: Field) -> &'static str {
    match field {
        Field::Protocol => "r.protocol",
        Field::LocalIp => "local.address",
        Field::RemoteIp => "remote.address",
        Field::LocalPort => "r.local_port",
        Field::RemotePort => "r.remote_port",
    }
}

fn measure(order: Order) -> &'static str {
    match order {
        Order::Bytes => "sent_bytes + received_bytes",
        Order::Packets => "sent_packets + received_packets",
        Order::SentBytes => "sent_bytes",
        Order::ReceivedBytes => "received_bytes",
        Order::SentPackets => "sent_packets",
        Order::ReceivedPackets => "received_packets",
        Order::SynPackets => "syn_packets",
    }
}

fn value(row: &Row<'_>, column: usize, field: Field) -> rusqlite::Result<Value> {
    Ok(match field {
        Field::Protocol => Value::Protocol(row.get(column)?),
        Field::LocalPort | Field::RemotePort => Value::Port(row.get(column)?),
        Field::LocalIp | Field::RemoteIp => Value::Ip(address(row, column)?),
    })
}

fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<IpAddr> {
    let bytes = row.get_ref(column)?.as_blob()?;
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(bytes)
        .map(IpAddr::from)
        .map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
        })
}

fn counters(row: &Row<'_>, first: usize) -> rusqlite::Result<Counters> {
    Ok(Counters {
        sent_packets: counter(row, first)?,
        received_packets: counter(row, first + 1)?,
        sent_bytes: counter(row, first + 2)?,
        received_bytes: counter(row, first + 3)?,
        syn_packets: counter(row, first + 4)?,
    })
}

fn counter(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
