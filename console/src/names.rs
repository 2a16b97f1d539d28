// SPDX-License-Identifier: GPL-2.0-or-later
//! The names of what groups are made by.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use trafstat_cli::store::StoreOptions;
use trafstat_cli::text::printable;
use trafstat_store::protocol;
use trafstat_store::query::{Field, Value};
use trafstat_store::services::Services;

use crate::host_names::HostNames;

/// How values are named for people.
pub struct Names {
    services: Services,
    hosts: HostNames,
    /// Numbers and addresses only.
    numeric: bool,
    zone: TimeZone,
}

impl Names {
    /// Names of services, times in this zone; `numeric` leaves numbers and addresses as they are.
    pub fn new(zone: TimeZone, numeric: bool) -> Self {
        Self {
            services: Services::read(),
            hosts: HostNames::default(),
            numeric,
            zone,
        }
    }

    /// Names of hosts, too: those of the configuration, if it can be read, and those that this host
    /// knows.
    pub fn with_hosts(mut self, store: &StoreOptions) -> Self {
        let given = store.config().map(|config| config.name);
        self.hosts = HostNames::read(Path::new("/"), &given.unwrap_or_default());
        self
    }

    /// Turns names on or off.
    pub fn set_numeric(&mut self, numeric: bool) {
        self.numeric = numeric;
    }

    /// The name of an address.
    pub fn host(&self, ip: IpAddr) -> Option<&str> {
        self.hosts.get(ip).filter(|_| !self.numeric)
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
        match self.services.name(port, protocol) {
            Some(name) if !self.numeric => format!("{port} {name}"),
            _ => port.to_string(),
        }
    }

    /// A protocol by its keyword.
    pub fn protocol(&self, number: u8) -> String {
        match protocol::name(number) {
            Some(keyword) if !self.numeric => keyword.to_owned(),
            _ => number.to_string(),
        }
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
            Value::Ip(ip) => match self.host(*ip) {
                Some(name) => format!("{ip} {}", printable(name)),
                None => ip.to_string(),
            },
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
