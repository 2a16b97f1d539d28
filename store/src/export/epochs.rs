//! CSV that can be restored: each epoch's own line, and after it those of its records.
//!
//! Every line says first what it belongs to ([`EPOCH_COLUMNS`]). An epoch's line leaves the
//! record empty and has all else that is known of it; a record's line leaves that empty. The
//! last line has the number of the file's epochs as its epoch and is empty otherwise: a file
//! that was cut off has none.
//! Times are RFC 3339 with all their digits.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use csv::StringRecord;
use jiff::Timestamp;

use super::fields::{EPOCH_COLUMNS, Fields, RECORD_COLUMNS, time};
use crate::account::Account;
use crate::origin::Origin;
use crate::snapshot::{
    Counters, Endpoint, Growth, Header, Record, Sample, Totals, Volume, check_conservation,
};
use crate::store::{Epochs, StoreError};

/// What only the epochs' own lines have, before the totals and after them.
const BEFORE_TOTALS: [&str; 5] = ["machine_id", "account_id", "local_net", "opened", "records"];
const AFTER_TOTALS: [&str; 2] = ["max_entries", "min_pkt_spoof"];

/// How many columns a record's line leaves empty.
const FIGURES: usize =
    BEFORE_TOTALS.len() + Totals::COLUMNS.len() + AFTER_TOTALS.len() + Growth::COLUMNS.len();

/// The place of `epoch` among [`EPOCH_COLUMNS`].
const EPOCH_AT: usize = 4;

fn columns() -> impl Iterator<Item = &'static str> {
    columns_before_0_2().chain(Growth::COLUMNS)
}

/// The columns of files from before 0.2.0, which say nothing of the header's later fields.
fn columns_before_0_2() -> impl Iterator<Item = &'static str> {
    EPOCH_COLUMNS
        .into_iter()
        .chain(RECORD_COLUMNS)
        .chain(BEFORE_TOTALS)
        .chain(Totals::COLUMNS)
        .chain(AFTER_TOTALS)
}

/// Writes epochs so that they can be restored.
pub(crate) struct EpochWriter<W: Write> {
    fields: Fields<W>,
    origin: Option<Origin>,
    header: Option<Header>,
    epochs: u64,
}

impl<W: Write> EpochWriter<W> {
    pub(crate) fn new(out: W) -> Result<Self, StoreError> {
        let mut fields = Fields::new(out);
        columns()
            .try_for_each(|name| fields.add(name))
            .and_then(|()| fields.end_line())
            .map_err(StoreError::Write)?;
        Ok(Self {
            fields,
            origin: None,
            header: None,
            epochs: 0,
        })
    }

    /// Writes the end.
    pub(crate) fn finish(&mut self) -> Result<(), StoreError> {
        self.write_end()
            .and_then(|()| self.fields.flush())
            .map_err(StoreError::Write)
    }

    fn add_epoch(&mut self) -> io::Result<()> {
        let (Some(origin), Some(header)) = (&self.origin, &self.header) else {
            return Err(io::Error::other("records before the first epoch"));
        };
        let fields = &mut self.fields;
        fields.add(&origin.hostname)?;
        fields.add(&origin.netns)?;
        fields.add(header.account.family)?;
        fields.add(&header.account.name)?;
        fields.add(header.epoch)?;
        fields.add(time(header.closed_ns)?)
    }

    fn add_figures(&mut self, origin: &Origin, header: &Header) -> io::Result<()> {
        let fields = &mut self.fields;
        fields.add(&origin.machine_id)?;
        fields.add(format_args!(
            "{:032x}",
            u128::from_be_bytes(header.account_id)
        ))?;
        fields.add(header.local_net)?;
        fields.add(time(header.opened_ns)?)?;
        fields.add(header.records)?;
        header
            .totals
            .values()
            .try_for_each(|total| fields.add(total))?;
        fields.add(header.max_entries)?;
        fields.add(header.min_pkt_spoof)?;
        let Some(growth) = &header.growth else {
            return self.add_empty(Growth::COLUMNS.len());
        };
        fields.add(growth.duration_ns)?;
        fields.add(growth.unattributed.packets)?;
        fields.add(growth.unattributed.bytes)?;
        for sample in &growth.samples {
            fields.add(sample.packets)?;
            fields.add(sample.packet_variance)?;
            fields.add(sample.byte_variance)?;
            fields.add(sample.highest_rate)?;
        }
        Ok(())
    }

