// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as a rule, through what the kernel does with one: check, count, read, drop.
//!
//! An input starts with the fields of `struct xt_trafstat_tginfo` in their order. Of the port
//! ranges it has as many as a number before them says; the others are zero. Then come the
//! account's random numbers, and steps until the input ends.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::CStr;

use arbitrary::{Result, Unstructured};
use trafstat_abi::{OLDEST_REVISION, PortList, PortRange, REVISION, RuleInfo, SnapshotHeader};
use trafstat_core::account::{
    Account, Environment, Epoch, Identity, Keys, Limits, Packet, Timestamp,
};
use trafstat_core::classify::{Family, Ipv4, Ipv6};
use trafstat_core::csv::Csv;
use trafstat_core::hash::HashKey;
use trafstat_core::memory::StdMemory;
use trafstat_core::parse::HEADER_BYTES;
use trafstat_core::parse::transport::{SCTP, TCP, UDP, UDP_LITE};
use trafstat_core::rule::{self, Refusal, Rule};
use trafstat_core::sampling::{Sampling, SamplingKey};
use trafstat_core::snapshot::{self, Binary, Cursor, Format};
use trafstat_core::synthetic::SingleThread;
use trafstat_core::wire::{Gso, Volume};
use trafstat_rule::options;
use zerocopy::FromBytes;

const CPUS: u32 = 2;

/// The most steps of an input; what follows is ignored.
const STEPS: usize = 16;

/// The most packets of one step. Under a hash key of zeros all flows collide, and merging them
/// takes time by the square of their number.
const RUN: u16 = 12;

/// Two with ports, two that share their lists, and two without.
const PROTOCOLS: [u8; 6] = [TCP, UDP, SCTP, UDP_LITE, 1, 0];

/// Runs one input.
pub fn run(bytes: &[u8]) {
    // An input that ends early is one of zeros.
    let _ = check_rule(&mut Unstructured::new(bytes));
}

fn check_rule(input: &mut Unstructured<'_>) -> Result<()> {
    let info = rule_info(input)?;
    let family = input.arbitrary()?;
    let is_ipv4 = is_valid(&info, Ipv4::NUMBER);
    let is_ipv6 = is_valid(&info, Ipv6::NUMBER);
    assert!(is_ipv6 || !is_ipv4, "a rule of IPv4 has a longer prefix");
    match family {
        Ipv4::NUMBER if is_ipv4 => count_by_rule::<Ipv4, 2>(&info, input),
        Ipv6::NUMBER if is_ipv6 => count_by_rule::<Ipv6, 5>(&info, input),
        Ipv4::NUMBER | Ipv6::NUMBER => {
            let _ = rule_of(&info);
            Ok(())
        }
        _ => {
            assert!(!is_valid(&info, family));
            Ok(())
        }
    }
}

/// Whether a revision takes the rule, which is checked in each. The oldest takes whatever a later
/// one does, and what it takes beyond that is the same rule once its room is cleared.
fn is_valid(info: &RuleInfo, family: u8) -> bool {
    let mut cleared = *info;
    cleared.clear_room();
    let oldest = rule::check(info, OLDEST_REVISION as u8, family);
    for revision in OLDEST_REVISION as u8..=REVISION as u8 {
        let checked = rule::check(info, revision, family);
        match (oldest, checked) {
            (Ok(()), Ok(())) => {}
            (Ok(()), Err(refusal)) => {
                assert_eq!(refusal, Refusal::UnknownOption);
                assert!(!info.has_known_options_alone());
            }
            (Err(_), _) => assert_eq!(checked, oldest),
        }
        assert_eq!(rule::check(&cleared, revision, family), oldest);
    }
    oldest.is_ok()
}

fn rule_info(input: &mut Unstructured<'_>) -> Result<RuleInfo> {
    let mut info = RuleInfo {
        name: input.arbitrary::<[u8; 32]>()?.map(|byte| byte as _),
        local_addr: input.arbitrary()?,
        prefix_len: input.arbitrary()?,
        policy: input.arbitrary()?,
        flags: input.arbitrary()?,
        dump_priority: input.arbitrary()?,
        max_entries: input.arbitrary()?,
        min_pkt_spoof: input.arbitrary()?,
        sample_tcp_syn: input.arbitrary()?,
        sample_tcp_any: input.arbitrary()?,
        sample_udp_any: input.arbitrary()?,
        ..options::empty()
    };
    for list in &mut info.lists {
        *list = PortList {
            mode: input.arbitrary()?,
            start: input.arbitrary()?,
            count: input.arbitrary()?,
            reserved: input.arbitrary()?,
        };
    }
    let ranges: u16 = input.arbitrary()?;
    for range in info.ranges.iter_mut().take(ranges.into()) {
        *range = PortRange {
            first: input.arbitrary()?,
            last: input.arbitrary()?,
        };
    }
    if info.dump_priority & 1 == 0 {
        clear_what_means_nothing(&mut info);
    }
    Ok(info)
}

