//! Decodes a snapshot as it streams by, and refuses one that does not add up.
//!
//! A snapshot is one header and its records (`uapi/xt_TRAFSTAT.h`). It may hold
//! millions of records, so they come in batches and are never all in memory. The
//! last batch is followed by an end only if every total holds: whoever reads a
//! snapshot to its end has seen it proved.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;
use trafstat_abi::{RecordIpv4, RecordIpv6, SnapshotHeader};
use zerocopy::FromBytes;

use crate::account::{Account, Family, NameError};

/// A snapshot being read from `R`.
#[derive(Debug)]
pub struct Snapshot<R> {
    reader: R,
    header: Header,
    record_size: usize,
    unread_records: u64,
    summed: Sum,
    bytes: Vec<u8>,
    batch: Vec<Record>,
}

/// Everything that a snapshot says besides its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The account that was counted into.
    pub account: Account,
    /// The account's 128 random bits; with `epoch` the snapshot's identity.
    pub account_id: [u8; 16],
    /// Which of the account's epochs this is, from 1.
    pub epoch: u64,
    /// The account's local net, host bits as typed.
    pub local_net: IpNet,
    /// How many records follow.
    pub records: u64,
    /// When the epoch opened, in nanoseconds of CLOCK_REALTIME.
    pub opened_ns: u64,
    /// When the epoch closed, in nanoseconds of CLOCK_REALTIME.
    pub closed_ns: u64,
    /// What the epoch counted, in sum.
    pub totals: Totals,
    /// The account's limit in records.
    pub max_entries: u64,
    /// Flows of fewer packets lost their remote side; 0: off.
    pub min_pkt_spoof: u32,
    /// What modules report since 0.2.0; unknown from an older one.
    pub growth: Option<Growth>,
}

/// The fields that headers of 408 bytes have and those of 240 have not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    /// How long the epoch was open, in nanoseconds of CLOCK_BOOTTIME, which cannot be set.
    pub duration_ns: u64,
    /// The part of `folded` that lost its local side too.
    pub unattributed: Volume,
    /// What sampling took of each class, in the order of [`SampleClass::ALL`].
    pub samples: [Sample; SampleClass::ALL.len()],
}

/// A kind of packets that is sampled at a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleClass {
    /// TCP packets with SYN and without ACK, under `--sample-tcp-syn`.
    TcpSyn,
    /// Other TCP packets; SYN ones too without that option.
    TcpAny,
    /// UDP packets.
    UdpAny,
}

/// What sampling took of one class.
///
/// The variances are unbiased estimates of those of the class's packets and bytes, as the
/// records have them; their square roots are the standard errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Packets that were taken, before multiplication.
    pub packets: u64,
    /// The sum of N * (N - 1) * packets^2 over the buffers that were taken.
    pub packet_variance: u128,
    /// The sum of N * (N - 1) * bytes^2 over the buffers that were taken.
    pub byte_variance: u128,
    /// The largest N that a packet met; 0: none met one.
    pub highest_rate: u32,
}

/// The sums over an epoch: `seen + extrapolated = recorded + outside + skipped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// What the rules saw.
    pub seen: Volume,
    /// What sampling's multiplication added.
    pub extrapolated: Volume,
    /// What the records hold.
    pub recorded: Volume,
    /// What had neither side in the local net.
    pub outside: Volume,
    /// What sampling left out.
    pub skipped: Volume,
    /// Wire packets less socket buffers: `seen - gso_extra` is what rule counters say.
    pub gso_extra: Volume,
    /// The part of `recorded` that lost its remote side for want of room.
    pub folded: Volume,
}

/// An amount of traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Wire packets.
    pub packets: u64,
    /// Layer-3 bytes.
    pub bytes: u64,
}

