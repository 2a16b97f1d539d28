// SPDX-License-Identifier: GPL-2.0-or-later
//! The host that is looked at and changed: its programs and its files.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// The most bytes that the kernel lets a file's attribute have, or all their names (limits.h).
const MAX_ATTRIBUTES: usize = 65_536;

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

    /// Writes a file as a whole: a reader sees the old one or the new one, also after a loss of
    /// power. A file that is replaced keeps its owner, mode and extended attributes, and stays where
    /// a link leads; `mode` is a new one's.
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

/// As [`System::write`], of this host.
///
/// # Errors
/// The system's.
pub fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // A link stays, and leads to the new file.
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        found => found?,
    };
    fs::create_dir_all(folder_of(&path))?;
    let file = new_file(&path, text, mode)?;
    match fs::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        old => keep_attributes(&old?, file.as_file())?,
    }
    file.as_file().sync_all()?;
    file.persist(&path)?;
    sync_folder(&path)
}

fn write_new_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    fs::create_dir_all(folder_of(path))?;
    let file = new_file(path, text, mode)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    sync_folder(path)
}

/// Writes a file in the place of what has the name, be that a link; a device or a pipe is written to.
///
/// # Errors
/// The system's.
pub fn write_in_place_of(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let is_replaced = match fs::symlink_metadata(path) {
        // Links there lead to what the process has open.
        Ok(found) => found.is_file() || found.is_symlink() && !path.starts_with("/dev"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    if !is_replaced {
        return fs::File::options()
            .write(true)
            .open(path)?
            .write_all(text.as_bytes());
    }
    let file = new_file(path, text, mode)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(path)
}

/// A file of another name beside the path, with the text.
fn new_file(path: &Path, text: &str, mode: u32) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder_of(path))?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Gives a file the owner, mode and extended attributes, access lists among them, of another.
fn keep_attributes(old: &fs::File, new: &fs::File) -> io::Result<()> {
    let metadata = old.metadata()?;
    fchown(new, Some(metadata.uid()), Some(metadata.gid()))?;
    // Behind the owner, whose change takes bits of the mode away.
    new.set_permissions(metadata.permissions())?;
    let mut names = vec![0; MAX_ATTRIBUTES];
    let length = match rustix::fs::flistxattr(old, &mut names[..]) {
        // The file system has none.
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut value = vec![0; MAX_ATTRIBUTES];
    for name in names[..length].split_inclusive(|&byte| byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        let length = rustix::fs::fgetxattr(old, name, &mut value[..])?;
        rustix::fs::fsetxattr(new, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder == Path::new("") => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(folder_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A minimal access list (acl(5)) as Linux keeps it: version 2, then entries of tag, rights and
    /// id, each little-endian: the owner rw-, user 1 r--, the group ---, the mask r--, others ---.
    const ACCESS_LIST: [u8; 44] = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 0, 0, 255, 255,
        255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];

    #[test]
    fn file_that_is_edited_keeps_mode_owner_link_and_access_list() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", &link).unwrap();
        // Only root may give a file away; some file systems keep no access lists.
        let is_given = fchown(fs::File::open(&file).unwrap(), Some(1), Some(2)).is_ok();
        let name = c"system.posix_acl_access";
        let has_list = rustix::fs::setxattr(&file, name, &ACCESS_LIST, XattrFlags::empty()).is_ok();
        let before = fs::metadata(&file).unwrap();
        write_whole(&link, "new", 0o644).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        let after = fs::metadata(&file).unwrap();
        assert_ne!(after.ino(), before.ino());
        assert_eq!(after.mode(), before.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert!(!is_given || (after.uid(), after.gid()) == (1, 2));
        if has_list {
            let mut list = [0; 64];
            let length = rustix::fs::getxattr(&file, name, &mut list[..]).unwrap();
            assert_eq!(list[..length], ACCESS_LIST);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn file_in_the_place_of_a_link_leaves_what_the_link_led_to() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        symlink("real", &link).unwrap();
        write_in_place_of(&link, "new", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        write_in_place_of(Path::new("/dev/null"), "new", 0o644).unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }

    #[test]
    fn file_that_is_new_has_the_mode_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/secret");
        write_whole(&path, "text", 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
