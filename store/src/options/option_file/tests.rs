// SPDX-License-Identifier: GPL-2.0-or-later
//! What is read of option files, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::line::{comment_start, parse_line};
use super::{ClientOptions, OptionFileError, OptionFiles};

fn read(text: &str) -> Result<ClientOptions, OptionFileError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.cnf");
    fs::write(&path, text).unwrap();
    let files = OptionFiles {
        only: Some(path),
        extra: None,
    };
    ClientOptions::read(&files)
}

fn password(line: &str) -> String {
    let options = read(&format!("[client]\n{line}\n")).unwrap();
    options.password.unwrap().reveal().to_owned()
}

#[test]
fn groups_of_other_programs_are_passed_over() {
    let options = read(
        "user = nobody\n[mysqld]\nuser=mysql\n[CLIENT]\nuser=collector\n\
         [mysqldump]\nuser=dump\nport=no number\n[trafstat]\nport=3307\n",
    )
    .unwrap();
    assert_eq!(options.user.as_deref(), Some("collector"));
    assert_eq!(options.port, Some(3307));
}

#[test]
fn values_are_unquoted_and_unescaped() {
    for (line, expected) in [
        ("password=plain", "plain"),
        ("  password  =  spaced  ", "spaced"),
        ("password=\"has # in it\" # comment", "has # in it"),
        ("password='single'", "single"),
        ("password=cut # comment", "cut"),
        ("password=a\\sb\\tc\\nd\\\\e", "a b\tc\nd\\e"),
        ("password=unknown\\q", "unknown\\q"),
        ("password=end\\", "end\\"),
        ("password=\"a\\\"#b\"", "a\"#b"),
        ("password=a=b", "a=b"),
        ("password=\"\"", ""),
        ("password=\"", "\""),
        ("password=", ""),
    ] {
        assert_eq!(password(line), expected, "{line}");
    }
}

#[test]
fn dashes_and_underscores_are_the_same() {
    let options = read("[client]\nssl_ca=/etc/ca.pem\nconnect-timeout=3").unwrap();
    assert_eq!(options.ssl_ca, Some("/etc/ca.pem".into()));
    assert_eq!(options.connect_timeout_secs, Some(3));
}

#[test]
fn folder_of_authorities_is_refused() {
    let error = read("[client]\nssl-capath=/etc/certs")
        .unwrap_err()
        .to_string();
    assert!(error.contains("ssl-ca given instead"), "{error}");
}

#[test]
fn switches_stand_alone_or_with_a_value() {
    for (text, expected) in [
        ("ssl", Some(true)),
        ("ssl=0", Some(false)),
        ("skip-ssl", Some(false)),
        ("disable_ssl", Some(false)),
        ("", None),
    ] {
        let options = read(&format!("[client]\n{text}\n")).unwrap();
        assert_eq!(options.ssl, expected, "{text}");
    }
}

#[test]
fn included_files_count_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let within = folder.path().join("conf.d");
    fs::create_dir(&within).unwrap();
    fs::write(within.join("b.cnf"), "[client]\nuser=second\nport=2\n").unwrap();
    fs::write(within.join("a.cnf"), "[client]\nuser=first\nhost=a\n").unwrap();
    fs::write(within.join("ignored.txt"), "[client]\nhost=wrong\n").unwrap();
    fs::write(folder.path().join("one.cnf"), "[mysql]\ndatabase=one\n").unwrap();
    let path = folder.path().join("my.cnf");
    let text = format!(
        "[client]\nport=1\n!includedir {}\n!include one.cnf\nport=3\n",
        within.display()
    );
    fs::write(&path, text).unwrap();
    let files = OptionFiles {
        only: Some(path),
        extra: None,
    };
    let options = ClientOptions::read(&files).unwrap();
    assert_eq!(options.user.as_deref(), Some("second"));
    assert_eq!(options.host.as_deref(), Some("a"));
    assert_eq!(options.database.as_deref(), Some("one"));
    // The group goes on after what was included.
    assert_eq!(options.port, Some(3));
}

#[test]
fn file_that_includes_itself_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.cnf");
    fs::write(&path, "!include my.cnf\n").unwrap();
    let files = OptionFiles {
        only: Some(path),
        extra: None,
    };
    let error = ClientOptions::read(&files).unwrap_err();
    assert!(matches!(error, OptionFileError::Depth(_)), "{error}");
}

#[test]
fn users_file_replaces_the_extra_and_global_ones() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let global = write("global.cnf", "[client]\nuser=g\nhost=g\nport=1\n");
    let extra = write("extra.cnf", "[client]\nuser=e\nhost=e\n");
    write(".my.cnf", "[client]\nuser=u\n");
    let files = OptionFiles {
        only: None,
        extra: Some(extra),
    };
    let options = ClientOptions::read_from(
        &files,
        &[folder.path().join("missing.cnf"), global],
        Some(folder.path()),
    )
    .unwrap();
    assert_eq!(options.user.as_deref(), Some("u"));
    assert_eq!(options.host.as_deref(), Some("e"));
    assert_eq!(options.port, Some(1));
}

#[test]
fn file_that_everybody_may_write_to_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".my.cnf");
    fs::write(&path, "[client]\nuser=intruder\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let options =
        ClientOptions::read_from(&OptionFiles::default(), &[], Some(folder.path())).unwrap();
    assert_eq!(options.user, None);
}

#[test]
fn file_asked_for_by_name_must_be_there() {
    let files = OptionFiles {
        only: Some("/nonexistent/my.cnf".into()),
        extra: None,
    };
    let error = ClientOptions::read(&files).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/my.cnf"), "{error}");
}

#[test]
fn wrong_line_is_named_without_its_text() {
    for (text, expected) in [
        ("[client]\nport=s3cret\n", "line 2: port must be a number"),
        (
            "[client]\npassword\n",
            "line 2: password must be given with a value",
        ),
        ("[client\n", "line 1: the group's name"),
        ("\n=s3cret\n", "line 2: there is no option name"),
        ("!including s3cret\n", "line 1: expected \"!include FILE\""),
        ("[client]\nssl=s3cret\n", "line 2: ssl must be ON or OFF"),
    ] {
        let error = read(text).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Writes a value so that every byte of it is read back.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for character in value.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '"' | '\\' => text.extend(['\\', character]),
            other => text.push(other),
        }
    }
    text + "\""
}

proptest! {
    #[test]
    fn quoted_value_is_read_back(value in "(?s).*") {
        prop_assert_eq!(password(&format!("password={}", quoted(&value))), value);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(?s)[\\[\\]!#;='\"\\\\a-z\n \u{e9}]*") {
        for line in text.lines() {
            let _ = parse_line(line);
        }
        let end = comment_start(&text);
        prop_assert!(text.is_char_boundary(end));
    }

    #[test]
    fn later_value_replaces_the_earlier(ports in prop::collection::vec(any::<u16>(), 1..8)) {
        let lines: String = ports.iter().map(|port| format!("port={port}\n")).collect();
        let options = read(&format!("[client]\n{lines}")).unwrap();
        prop_assert_eq!(options.port, ports.last().copied());
    }

    #[test]
    fn comment_changes_nothing(value in "[a-z0-9]{1,12}", comment in "[^\n]*") {
        prop_assert_eq!(password(&format!("password={value} # {comment}")), value);
    }
}