/// What was counted for one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// IANA protocol number.
    pub protocol: u8,
    /// The side in the local net.
    pub local: Endpoint,
    /// The other side.
    pub remote: Endpoint,
    /// `RECORD_FOLDED` and flags still to come.
    pub flags: u8,
    /// What was counted.
    pub counters: Counters,
}

/// One side of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; 0 where the rule keeps none or the protocol has none.
    pub port: u16,
}

/// What a record counts, from the local side's point of view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counters {
    /// Packets that the local side sent.
    pub sent_packets: u64,
    /// Packets that the local side received.
    pub received_packets: u64,
    /// Layer-3 bytes that the local side sent.
    pub sent_bytes: u64,
    /// Layer-3 bytes that the local side received.
    pub received_bytes: u64,
    /// TCP packets with SYN and without ACK, both directions.
    pub syn_packets: u64,
}

impl Totals {
    /// The names of its figures in the database and in files of records.
    pub const COLUMNS: [&'static str; 14] = [
        "seen_packets",
        "seen_bytes",
        "extrapolated_packets",
        "extrapolated_bytes",
        "recorded_packets",
        "recorded_bytes",
        "outside_packets",
        "outside_bytes",
        "skipped_packets",
        "skipped_bytes",
        "gso_extra_packets",
        "gso_extra_bytes",
        "folded_packets",
        "folded_bytes",
    ];

    /// The values of [`Self::COLUMNS`].
    pub fn values(&self) -> impl Iterator<Item = u64> {
        let volumes = [
            self.seen,
            self.extrapolated,
            self.recorded,
            self.outside,
            self.skipped,
            self.gso_extra,
            self.folded,
        ];
        volumes
            .into_iter()
            .flat_map(|volume| [volume.packets, volume.bytes])
    }
}

impl SampleClass {
    /// The classes in the header's order.
    pub const ALL: [Self; trafstat_abi::SAMPLE_CLASSES as usize] =
        [Self::TcpSyn, Self::TcpAny, Self::UdpAny];

    /// The class's name in CSV and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpSyn => "tcp_syn",
            Self::TcpAny => "tcp_any",
            Self::UdpAny => "udp_any",
        }
    }

    /// The IANA number of its packets' protocol.
    pub fn protocol(self) -> u8 {
        match self {
            Self::TcpSyn | Self::TcpAny => 6,
            Self::UdpAny => 17,
        }
    }
}

const _: () = {
    assert!(SampleClass::TcpSyn as u32 == trafstat_abi::SAMPLE_TCP_SYN);
    assert!(SampleClass::TcpAny as u32 == trafstat_abi::SAMPLE_TCP_ANY);
    assert!(SampleClass::UdpAny as u32 == trafstat_abi::SAMPLE_UDP_ANY);
};

impl Growth {
    /// The names of its figures in the database and in files of records.
    pub const COLUMNS: [&'static str; 15] = [
        "duration_ns",
        "unattributed_packets",
        "unattributed_bytes",
        "tcp_syn_sampled_packets",
        "tcp_syn_packet_variance",
        "tcp_syn_byte_variance",
        "tcp_syn_highest_rate",
        "tcp_any_sampled_packets",
        "tcp_any_packet_variance",
        "tcp_any_byte_variance",
        "tcp_any_highest_rate",
        "udp_any_sampled_packets",
        "udp_any_packet_variance",
        "udp_any_byte_variance",
        "udp_any_highest_rate",
    ];
}

/// Stays at what 64 bits hold.
impl std::ops::AddAssign<&Self> for Counters {
    fn add_assign(&mut self, more: &Self) {
        self.sent_packets = self.sent_packets.saturating_add(more.sent_packets);
        self.received_packets = self.received_packets.saturating_add(more.received_packets);
        self.sent_bytes = self.sent_bytes.saturating_add(more.sent_bytes);
        self.received_bytes = self.received_bytes.saturating_add(more.received_bytes);
        self.syn_packets = self.syn_packets.saturating_add(more.syn_packets);
    }
}

