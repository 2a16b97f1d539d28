// SPDX-License-Identifier: GPL-2.0-or-later
//! Hostile captures: every frame is accounted for, or the file is refused with a reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use trafstat_capture::file::CaptureError;

use crate::counted::count_file;
use crate::files;

#[test]
fn malformed_captures_keep_every_frame_that_capinfos_counts() {
    let paths = files::recorded("malformed");
    if paths.is_empty() || !files::is_installed("capinfos") {
        return;
    }
    let expected = frames(&paths);
    let (mut counted, mut refused, mut broken) = (0, 0, 0);
    for path in &paths {
        let result = count_file(path, "0.0.0.0/0", "::/0");
        let tally = result.tally;
        let kept = tally.ipv4 + tally.ipv6 + tally.other + tally.unknown_link;
        assert_eq!(tally.frames, kept, "{}", path.display());
        let seen: u64 = result
            .headers
            .iter()
            .map(|header| header.seen_packets)
            .sum();
        assert_eq!(seen, tally.ipv4 + tally.ipv6, "{}", path.display());
        match &result.error {
            Some(CaptureError::LinkType(_)) => refused += 1,
            error => {
                assert_eq!(
                    Some(&tally.frames),
                    expected.get(path),
                    "{}: {error:?}",
                    path.display()
                );
                counted += 1;
                if let Some(error) = error {
                    assert!(!error.to_string().is_empty());
                    broken += 1;
                }
            }
        }
    }
    println!(
        "{counted} captures counted, of which {broken} broke off with a message; {refused} of \
         link types that are not supported"
    );
}

/// What capinfos counts in each file, errors or not.
fn frames(paths: &[PathBuf]) -> BTreeMap<PathBuf, u64> {
    let output = Command::new("capinfos")
        .args(["-T", "-m", "-r", "-Q", "-c"])
        .args(paths)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| {
            let (path, count) = line.rsplit_once(',')?;
            let unquoted = |text: &str| text.trim_matches('"').to_owned();
            Some((
                Path::new(&unquoted(path)).to_owned(),
                unquoted(count).parse().ok()?,
            ))
        })
        .collect()
}
