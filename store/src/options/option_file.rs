//! The option files of the MySQL and MariaDB clients: `my.cnf` and its like.
//!
//! Read as the clients document it (MySQL Reference Manual, "Using Option Files"):
//! groups, `name`, `name=value`, quotes, `#` and `;` comments, escape sequences,
//! `!include` and `!includedir`. What comes later replaces what came before.
//!
//! Not read: the scrambled `~/.mylogin.cnf`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::secret::Secret;

/// What the option files say about a connection, as far as a store needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// `host`.
    pub host: Option<String>,
    /// `port`.
    pub port: Option<u16>,
    /// `socket`.
    pub socket: Option<PathBuf>,
    /// `user`.
    pub user: Option<String>,
    /// `password`.
    pub password: Option<Secret>,
    /// `database`.
    pub database: Option<String>,
    /// `connect-timeout`, in seconds.
    pub connect_timeout_secs: Option<u32>,
    /// `ssl-mode` of MySQL.
    pub ssl_mode: Option<String>,
    /// `ssl` and `skip-ssl` of MariaDB.
    pub ssl: Option<bool>,
    /// `ssl-verify-server-cert` of MariaDB.
    pub ssl_verify_server_cert: Option<bool>,
    /// `ssl-ca`.
    pub ssl_ca: Option<PathBuf>,
    /// `ssl-cert`.
    pub ssl_cert: Option<PathBuf>,
    /// `ssl-key`.
    pub ssl_key: Option<PathBuf>,
}

/// Which option files to read.
#[derive(Debug, Clone, Default)]
pub struct OptionFiles {
    /// Read this one and no other (`--defaults-file`).
    pub only: Option<PathBuf>,
    /// Read this one after the global ones and before the user's
    /// (`--defaults-extra-file`).
    pub extra: Option<PathBuf>,
}

/// Why an option file cannot be used. No text of a file is repeated: it could be a
/// password.
#[derive(Debug, Error)]
pub enum OptionFileError {
    /// A file that was asked for cannot be read.
    #[error("cannot read the option file {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Not text.
    #[error("the option file {} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// A line that is none.
    #[error("{}, line {line}: {reason}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
    /// A value that its option cannot have.
    #[error("{}, line {line}: {option} must be {expected}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The option's name.
        option: &'static str,
        /// What its value must be.
        expected: &'static str,
    },
    /// Files that include each other.
    #[error("{}: option files include each other more than {MAX_DEPTH} deep", .0.display())]
    Depth(PathBuf),
}