    fn add_empty(&mut self, count: usize) -> io::Result<()> {
        (0..count).try_for_each(|_| self.fields.add(""))
    }

    fn write_epoch(&mut self, origin: &Origin, header: &Header) -> io::Result<()> {
        self.add_epoch()?;
        self.add_empty(RECORD_COLUMNS.len())?;
        self.add_figures(origin, header)?;
        self.fields.end_line()
    }

    fn write_end(&mut self) -> io::Result<()> {
        self.add_empty(EPOCH_AT)?;
        self.fields.add(self.epochs)?;
        self.add_empty(columns().count() - EPOCH_AT - 1)?;
        self.fields.end_line()
    }

    fn write_record(&mut self, record: &Record) -> io::Result<()> {
        self.add_epoch()?;
        self.fields.add_record(record)?;
        self.add_empty(FIGURES)?;
        self.fields.end_line()
    }
}

impl<W: Write> Epochs for EpochWriter<W> {
    fn begin(&mut self, origin: &Origin, header: &Header) -> Result<(), StoreError> {
        self.origin = Some(origin.clone());
        self.header = Some(header.clone());
        self.epochs += 1;
        self.write_epoch(origin, header).map_err(StoreError::Write)
    }

    fn add(&mut self, records: &[Record]) -> Result<(), StoreError> {
        records
            .iter()
            .try_for_each(|record| self.write_record(record))
            .map_err(StoreError::Write)
    }

    fn left_out(&mut self) {}
}

/// Reads what [`EpochWriter`] wrote, a line at a time.
pub(crate) struct EpochReader<R: Read> {
    path: PathBuf,
    csv: csv::Reader<R>,
    /// The line that was read last and belongs to what comes next.
    next: Option<StringRecord>,
    /// The line of the epoch whose records come.
    epoch: StringRecord,
    epochs: u64,
}

impl<R: Read> EpochReader<R> {
    /// # Errors
    /// [`StoreError::NotRestorable`] if the first line is another one.
    pub(crate) fn new(path: &Path, reader: R) -> Result<Self, StoreError> {
        let mut csv = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(reader);
        let mut names = StringRecord::new();
        let found = csv.read_record(&mut names);
        let is_known = names.iter().eq(columns()) || names.iter().eq(columns_before_0_2());
        if !matches!(found, Ok(true)) || !is_known {
            return Err(StoreError::NotRestorable(path.to_path_buf()));
        }
        let mut reader = Self {
            path: path.to_path_buf(),
            csv,
            next: None,
            epoch: StringRecord::new(),
            epochs: 0,
        };
        reader.advance()?;
        Ok(reader)
    }

    /// The next epoch; records that were not asked for are passed over.
    pub(crate) fn next_epoch(&mut self) -> Result<Option<(Origin, Header)>, StoreError> {
        while let Some(line) = self.next.as_ref().filter(|line| is_record(line)) {
            self.check_owner(line)?;
            self.advance()?;
        }
        let Some(line) = self.next.take() else {
            return Err(StoreError::Line {
                path: self.path.clone(),
                line: self.csv.position().line(),
                reason: "the file was cut off: its end is missing".to_owned(),
            });
        };
        if let Some(epochs) = end(&line) {
            self.advance()?;
            return match &self.next {
                None if epochs == self.epochs.to_string() => Ok(None),
                None => Err(self.wrong(
                    &line,
                    format!("the end of {epochs} epochs where {} came", self.epochs),
                )),
                Some(next) => Err(self.wrong(next, "the file goes on after its end".to_owned())),
            };
        }
        let read = read_epoch(&line).map_err(|reason| self.wrong(&line, reason))?;
        self.epoch = line;
        self.epochs += 1;
        self.advance()?;
        Ok(Some(read))
    }