/// Why a snapshot was refused.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The source failed.
    #[error("cannot read the snapshot: {0}")]
    Read(#[source] io::Error),
    /// The source ended inside the header.
    #[error("the snapshot ends inside its header, after {found} of {expected} bytes")]
    HeaderTruncated {
        /// Bytes that were there.
        found: usize,
        /// Bytes that the header has.
        expected: usize,
    },
    /// Not a snapshot at all.
    #[error("this is not a trafstat snapshot: it does not begin with \"TRAFSTAT\"")]
    Magic,
    /// A layout that this program does not know.
    #[error(
        "the snapshot has format version {found}, this program reads version {known}: \
         install the kernel module and trafstat-store of one release"
    )]
    Version {
        /// The snapshot's version.
        found: u16,
        /// The version read here.
        known: u32,
    },
    /// A family whose records this program cannot read.
    #[error(
        "the snapshot's address family {0} is not known to this program: install the \
         kernel module and trafstat-store of one release"
    )]
    Family(u8),
    /// A size smaller than the part of the layout that is known.
    #[error("the snapshot's {what} has {found} bytes, fewer than the {least} it must have")]
    Size {
        /// Header or record.
        what: &'static str,
        /// The size that the snapshot claims.
        found: usize,
        /// The size that this version has at least.
        least: usize,
    },
    /// The account's name is none.
    #[error("the snapshot's account name is wrong: {0}")]
    Name(#[from] NameError),
    /// The local net's prefix is longer than its address.
    #[error("the snapshot's local net has prefix length {0}, more than its address has bits")]
    PrefixLength(u8),
    /// Epochs count from 1.
    #[error("the snapshot has epoch 0; epochs count from 1")]
    Epoch,
    /// Conservation does not hold in the header.
    #[error(
        "{unit} do not add up: seen {} + extrapolated {} = {}, but recorded {} + outside {} \
         + skipped {} = {}",
        .seen, .extrapolated, u128::from(*.seen) + u128::from(*.extrapolated),
        .recorded, .outside, .skipped,
        u128::from(*.recorded) + u128::from(*.outside) + u128::from(*.skipped)
    )]
    Conservation {
        /// Packets or bytes.
        unit: Unit,
        /// What the rules saw.
        seen: u64,
        /// What sampling added.
        extrapolated: u64,
        /// What the header says the records hold.
        recorded: u64,
        /// What had neither side in the local net.
        outside: u64,
        /// What sampling left out.
        skipped: u64,
    },
    /// The records do not hold what the header says.
    #[error("{unit} do not add up: the header says recorded {header}, the records hold {records}")]
    Recorded {
        /// Packets or bytes.
        unit: Unit,
        /// The header's total.
        header: u64,
        /// The sum over the records.
        records: u128,
    },
    /// The source ended before its last record.
    #[error("the header says {expected} records, but the snapshot ends after {found}")]
    RecordsMissing {
        /// The header's count.
        expected: u64,
        /// Whole records that were there.
        found: u64,
    },
    /// The source goes on after its last record.
    #[error("the header says {0} records, but the snapshot goes on after them")]
    RecordsExcess(u64),
}

/// What a total counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Wire packets.
    Packets,
    /// Layer-3 bytes.
    Bytes,
}

/// The open epoch of an account, from a live file.
///
/// Its counters moved while they were read: nothing adds up, and a flow may come once for
/// each CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEpoch {
    /// What the file says besides; its `records`, `recorded` and `closed_ns` are 0.
    pub header: Header,
    /// What was counted until now.
    pub records: Vec<Record>,
}

