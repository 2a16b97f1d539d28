// SPDX-License-Identifier: GPL-2.0-or-later
//! The program `trafstat-store`, run as users run it.

#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{SnapshotBuilder, lan, record};
use program::{Host, code, netns, program, sent_packets, stderr, stdout};
use serde_json::{Value, json};

#[test]
fn program_is_called_as_its_users_know_it() {
    let output = program().arg("--version").output().unwrap();
    assert!(stdout(&output).starts_with("trafstat-store "), "{output:?}");
}

#[test]
fn collects_once_without_a_subcommand() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    let output = host.run(&["--backend", "sqlite"]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let words: Vec<String> = stdout(&output)
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        words,
        [
            "NETNS ACCOUNT FAMILY EPOCH RECORDS PACKETS BYTES OUTSIDE SKIPPED FOLDED STATE"
                .to_owned(),
            format!("{} lan ipv4 1 2 90 48000 3 2 0 stored", netns())
        ]
    );
    assert_eq!(host.proc.commands("lan", &lan(1)), "ack 1\n");
    assert_eq!(host.sent_packets(), 30);
}

#[test]
fn options_stand_before_or_after_the_subcommand() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    let output = program()
        .args(["collect", "--format", "csv", "--db"])
        .arg(host.db())
        .arg("--proc-root")
        .arg(host.proc.path())
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        format!(
            "netns,account,family,epoch,records,packets,bytes,outside,skipped,folded,state\n\
             {},lan,ipv4,1,2,90,48000,3,2,0,stored\n",
            netns()
        )
    );
}

#[test]
fn epoch_served_again_is_already_stored() {
    let host = Host::new();
    for state in ["stored", "already stored"] {
        host.proc.serve(&[("lan", &lan(1))]);
        let output = host.run(&["--format", "json"]);
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            report,
            json!({"accounts": [{
                "netns": netns(), "account": "lan", "family": "ipv4", "epoch": 1, "records": 2,
                "packets": 90, "bytes": 48000, "outside": 3, "skipped": 2, "folded": 0,
                "state": state,
            }]})
        );
        assert_eq!(host.proc.commands("lan", &lan(1)), "ack 1\n");
    }
    assert_eq!(host.sent_packets(), 30);
}

#[test]
fn failed_account_is_reported_and_the_others_are_stored() {
    let host = Host::new();
    let mut wrong = lan(7);
    wrong.header.seen_bytes += 1;
    let other = SnapshotBuilder::new("wan", 1, vec![record(1, 1, 6, 22, 5)]);
    host.proc.serve(&[("lan", &wrong), ("wan", &other)]);
    let output = host.run(&["--format", "json"]);
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(error.contains("account lan (ipv4)"), "{error}");
    assert!(
        error.contains("seen 48241 + extrapolated 60 = 48301"),
        "{error}"
    );
    assert!(error.contains("skipped 120 = 48300"), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["accounts"][0]["state"], "failed");
    assert_eq!(report["accounts"][1]["state"], "stored");
    assert_eq!(host.proc.commands("lan", &wrong), "");
    assert_eq!(host.proc.commands("wan", &other), "ack 1\n");
    assert_eq!(host.sent_packets(), 5);
}

#[test]
fn refusal_names_the_epoch() {
    let host = Host::new();
    let mut wrong = lan(7);
    wrong.records[0].sent_bytes += 1;
    host.proc.serve(&[("lan", &wrong)]);
    let error = stderr(&host.run(&[]));
    assert!(
        error.contains("account lan (ipv4), epoch 7: bytes do not add up"),
        "{error}"
    );
}

/// Kills the collector at a point, and gives what the kernel and the store have then.
fn killed_at(point: &str) -> (Host, String, Option<u64>) {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    assert_eq!(code(&host.run(&[])), Some(0));
    host.proc.serve(&[("lan", &lan(2))]);
    let output = host
        .command()
        .env("TRAFSTAT_STORE_KILL_AT", point)
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(9), "{}", stderr(&output));
    let commands = host.proc.commands("lan", &lan(2));
    let sent_packets = host.sent_packets();
    (host, commands, Some(sent_packets))
}

