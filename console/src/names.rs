// SPDX-License-Identifier: GPL-2.0-or-later
//! The names of what groups are made by.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use trafstat_cli::text::printable;
use trafstat_store::protocol;
use trafstat_store::query::{Field, Value};
use trafstat_store::services::Services;

/// How values are named for people.
pub struct Names {
    /// None: numbers only.
    services: Option<Services>,
    zone: TimeZone,
}

impl Names {
    /// Names of this host, times in this zone; `numeric` leaves ports and protocols numbers.
    pub fn new(zone: TimeZone, numeric: bool) -> Self {
        Self {
            services: (!numeric).then(Services::read),
            zone,
        }
    }

    /// The values of a key; its ports have names of its protocol.
    pub fn key(&self, key: &[Value]) -> Vec<String> {
        let protocol = key.iter().find_map(|value| match value {
            Value::Protocol(number) => Some(*number),
            _ => None,
        });
        key.iter()
            .map(|value| self.value(value, protocol))
            .collect()
    }

    /// A port as `443 https`, of the protocol where one is known.
    pub fn port(&self, port: u16, protocol: Option<u8>) -> String {
        let services = self.services.as_ref();
        match services.and_then(|services| services.name(port, protocol)) {
            Some(name) => format!("{port} {name}"),
            None => port.to_string(),
        }
    }

    /// A protocol by its keyword.
    pub fn protocol(&self, number: u8) -> String {
        let keyword = match self.services {
            Some(_) => protocol::name(number),
            None => None,
        };
        keyword.map_or_else(|| number.to_string(), str::to_owned)
    }

    /// A point in time, to the minute.
    pub fn time(&self, time: Timestamp) -> String {
        time.to_zoned_datetime(self.zone.clone())
            .strftime("%Y-%m-%d %H:%M")
            .to_string()
    }

    /// What the zone is called at that time, such as CET.
    pub fn zone(&self, time: Timestamp) -> String {
        time.to_zoned_datetime(self.zone.clone())
            .strftime("%Z")
            .to_string()
    }

    fn value(&self, value: &Value, protocol: Option<u8>) -> String {
        match value {
            Value::Protocol(number) => self.protocol(*number),
            Value::Port(port) => self.port(*port, protocol),
            Value::Time(time) => self.time(*time),
            _ => printable(&value.to_string()).into_owned(),
        }
    }
}

/// The title of a field's column.
pub fn title(field: Field) -> &'static str {
    match field {
        Field::Protocol => "PROTOCOL",
        Field::LocalIp => "LOCAL IP",
        Field::RemoteIp => "REMOTE IP",
        Field::LocalPort => "LOCAL PORT",
        Field::RemotePort => "REMOTE PORT",
        Field::Account => "ACCOUNT",
        Field::Host => "HOST",
        Field::FiveMinutes | Field::Hour => "FROM",
        Field::Day => "DAY",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_without_a_name_is_its_number() {
        let names = Names::new(TimeZone::UTC, false);
        assert_eq!(names.protocol(6), "TCP");
        assert_eq!(names.protocol(200), "200");
        assert_eq!(Names::new(TimeZone::UTC, true).protocol(6), "6");
    }

    #[test]
    fn time_is_told_in_the_zone() {
        let names = Names::new(TimeZone::get("Europe/Berlin").unwrap(), true);
        let time: Timestamp = "2026-07-01T22:30:00Z".parse().unwrap();
        assert_eq!(names.time(time), "2026-07-02 00:30");
        assert_eq!(names.zone(time), "CEST");
    }
}