impl OpenEpoch {
    /// Reads a live file to its end.
    ///
    /// # Errors
    /// The source's, ESTALE among them where the epoch was closed meanwhile, and every way in
    /// which a header or a record can be wrong.
    pub fn read(mut reader: impl Read) -> Result<Self, SnapshotError> {
        let (header, record_size) = read_header(&mut reader)?;
        let mut bytes = vec![0; (BATCH_BYTES / record_size).max(1) * record_size];
        let mut records = Vec::new();
        loop {
            let found = read_full(&mut reader, &mut bytes)?;
            if found % record_size != 0 {
                let found = (records.len() + found / record_size) as u64;
                return Err(SnapshotError::RecordsMissing {
                    expected: found + 1,
                    found,
                });
            }
            for bytes in bytes[..found].chunks_exact(record_size) {
                records.push(decode_record(header.account.family, bytes)?);
            }
            if found < bytes.len() {
                return Ok(Self { header, records });
            }
        }
    }
}

impl<R: Read> Snapshot<R> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// The source's, and every way in which a header can be wrong, conservation
    /// included.
    pub fn open(mut reader: R) -> Result<Self, SnapshotError> {
        let (header, record_size) = read_header(&mut reader)?;
        check_conservation(&header.totals)?;
        Ok(Self {
            reader,
            record_size,
            unread_records: header.records,
            header,
            summed: Sum::default(),
            bytes: Vec::new(),
            batch: Vec::new(),
        })
    }

    /// Everything besides the records.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next some thousand records; none after the last, once all totals hold.
    ///
    /// # Errors
    /// The source's, or that the records are not what the header says.
    pub fn next_batch(&mut self) -> Result<Option<&[Record]>, SnapshotError> {
        if self.unread_records == 0 {
            self.check_end()?;
            return Ok(None);
        }
        let records = usize::try_from(self.unread_records)
            .unwrap_or(usize::MAX)
            .min((BATCH_BYTES / self.record_size).max(1));
        self.bytes.resize(records * self.record_size, 0);
        let found = read_full(&mut self.reader, &mut self.bytes)?;
        if found < self.bytes.len() {
            let whole = (found / self.record_size) as u64;
            return Err(SnapshotError::RecordsMissing {
                expected: self.header.records,
                found: self.header.records - self.unread_records + whole,
            });
        }
        self.batch.clear();
        for bytes in self.bytes.chunks_exact(self.record_size) {
            let record = decode_record(self.header.account.family, bytes)?;
            self.summed.add(&record.counters);
            self.batch.push(record);
        }
        self.unread_records -= records as u64;
        Ok(Some(&self.batch))
    }

    /// The source, to acknowledge the snapshot to.
    pub fn reader_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    fn check_end(&mut self) -> Result<(), SnapshotError> {
        if read_full(&mut self.reader, &mut [0])? != 0 {
            return Err(SnapshotError::RecordsExcess(self.header.records));
        }
        let recorded = self.header.totals.recorded;
        for (unit, header, records) in [
            (Unit::Packets, recorded.packets, self.summed.packets),
            (Unit::Bytes, recorded.bytes, self.summed.bytes),
        ] {
            if u128::from(header) != records {
                return Err(SnapshotError::Recorded {
                    unit,
                    header,
                    records,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
        })
    }
}

/// How much is read at once: some thousand records, less than a cache of level 2.
const BATCH_BYTES: usize = 256 * 1024;

/// The running sum over the records; wide, since a wrong snapshot may hold anything.
#[derive(Debug, Default)]
struct Sum {
    packets: u128,
    bytes: u128,
}

impl Sum {
    fn add(&mut self, counters: &Counters) {
        self.packets += u128::from(counters.sent_packets) + u128::from(counters.received_packets);
        self.bytes += u128::from(counters.sent_bytes) + u128::from(counters.received_bytes);
    }
}

/// The size of the header that every module has had.
const LEAST_HEADER: usize = trafstat_abi::SNAPSHOT_HEADER_MIN as usize;

/// Reads the header up to the first record; gives the size of a record too.
///
/// What an older module's header lacks is zero in the bytes and unknown in the header; what a
/// newer module appended is skipped.
fn read_header(reader: &mut impl Read) -> Result<(Header, usize), SnapshotError> {
    let mut bytes = [0; size_of::<SnapshotHeader>()];
    read_header_bytes(reader, &mut bytes[..LEAST_HEADER], (0, LEAST_HEADER))?;
    let raw: SnapshotHeader = zerocopy::transmute!(bytes);
    check_format(&raw)?;
    let size = usize::from(raw.header_size);
    let known = size.min(bytes.len());
    read_header_bytes(
        reader,
        &mut bytes[LEAST_HEADER..known],
        (LEAST_HEADER, size),
    )?;
    read_header_bytes(reader, &mut vec![0; size - known], (known, size))?;
    let header = decode_header(&zerocopy::transmute!(bytes))?;
    Ok((header, usize::from(raw.record_size)))
}

/// Reads a part of a header that has `size` bytes, behind the first `before`.
fn read_header_bytes(
    reader: &mut impl Read,
    part: &mut [u8],
    (before, size): (usize, usize),
) -> Result<(), SnapshotError> {
    let found = read_full(reader, part)?;
    if found < part.len() {
        return Err(SnapshotError::HeaderTruncated {
            found: before + found,
            expected: size,
        });
    }
    Ok(())
}

/// Reads until `bytes` is full or the source ends; gives how much was read.
fn read_full(reader: &mut impl Read, bytes: &mut [u8]) -> Result<usize, SnapshotError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SnapshotError::Read(error)),
        }
    }
    Ok(filled)
}