#[test]
fn killed_before_the_commit_nothing_is_stored_or_acknowledged() {
    let (host, commands, sent_packets) = killed_at("before-commit");
    assert_eq!((commands.as_str(), sent_packets), ("", Some(30)));
    let output = host.run(&["--format", "csv"]);
    assert!(
        stdout(&output).ends_with(",stored\n"),
        "{}",
        stderr(&output)
    );
    assert_eq!(host.proc.commands("lan", &lan(2)), "ack 2\n");
    assert_eq!(host.sent_packets(), 60);
}

#[test]
fn killed_before_the_acknowledgement_the_epoch_is_counted_once() {
    let (host, commands, sent_packets) = killed_at("before-ack");
    assert_eq!((commands.as_str(), sent_packets), ("", Some(60)));
    let output = host.run(&["--format", "csv"]);
    assert!(
        stdout(&output).ends_with(",already stored\n"),
        "{}",
        stderr(&output)
    );
    assert_eq!(host.proc.commands("lan", &lan(2)), "ack 2\n");
    assert_eq!(host.sent_packets(), 60);
}

#[test]
fn killed_after_the_acknowledgement_the_next_epoch_follows() {
    let (host, commands, sent_packets) = killed_at("after-ack");
    assert_eq!((commands.as_str(), sent_packets), ("ack 2\n", Some(60)));
    host.proc.serve(&[("lan", &lan(3))]);
    assert_eq!(code(&host.run(&[])), Some(0));
    assert_eq!(host.sent_packets(), 90);
}

#[test]
fn killed_at_any_moment_every_epoch_is_counted_once() {
    let host = Host::new();
    let large = |epoch| {
        let records = (0..5000).map(|port| record(1, 1, 6, port, 1)).collect();
        SnapshotBuilder::new("lan", epoch, records)
    };
    let mut kills = 0;
    for epoch in 1..=3 {
        host.proc.serve(&[("lan", &large(epoch))]);
        // Each life is a little longer, until one reaches the acknowledgement.
        for delay in (0..).map(|step| Duration::from_millis(3 * step)) {
            let mut collector = host.command().stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(delay);
            collector.kill().unwrap();
            kills += u64::from(collector.wait().unwrap().signal() == Some(9));
            let commands = host.proc.commands("lan", &large(epoch));
            if !commands.is_empty() {
                assert_eq!(commands, format!("ack {epoch}\n"));
                break;
            }
        }
        assert_eq!(host.sent_packets(), 5000 * epoch);
    }
    assert!(kills > 3, "{kills}");
}

#[test]
fn missing_module_says_what_to_do() {
    let host = Host::new();
    let output = program()
        .args(["--proc-root", "/nonexistent/trafstat", "--db"])
        .arg(host.db())
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(error.contains("modprobe xt_TRAFSTAT"), "{error}");
    assert!(error.contains("iptables"), "{error}");
    assert!(!host.db().exists());
}

#[test]
fn no_account_is_said_and_no_failure() {
    let host = Host::new();
    let output = host.run(&[]);
    assert_eq!(code(&output), Some(0));
    assert!(
        stderr(&output).contains("no account"),
        "{}",
        stderr(&output)
    );
    let output = host.run(&["--format", "json"]);
    assert_eq!(stdout(&output), "{\"accounts\":[]}\n");
}

