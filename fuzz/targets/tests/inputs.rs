// SPDX-License-Identifier: GPL-2.0-or-later
//! Every fuzz target over its committed inputs, and over the same thousands of inputs that are
//! made of them each time.

use std::path::Path;

use fastrand::Rng;
use trafstat_fuzz_targets::{
    capture, config, extension_headers, flow_table, import, parse, rule_blob, rule_options,
    snapshot,
};

/// Inputs for each target, beside the committed ones.
const INPUTS: usize = 2000;
const SEED: u64 = 7;

#[test]
fn capture_has_no_finding() {
    run("capture", capture::run);
}

#[test]
fn config_has_no_finding() {
    run("config", config::run);
}

#[test]
fn extension_headers_have_no_finding() {
    run("extension_headers", extension_headers::run);
}

#[test]
fn flow_table_has_no_finding() {
    run("flow_table", flow_table::run);
}

#[test]
fn import_has_no_finding() {
    run("import", import::run);
}

#[test]
fn parse_has_no_finding() {
    run("parse", parse::run);
}

#[test]
fn rule_blob_has_no_finding() {
    run("rule_blob", rule_blob::run);
}

#[test]
fn rule_options_have_no_finding() {
    run("rule_options", rule_options::run);
}

#[test]
fn snapshot_has_no_finding() {
    run("snapshot", snapshot::run);
}

fn run(target: &str, target_run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let committed: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(!committed.is_empty(), "{}", folder.display());
    for input in &committed {
        target_run(input);
    }
    let mut rng = Rng::with_seed(SEED);
    for _ in 0..INPUTS {
        let mut input = committed[rng.usize(..committed.len())].clone();
        for _ in 0..rng.usize(1..6) {
            change(&mut input, &mut rng);
        }
        let outcome = std::panic::catch_unwind(|| target_run(&input));
        assert!(outcome.is_ok(), "finding: {input:02x?}");
    }
}

/// Changes a bit or a byte, cuts, or repeats a part.
fn change(input: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    match rng.u8(..6) {
        0 => input.insert(at, rng.u8(..)),
        1 => input.truncate(at),
        2 => {
            let end = rng.usize(at..=input.len());
            let part = input[at..end].to_vec();
            let to = rng.usize(..=input.len());
            input.splice(to..to, part);
        }
        kind => {
            if let Some(byte) = input.get_mut(at) {
                match kind {
                    3 => *byte ^= 1 << rng.u8(..8),
                    4 => *byte = [0, 1, 0x7f, 0x80, 0xff][rng.usize(..5)],
                    _ => *byte = rng.u8(..),
                }
            }
        }
    }
}
