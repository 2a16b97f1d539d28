// SPDX-License-Identifier: GPL-2.0-or-later
//! The platforms: kernels, releases and processors, and in one table what differs between them.

use anyhow::{Context, Result};

/// A kernel that the module is built for and tested on, with the Debian release it runs under.
pub struct Platform {
    /// Its name, as `--kernel` takes it.
    pub kernel: &'static str,
    /// Whether every run of all tests includes it.
    pub always_tested: bool,
    /// What the processor calls for.
    pub architecture: &'static Architecture,
    /// The release's code name.
    pub release: &'static str,
    /// Where the kernel, and nothing else, comes from.
    pub origin: Origin,
    /// What the versions of the series begin with.
    series: &'static str,
    /// Debian's build of it.
    pub flavour: &'static str,
}

/// Where a platform's kernel comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The release itself.
    Release,
    /// The release's backports.
    Backports,
    /// The release's source, built here with every checker on.
    Source,
}

/// What differs between processors, by the names that others have for them.
pub struct Architecture {
    /// Debian's name.
    pub debian: &'static str,
    /// The name of the folder with its libraries.
    pub multiarch: &'static str,
    /// The program that emulates it.
    pub qemu: &'static str,
    /// The package with that program.
    pub qemu_package: &'static str,
    /// The kernel's image in the tree that it is built in.
    pub kernel_image: &'static str,
}

/// That of 64-bit PCs.
pub const X86_64: Architecture = Architecture {
    debian: "amd64",
    multiarch: "x86_64-linux-gnu",
    qemu: "qemu-system-x86_64",
    qemu_package: "qemu-system-x86",
    kernel_image: "arch/x86/boot/bzImage",
};

/// Every platform; the first is the one that commands take unless told otherwise.
pub const PLATFORMS: [Platform; 5] = [
    Platform {
        kernel: "6.1",
        always_tested: true,
        architecture: &X86_64,
        release: "bookworm",
        origin: Origin::Release,
        series: "6.1.",
        flavour: "-amd64",
    },
    Platform {
        kernel: "6.12",
        always_tested: true,
        architecture: &X86_64,
        release: "trixie",
        origin: Origin::Release,
        series: "6.12.",
        flavour: "-amd64",
    },
    Platform {
        kernel: "7.3",
        always_tested: true,
        architecture: &X86_64,
        release: "trixie",
        origin: Origin::Backports,
        series: "7.3.",
        flavour: "-amd64",
    },
    Platform {
        kernel: "7.3-rt",
        always_tested: false,
        architecture: &X86_64,
        release: "trixie",
        origin: Origin::Backports,
        series: "7.3.",
        flavour: "-rt-amd64",
    },
    Platform {
        kernel: "debug",
        always_tested: false,
        architecture: &X86_64,
        release: "trixie",
        origin: Origin::Source,
        series: "6.12.",
        flavour: "-amd64",
    },
];

impl Platform {
    /// The platform that `--kernel` calls `kernel`; all of them for `all`.
    pub fn select(kernel: &str) -> &'static [Self] {
        match PLATFORMS
            .iter()
            .position(|platform| platform.kernel == kernel)
        {
            Some(index) => &PLATFORMS[index..=index],
            None => &PLATFORMS,
        }
    }

    /// The newest kernel of this platform among packages that `apt-cache search` lists.
    pub fn newest_kernel<'a>(&self, listed: &'a str) -> Result<&'a str> {
        listed
            .lines()
            .filter_map(|line| line.split(' ').next()?.strip_prefix("linux-image-"))
            .filter(|kernel| kernel.starts_with(self.series))
            // Any other letters are another flavour's, or those of its debug symbols.
            .filter(|kernel| {
                kernel.strip_suffix(self.flavour).is_some_and(|version| {
                    !version.replace("+deb", "").contains(char::is_alphabetic)
                })
            })
            .max_by_key(|kernel| version_numbers(kernel))
            .with_context(|| {
                format!(
                    "the archive of Debian {} has no kernel {}",
                    self.release, self.kernel
                )
            })
    }

    /// Whether the kernel checks what the module does, so that the Rust object should help it to.
    pub fn is_debug(&self) -> bool {
        self.origin == Origin::Source
    }
}

/// The numbers in the name of a kernel, which order it among its series.
fn version_numbers(kernel: &str) -> Vec<u64> {
    kernel
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
linux-image-7.3.9+deb13-amd64 - Linux 7.3 for 64-bit PCs (signed)
linux-image-7.3.10+deb13-amd64 - Linux 7.3 for 64-bit PCs (signed)
linux-image-7.3.10+deb13-amd64-dbg - Debug symbols for linux-image-7.3.10+deb13-amd64
linux-image-7.3.11+deb13-amd64-unsigned - Linux 7.3 for 64-bit PCs
linux-image-7.3.11+deb13-cloud-amd64 - Linux 7.3 for x86-64 cloud (signed)
linux-image-7.3.11+deb13-rt-amd64 - Linux 7.3 for 64-bit PCs, PREEMPT_RT (signed)
linux-image-7.4.1+deb13-amd64 - Linux 7.4 for 64-bit PCs (signed)
";

    fn newest(kernel: &str) -> Result<&'static str> {
        Platform::select(kernel)[0].newest_kernel(LISTED)
    }

    #[test]
    fn newest_kernel_of_series_and_flavour_is_taken() {
        assert_eq!(newest("7.3").unwrap(), "7.3.10+deb13-amd64");
        assert_eq!(newest("7.3-rt").unwrap(), "7.3.11+deb13-rt-amd64");
    }

    #[test]
    fn series_that_left_the_archive_is_an_error() {
        assert!(newest("6.12").is_err());
    }

    #[test]
    fn all_selects_every_platform() {
        assert_eq!(Platform::select("all").len(), PLATFORMS.len());
        assert_eq!(Platform::select("6.12").len(), 1);
    }
}
