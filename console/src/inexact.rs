// SPDX-License-Identifier: GPL-2.0-or-later
//! Tells what an answer does not tell exactly, since finer figures were deleted.

use serde_json::{Value as Json, json};
use trafstat_store::query::Inexact;

use crate::names::Names;

/// Sentences about the parts of an answer that are not exact.
pub fn sentences(inexact: Option<&Inexact>, names: &Names) -> Vec<String> {
    let Some(inexact) = inexact else {
        return Vec::new();
    };
    let coarse = inexact.coarse.map(|coarse| {
        let first = names.time(coarse.first);
        let when = match coarse.first == coarse.last {
            true => format!("At {first}"),
            false => format!("From {first} to {}", names.time(coarse.last)),
        };
        format!(
            "Not exact. {when} the time is cut where only sums over {} are left; each belongs to \
             the side that has its middle.",
            coarse.period
        )
    });
    let missing = inexact.missing.map(|missing| {
        format!(
            "Not whole. What was counted from {} to {} is not in it: the figures that would tell \
             were deleted.",
            names.time(missing.since),
            names.time(missing.until)
        )
    });
    let closed = inexact.closed_until.map(|until| {
        format!(
            "Traffic from before {} counts when it was collected, not when it was counted: an \
             earlier version had it so.",
            names.time(until)
        )
    });
    [coarse, missing, closed].into_iter().flatten().collect()
}

/// The same for programs; null if all is exact.
pub fn json(inexact: Option<&Inexact>) -> Json {
    let Some(inexact) = inexact else {
        return Json::Null;
    };
    json!({
        "coarse": inexact.coarse.map(|coarse| json!({
            "first": coarse.first.to_string(),
            "last": coarse.last.to_string(),
            "period": coarse.period.name(),
        })),
        "missing": inexact.missing.map(|missing| json!({
            "since": missing.since.to_string(),
            "until": missing.until.to_string(),
        })),
        "closed_until": inexact.closed_until.map(|until| until.to_string()),
    })
}

/// Adds it to an answer; nothing if all is exact.
pub fn add(object: &mut Json, inexact: Option<&Inexact>) {
    if inexact.is_some() {
        object["inexact"] = json(inexact);
    }
}
