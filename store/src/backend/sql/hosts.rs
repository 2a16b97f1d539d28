// SPDX-License-Identifier: GPL-2.0-or-later
//! Notes which hosts collect, and finds those that pass for one, or whose clocks are wrong.

use jiff::{SignedDuration, Timestamp};

use super::{Access, Database, Value, in_transaction, nanoseconds, one_integer, owner};
use crate::host::{CLOCK_TOLERANCE, HostCheck, KnownHost, RunningHost, Twin};
use crate::store::StoreError;

/// A boot in which a host was seen.
struct Boot {
    id: String,
    hostname: String,
    first_turn: i64,
    last_turn: i64,
    seen_ns: i64,
}

/// A boot as the list of hosts has it.
struct KnownBoot {
    host_id: i64,
    came_back: bool,
    host: KnownHost,
}

/// The moment of a check-in.
struct Moment {
    /// By the server's clock, or the host's where there is no server.
    now_ns: i64,
    clock_ahead_ns: Option<i64>,
    /// How far that may be off: half of the time that asking took.
    uncertainty_ns: i64,
}

/// Notes that a host is at work, and checks its clock and its machine id.
pub(in crate::backend) fn check_in<D: Database>(
    database: &mut D,
    host: &RunningHost,
) -> Result<HostCheck, StoreError> {
    let boots = in_transaction(database, Access::Write, |database| {
        let id = owner::lock_or_insert(database, &host.machine_id, &host.hostname)?.id();
        // Once the lock is there, so that waiting for it passes for no skew.
        let moment = Moment::now(database, host)?;
        let boots = note(database, id, host, &moment)?;
        Ok((boots, moment))
    });
    let (boots, moment) = boots?;
    let clock_ahead = moment.clock_ahead_ns.filter(|ahead| {
        let tolerance_ns = CLOCK_TOLERANCE.as_nanos() as i64;
        ahead.abs() > tolerance_ns.saturating_add(moment.uncertainty_ns)
    });
    Ok(HostCheck {
        clock_ahead: clock_ahead.map(SignedDuration::from_nanos),
        twin: are_two(&boots).then(|| Twin {
            machine_id: host.machine_id.clone(),
            hostnames: names(&boots),
        }),
    })
}

/// Every host, by name.
pub(in crate::backend) fn hosts<D: Database>(
    database: &mut D,
) -> Result<Vec<KnownHost>, StoreError> {
    let mut known: Vec<KnownBoot> = Vec::new();
    in_transaction(database, Access::Read, |database| {
        database.select(
            "SELECT h.id, h.machine_id, COALESCE(b.hostname, h.hostname), b.seen_ns,
                 b.clock_ahead_ns, COALESCE(b.first_turn, 0), COALESCE(b.last_turn, 0)
             FROM host AS h LEFT JOIN host_boot AS b ON b.host_id = h.id
             ORDER BY h.hostname, h.id, b.last_turn",
            &[],
            &mut |row| {
                let optional = |column: usize| match &row[column] {
                    Value::Null => Ok(None),
                    value => value.integer().map(Some),
                };
                let seen = optional(3)?.map(|seen| Timestamp::from_nanosecond(seen.into()));
                known.push(KnownBoot {
                    host_id: row[0].integer()?,
                    came_back: row[5].integer()? < row[6].integer()?,
                    host: KnownHost {
                        machine_id: row[1].text()?.to_owned(),
                        hostname: row[2].text()?.to_owned(),
                        seen: seen.and_then(Result::ok),
                        clock_ahead: optional(4)?.map(SignedDuration::from_nanos),
                        shares_machine_id: false,
                    },
                });
                Ok(())
            },
        )
    })?;
    let mut hosts = Vec::new();
    for boots in known.chunk_by_mut(|one, other| one.host_id == other.host_id) {
        let two = boots.len() > 1 && boots.iter().any(|boot| boot.came_back);
        // Of one host's boots the last one counts.
        let first = if two { 0 } else { boots.len() - 1 };
        for boot in &mut boots[first..] {
            boot.host.shares_machine_id = two;
            hosts.push(boot.host.clone());
        }
    }
    Ok(hosts)
}

