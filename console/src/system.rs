// SPDX-License-Identifier: GPL-2.0-or-later
//! The host that is looked at and changed: its programs and its files.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// The exit status and the output of a program.
#[derive(Debug, Clone, Default)]
pub struct ProgramOutput {
    /// Its exit status, where no signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A host: this one, or one that a test makes up.
pub trait System {
    /// Runs a program with `input` on its standard input.
    ///
    /// # Errors
    /// That it cannot be started.
    fn run(&self, words: &[&str], input: &str) -> Result<ProgramOutput>;

    /// The folder that stands for the host's root.
    fn root(&self) -> &Path;

    /// A file of the host.
    fn path(&self, absolute: &str) -> PathBuf {
        self.root().join(absolute.trim_start_matches('/'))
    }

    /// A file's text, none if there is no such file.
    ///
    /// # Errors
    /// Any other error of the system.
    fn read(&self, absolute: &str) -> Result<Option<String>> {
        let path = self.path(absolute);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes a file as a whole: whoever looks sees the old one or the new one, also after a loss
    /// of power.
    ///
    /// # Errors
    /// The system's.
    fn write(&self, absolute: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.path(absolute);
        write_whole(&path, text, mode).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes a file as a whole, unless there is one of that name; returns whether there was none.
    ///
    /// # Errors
    /// The system's.
    fn write_new(&self, absolute: &str, text: &str, mode: u32) -> Result<bool> {
        let path = self.path(absolute);
        match write_new_whole(&path, text, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            written => written
                .map(|()| true)
                .with_context(|| format!("cannot write {}", path.display())),
        }
    }

    /// Removes a file, if there is one.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, absolute: &str) -> Result<()> {
        let path = self.path(absolute);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Moves a file, within one file system or to another; the folder it goes to is made.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        if let Some(folder) = self.path(to).parent() {
            fs::create_dir_all(folder)?;
        }
        let (from, to) = (self.path(from), self.path(to));
        let moved = match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::copy(&from, &to).and_then(|_| fs::remove_file(&from))
            }
            moved => moved,
        };
        moved.with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
    }

    /// Runs a program that must exit with 0; returns its standard output.
    ///
    /// # Errors
    /// It does not; the error has its words.
    fn succeed(&self, words: &[&str], input: &str) -> Result<String> {
        let ended = self.run(words, input)?;
        if ended.code != Some(0) {
            bail!("{} failed: {}", words.join(" "), ended.stderr.trim());
        }
        Ok(ended.stdout)
    }

    /// Whether one of the usual folders has the program.
    fn has_program(&self, name: &str) -> bool {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| self.path(&format!("{folder}/{name}")).exists())
    }
}

/// The host that this program runs on.
pub struct ThisHost;

impl System for ThisHost {
    fn run(&self, words: &[&str], input: &str) -> Result<ProgramOutput> {
        let [program, arguments @ ..] = words else {
            bail!("no program is named");
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends without reading all of it says why itself.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(ProgramOutput {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn root(&self) -> &Path {
        Path::new("/")
    }
}

fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(folder)?.sync_all()
}

fn write_new_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    fs::File::open(folder)?.sync_all()
}