    /// The records of the epoch that was given last, in batches.
    pub(crate) fn records(
        &mut self,
        mut each: impl FnMut(&[Record]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(line) = self.next.as_ref().filter(|line| is_record(line)) {
            self.check_owner(line)?;
            let record = read_record(line).map_err(|reason| self.wrong(line, reason))?;
            self.advance()?;
            batch.push(record);
            if batch.len() == BATCH {
                each(&batch)?;
                batch.clear();
            }
        }
        each(&batch)
    }

    /// Refuses a record of another epoch than the one whose records come.
    fn check_owner(&self, line: &StringRecord) -> Result<(), StoreError> {
        let mut owners = line.iter().zip(&self.epoch).take(EPOCH_COLUMNS.len());
        match owners.all(|(owner, epoch)| owner == epoch) {
            true => Ok(()),
            false => Err(self.wrong(line, "a record of another epoch".to_owned())),
        }
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        // The allocation goes round.
        let mut line = self.next.take().unwrap_or_default();
        match self.csv.read_record(&mut line) {
            Ok(true) => self.next = Some(line),
            Ok(false) => self.next = None,
            Err(error) => {
                let position = error.position().cloned();
                return Err(match error.into_kind() {
                    csv::ErrorKind::Io(source) => StoreError::Io {
                        path: self.path.clone(),
                        source,
                    },
                    kind => StoreError::Line {
                        path: self.path.clone(),
                        line: position.map_or(0, |position| position.line()),
                        reason: format!("not the CSV that was written: {kind:?}"),
                    },
                });
            }
        }
        Ok(())
    }

    fn wrong(&self, line: &StringRecord, reason: String) -> StoreError {
        StoreError::Line {
            path: self.path.clone(),
            line: line.position().map_or(0, csv::Position::line),
            reason,
        }
    }
}

const BATCH: usize = 4096;

/// How many epochs a line that is the end says there were.
fn end(line: &StringRecord) -> Option<&str> {
    let mut others = line
        .iter()
        .take(EPOCH_AT)
        .chain(line.iter().skip(EPOCH_AT + 1));
    match others.all(str::is_empty) {
        true => line.get(EPOCH_AT),
        false => None,
    }
}

fn is_record(line: &StringRecord) -> bool {
    line.get(EPOCH_COLUMNS.len())
        .is_some_and(|protocol| !protocol.is_empty())
}

/// Takes a line's fields one after the other.
struct Line<'a> {
    fields: &'a StringRecord,
    at: usize,
}

impl<'a> Line<'a> {
    fn text(&mut self) -> &'a str {
        self.at += 1;
        self.fields.get(self.at - 1).unwrap_or_default()
    }

    fn value<T: FromStr>(&mut self) -> Result<T, String> {
        let name = columns().nth(self.at).unwrap_or("a field");
        let text = self.text();
        text.parse()
            .map_err(|_| format!("{name} cannot be {text:?}"))
    }

    fn time(&mut self) -> Result<u64, String> {
        let time: Timestamp = self.value()?;
        u64::try_from(time.as_nanosecond()).map_err(|_| format!("{time} is before 1970"))
    }

    /// The header's later fields: all of them, or none where they are unknown.
    fn growth(&mut self) -> Result<Option<Growth>, String> {
        let mut fields = self.fields.iter().skip(self.at);
        if fields.all(str::is_empty) {
            return Ok(None);
        }
        let mut growth = Growth {
            duration_ns: self.value()?,
            unattributed: self.volume()?,
            ..Growth::default()
        };
        for sample in &mut growth.samples {
            *sample = Sample {
                packets: self.value()?,
                packet_variance: self.value()?,
                byte_variance: self.value()?,
                highest_rate: self.value()?,
            };
        }
        Ok(Some(growth))
    }

    fn volume(&mut self) -> Result<Volume, String> {
        Ok(Volume {
            packets: self.value()?,
            bytes: self.value()?,
        })
    }
}

fn read_epoch(fields: &StringRecord) -> Result<(Origin, Header), String> {
    let mut line = Line { fields, at: 0 };
    let (hostname, netns) = (line.text().to_owned(), line.text().to_owned());
    let account = Account {
        family: line.value()?,
        name: line.value()?,
    };
    let (epoch, closed_ns) = (line.value()?, line.time()?);
    line.at += RECORD_COLUMNS.len();
    let machine_id = line.text().to_owned();
    let account_id = line.text();
    let account_id = (account_id.len() == 32)
        .then(|| u128::from_str_radix(account_id, 16).ok())
        .flatten()
        .ok_or_else(|| format!("account_id is {account_id:?}, no 32 hexadecimal digits"))?
        .to_be_bytes();
    let header = Header {
        account,
        account_id,
        epoch,
        local_net: line.value()?,
        opened_ns: line.time()?,
        closed_ns,
        records: line.value()?,
        totals: Totals {
            seen: line.volume()?,
            extrapolated: line.volume()?,
            recorded: line.volume()?,
            outside: line.volume()?,
            skipped: line.volume()?,
            gso_extra: line.volume()?,
            folded: line.volume()?,
        },
        max_entries: line.value()?,
        min_pkt_spoof: line.value()?,
        growth: line.growth()?,
    };
    if machine_id.is_empty() || header.epoch == 0 {
        return Err("no epoch without a machine_id and a number from 1".to_owned());
    }
    check_conservation(&header.totals).map_err(|error| error.to_string())?;
    let origin = Origin {
        machine_id,
        hostname,
        netns,
    };
    Ok((origin, header))
}