/// Zeros the fields that must be zero, which hardly any input has so by itself.
fn clear_what_means_nothing(info: &mut RuleInfo) {
    if u32::from(info.prefix_len) <= 32 {
        info.local_addr[4..].fill(0);
    }
    for list in &mut info.lists {
        list.reserved = 0;
        if list.count == 0 {
            list.start = 0;
        }
    }
}

fn rule_of(info: &RuleInfo) -> Rule<StdMemory> {
    let sampling = Sampling::of_rule(info);
    Rule::new(&info.lists, &info.ranges, sampling, (), &()).expect("memory")
}

/// Asserts that the name of a valid rule can be a file's.
fn assert_is_file_name(name: &[u8]) {
    let name = CStr::from_bytes_until_nul(name).expect("a NUL");
    let name = name.to_str().expect("ASCII");
    assert!(!name.is_empty() && !name.starts_with('.') && !name.contains('/'));
}

fn count_by_rule<F: Family<W>, const W: usize>(
    info: &RuleInfo,
    input: &mut Unstructured<'_>,
) -> Result<()>
where
    Csv: Format<W>,
{
    let identity = Identity::of_rule(info, input.arbitrary()?);
    assert_is_file_name(&identity.name);
    let keys = Keys {
        hash: HashKey(input.arbitrary()?),
        sampling: SamplingKey(input.arbitrary()?),
    };
    let now = Timestamp::of_one_clock(1);
    let account = Account::<StdMemory, F, W>::new(identity, keys, Limits::of_rule(info), (), now);
    assert!(account.allocate(CPUS, |_| true, &()));
    let mut counting = Counting {
        account,
        rule: rule_of(info),
        local_addr: &info.local_addr[..usize::from(F::ADDRESS_BITS) / 8],
        open: Volume::default(),
        closed: None,
    };
    let program = counting.run(input);
    counting.end();
    program
}

/// An account and a model of its totals.
struct Counting<'a, F: Family<W>, const W: usize> {
    account: Account<StdMemory, F, W>,
    rule: Rule<StdMemory>,
    local_addr: &'a [u8],
    /// Buffers of the open epoch and their bytes.
    open: Volume,
    /// The same of an epoch that was closed and is not acknowledged.
    closed: Option<Volume>,
}

