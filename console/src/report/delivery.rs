// SPDX-License-Identifier: GPL-2.0-or-later
//! Delivers a report to a folder and by mail, as section `[report]` of the configuration says.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use trafstat_cli::text::printable;
use trafstat_store::options::config::ReportConfig;

use super::figures::Figures;
use super::{html, text};
use crate::names::Names;
use crate::system::write_whole;

/// A report of another program's folder or mailbox may be read by many.
const FILE_MODE: u32 = 0o640;
/// Takes a message on its standard input, and its recipients from the message's header.
const SENDMAIL: [&str; 3] = ["/usr/sbin/sendmail", "-t", "-i"];

/// Writes the report to the folder, and mails it.
///
/// # Errors
/// The configuration names neither, or one of them fails; the other is still served.
pub(super) fn deliver(
    config: &ReportConfig,
    hostname: &str,
    figures: &Figures,
    names: &Names,
) -> Result<()> {
    if config.folder.is_none() && config.mail.is_empty() {
        bail!("[report] in the configuration names neither a folder nor a mail address");
    }
    let filed = match &config.folder {
        Some(folder) => write_file(folder, figures, names),
        None => Ok(()),
    };
    let mailed = match config.mail.is_empty() {
        true => Ok(()),
        false => mail(config, hostname, figures, names),
    };
    filed.and(mailed)
}

fn write_file(folder: &Path, figures: &Figures, names: &Names) -> Result<()> {
    let path = folder.join(format!("trafstat-{}.html", figures.period.name()));
    let mut page = Vec::new();
    html::write(figures, names, &mut page)?;
    let page = String::from_utf8(page).context("a page is no UTF-8")?;
    write_whole(&path, &page, FILE_MODE).with_context(|| format!("cannot write {}", path.display()))
}

fn mail(config: &ReportConfig, hostname: &str, figures: &Figures, names: &Names) -> Result<()> {
    let command: Vec<&str> = match &config.mail_command[..] {
        [] => SENDMAIL.to_vec(),
        given => given.iter().map(String::as_str).collect(),
    };
    let [program, arguments @ ..] = &command[..] else {
        bail!("no program sends mail");
    };
    let mut body = Vec::new();
    text::write(figures, names, &mut body)?;
    let message = message(&config.mail, hostname, &figures.period.name(), &body);
    let failed = || format!("cannot mail the report by {program}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading all of it tells why itself.
        let _ = stdin.write_all(&message);
    }
    let status = child.wait().with_context(failed)?;
    if !status.success() {
        bail!("{}: {status}", failed());
    }
    Ok(())
}

/// A message (RFC 5322) of plain text in UTF-8 (RFC 2045).
fn message(recipients: &[String], hostname: &str, period: &str, body: &[u8]) -> Vec<u8> {
    let mut header = String::new();
    // Lines end as programs on a Unix host give them to sendmail. Writing to a string does not fail.
    let _ = write!(
        header,
        "To: {}\nSubject: Traffic of {}, {period}\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\
         Auto-Submitted: auto-generated\n\n",
        recipients.join(", "),
        printable(hostname),
    );
    [header.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_adds_no_line_to_the_header() {
        let recipients = ["root".to_owned(), "noc@example.net".to_owned()];
        let message = message(&recipients, "a\nBcc: all", "2026-01", b"text\n");
        let message = String::from_utf8(message).unwrap();
        let (header, body) = message.split_once("\n\n").unwrap();
        let lines: Vec<&str> = header.lines().collect();
        assert_eq!(lines[0], "To: root, noc@example.net");
        assert_eq!(lines[1], "Subject: Traffic of a\\u{a}Bcc: all, 2026-01");
        assert_eq!(lines.len(), 6);
        assert_eq!(body, "text\n");
    }
}