/// Refuses what is no snapshot, or one of an unknown layout.
fn check_format(raw: &SnapshotHeader) -> Result<(), SnapshotError> {
    // The generated constant has a NUL that the field has not.
    if raw.magic[..] != trafstat_abi::SNAPSHOT_MAGIC[..raw.magic.len()] {
        return Err(SnapshotError::Magic);
    }
    if u32::from(raw.version) != trafstat_abi::SNAPSHOT_VERSION {
        return Err(SnapshotError::Version {
            found: raw.version,
            known: trafstat_abi::SNAPSHOT_VERSION,
        });
    }
    let family = family(raw)?;
    check_size("header", raw.header_size, LEAST_HEADER)?;
    check_size("record", raw.record_size, record_size(family))
}

fn family(raw: &SnapshotHeader) -> Result<Family, SnapshotError> {
    match u32::from(raw.family) {
        trafstat_abi::FAMILY_IPV4 => Ok(Family::Ipv4),
        trafstat_abi::FAMILY_IPV6 => Ok(Family::Ipv6),
        _ => Err(SnapshotError::Family(raw.family)),
    }
}

fn decode_header(raw: &SnapshotHeader) -> Result<Header, SnapshotError> {
    let family = family(raw)?;
    if raw.epoch == 0 {
        return Err(SnapshotError::Epoch);
    }
    let local_addr = match family {
        Family::Ipv4 => {
            let [a, b, c, d, ..] = raw.local_addr;
            IpAddr::from([a, b, c, d])
        }
        Family::Ipv6 => IpAddr::from(raw.local_addr),
    };
    let local_net = IpNet::new(local_addr, raw.prefix_len)
        .map_err(|_| SnapshotError::PrefixLength(raw.prefix_len))?;
    let name = raw.name.map(|character| character.to_ne_bytes()[0]);
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let header = Header {
        account: Account {
            family,
            name: String::from_utf8_lossy(name).parse()?,
        },
        account_id: raw.account_id,
        epoch: raw.epoch,
        local_net,
        records: raw.records,
        opened_ns: raw.opened_ns,
        closed_ns: raw.closed_ns,
        totals: decode_totals(raw),
        max_entries: raw.max_entries,
        min_pkt_spoof: raw.min_pkt_spoof,
        growth: decode_growth(raw),
    };
    Ok(header)
}