#[test]
fn wrong_usage_ends_with_2() {
    let host = Host::new();
    for (arguments, expected) in [
        (&["--backend", "oracle"][..], "sqlite"),
        (&["--config", "/nonexistent/trafstat.toml"], "/nonexistent"),
        (&["--url", "postgres://db/t"], "mysql://"),
        (&["--format", "xml"], "table"),
        (&["gather"], "gather"),
        (&["prune"], "--before"),
        (&["prune", "--before", "yesterdayish"], "7d"),
    ] {
        let output = host.run(arguments);
        assert_eq!(code(&output), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert!(!host.db().exists());
}

#[test]
fn help_shows_examples() {
    let output = program().arg("--help").output().unwrap();
    assert_eq!(code(&output), Some(0));
    assert!(stdout(&output).contains("Examples:"));
    assert!(!stdout(&output).contains("proc-root"));
}

#[test]
fn database_of_another_program_is_left_alone() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    fs::create_dir(host.db().parent().unwrap()).unwrap();
    fs::write(host.db(), "remember the milk").unwrap();
    let output = host.run(&[]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("not a trafstat database"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read(host.db()).unwrap(), b"remember the milk");
    assert_eq!(host.proc.commands("lan", &lan(1)), "");
}

#[test]
fn password_on_the_command_line_is_refused_and_not_repeated() {
    let host = Host::new();
    let url = "mysql://collector:s3cret@127.0.0.1/trafstat";
    let output = host.run(&["--url", url]);
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).contains("~/.my.cnf"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("s3cret"), "{}", stderr(&output));
    let output = host.command().env("TRAFSTAT_URL", url).output().unwrap();
    assert_eq!(code(&output), Some(2));
    assert!(!stderr(&output).contains("s3cret"), "{}", stderr(&output));
    let output = host
        .command()
        .env("TRAFSTAT_URL", url)
        .arg("--help")
        .output()
        .unwrap();
    assert!(!stdout(&output).contains("s3cret"), "{}", stdout(&output));
}

#[test]
fn configuration_stands_behind_environment_and_command_line() {
    let host = Host::new();
    let file = |name: &str| host.folder.path().join(name);
    let config = file("trafstat.toml");
    fs::write(&config, format!("[store]\ndb = {:?}\n", file("config.db"))).unwrap();
    let command = || {
        let mut command = program();
        command
            .env("TRAFSTAT_CONFIG", &config)
            .arg("--proc-root")
            .arg(host.proc.path());
        command
    };
    let run = |command: &mut Command| {
        host.proc.serve(&[("lan", &lan(1))]);
        let output = command.output().unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    };
    run(&mut command());
    assert!(file("config.db").exists());
    run(command().env("TRAFSTAT_DB", file("environment.db")));
    assert!(file("environment.db").exists());
    run(command()
        .env("TRAFSTAT_DB", file("unused.db"))
        .arg("--db")
        .arg(file("option.db")));
    assert!(file("option.db").exists());
    assert!(!file("unused.db").exists());
}

#[test]
fn wrong_configuration_names_file_line_and_key() {
    let host = Host::new();
    let config = host.folder.path().join("trafstat.toml");
    fs::write(&config, "[store]\nbakend = \"sqlite\"\n").unwrap();
    let output = host.run(&["--config", config.to_str().unwrap()]);
    assert_eq!(code(&output), Some(2));
    let error = stderr(&output);
    assert!(
        error.contains("trafstat.toml, line 2, key bakend"),
        "{error}"
    );
    assert!(error.contains("backend"), "{error}");
}

#[test]
fn prune_deletes_what_closed_before() {
    let host = Host::new();
    for epoch in 1..=2 {
        host.proc.serve(&[("lan", &lan(epoch))]);
        host.run(&[]);
    }
    // Epoch 1 closed at 13:00, epoch 2 at 14:00.
    let output = host.run(&["prune", "--before", "2026-01-31T13:30:00Z"]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "deleted 2 records of 1 epochs\n");
    assert_eq!(host.sent_packets(), 30);
}

#[test]
fn most_of_what_there_is_is_deleted_only_if_that_is_meant() {
    let host = Host::new();
    for epoch in 1..=3 {
        host.proc.serve(&[("lan", &lan(epoch))]);
        host.run(&[]);
    }
    let archive = host.folder.path().join("archive");
    let rotate = [
        "rotate",
        "--keep-records",
        "1s",
        "--archive",
        archive.to_str().unwrap(),
    ];
    for arguments in [&["prune", "--before", "1s"][..], &rotate] {
        // Standard input is no terminal: nothing is asked.
        let output = host.run(arguments);
        assert_eq!(code(&output), Some(1));
        let error = stderr(&output);
        assert!(error.contains("the records of 2 of 3 epochs"), "{error}");
        assert!(error.contains("--force"), "{error}");
    }
    assert!(!archive.exists());
    let output = host.run(&["prune", "--before", "2099-01-01"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("is in the future"),
        "{}",
        stderr(&output)
    );
    assert_eq!(host.sent_packets(), 90);
    // A length of time counts from the newest epoch, whatever this host's clock says.
    let output = host.run(&["prune", "--before", "90m"]);
    assert_eq!(stdout(&output), "deleted 2 records of 1 epochs\n");
    let output = host.run(&["prune", "--before", "1s", "--force"]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(host.sent_packets(), 30);
}

#[test]
fn prune_creates_no_database() {
    let host = Host::new();
    let output = host.run(&["prune", "--before", "7d"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("no database"),
        "{}",
        stderr(&output)
    );
    assert!(!host.db().exists());
}

#[test]
fn backup_is_a_database_of_its_own() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    host.run(&[]);
    let copy = host.folder.path().join("copy.db");
    let arguments = ["backup", copy.to_str().unwrap()];
    assert_eq!(code(&host.run(&arguments)), Some(0));
    assert_eq!(sent_packets(&copy), 30);
    let again = host.run(&arguments);
    assert_eq!(code(&again), Some(1));
    assert!(
        stderr(&again).contains("exists already"),
        "{}",
        stderr(&again)
    );
}

#[test]
fn rotated_records_come_back_from_their_archive() {
    let host = Host::new();
    for epoch in 1..=2 {
        host.proc.serve(&[("lan", &lan(epoch))]);
        host.run(&[]);
    }
    let archive = host.folder.path().join("archive");
    let rotate = ["rotate", "--keep-records", "1s", "--archive"];
    let output = host.command().args(rotate).arg(&archive).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).ends_with("deleted 2 records of 1 epochs, and 0 sums\n"),
        "{}",
        stdout(&output)
    );
    let files: Vec<_> = fs::read_dir(&archive)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    for expected in ["1 epochs added, 0 known", "0 epochs added, 1 known"] {
        let output = host.run(&["restore", files[0].to_str().unwrap()]);
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).contains(expected), "{}", stdout(&output));
    }
    let output = host.run(&["check"]);
    assert_eq!(code(&output), Some(0), "{}", stdout(&output));
}