fn read_record(fields: &StringRecord) -> Result<Record, String> {
    let mut line = Line {
        fields,
        at: EPOCH_COLUMNS.len(),
    };
    let protocol = line.value()?;
    let mut side = || {
        Ok::<_, String>(Endpoint {
            ip: line.value::<IpAddr>()?,
            port: line.value()?,
        })
    };
    let (local, remote) = (side()?, side()?);
    Ok(Record {
        protocol,
        local,
        remote,
        flags: line.value()?,
        counters: Counters {
            sent_packets: line.value()?,
            received_packets: line.value()?,
            sent_bytes: line.value()?,
            received_bytes: line.value()?,
            syn_packets: line.value()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_header() -> impl Strategy<Value = Header> {
        let numbers = prop::array::uniform4(0..=i64::MAX as u64);
        let volumes = prop::array::uniform7(any::<[u32; 2]>());
        (
            prop::sample::select(vec!["192.0.2.1/24", "2001:db8::5/32", "0.0.0.0/0"]),
            "[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,30}",
            any::<[u8; 16]>(),
            numbers,
            volumes,
            any::<u32>(),
            prop::option::of(any_growth()),
        )
            .prop_map(
                |(net, name, account_id, numbers, volumes, min_pkt_spoof, growth)| {
                    let local_net: ipnet::IpNet = net.parse().unwrap();
                    let [
                        recorded,
                        outside,
                        skipped,
                        extrapolated,
                        _,
                        gso_extra,
                        folded,
                    ] = volumes.map(|[packets, bytes]| Volume {
                        packets: packets.into(),
                        bytes: bytes.into(),
                    });
                    // What the header must hold.
                    let skipped = Volume {
                        packets: skipped.packets + extrapolated.packets,
                        bytes: skipped.bytes + extrapolated.bytes,
                    };
                    let seen = |of: fn(&Volume) -> u64| {
                        of(&recorded) + of(&outside) + of(&skipped) - of(&extrapolated)
                    };
                    Header {
                        account: Account {
                            family: match local_net {
                                ipnet::IpNet::V4(_) => crate::account::Family::Ipv4,
                                ipnet::IpNet::V6(_) => crate::account::Family::Ipv6,
                            },
                            name: name.parse().unwrap(),
                        },
                        account_id,
                        epoch: numbers[0].max(1),
                        local_net,
                        records: 0,
                        opened_ns: numbers[1],
                        closed_ns: numbers[2],
                        totals: Totals {
                            seen: Volume {
                                packets: seen(|volume| volume.packets),
                                bytes: seen(|volume| volume.bytes),
                            },
                            extrapolated,
                            recorded,
                            outside,
                            skipped,
                            gso_extra,
                            folded,
                        },
                        max_entries: numbers[3],
                        min_pkt_spoof,
                        growth,
                    }
                },
            )
    }

    fn any_growth() -> impl Strategy<Value = Growth> {
        let sample = (any::<u64>(), any::<u128>(), any::<u128>(), any::<u32>()).prop_map(
            |(packets, packet_variance, byte_variance, highest_rate)| Sample {
                packets,
                packet_variance,
                byte_variance,
                highest_rate,
            },
        );
        (any::<[u64; 3]>(), prop::array::uniform3(sample)).prop_map(
            |([duration_ns, packets, bytes], samples)| Growth {
                duration_ns,
                unattributed: Volume { packets, bytes },
                samples,
            },
        )
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let side = || (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| Endpoint { ip, port });
        (any::<u8>(), side(), side(), any::<u8>(), any::<[u64; 5]>()).prop_map(
            |(protocol, local, remote, flags, counters)| Record {
                protocol,
                local,
                remote,
                flags,
                counters: Counters {
                    sent_packets: counters[0],
                    received_packets: counters[1],
                    sent_bytes: counters[2],
                    received_bytes: counters[3],
                    syn_packets: counters[4],
                },
            },
        )
    }

    /// Two epochs without records, a line each, between the names and the end.
    fn two_epochs(header: &Header) -> String {
        let mut text = Vec::new();
        let mut writer = EpochWriter::new(&mut text).unwrap();
        for machine_id in ["a", "b"] {
            let origin = Origin {
                machine_id: machine_id.to_owned(),
                hostname: String::new(),
                netns: String::new(),
            };
            writer.begin(&origin, header).unwrap();
        }
        writer.finish().unwrap();
        drop(writer);
        String::from_utf8(text).unwrap()
    }

    /// Reads all epochs; the error's text.
    fn read_all(text: &str) -> Result<(), String> {
        let read = || {
            let mut reader = EpochReader::new(Path::new("text"), text.as_bytes())?;
            while reader.next_epoch()?.is_some() {}
            Ok::<_, StoreError>(())
        };
        read().map_err(|error| error.to_string())
    }

    proptest! {
        #[test]
        fn file_that_lacks_a_line_is_refused(header in any_header()) {
            let text = two_epochs(&header);
            prop_assert_eq!(read_all(&text), Ok(()));
            let lines: Vec<_> = text.lines().collect();
            for left in 1..lines.len() {
                let error = read_all(&lines[..left].join("\n")).unwrap_err();
                prop_assert!(error.contains("cut off"), "{}", error);
            }
            let without_one = [lines[0], lines[2], lines[3]].join("\n");
            prop_assert!(read_all(&without_one).unwrap_err().contains("2 epochs where 1"));
            let goes_on = [lines[0], lines[1], lines[2], lines[3], lines[1]].join("\n");
            prop_assert!(read_all(&goes_on).unwrap_err().contains("goes on"));
        }

        #[test]
        fn whatever_was_written_is_read_back(
            epochs in prop::collection::vec(
                (".{1,40}", any::<String>(), any::<String>(), any_header(),
                 prop::collection::vec(any_record(), 0..20)),
                0..4,
            )
        ) {
            let mut text = Vec::new();
            let mut writer = EpochWriter::new(&mut text).unwrap();
            for (machine_id, hostname, netns, header, records) in &epochs {
                let origin = Origin {
                    machine_id: machine_id.clone(),
                    hostname: hostname.clone(),
                    netns: netns.clone(),
                };
                writer.begin(&origin, header).unwrap();
                for some in records.chunks(7) {
                    writer.add(some).unwrap();
                }
            }
            writer.finish().unwrap();
            drop(writer);
            let mut reader = EpochReader::new(Path::new("text"), &text[..]).unwrap();
            for (machine_id, hostname, netns, header, records) in &epochs {
                let (origin, read) = reader.next_epoch().unwrap().unwrap();
                prop_assert_eq!(&read, header);
                prop_assert_eq!(
                    (&origin.machine_id, &origin.hostname, &origin.netns),
                    (machine_id, hostname, netns)
                );
                // Now and then nobody asks for the records.
                if records.len() % 3 != 0 {
                    let mut found = Vec::new();
                    reader.records(|some| {
                        found.extend_from_slice(some);
                        Ok(())
                    }).unwrap();
                    prop_assert_eq!(&found, records);
                }
            }
            prop_assert!(reader.next_epoch().unwrap().is_none());
        }

        #[test]
        fn file_from_before_0_2_is_read_with_the_later_fields_unknown(header in any_header()) {
            let old = Header { growth: None, ..header };
            let text = two_epochs(&old);
            // Their columns are the last, and empty.
            let later = Growth::COLUMNS.map(|column| format!(",{column}")).concat();
            let empty = ",".repeat(Growth::COLUMNS.len());
            let lines: Vec<_> = text
                .replacen(&later, "", 1)
                .lines()
                .map(|line| line.strip_suffix(&empty).unwrap_or(line).to_owned())
                .collect();
            let text = lines.join("\n");
            prop_assert!(!text.contains("duration_ns"));
            let mut reader = EpochReader::new(Path::new("text"), text.as_bytes()).unwrap();
            for _ in 0..2 {
                prop_assert_eq!(&reader.next_epoch().unwrap().unwrap().1, &old);
            }
            prop_assert!(reader.next_epoch().unwrap().is_none());
        }

        #[test]
        fn any_text_is_an_error_or_an_epoch(garbage in any::<Vec<u8>>()) {
            let mut text = columns().collect::<Vec<_>>().join(",").into_bytes();
            text.push(b'\n');
            text.extend(&garbage);
            let mut reader = EpochReader::new(Path::new("text"), &text[..]);
            while let Ok(Ok(Some(_))) = reader.as_mut().map(EpochReader::next_epoch) {}
        }
    }
}