/// The later fields, where the header has all of them.
fn decode_growth(raw: &SnapshotHeader) -> Option<Growth> {
    let wide = |[low, high]: [u64; 2]| u128::from(high) << 64 | u128::from(low);
    (usize::from(raw.header_size) >= size_of::<SnapshotHeader>()).then(|| Growth {
        duration_ns: raw.duration_ns,
        unattributed: Volume {
            packets: raw.unattributed_packets,
            bytes: raw.unattributed_bytes,
        },
        samples: raw.sample.map(|sample| Sample {
            packets: sample.packets,
            packet_variance: wide(sample.packet_variance),
            byte_variance: wide(sample.byte_variance),
            highest_rate: sample.highest_rate,
        }),
    })
}

fn decode_totals(raw: &SnapshotHeader) -> Totals {
    let volume = |packets, bytes| Volume { packets, bytes };
    Totals {
        seen: volume(raw.seen_packets, raw.seen_bytes),
        extrapolated: volume(raw.extrapolated_packets, raw.extrapolated_bytes),
        recorded: volume(raw.recorded_packets, raw.recorded_bytes),
        outside: volume(raw.outside_packets, raw.outside_bytes),
        skipped: volume(raw.skipped_packets, raw.skipped_bytes),
        gso_extra: volume(raw.gso_extra_packets, raw.gso_extra_bytes),
        folded: volume(raw.folded_packets, raw.folded_bytes),
    }
}

fn record_size(family: Family) -> usize {
    match family {
        Family::Ipv4 => size_of::<RecordIpv4>(),
        Family::Ipv6 => size_of::<RecordIpv6>(),
    }
}

/// Decodes a record; what a later version appended to it is passed over.
fn decode_record(family: Family, bytes: &[u8]) -> Result<Record, SnapshotError> {
    // The families differ in nothing but the addresses.
    macro_rules! decode {
        ($raw:ty) => {
            <$raw>::read_from_prefix(bytes)
                .map(|(raw, _growth)| Record {
                    protocol: raw.protocol,
                    local: endpoint(raw.local_ip, raw.local_port),
                    remote: endpoint(raw.remote_ip, raw.remote_port),
                    flags: raw.flags,
                    counters: Counters {
                        sent_packets: raw.sent_packets,
                        received_packets: raw.received_packets,
                        sent_bytes: raw.sent_bytes,
                        received_bytes: raw.received_bytes,
                        syn_packets: raw.syn_packets,
                    },
                })
                .ok()
        };
    }
    match family {
        Family::Ipv4 => decode!(RecordIpv4),
        Family::Ipv6 => decode!(RecordIpv6),
    }
    .ok_or(SnapshotError::Size {
        what: "record",
        found: bytes.len(),
        least: record_size(family),
    })
}

fn endpoint(ip: impl Into<IpAddr>, port: u16) -> Endpoint {
    Endpoint {
        ip: ip.into(),
        port,
    }
}

fn check_size(what: &'static str, found: u16, least: usize) -> Result<(), SnapshotError> {
    let found = usize::from(found);
    if found < least {
        return Err(SnapshotError::Size { what, found, least });
    }
    Ok(())
}

pub(crate) fn check_conservation(totals: &Totals) -> Result<(), SnapshotError> {
    for (unit, of) in [
        (
            Unit::Packets,
            (|volume| volume.packets) as fn(Volume) -> u64,
        ),
        (Unit::Bytes, |volume| volume.bytes),
    ] {
        let [seen, extrapolated, recorded, outside, skipped] = [
            totals.seen,
            totals.extrapolated,
            totals.recorded,
            totals.outside,
            totals.skipped,
        ]
        .map(of);
        let counted = u128::from(seen) + u128::from(extrapolated);
        if counted != u128::from(recorded) + u128::from(outside) + u128::from(skipped) {
            return Err(SnapshotError::Conservation {
                unit,
                seen,
                extrapolated,
                recorded,
                outside,
                skipped,
            });
        }
    }
    Ok(())
}
