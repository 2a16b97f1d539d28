// SPDX-License-Identifier: GPL-2.0-or-later
//! Conditions of a statement, and the parameters that go with them.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::Value;
use super::rollup::Owner;
use crate::account::Name;
use crate::query::{Field, Filter};

/// `AND` conditions and their parameters.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) sql: String,
    pub(super) parameters: Vec<Value>,
}

impl Conditions {
    pub(super) fn accounts(&mut self, names: &[Name]) {
        if !names.is_empty() {
            let places = self.places(names.iter().map(|name| name.as_str().into()));
            self.and(&format!("a.name IN ({places})"));
        }
    }

    /// Accounts of hosts with these names or machine ids.
    pub(super) fn hosts(&mut self, hosts: &[String]) {
        if !hosts.is_empty() {
            let mut places = || self.places(hosts.iter().map(|host| host.as_str().into()));
            let (names, ids) = (places(), places());
            self.and(&format!(
                "a.host_id IN (SELECT id FROM host
        WHERE hostname IN ({names}) OR machine_id IN ({ids}))"
            ));
        }
    }

    /// What belongs to one account, by its host_id and account_id.
    pub(super) fn owner(&mut self, owner: Owner) {
        for (column, id) in [("host_id", owner.host_id), ("account_id", owner.account_id)] {
            let place = self.places([Value::from(id)]);
            self.and(&format!("{column} = {place}"));
        }
    }

    pub(super) fn fields(&mut self, alias: &str, filter: &Filter) {
        let column = |field: Field| format!("{alias}.{}", field.column());
        self.one_of(&column(Field::Protocol), &filter.protocols);
        self.ports(&column(Field::LocalPort), &filter.local_ports);
        self.ports(&column(Field::RemotePort), &filter.remote_ports);
        self.within(&column(Field::LocalIp), &filter.local);
        self.within(&column(Field::RemoteIp), &filter.remote);
    }

    /// Bounds in nanoseconds on a column in units of so many; open ones are none.
    pub(super) fn within_time(&mut self, column: &str, unit_ns: i64, (from, until): (i64, i64)) {
        for (operator, time, open) in [(">=", from, i64::MIN), ("<", until, i64::MAX)] {
            if time != open {
                let place = self.places([Value::from(time.div_euclid(unit_ns))]);
                self.and(&format!("{column} {operator} {place}"));
            }
        }
    }

    fn one_of<T: Copy + Into<Value>>(&mut self, column: &str, values: &[T]) {
        if !values.is_empty() {
            let places = self.places(values.iter().map(|&value| value.into()));
            self.and(&format!("{column} IN ({places})"));
        }
    }

    fn ports(&mut self, column: &str, ranges: &[RangeInclusive<u16>]) {
        if ranges.is_empty() {
            return;
        }
        let within: Vec<String> = ranges
            .iter()
            .map(|range| {
                let [first, last] =
                    [range.start(), range.end()].map(|&port| self.places([port.into()]));
                format!("{column} BETWEEN {first} AND {last}")
            })
            .collect();
        self.and(&format!("({})", within.join(" OR ")));
    }

    /// The addresses of a net are a range; the length tells IPv4 from IPv6.
    fn within(&mut self, column: &str, nets: &[IpNet]) {
        if nets.is_empty() {
            return;
        }
        let ranges: Vec<String> = nets
            .iter()
            .map(|net| {
                let length = if net.addr().is_ipv4() { 4 } else { 16 };
                let [first, last] =
                    [net.network(), net.broadcast()].map(|bound| self.places([bound.into()]));
                format!("(LENGTH({column}) = {length} AND {column} BETWEEN {first} AND {last})")
            })
            .collect();
        self.and(&format!("({})", ranges.join(" OR ")));
    }

    pub(super) fn and(&mut self, condition: &str) {
        self.sql.push_str("\n    AND ");
        self.sql.push_str(condition);
    }

    /// Takes parameters and gives their places, separated by commas.
    fn places(&mut self, parameters: impl IntoIterator<Item = Value>) -> String {
        let first = self.parameters.len();
        self.parameters.extend(parameters);
        vec!["?"; self.parameters.len() - first].join(", ")
    }
}