impl Moment {
    fn now<D: Database>(database: &mut D, host: &RunningHost) -> Result<Self, StoreError> {
        let Some(server_clock) = D::DIALECT.server_clock else {
            return Ok(Self {
                now_ns: nanoseconds((host.clock)()),
                clock_ahead_ns: None,
                uncertainty_ns: 0,
            });
        };
        let before_ns = nanoseconds((host.clock)());
        let now_ns = one_integer(database, server_clock, &[])?;
        let half_ns = nanoseconds((host.clock)()).saturating_sub(before_ns) / 2;
        Ok(Self {
            now_ns,
            clock_ahead_ns: Some(before_ns.saturating_add(half_ns).saturating_sub(now_ns)),
            uncertainty_ns: half_ns.abs(),
        })
    }
}

/// Writes the host's boot down; gives those in which it was lately seen, this one too.
fn note<D: Database>(
    database: &mut D,
    host_id: i64,
    host: &RunningHost,
    moment: &Moment,
) -> Result<Vec<Boot>, StoreError> {
    let mut boots = lately_seen(database, host_id, moment.now_ns - LATELY_NS)?;
    let newest = boots.iter().map(|boot| boot.last_turn).max().unwrap_or(0);
    let mut own = match boots.iter().position(|boot| boot.id == host.boot_id) {
        Some(index) => boots.swap_remove(index),
        None => Boot {
            id: host.boot_id.clone(),
            hostname: String::new(),
            first_turn: newest + 1,
            last_turn: newest + 1,
            seen_ns: 0,
        },
    };
    if own.last_turn < newest {
        own.last_turn = newest + 1;
    }
    if boots.is_empty() {
        // Whoever had turns in between is gone.
        own.first_turn = own.last_turn;
    }
    own.hostname.clone_from(&host.hostname);
    own.seen_ns = moment.now_ns;
    database.execute(
        "DELETE FROM host_boot WHERE host_id = ? AND (boot_id = ? OR seen_ns < ?)",
        &[
            host_id.into(),
            own.id.as_str().into(),
            (moment.now_ns - LATELY_NS).into(),
        ],
    )?;
    database.execute(
        "INSERT INTO host_boot (
             host_id, boot_id, hostname, first_turn, last_turn, seen_ns, clock_ahead_ns)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        &[
            host_id.into(),
            own.id.as_str().into(),
            own.hostname.as_str().into(),
            own.first_turn.into(),
            own.last_turn.into(),
            own.seen_ns.into(),
            moment.clock_ahead_ns.map_or(Value::Null, Value::from),
        ],
    )?;
    boots.push(own);
    Ok(boots)
}

fn lately_seen<D: Database>(
    database: &mut D,
    host_id: i64,
    since_ns: i64,
) -> Result<Vec<Boot>, StoreError> {
    let mut boots = Vec::new();
    database.select(
        "SELECT boot_id, hostname, first_turn, last_turn, seen_ns FROM host_boot
         WHERE host_id = ? AND seen_ns >= ?",
        &[host_id.into(), since_ns.into()],
        &mut |row| {
            boots.push(Boot {
                id: row[0].text()?.to_owned(),
                hostname: row[1].text()?.to_owned(),
                first_turn: row[2].integer()?,
                last_turn: row[3].integer()?,
                seen_ns: row[4].integer()?,
            });
            Ok(())
        },
    )?;
    Ok(boots)
}

/// A boot that ended does not come back: where one does, two hosts run.
fn are_two(boots: &[Boot]) -> bool {
    boots.len() > 1 && boots.iter().any(|boot| boot.first_turn < boot.last_turn)
}

fn names(boots: &[Boot]) -> Vec<String> {
    let mut boots: Vec<&Boot> = boots.iter().collect();
    boots.sort_by_key(|boot| (boot.seen_ns, boot.last_turn));
    let mut names: Vec<String> = Vec::new();
    for boot in boots.iter().rev() {
        if !names.contains(&boot.hostname) {
            names.push(boot.hostname.clone());
        }
    }
    names
}

/// A boot that was not seen for so long is over, or its host has another id by now.
const LATELY_NS: i64 = 24 * 3600 * 1_000_000_000;
