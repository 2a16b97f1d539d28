// SPDX-License-Identifier: GPL-2.0-or-later
//! Parsers of values that have names; help and manual list them.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use trafstat_store::query::{Field, Order};
use trafstat_store::store::ArchiveForm;
use trafstat_store::store::Level;

/// Parses a field to sum up by.
pub fn field() -> impl TypedValueParser<Value = Field> {
    named(&Field::ALL, |field| match field {
        Field::Protocol => ("protocol", "IANA protocol number"),
        Field::LocalIp => ("local-ip", "Address of the local side"),
        Field::RemoteIp => ("remote-ip", "Address of the remote side"),
        Field::LocalPort => ("local-port", "Port of the local side"),
        Field::RemotePort => ("remote-port", "Port of the remote side"),
        Field::Account => ("account", "Name of the account"),
        Field::Host => ("host", "Name of the host that counted"),
        Field::FiveMinutes => (
            "5min",
            "The five minutes, UTC, that have the middle of the epoch",
        ),
        Field::Hour => ("hour", "The hour, UTC, that has the middle of the epoch"),
        Field::Day => (
            "day",
            "The day that has the middle of the epoch, in the local time zone",
        ),
    })
}

/// Parses what to sort by.
pub fn order() -> impl TypedValueParser<Value = Order> {
    named(&Order::ALL, |order| match order {
        Order::Bytes => ("bytes", "Bytes sent and received"),
        Order::Packets => ("packets", "Packets sent and received"),
        Order::SentBytes => ("sent-bytes", "Bytes sent"),
        Order::ReceivedBytes => ("received-bytes", "Bytes received"),
        Order::SentPackets => ("sent-packets", "Packets sent"),
        Order::ReceivedPackets => ("received-packets", "Packets received"),
        Order::SynPackets => ("syn-packets", "TCP packets that open a connection"),
        Order::Fields => (
            "fields",
            "The fields that make the groups, smallest and earliest first",
        ),
    })
}

/// Parses what to export.
pub fn level() -> impl TypedValueParser<Value = Level> {
    named(&Level::ALL, |level| match level {
        Level::Flow => ("flow", "Every record"),
        Level::LocalHour => ("local-hour", "Hourly sums by local address"),
        Level::LocalDay => ("local-day", "Daily sums by local address"),
        Level::ServiceHour => ("service-hour", "Hourly sums by protocol and local port"),
        Level::ServiceDay => ("service-day", "Daily sums by protocol and local port"),
        Level::LocalServiceQuarter => (
            "local-service-quarter",
            "Sums of 15 minutes by local address, protocol and local port",
        ),
        Level::LocalServiceHour => (
            "local-service-hour",
            "Hourly sums by local address, protocol and local port",
        ),
        Level::LocalServiceDay => (
            "local-service-day",
            "Daily sums by local address, protocol and local port",
        ),
        Level::RemoteMonth => ("remote-month", "Monthly sums by remote address"),
    })
}

/// Parses what the files of an archive are.
pub fn archive_form() -> impl TypedValueParser<Value = ArchiveForm> {
    named(&ArchiveForm::ALL, |form| match form {
        ArchiveForm::Sqlite => ("sqlite", "SQLite databases, which can be asked as they are"),
        ArchiveForm::Csv => ("csv", "CSV compressed with zstd, which any program reads"),
    })
}

/// The parser of these values by their names, each with a line of help.
fn named<T>(
    values: &'static [T],
    described: fn(T) -> (&'static str, &'static str),
) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let possible = values.iter().map(move |&value| {
        let (name, help) = described(value);
        PossibleValue::new(name).help(help)
    });
    PossibleValuesParser::new(possible).try_map(move |said| {
        let of_name = |value: &&T| described(**value).0 == said;
        let found = values.iter().find(of_name);
        // The parser before this one let no other name through.
        found.copied().ok_or("not a name")
    })
}
