// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as a capture, read and counted: no frame is lost on the way.

use std::time::Duration;

use trafstat_capture::engine::{Engine, Rules};
use trafstat_capture::file::CaptureFile;
use trafstat_rule::local_net::{Family, Ipv4, Ipv6};
use trafstat_rule::options::{self, RuleOption};

/// What compressed input may unpack to.
const MAX_BYTES: u64 = 1 << 22;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let Ok(mut file) = CaptureFile::open(bytes) else {
        return;
    };
    let (ipv4, ipv6) = (rule::<Ipv4>("0.0.0.0/1"), rule::<Ipv6>("::/1"));
    let rules = Rules {
        ipv4: Some(&ipv4),
        ipv6: Some(&ipv6),
    };
    let mut engine = Engine::new(rules, Some(Duration::from_secs(60)));
    let mut seen = 0;
    while let Ok(Some(frame)) = file.next_frame() {
        if engine.is_past_epoch(&frame) {
            engine.close(frame.time_ns.expect("a time that is past"));
            engine.count(&frame);
            seen += give_up(&engine);
        } else {
            engine.count(&frame);
        }
        if file.offset() > MAX_BYTES {
            break;
        }
    }
    engine.close_last();
    seen += give_up(&engine);
    let tally = engine.tally();
    assert_eq!(seen, tally.ipv4 + tally.ipv6);
    assert_eq!(
        tally.frames,
        tally.ipv4 + tally.ipv6 + tally.other + tally.unknown_link
    );
}

fn rule<F: Family>(net: &str) -> trafstat_abi::RuleInfo {
    let mut info = options::empty();
    for (name, value) in [
        ("local-net", net),
        ("local-tcp-ports", "all"),
        ("name", "a"),
    ] {
        let option = RuleOption::find(name).expect("an option");
        options::parse::<F>(&mut info, option, value, false, |_, _| None).expect("a value");
    }
    info
}

/// Acknowledges what is closed; gives how many packets were seen in it.
fn give_up(engine: &Engine) -> u64 {
    let mut seen = 0;
    for mut served in engine.closed() {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut served, &mut bytes).expect("memory does not fail");
        let u64_at = |offset: usize| {
            let field: [u8; 8] = bytes[offset..offset + 8].try_into().expect("eight bytes");
            u64::from_ne_bytes(field)
        };
        let offset = core::mem::offset_of!(trafstat_abi::SnapshotHeader, seen_packets);
        seen += u64_at(offset);
        let epoch = u64_at(core::mem::offset_of!(trafstat_abi::SnapshotHeader, epoch));
        served.acknowledge(epoch).expect("this epoch");
    }
    seen
}
