// SPDX-License-Identifier: GPL-2.0-or-later
//! Tells how exact figures are: the standard errors of sampled ones, and what the records do not
//! have, or not as it was.

use serde_json::{Map, Value as Json, json};
use trafstat_store::query::{Accuracy, StandardError};
use trafstat_store::snapshot::{SampleClass, Volume};

use trafstat_cli::units;

/// The names of a standard error's numbers in CSV and JSON.
pub const COLUMNS: [&str; 2] = ["packets_standard_error", "bytes_standard_error"];

/// The title of the column of packets' standard errors.
pub const TITLE: &str = "± PACKETS";

/// The numbers of [`COLUMNS`], as far as they are known.
pub fn columns(error: Option<StandardError>) -> [Option<f64>; 2] {
    [
        error.map(|error| error.packets),
        error.and_then(|error| error.bytes),
    ]
}

/// The cell below [`TITLE`].
pub fn cell(error: Option<StandardError>) -> String {
    error.map_or_else(|| "?".to_owned(), |error| whole(error.packets))
}

/// The remarks on a total's accuracy, a sentence each; none where it is exact.
pub fn sentences(accuracy: &Accuracy, error: Option<StandardError>) -> Vec<String> {
    let mut sentences = sampling(accuracy, error);
    sentences.extend(left_out(accuracy));
    sentences
}

/// The same as far as CSV has no place for it.
pub fn remarks(accuracy: &Accuracy) -> Vec<String> {
    unknown(accuracy)
        .into_iter()
        .chain(unattributed(accuracy))
        .collect()
}

fn sampling(accuracy: &Accuracy, error: Option<StandardError>) -> Vec<String> {
    let Some(error) = error else {
        return unknown(accuracy).into_iter().collect();
    };
    if !accuracy.is_sampled() {
        return Vec::new();
    }
    let mut sentences = vec![format!(
        "Sampled. One standard error (68 %) of the total: {}.",
        both(error)
    )];
    // Of a part of the records no class's share is known.
    let classes = SampleClass::ALL.iter().zip(&accuracy.classes);
    for (class, sum) in classes.filter(|(_, sum)| sum.highest_rate > 1 && error.bytes.is_some()) {
        sentences.push(format!(
            "{}, up to one in {}: {} packets taken, {}.",
            name(*class),
            units::separated(sum.highest_rate.into()),
            units::separated(sum.packets),
            both(sum.error())
        ));
    }
    sentences
}

fn unknown(accuracy: &Accuracy) -> Option<String> {
    (accuracy.unknown_epochs > 0).then(|| {
        format!(
            "The standard error is not known for {}: a module from before 0.2.0 sampled.",
            epochs(accuracy.unknown_epochs)
        )
    })
}

/// Sentences about packets that are in no record, and about those that lost an address.
pub fn left_out(accuracy: &Accuracy) -> Vec<String> {
    let volume = |volume: Volume, what: &str| {
        (volume.packets > 0).then(|| {
            format!(
                "{} packets ({}) {what}.",
                units::separated(volume.packets),
                units::bytes(volume.bytes)
            )
        })
    };
    let sentences = [
        volume(
            accuracy.outside,
            "had neither side in the local net and are not counted; broadcast and multicast that \
             was received are among them",
        ),
        volume(
            accuracy.skipped,
            "were left out by sampling; those that were taken count for them",
        ),
        volume(
            accuracy.folded,
            "are counted without their remote side: raise --max-entries",
        ),
        unattributed(accuracy),
    ];
    sentences.into_iter().flatten().collect()
}

fn unattributed(accuracy: &Accuracy) -> Option<String> {
    (accuracy.unattributed_epochs > 0).then(|| {
        format!(
            "{} packets ({}) in {} found no room even for their local address: raise \
             --max-entries.",
            units::separated(accuracy.unattributed.packets),
            units::bytes(accuracy.unattributed.bytes),
            epochs(accuracy.unattributed_epochs)
        )
    })
}

/// Adds a standard error to the counters that it is of.
pub fn add_error(object: &mut Map<String, Json>, error: Option<StandardError>) {
    for (column, number) in COLUMNS.into_iter().zip(columns(error)) {
        if let Some(number) = number {
            object.insert(column.to_owned(), number.into());
        }
    }
}

/// Adds to an answer what no record has, and how exact all epochs are where they are not.
pub fn add_accuracy(object: &mut Json, accuracy: &Accuracy) {
    for (name, volume) in [
        ("outside", accuracy.outside),
        ("skipped", accuracy.skipped),
        ("folded", accuracy.folded),
    ] {
        object[name] = json!({ "packets": volume.packets, "bytes": volume.bytes });
    }
    if accuracy.is_sampled() || accuracy.unknown_epochs > 0 {
        let classes = SampleClass::ALL.iter().zip(&accuracy.classes);
        let classes: Map<String, Json> = classes
            .map(|(class, sum)| {
                let mut of_class = Map::new();
                of_class.insert("sampled_packets".to_owned(), sum.packets.into());
                of_class.insert("highest_rate".to_owned(), sum.highest_rate.into());
                add_error(&mut of_class, Some(sum.error()));
                (class.name().to_owned(), of_class.into())
            })
            .collect();
        object["sampling"] = json!({
            "classes": classes,
            "unknown_epochs": accuracy.unknown_epochs,
        });
    }
    if accuracy.unattributed_epochs > 0 {
        object["unattributed"] = json!({
            "packets": accuracy.unattributed.packets,
            "bytes": accuracy.unattributed.bytes,
            "epochs": accuracy.unattributed_epochs,
        });
    }
}

/// `1 epoch`, or `N epochs`.
pub fn epochs(number: u64) -> String {
    match number {
        1 => "1 epoch".to_owned(),
        _ => format!("{} epochs", units::separated(number)),
    }
}

fn both(error: StandardError) -> String {
    let packets = format!("± {} packets", whole(error.packets));
    match error.bytes {
        Some(bytes) => format!("{packets}, ± {}", units::bytes(bytes.ceil() as u64)),
        None => packets,
    }
}

/// An error as a whole number, which is not smaller.
fn whole(error: f64) -> String {
    units::separated(error.ceil() as u64)
}

fn name(class: SampleClass) -> &'static str {
    match class {
        SampleClass::TcpSyn => "TCP SYN",
        SampleClass::TcpAny => "TCP",
        SampleClass::UdpAny => "UDP",
    }
}
