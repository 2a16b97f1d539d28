// SPDX-License-Identifier: GPL-2.0-or-later
//! Readings of live files as the kernel serves them, and what becomes of them.

use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use trafstat_store::query::{Field, Value};
use trafstat_store::snapshot::OpenEpoch;
use trafstat_store::source::{OpenEpochSource, SourceError};

use super::meter::{Meter, Sort};
use super::screen::{Action, Screen};
use crate::names::Names;

#[path = "../../../store/tests/common/mod.rs"]
mod common;

use common::{SnapshotBuilder, record};

const SECOND: Duration = Duration::from_secs(1);

/// A live file: totals that do not add up, and records of which some come twice.
fn live(name: &str, epoch: u64, packets: &[(u8, u8, u16, u64)]) -> OpenEpoch {
    let records = packets
        .iter()
        .map(|&(local, remote, port, packets)| record(local, remote, 6, port, packets))
        .collect();
    let mut snapshot = SnapshotBuilder::new(name, epoch, records);
    snapshot.header.flags = 1;
    snapshot.header.records = 0;
    snapshot.header.closed_ns = 0;
    snapshot.header.recorded_packets = 0;
    snapshot.header.recorded_bytes = 0;
    OpenEpoch::read(&snapshot.bytes()[..]).unwrap()
}

fn rates(meter: &Meter, by: &[Field]) -> Vec<(String, u64, u64)> {
    meter
        .lines(by, Sort::Sent)
        .iter()
        .map(|line| {
            let key: Vec<String> = line.key.iter().map(Value::to_string).collect();
            let rates = line.rates.unwrap();
            (key.join(" "), rates.sent_bits as u64, rates.packets as u64)
        })
        .collect()
}

#[test]
fn rate_is_what_came_since_the_last_reading() {
    let mut meter = Meter::default();
    meter.read(
        vec![live("lan", 1, &[(1, 7, 443, 10), (2, 7, 22, 5)])],
        SECOND,
    );
    assert!(
        meter.lines(&[Field::LocalIp], Sort::Sent)[0]
            .rates
            .is_none()
    );
    meter.read(
        vec![live("lan", 1, &[(1, 7, 443, 30), (2, 7, 22, 5)])],
        2 * SECOND,
    );
    // 20 packets of 100 bytes sent, 40 received, in two seconds.
    assert_eq!(
        rates(&meter, &[Field::LocalIp]),
        [
            ("192.0.2.1".to_owned(), 8000, 30),
            ("192.0.2.2".to_owned(), 0, 0)
        ]
    );
    assert_eq!(meter.total().counters.sent_bytes, 3500);
}

#[test]
fn new_epoch_counts_from_nothing() {
    let mut meter = Meter::default();
    meter.read(vec![live("lan", 1, &[(1, 7, 443, 1000)])], SECOND);
    meter.read(vec![live("lan", 2, &[(1, 7, 443, 10)])], SECOND);
    assert_eq!(rates(&meter, &[]), [(String::new(), 8000, 30)]);
}

#[test]
fn flow_that_comes_once_for_each_cpu_is_one() {
    let mut meter = Meter::default();
    meter.read(
        vec![live("lan", 1, &[(1, 7, 443, 1), (1, 7, 443, 2)])],
        SECOND,
    );
    meter.read(
        vec![live("lan", 1, &[(1, 7, 443, 5), (1, 7, 443, 2)])],
        SECOND,
    );
    let by = [Field::LocalIp, Field::LocalPort];
    assert_eq!(rates(&meter, &by), [("192.0.2.1 443".to_owned(), 3200, 12)]);
}

#[test]
fn counter_that_moved_back_is_no_rate() {
    let mut meter = Meter::default();
    meter.read(vec![live("lan", 1, &[(1, 7, 443, 9)])], SECOND);
    meter.read(vec![live("lan", 1, &[(1, 7, 443, 8)])], SECOND);
    assert_eq!(rates(&meter, &[]), [(String::new(), 0, 0)]);
}

#[test]
fn accounts_are_told_apart_and_summed_up() {
    let mut meter = Meter::default();
    meter.read(vec![live("lan", 1, &[]), live("dmz", 1, &[])], SECOND);
    meter.read(
        vec![
            live("lan", 1, &[(1, 7, 443, 1)]),
            live("dmz", 1, &[(1, 7, 443, 2)]),
        ],
        SECOND,
    );
    let accounts: Vec<String> = rates(&meter, &[Field::Account])
        .into_iter()
        .map(|(name, _, _)| name)
        .collect();
    assert_eq!(accounts, ["dmz", "lan"]);
    assert_eq!(rates(&meter, &[Field::LocalIp])[0].2, 9);
}

fn screen(by: &[Field]) -> Screen {
    let names = Names::new(TimeZone::UTC, true);
    Screen::new(by.to_vec(), names, true, SECOND)
}

fn drawn(screen: &mut Screen, meter: &Meter, (columns, lines): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| screen.draw(meter, frame)).unwrap();
    terminal.backend().to_string()
}

