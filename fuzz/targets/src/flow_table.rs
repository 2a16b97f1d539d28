// SPDX-License-Identifier: GPL-2.0-or-later
//! An account driven by a program of bytes, against a map: nothing is lost, and until
//! records are folded every flow is exact.

use std::collections::BTreeMap;

use trafstat_core::account::Limits;
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{self, Flow, Ipv4Account, account, close_alone, header, rule};

const CPUS: u32 = 3;

/// Of a program; what follows is left out. Growth comes within a third of them, and many programs
/// say more than long ones.
const STEPS: usize = 16;

/// Sent and received packets.
type Model = BTreeMap<u16, [u64; 2]>;

/// Runs one input.
pub fn run(program: &[u8]) {
    let Some((&limit, program)) = program.split_first() else {
        return;
    };
    let limits = Limits {
        max_entries: u32::from(limit) * 8,
        min_pkt_spoof: 0,
    };
    let account = account(limits, CPUS);
    let rule = rule(Sampling::default(), ()).expect("memory");
    let mut model = Model::new();
    for step in program.chunks_exact(3).take(STEPS) {
        let [op, low, high] = *step else { return };
        let number = u16::from_le_bytes([low, high]) % 4096;
        match op {
            0 => {
                account.prepare(&());
            }
            1 => {
                check(&account, &model, limits);
                model.clear();
            }
            _ => {
                let sent = op & 1 != 0;
                let bytes = header(&flow(number), sent, false);
                // A few flows in a row, or so many that short programs reach growth.
                let run = match op >> 2 {
                    63 => 63,
                    few => few % 4,
                };
                for next in 0..u16::from(run) {
                    let number = (number + next) % 4096;
                    let bytes = if next == 0 {
                        bytes
                    } else {
                        header(&flow(number), sent, false)
                    };
                    let cpu = u32::from(op) % CPUS;
                    synthetic::count(&account, &rule, cpu, &bytes, 40);
                    model.entry(number).or_default()[usize::from(!sent)] += 1;
                }
            }
        }
    }
    check(&account, &model, limits);
}

fn flow(number: u16) -> Flow {
    Flow {
        protocol: 17,
        local: [10, 0, 0, 1 + (number % 3) as u8],
        remote: [192, 0, 2, 1],
        local_port: number,
        remote_port: 53,
    }
}

/// Closes the epoch, compares it with the model and gives it up.
fn check(account: &Ipv4Account, model: &Model, limits: Limits) {
    let number = close_alone(account);
    let epoch = account.closed(&()).expect("just closed");
    let totals = epoch.totals();
    let expected: u64 = model.values().flatten().sum();
    assert_eq!(totals.seen.packets, expected);
    assert!(totals.is_conserved());
    let (mut records, mut sum) = (0, 0);
    for record in epoch.iter() {
        let key = record.key();
        let packets = record.counters().packets;
        sum += packets[0] + packets[1];
        records += 1;
        if !key.is_folded() {
            let port = (key.0[1] & 0xffff) as u16;
            let exact = model.get(&port).expect("a flow that was counted");
            assert!(packets[0] <= exact[0] && packets[1] <= exact[1]);
            if totals.folded.packets == 0 {
                assert_eq!(packets, *exact);
            }
        }
    }
    assert_eq!((records, sum), (epoch.records(), expected));
    if model.len() as u64 * u64::from(CPUS) + 16 * u64::from(CPUS) <= u64::from(limits.max_entries)
    {
        // Room for every flow on every CPU, though perhaps not for the memory ahead.
        assert!(records <= model.len() as u64 + 4);
    }
    account.acknowledge(number, &()).expect("this epoch");
}
