// SPDX-License-Identifier: GPL-2.0-or-later
//! Which host and network namespace a snapshot was counted in.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A host and one of its network namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// What the host is known by: `/etc/machine-id`, or the host name of a host
    /// that has none.
    pub machine_id: String,
    /// The host's name, for people; it may change.
    pub hostname: String,
    /// `init`, a name of `ip netns`, or `net:[INODE]` for a nameless namespace.
    pub netns: String,
}

/// A file that tells where this process runs cannot be read.
#[derive(Debug, Error)]
#[error("cannot tell this network namespace: {}: {source}", .path.display())]
pub struct OriginError {
    path: PathBuf,
    source: io::Error,
}

impl Origin {
    /// Where this process runs.
    ///
    /// # Errors
    /// That `/proc` is not readable.
    pub fn of_this_process() -> Result<Self, OriginError> {
        let hostname = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            machine_id: machine_id(Path::new("/etc/machine-id"))
                .unwrap_or_else(|| hostname.clone()),
            hostname,
            netns: netns()?,
        })
    }
}

impl Origin {
    /// A named network namespace of the same host.
    #[must_use]
    pub fn in_namespace(&self, name: &str) -> Self {
        Self {
            netns: name.to_owned(),
            ..self.clone()
        }
    }
}

/// The id in a file as machine-id(5) has it: 32 hexadecimal digits.
///
/// None where the file is missing, empty or says `uninitialized`, as in images.
fn machine_id(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let id = text.trim();
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

fn netns() -> Result<String, OriginError> {
    let own = namespace_of(Path::new("/proc/self/ns/net"))?;
    // Process 1 is not to be looked at without privileges; then a name says enough.
    if namespace_of(Path::new("/proc/1/ns/net")).is_ok_and(|init| init == own) {
        return Ok("init".to_owned());
    }
    Ok(named_namespace(Path::new("/run/netns"), own).unwrap_or_else(|| format!("net:[{}]", own.1)))
}

/// Device and inode, by which the kernel tells namespaces apart.
fn namespace_of(path: &Path) -> Result<(u64, u64), OriginError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino())),
        Err(source) => Err(OriginError {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// The name that ip-netns(8) gave the namespace by mounting it in `folder`.
fn named_namespace(folder: &Path, namespace: (u64, u64)) -> Option<String> {
    std::fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| namespace_of(&entry.path()).is_ok_and(|found| found == namespace))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_host_and_a_namespace() {
        let origin = Origin::of_this_process().unwrap();
        assert!(!origin.machine_id.is_empty());
        assert!(!origin.hostname.is_empty());
        assert!(!origin.netns.is_empty());
    }

    #[test]
    fn uninitialized_machine_id_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine-id");
        assert_eq!(machine_id(&path), None);
        for text in ["", "uninitialized\n", "0123"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(machine_id(&path), None, "{text:?}");
        }
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(
            machine_id(&path).unwrap(),
            "0123456789abcdef0123456789abcdef"
        );
    }

    #[test]
    fn namespace_is_named_by_what_is_mounted_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blue");
        std::fs::write(&path, "").unwrap();
        let namespace = namespace_of(&path).unwrap();
        assert_eq!(named_namespace(folder.path(), namespace).unwrap(), "blue");
        assert_eq!(
            named_namespace(folder.path(), (namespace.0, namespace.1 + 1)),
            None
        );
    }
}