impl<F: Family<W>, const W: usize> Counting<'_, F, W>
where
    Csv: Format<W>,
{
    fn run(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            match input.arbitrary::<u8>()? % 8 {
                0 => {
                    self.account.prepare(&());
                }
                1 => self.close(&Patience(Cell::new(input.arbitrary()?)), input)?,
                2 => self.account.set_limits(limits(input)?),
                3 => self.count_bytes(input)?,
                4 => {
                    let open = self.account.open_epoch(&());
                    let len = usize::from(input.arbitrary::<u8>()? | 1);
                    read_all(&open, &Binary, len);
                    read_all(&open, &Csv, len);
                    self.account.stats(&());
                }
                _ => self.count_run(input)?,
            }
        }
        Ok(())
    }

    /// Counts packets of neighbouring flows, most of them eligible for the fast path.
    fn count_run(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let header = Header {
            protocol: *input.choose(&PROTOCOLS)?,
            is_sent: input.arbitrary()?,
            host: input.arbitrary()?,
            remote: input.arbitrary()?,
            ports: input.arbitrary()?,
            tcp_flags: input.arbitrary()?,
        };
        let packets = 1 + input.arbitrary::<u16>()? % RUN;
        let gso = gso(input)?;
        for number in 0..packets {
            let [local, remote] = header.ports;
            let ports = [local.wrapping_add(number), remote];
            let bytes = Header { ports, ..header }.bytes(self.local_addr);
            let cpu = u32::from(number) % CPUS;
            self.count(cpu, &bytes, bytes.len() as u32, gso);
        }
        Ok(())
    }

    /// Counts a packet of any bytes.
    fn count_bytes(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let cpu = u32::from(input.arbitrary::<bool>()?);
        let gso = gso(input)?;
        let missing: u32 = input.arbitrary()?;
        let len = usize::from(input.arbitrary::<u16>()?).min(input.len());
        let bytes = input.bytes(len)?;
        self.count(cpu, bytes, (len as u32).saturating_add(missing), gso);
        Ok(())
    }

    /// Counts a buffer of `len` bytes, of which `bytes` lie in one piece, as `target.c` does.
    fn count(&mut self, cpu: u32, bytes: &[u8], len: u32, gso: Option<Gso>) {
        let Self { account, rule, .. } = self;
        self.open = self.open.plus(Volume {
            packets: 1,
            bytes: len.into(),
        });
        let tables = account.tables(cpu, &()).expect("the CPU's tables");
        if gso.is_none()
            && account
                .count_if_eligible(rule, &tables, bytes, len, &())
                .is_some()
        {
            return;
        }
        let packet = Packet { bytes, len, gso };
        if account.count(rule, cpu, packet, &()).is_err() {
            let mut bytes = bytes.to_vec();
            bytes.resize(HEADER_BYTES.min(len as usize), 0);
            let bytes = &bytes;
            let counted = account.count(rule, cpu, Packet { bytes, ..packet }, &());
            counted.expect("as many bytes as are ever needed");
        }
    }

    /// Closes an epoch unless `environment` gives up, checks it and may acknowledge it.
    fn close(
        &mut self,
        environment: &impl Environment,
        input: &mut Unstructured<'_>,
    ) -> Result<()> {
        if self.closed.is_none() {
            self.closed = Some(std::mem::take(&mut self.open));
        }
        let now = Timestamp::of_one_clock(2);
        let Ok(number) = self.account.close(now, environment, &()) else {
            return Ok(());
        };
        let epoch = self.account.closed(&()).expect("just closed");
        check(&epoch, self.closed.expect("a closed epoch"), input)?;
        if input.ratio(7, 8)? {
            let later = number.wrapping_add(1);
            assert!(self.account.acknowledge(later, &()).is_err());
            self.account.acknowledge(number, &()).expect("this epoch");
            self.closed = None;
        }
        Ok(())
    }

    /// Closes and acknowledges whatever is left, then drops account and rule.
    fn end(mut self) {
        while self.closed.is_some() || self.open.packets != 0 {
            // Zeros: acknowledged each time.
            let read = self.close(&SingleThread, &mut Unstructured::new(&[]));
            read.expect("no bytes are needed");
        }
        assert!(self.account.is_idle(&()));
    }
}

/// Gives up after a number of steps; never with the highest.
struct Patience(Cell<u8>);

impl Environment for Patience {
    fn wait_for_writers(&self) {}

    fn go_on(&self) -> bool {
        let Self(left) = self;
        match left.get() {
            0 => return false,
            u8::MAX => {}
            some => left.set(some - 1),
        }
        true
    }
}

/// Limits as the options of a rule give them, or lower ones, with which few flows fold.
fn limits(input: &mut Unstructured<'_>) -> Result<Limits> {
    let [max_entries, min_pkt_spoof] = input.arbitrary()?;
    Ok(if input.arbitrary()? {
        Limits::of_options(max_entries, min_pkt_spoof)
    } else {
        Limits {
            max_entries: max_entries % 64,
            min_pkt_spoof: min_pkt_spoof % 8,
        }
    })
}

fn gso(input: &mut Unstructured<'_>) -> Result<Option<Gso>> {
    let gso = Gso {
        size: input.arbitrary()?,
        segs: input.arbitrary()?,
        header_len: input.arbitrary()?,
        has_transport: input.arbitrary()?,
    };
    Ok(input.arbitrary::<bool>()?.then_some(gso))
}

/// What makes a packet's headers.
#[derive(Clone, Copy)]
struct Header {
    protocol: u8,
    is_sent: bool,
    /// Changes the last byte of the local address.
    host: u8,
    /// First and last byte of the remote address.
    remote: [u8; 2],
    ports: [u16; 2],
    tcp_flags: u8,
}

