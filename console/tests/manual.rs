// SPDX-License-Identifier: GPL-2.0-or-later
//! The manual and the completions that packages bring, as the program writes them.

use std::fs;
use std::path::Path;
use std::process::Command;

const COMMANDS: [&str; 7] = [
    "setup", "status", "doctor", "show", "report", "quota", "top",
];

fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .arg("manual")
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    folder
}

fn has_program(name: &str) -> bool {
    Path::new("/usr/bin").join(name).exists()
}

#[test]
fn every_command_has_a_page_with_examples_and_an_exit_status() {
    let folder = written();
    let mut pages: Vec<String> = fs::read_dir(folder.path().join("man8"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    let mut expected: Vec<String> = COMMANDS
        .iter()
        .map(|command| format!("trafstat-{command}.8"))
        .chain(["trafstat.8".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(pages, expected);
    for page in pages {
        let text = fs::read_to_string(folder.path().join("man8").join(&page)).unwrap();
        for section in [
            "SH NAME",
            "SH SYNOPSIS",
            "SH EXAMPLES",
            "SH \"EXIT STATUS\"",
            "SH \"SEE ALSO\"",
        ] {
            assert!(text.contains(&format!(".{section}\n")), "{page}: {section}");
        }
        assert!(
            text.starts_with(&format!(
                ".TH {} 8 \"\"",
                page.trim_end_matches(".8").replace('-', "\\-")
            )),
            "{text}"
        );
    }
}

#[test]
fn pages_are_understood_by_groff() {
    if !has_program("groff") {
        eprintln!("skipped: groff is not installed");
        return;
    }
    let folder = written();
    for entry in fs::read_dir(folder.path().join("man8")).unwrap() {
        let path = entry.unwrap().path();
        let output = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-rLL=100n"])
            .arg(&path)
            .output()
            .unwrap();
        let warnings = String::from_utf8(output.stderr).unwrap();
        // A URL that fills its line is no fault of the page.
        let faults: Vec<&str> = warnings
            .lines()
            .filter(|line| !line.contains("adjust line") && !line.contains("break line"))
            .collect();
        assert_eq!(faults, [""; 0], "{}", path.display());
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn every_help_has_examples() {
    for command in COMMANDS.iter().map(Some).chain([None]) {
        let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .args(command)
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let examples = help
            .split_once("Examples:\n")
            .unwrap_or_else(|| panic!("{help}"))
            .1;
        let first = examples.lines().next().unwrap();
        let expected = command.map_or("  trafstat ".to_owned(), |command| {
            format!("  trafstat {command}")
        });
        assert!(first.starts_with(&expected), "{first}");
        // Terminals of 100 columns show them as they stand.
        assert!(
            examples.lines().all(|line| line.chars().count() <= 100),
            "{examples}"
        );
    }
}

#[test]
fn completions_know_every_command() {
    let folder = written();
    for (file, shell) in [
        ("bash/trafstat.bash", "bash"),
        ("zsh/_trafstat", "zsh"),
        ("fish/trafstat.fish", "fish"),
    ] {
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        for word in COMMANDS.iter().chain(&["rates", "sample", "warn"]) {
            assert!(text.contains(word), "{file}: {word}");
        }
        if !has_program(shell) {
            eprintln!("skipped: {shell} is not installed, which would read {file}");
            continue;
        }
        let status = Command::new(shell).arg("-n").arg(&path).status().unwrap();
        assert!(status.success(), "{file}");
    }
}