impl ClientOptions {
    /// Reads the option files of this user.
    ///
    /// Files that do not exist or may not be read are passed over, as the clients do,
    /// unless they were asked for by name.
    ///
    /// # Errors
    /// Every way in which a file can be wrong.
    pub fn read(files: &OptionFiles) -> Result<Self, OptionFileError> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Self::read_from(files, &GLOBAL.map(PathBuf::from), home.as_deref())
    }

    fn read_from(
        files: &OptionFiles,
        global: &[PathBuf],
        home: Option<&Path>,
    ) -> Result<Self, OptionFileError> {
        let mut options = Self::default();
        if let Some(only) = &files.only {
            options.read_file(only, 0)?;
            return Ok(options);
        }
        for path in global {
            options.read_if_there(path)?;
        }
        if let Some(extra) = &files.extra {
            options.read_file(extra, 0)?;
        }
        if let Some(home) = home {
            options.read_if_there(&home.join(".my.cnf"))?;
        }
        Ok(options)
    }

    fn read_if_there(&mut self, path: &Path) -> Result<(), OptionFileError> {
        match fs::metadata(path) {
            // Anybody could have written into it; the clients ignore it too.
            Ok(metadata) if metadata.permissions().mode() & 0o002 != 0 => {
                eprintln!(
                    "trafstat: {} is ignored, since everybody may write to it; \
                     \"chmod o-w\" it",
                    path.display()
                );
                Ok(())
            }
            Ok(_) => match self.read_file(path, 0) {
                Err(OptionFileError::Read { source, path: of })
                    if of == path && source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Ok(())
                }
                read => read,
            },
            Err(_) => Ok(()),
        }
    }

    fn read_file(&mut self, path: &Path, depth: usize) -> Result<(), OptionFileError> {
        if depth > MAX_DEPTH {
            return Err(OptionFileError::Depth(path.to_path_buf()));
        }
        let read_error = |path: &Path, source| OptionFileError::Read {
            path: path.to_path_buf(),
            source,
        };
        let bytes = fs::read(path).map_err(|source| read_error(path, source))?;
        let text =
            String::from_utf8(bytes).map_err(|_| OptionFileError::NotText(path.to_path_buf()))?;
        let mut ours = false;
        for (line, number) in text.lines().zip(1..) {
            let syntax = |reason| OptionFileError::Syntax {
                path: path.to_path_buf(),
                line: number,
                reason,
            };
            match parse_line(line).map_err(syntax)? {
                Line::Empty => {}
                Line::Group(name) => ours = is_ours(name),
                Line::Include(file) => self.read_file(&beside(path, file), depth + 1)?,
                Line::IncludeFolder(folder) => {
                    let folder = beside(path, folder);
                    for file in
                        option_files_in(&folder).map_err(|source| read_error(&folder, source))?
                    {
                        self.read_file(&file, depth + 1)?;
                    }
                }
                Line::Option(name, value) if ours => {
                    self.set(&name, value).map_err(|(option, expected)| {
                        OptionFileError::Value {
                            path: path.to_path_buf(),
                            line: number,
                            option,
                            expected,
                        }
                    })?;
                }
                Line::Option(..) => {}
            }
        }
        Ok(())
    }

    /// Takes an option that a store needs; the others belong to the client.
    ///
    /// An error is the option's name and what its value must be.
    fn set(
        &mut self,
        name: &str,
        value: Option<String>,
    ) -> Result<(), (&'static str, &'static str)> {
        let text = |option, expected| value.clone().ok_or((option, expected));
        match name {
            "host" => self.host = Some(text("host", "a host name")?),
            "port" => self.port = Some(number(value, "port", "a number up to 65535")?),
            "socket" => self.socket = Some(text("socket", "a path")?.into()),
            "user" => self.user = Some(text("user", "a user name")?),
            "password" => {
                let expected = "given with a value, since none is asked for on a terminal";
                self.password = Some(Secret::new(text("password", expected)?));
            }
            "skip-password" => self.password = None,
            "database" => self.database = Some(text("database", "a database name")?),
            "connect-timeout" => {
                let seconds = number(value, "connect-timeout", "a number of seconds")?;
                self.connect_timeout_secs = Some(seconds);
            }
            "ssl-mode" => self.ssl_mode = Some(text("ssl-mode", "a mode such as REQUIRED")?),
            "ssl" | "enable-ssl" => self.ssl = Some(switch(value, "ssl")?),
            "skip-ssl" | "disable-ssl" => self.ssl = Some(!switch(value, "skip-ssl")?),
            "ssl-verify-server-cert" => {
                self.ssl_verify_server_cert = Some(switch(value, "ssl-verify-server-cert")?);
            }
            "skip-ssl-verify-server-cert" | "disable-ssl-verify-server-cert" => {
                let off = switch(value, "skip-ssl-verify-server-cert")?;
                self.ssl_verify_server_cert = Some(!off);
            }
            "ssl-ca" => self.ssl_ca = Some(text("ssl-ca", "a path")?.into()),
            // Passed over, it would leave the server unchecked.
            "ssl-capath" if value.as_deref().is_some_and(|path| !path.is_empty()) => {
                let expected = "left to other programs' groups here, and ssl-ca given instead: \
                                one file with the authorities' certificates";
                return Err(("ssl-capath", expected));
            }
            "ssl-cert" => self.ssl_cert = Some(text("ssl-cert", "a path")?.into()),
            "ssl-key" => self.ssl_key = Some(text("ssl-key", "a path")?.into()),
            _ => {}
        }
        Ok(())
    }
}