fn press(screen: &mut Screen, code: KeyCode) -> Action {
    screen.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn measured() -> Meter {
    let mut meter = Meter::default();
    let hosts: Vec<(u8, u8, u16, u64)> = (1..=40).map(|host| (host, 7, 443, 0)).collect();
    meter.read(vec![live("lan", 1, &hosts)], SECOND);
    let hosts: Vec<(u8, u8, u16, u64)> = (1..=40)
        .map(|host| (host, 7, 443, u64::from(host) * 1000))
        .collect();
    meter.read(vec![live("lan", 1, &hosts)], SECOND);
    meter
}

#[test]
fn screen_fits_80_columns_and_200() {
    let meter = measured();
    let by = [Field::LocalIp, Field::Protocol, Field::LocalPort];
    let narrow = drawn(&mut screen(&by), &meter, (80, 24));
    let line = narrow
        .lines()
        .find(|line| line.contains("192.0.2.40"))
        .unwrap();
    for cell in ["443", "32.0 Mbit/s", "480.0 Mbit/s", "120.0 k/s"] {
        assert!(line.contains(cell), "{narrow}");
    }
    // No room for the last column, but for one that sorts.
    assert!(!narrow.contains("TOTAL"), "{narrow}");
    let mut by_total = screen(&by);
    press(&mut by_total, KeyCode::Left);
    press(&mut by_total, KeyCode::Left);
    let narrow = drawn(&mut by_total, &meter, (80, 24));
    assert!(narrow.contains("61.0 MiB"), "{narrow}");
    assert!(!narrow.contains("PACKETS"), "{narrow}");
    let wide = drawn(&mut screen(&by), &meter, (200, 24));
    assert!(wide.contains(&"█".repeat(30)), "{wide}");
}

#[test]
fn screen_of_any_size_is_drawn() {
    let meter = measured();
    for columns in [1, 2, 7, 30, 79, 500] {
        for lines in [1, 2, 3, 4, 100] {
            for by in [&[][..], &[Field::LocalIp, Field::RemoteIp]] {
                let mut screen = screen(by);
                press(&mut screen, KeyCode::PageDown);
                drawn(&mut screen, &meter, (columns, lines));
                drawn(&mut screen, &Meter::default(), (columns, lines));
            }
        }
    }
}

#[test]
fn keys_sort_move_group_and_end() {
    let meter = measured();
    let mut screen = screen(&[Field::LocalIp]);
    let first = |screen: &mut Screen| {
        let text = drawn(screen, &meter, (100, 13));
        text.lines().nth(3).unwrap()[1..]
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(first(&mut screen), "192.0.2.40");
    press(&mut screen, KeyCode::Down);
    assert_eq!(first(&mut screen), "192.0.2.39");
    press(&mut screen, KeyCode::PageDown);
    assert_eq!(first(&mut screen), "192.0.2.30");
    for _ in 0..9 {
        press(&mut screen, KeyCode::PageDown);
    }
    // The end stays at the screen's.
    assert_eq!(first(&mut screen), "192.0.2.9");
    press(&mut screen, KeyCode::Home);
    assert_eq!(first(&mut screen), "192.0.2.40");
    press(&mut screen, KeyCode::Char('g'));
    assert_eq!(first(&mut screen), "198.51.100.7");
    assert_eq!(press(&mut screen, KeyCode::Char('x')), Action::Continue);
    press(&mut screen, KeyCode::Char(' '));
    assert!(screen.holds_still());
    assert!(drawn(&mut screen, &meter, (100, 10)).contains("(held)"));
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Action::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.press(control_c), Action::Quit);
}

/// A source with a fault.
struct Panicking;

impl OpenEpochSource for Panicking {
    fn open_epochs(&mut self) -> Result<Vec<OpenEpoch>, SourceError> {
        panic!("a fault of the source");
    }
}

#[test]
#[ignore = "run by panic_gives_the_terminal_back, in a terminal"]
fn panics_in_a_terminal() {
    let mut screen = screen(&[Field::LocalIp]);
    let _ = super::in_terminal(&mut Panicking, &mut measured(), &mut screen);
}

#[test]
fn panic_gives_the_terminal_back() {
    let command = format!(
        "stty cols 100 rows 20; {} --exact top::tests::panics_in_a_terminal --ignored --nocapture; echo status $?; stty -a",
        std::env::current_exe().unwrap().display()
    );
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody types, and nobody hangs up.
    let _keyboard = script.stdin.take();
    let output = script.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (taken, given_back) = text
        .split_once("\u{1b}[?1049h")
        .unwrap_or_else(|| panic!("{text}"));
    assert!(!taken.contains("a fault of the source"), "{text}");
    let (_, said) = given_back
        .split_once("\u{1b}[?1049l")
        .unwrap_or_else(|| panic!("{text}"));
    assert!(said.contains("a fault of the source"), "{text}");
    assert!(said.contains("status 101"), "{text}");
    for setting in ["icanon", "echo", "isig"] {
        assert!(
            said.split_whitespace().any(|word| word == setting),
            "{text}"
        );
    }
}

#[test]
fn sorting_goes_around_all_columns() {
    let mut sort = Sort::Sent;
    for expected in [Sort::Received, Sort::Packets, Sort::Total, Sort::Sent] {
        sort = sort.moved(1);
        assert_eq!(sort, expected);
    }
}

#[test]
fn live_file_that_ends_within_a_record_is_refused() {
    let bytes = SnapshotBuilder::new("lan", 1, vec![record(1, 7, 6, 443, 1)]).bytes();
    assert!(OpenEpoch::read(&bytes[..bytes.len() - 1]).is_err());
    assert!(OpenEpoch::read(&bytes[..7]).is_err());
    assert_eq!(OpenEpoch::read(&bytes[..]).unwrap().records.len(), 1);
}