impl Header {
    /// An IP header and the 20 bytes of a TCP header.
    fn bytes(self, local_addr: &[u8]) -> Vec<u8> {
        let protocol = self.protocol;
        let mut local = local_addr.to_vec();
        let mut remote = vec![0; local.len()];
        let mut bytes = match local.len() {
            4 => vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0],
            _ => vec![0x60, 0, 0, 0, 0, 20, protocol, 64],
        };
        let last = local.len() - 1;
        local[last] ^= self.host;
        [remote[0], remote[last]] = self.remote;
        let ends = [
            (local, self.ports[0].to_be_bytes()),
            (remote, self.ports[1].to_be_bytes()),
        ];
        let [(src, src_port), (dst, dst_port)] = &ends;
        let parts: [&[u8]; 4] = match self.is_sent {
            true => [src, dst, src_port, dst_port],
            false => [dst, src, dst_port, src_port],
        };
        bytes.extend(parts.concat());
        bytes.extend([0; 9]);
        bytes.push(self.tcp_flags);
        bytes.extend([0; 6]);
        bytes
    }
}

/// Checks a closed epoch, in which the rules saw this volume of buffers.
fn check<const W: usize>(
    epoch: &Epoch<'_, StdMemory, W>,
    buffers: Volume,
    input: &mut Unstructured<'_>,
) -> Result<()>
where
    Csv: Format<W>,
{
    let totals = epoch.totals();
    assert!(totals.is_conserved());
    assert_eq!(totals.seen, buffers.plus(totals.gso_extra));
    let records = epoch.records();
    assert!(records <= 2 * u64::from(epoch.limits().max_entries) + 1);

    // In odd steps, not too many for one input.
    let len = usize::from(input.arbitrary::<u8>()? | 1) + 2 * records as usize;
    let bytes = read_all(epoch, &Binary, len);
    let (header, rest) = SnapshotHeader::read_from_prefix(&bytes).expect("a header");
    assert_eq!(header.records, records);
    let record_size = usize::from(header.record_size);
    assert_eq!(rest.len() as u64, records * record_size as u64);
    let mut recorded = Volume::default();
    let mut keys = BTreeSet::new();
    for record in rest.chunks(record_size) {
        let words = record.chunks_exact(8).map(|word| {
            let word = word.first_chunk().expect("eight bytes");
            u64::from_ne_bytes(*word)
        });
        let words: Vec<_> = words.collect();
        let (key, counters) = words.split_at(W);
        assert!(keys.insert(key.to_vec()), "a flow twice: {key:x?}");
        for way in 0..2 {
            recorded = recorded.plus(Volume {
                packets: counters[way],
                bytes: counters[2 + way],
            });
        }
    }
    assert_eq!(recorded, totals.recorded);

    let lines = read_all(epoch, &Csv, len);
    let line_feeds = lines.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(line_feeds as u64, records);
    check_jumps(epoch, &Binary, &bytes, input)?;
    check_jumps(epoch, &Csv, &lines, input)
}

/// The whole file, read by `len` bytes at a time.
fn read_all<const W: usize>(
    epoch: &Epoch<'_, StdMemory, W>,
    format: &impl Format<W>,
    len: usize,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut cursor = Cursor::default();
    let mut buffer = vec![0; len];
    loop {
        let offset = bytes.len() as u64;
        match snapshot::read(epoch, format, &mut cursor, offset, &mut buffer) {
            Ok(0) => return bytes,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(snapshot::Yield) => {}
        }
    }
}

/// Checks that reads at any offset, backwards too, find what stands there.
fn check_jumps<const W: usize>(
    epoch: &Epoch<'_, StdMemory, W>,
    format: &impl Format<W>,
    bytes: &[u8],
    input: &mut Unstructured<'_>,
) -> Result<()> {
    let mut cursor = Cursor::default();
    let mut buffer = [0; u8::MAX as usize];
    for _ in 0..2 {
        let offset = usize::from(input.arbitrary::<u16>()?);
        let len = usize::from(input.arbitrary::<u8>()?);
        let found = loop {
            let out = &mut buffer[..len];
            if let Ok(read) = snapshot::read(epoch, format, &mut cursor, offset as u64, out) {
                break read;
            }
        };
        let expected = bytes.get(offset..).unwrap_or_default();
        assert!(found == len.min(expected.len()) && buffer[..found] == expected[..found]);
    }
    Ok(())
}