/// The global files, read in this order.
const GLOBAL: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];

/// The groups that hold options for this program, beside those of the `mysql` client.
const GROUPS: [&str; 5] = [
    "client",
    "client-server",
    "client-mariadb",
    "mysql",
    "trafstat",
];

/// How deep files may include each other.
const MAX_DEPTH: usize = 10;

/// A line of an option file.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Empty,
    Group(&'a str),
    Include(&'a str),
    IncludeFolder(&'a str),
    /// The name with dashes, and the value, if there is a `=`.
    Option(String, Option<String>),
}

fn parse_line(line: &str) -> Result<Line<'_>, &'static str> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Ok(Line::Empty);
    }
    if let Some(directive) = line.strip_prefix('!') {
        let (name, argument) = directive
            .split_once([' ', '\t'])
            .ok_or("expected \"!include FILE\" or \"!includedir FOLDER\"")?;
        return match name {
            "include" => Ok(Line::Include(argument.trim_ascii())),
            "includedir" => Ok(Line::IncludeFolder(argument.trim_ascii())),
            _ => Err("expected \"!include FILE\" or \"!includedir FOLDER\""),
        };
    }
    if let Some(group) = line.strip_prefix('[') {
        let end = group
            .find(']')
            .ok_or("the group's name does not end with \"]\"")?;
        return Ok(Line::Group(group[..end].trim_ascii()));
    }
    let line = &line[..comment_start(line)];
    let (name, value) = match line.split_once('=') {
        Some((name, value)) => (name, Some(unescape(unquote(value.trim_ascii())))),
        None => (line, None),
    };
    let name = name.trim_ascii().replace('_', "-");
    // For clients that do not know the option.
    let name = match name.strip_prefix("loose-") {
        Some(name) => name.to_owned(),
        None => name,
    };
    if name.is_empty() {
        return Err("there is no option name before \"=\"");
    }
    Ok(Line::Option(name, value))
}

/// Where the comment at the end of a line begins: at a `#` outside of quotes.
fn comment_start(line: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, byte) in line.bytes().enumerate() {
        match (byte, quote) {
            (b'#', None) => return at,
            (b'"' | b'\'', None) => quote = Some(byte),
            (_, Some(open)) if byte == open && !escaped => quote = None,
            _ => {}
        }
        escaped = quote.is_some() && byte == b'\\' && !escaped;
    }
    line.len()
}

/// The value without the quotes around all of it.
fn unquote(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

/// The value with its escape sequences replaced; a backslash before anything else
/// stays.
fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('b') => text.push('\u{8}'),
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('s') => text.push(' '),
            Some(quoted @ ('\\' | '"' | '\'')) => text.push(quoted),
            Some(other) => text.extend(['\\', other]),
            None => text.push('\\'),
        }
    }
    text
}

fn is_ours(group: &str) -> bool {
    GROUPS.iter().any(|ours| group.eq_ignore_ascii_case(ours))
}

/// A path in a file, which starts from the file's own folder if it is relative.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// The files of a folder whose names end in `.cnf`, by name.
fn option_files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cnf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn number<N: std::str::FromStr>(
    value: Option<String>,
    option: &'static str,
    expected: &'static str,
) -> Result<N, (&'static str, &'static str)> {
    value
        .and_then(|text| text.parse().ok())
        .ok_or((option, expected))
}

fn switch(
    value: Option<String>,
    option: &'static str,
) -> Result<bool, (&'static str, &'static str)> {
    match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("1" | "on" | "true") => Ok(true),
        Some("0" | "off" | "false") => Ok(false),
        _ => Err((option, "ON or OFF")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
}
