// SPDX-License-Identifier: GPL-2.0-or-later
//! The original's CSV.

use trafstat_core::account::Limits;
use trafstat_core::csv::Csv;
use trafstat_core::sampling::Sampling;
use trafstat_core::snapshot::{self, Cursor, Yield};
use trafstat_core::synthetic::{Flow, account, close_alone, header, packet, rule};

#[test]
fn fields_and_order_are_the_originals() {
    let account = account(
        Limits {
            max_entries: 1000,
            min_pkt_spoof: 0,
        },
        1,
    );
    let rule = rule(Sampling::default(), ()).expect("memory");
    let flow = Flow {
        protocol: 6,
        local: [10, 1, 2, 3],
        remote: [192, 0, 2, 200],
        local_port: 443,
        remote_port: 51200,
    };
    let count = |sent, syn, len| {
        let bytes = header(&flow, sent, syn);
        account
            .count(&rule, 0, packet(&bytes, len), &())
            .expect("enough bytes");
    };
    count(false, true, 60);
    count(true, false, 1500);
    count(true, false, 1500);
    close_alone(&account);
    let closed = account.closed(&()).expect("closed");
    let expected = b"6,167838211,3221226184,443,51200,2,1,3000,60,1\n";
    for step in [1, 5, 200] {
        let mut cursor = Cursor::default();
        let mut text = Vec::new();
        loop {
            let mut buffer = vec![0; step];
            let offset = text.len() as u64;
            match snapshot::read(&closed, &Csv, &mut cursor, offset, &mut buffer) {
                Ok(0) => break,
                Err(Yield) => {}
                Ok(n) => text.extend_from_slice(&buffer[..n]),
            }
        }
        assert_eq!(text, expected, "{}", String::from_utf8_lossy(&text));
    }
}
