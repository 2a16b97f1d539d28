// SPDX-License-Identifier: GPL-2.0-or-later
//! Hosts that collect into one store: who they are, and whether their clocks agree.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::origin::Origin;

/// The host that this process runs on.
#[derive(Debug, Clone)]
pub struct RunningHost {
    /// What the host is known by, as in [`Origin`].
    pub machine_id: String,
    /// The host's name, for people.
    pub hostname: String,
    /// Drawn by the kernel at each boot: what tells two running hosts apart.
    pub boot_id: String,
    /// The host's clock.
    pub clock: fn() -> Timestamp,
}

/// A file that tells which boot this is cannot be read.
#[derive(Debug, Error)]
#[error("cannot tell this boot: {}: {source}", .path.display())]
pub struct BootError {
    path: PathBuf,
    source: io::Error,
}

/// What a store finds wrong with a host that checks in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostCheck {
    /// How far the host's clock is ahead of the database server's, if it is farther than
    /// [`CLOCK_TOLERANCE`] and than could be told.
    pub clock_ahead: Option<SignedDuration>,
    /// Another host has this host's machine id.
    pub twin: Option<Twin>,
}

/// Another host with the same machine id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The machine id.
    pub machine_id: String,
    /// The names of both, or the one that both have.
    pub hostnames: Vec<String>,
}

/// A host as the store knows it; a machine id that several hosts have is several of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownHost {
    /// Its name.
    #[serde(rename = "host")]
    pub hostname: String,
    /// What it is known by.
    pub machine_id: String,
    /// When it last collected, by the server's clock; none before hosts were noted.
    #[serde(serialize_with = "as_text")]
    pub seen: Option<Timestamp>,
    /// How far its clock was ahead of the server's then.
    #[serde(rename = "clock_ahead_seconds", serialize_with = "as_seconds")]
    pub clock_ahead: Option<SignedDuration>,
    /// Whether another host has the same machine id.
    pub shares_machine_id: bool,
}

/// A host's clock farther from the server's than this is wrong.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

impl RunningHost {
    /// The host of an origin that this process runs on.
    ///
    /// # Errors
    /// That `/proc` does not say which boot this is.
    pub fn new(origin: &Origin) -> Result<Self, BootError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = std::fs::read_to_string(path).map_err(|source| BootError {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Self {
            machine_id: origin.machine_id.clone(),
            hostname: origin.hostname.clone(),
            boot_id: boot_id.trim().to_owned(),
            clock: Timestamp::now,
        })
    }
}

impl HostCheck {
    /// What is wrong, a sentence each, and what to do.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings_since(&Self::default())
    }

    /// What is wrong and was not before.
    pub fn warnings_since(&self, before: &Self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(ahead) = self.clock_ahead.filter(|_| before.clock_ahead.is_none()) {
            warnings.push(format!(
                "this host's clock is {} the database server's: epochs are stored under this \
                 host's time; set the clock, or let \"timedatectl set-ntp true\" do it",
                Skew(ahead)
            ));
        }
        let twin = self.twin.as_ref().filter(|_| before.twin.is_none());
        warnings.extend(twin.map(ToString::to_string));
        warnings
    }
}

impl KnownHost {
    /// Whether its clock was wrong when it was last seen.
    pub fn has_wrong_clock(&self) -> bool {
        self.clock_ahead
            .is_some_and(|ahead| ahead.abs() > CLOCK_TOLERANCE)
    }

    /// What is wrong with it, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(ahead) = self.clock_ahead.filter(|_| self.has_wrong_clock()) {
            warnings.push(format!(
                "the clock of host {} was {} the database server's when it last collected",
                self.hostname,
                Skew(ahead)
            ));
        }
        if self.shares_machine_id {
            let twin = Twin {
                machine_id: self.machine_id.clone(),
                hostnames: vec![self.hostname.clone()],
            };
            warnings.push(twin.to_string());
        }
        warnings
    }
}

impl fmt::Display for Twin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "two running hosts have the machine id {}, lately under the name {}: nothing is \
             lost and their accounts stay apart, but they pass for one host; give the copy an \
             id of its own with \"rm /etc/machine-id; systemd-machine-id-setup\" and reboot it",
            self.machine_id,
            self.hostnames.join(" and ")
        )
    }
}

/// So much ahead or behind.
struct Skew(SignedDuration);

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = SignedDuration::from_secs(self.0.abs().as_secs());
        let side = match self.0.is_negative() {
            true => "behind",
            false => "ahead of",
        };
        write!(f, "{rounded:#} {side}")
    }
}

fn as_text<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(serializer)
}

fn as_seconds<S: Serializer>(
    duration: &Option<SignedDuration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_boot_has_an_id() {
        let host = RunningHost::new(&Origin::of_this_process().unwrap()).unwrap();
        assert_eq!(host.boot_id.len(), 36);
    }

    #[test]
    fn skew_is_said_by_its_side() {
        assert_eq!(
            Skew(SignedDuration::from_millis(3_600_400)).to_string(),
            "1h ahead of"
        );
        assert_eq!(
            Skew(SignedDuration::from_secs(-75)).to_string(),
            "1m 15s behind"
        );
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        let twin = Twin {
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            hostnames: vec!["gateway".to_owned()],
        };
        let skewed = |seconds| HostCheck {
            clock_ahead: Some(SignedDuration::from_secs(seconds)),
            twin: None,
        };
        let both = HostCheck {
            twin: Some(twin),
            ..skewed(11)
        };
        assert!(skewed(11).warnings_since(&skewed(10)).is_empty());
        assert_eq!(both.warnings_since(&skewed(10)).len(), 1);
        assert_eq!(both.warnings_since(&HostCheck::default()), both.warnings());
    }

    #[test]
    fn what_is_well_has_no_warning() {
        assert!(HostCheck::default().warnings().is_empty());
        let host = KnownHost {
            hostname: "gateway".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            seen: None,
            clock_ahead: Some(SignedDuration::from_millis(900)),
            shares_machine_id: false,
        };
        assert!(host.warnings().is_empty());
    }
}