#[test]
fn init_makes_what_migrate_and_check_want() {
    let host = Host::new();
    for command in ["migrate", "check", "rotate"] {
        let mut arguments = vec![command];
        if command == "rotate" {
            arguments.extend(["--keep-records", "1d"]);
        }
        let output = host.run(&arguments);
        assert_eq!(code(&output), Some(1), "{command}");
        assert!(
            stderr(&output).contains("no database"),
            "{}",
            stderr(&output)
        );
    }
    for command in ["init", "migrate", "check"] {
        let output = host.run(&[command]);
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    }
    let output = host.run(&["rotate"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("--keep-records"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn closed_pipe_is_no_failure() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let output = host
        .command()
        .stdout(OwnedFd::from(writer))
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(host.sent_packets(), 30);
}

#[test]
fn hostile_file_name_is_only_a_name() {
    let host = Host::new();
    let name = "it's\"; DROP TABLE record; -- `$(reboot)` %41 ÿ日?mode=memory#.db";
    let (db, spool) = (host.folder.path().join(name), host.spool());
    let config = host.folder.path().join("trafstat.toml");
    fs::write(
        &config,
        format!("[store]\ndb = {:?}\n", db.to_str().unwrap()),
    )
    .unwrap();
    let run = |arguments: &[&str]| {
        let mut command = program();
        command
            .arg("--config")
            .arg(&config)
            .arg("--spool")
            .arg(&spool);
        command.arg("--proc-root").arg(host.proc.path());
        let output = command.args(arguments).output().unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    };
    for epoch in 1..=2 {
        host.proc.serve(&[("lan", &lan(epoch))]);
        run(&[]);
    }
    assert!(db.exists());
    let copy = host.folder.path().join("copy ' of").join(name);
    fs::create_dir(copy.parent().unwrap()).unwrap();
    run(&["backup", copy.to_str().unwrap()]);
    run(&["prune", "--before", "now"]);
    run(&["restore", copy.to_str().unwrap()]);
    run(&["check"]);
    assert_eq!((sent_packets(&db), sent_packets(&copy)), (60, 60));
}

#[test]
fn person_at_a_terminal_is_told_that_work_goes_on() {
    let host = Host::new();
    let pipe = host.folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    // script(1) is the terminal.
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!(
            "{:?} --config /dev/null --db {:?} restore {pipe:?}",
            program().get_program(),
            host.db()
        ))
        .arg("/dev/null")
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    let mut output = terminal.stdout.take().unwrap();
    let mut bytes = [0; 256];
    while !String::from_utf8_lossy(&shown).contains("restoring since 2s") {
        let count = output.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&shown));
        shown.extend(&bytes[..count]);
    }
    fs::write(&pipe, "").unwrap();
    output.read_to_end(&mut shown).unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(1));
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("is no file that"), "{shown}");
}
