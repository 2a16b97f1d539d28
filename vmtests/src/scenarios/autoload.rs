// SPDX-License-Identifier: GPL-2.0-or-later
//! A rule loads the module by itself, from either family.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Backend, Iptables};
use crate::module;
use crate::process;
use crate::topology::Topology;

/// The program that the kernel starts when it wants a module.
const MODPROBE: &str = "/proc/sys/kernel/modprobe";

pub fn run(guest: &Guest) -> Result<()> {
    process::succeed(Command::new("modprobe").arg("x_tables"))?;
    // The guest's folder of modules is read-only, so what depmod would have written down of the
    // module is looked up in the module itself.
    let module = guest.file("xt_TRAFSTAT.ko");
    let script = guest.scratch()?.join("modprobe");
    let module = module.display();
    fs::write(
        &script,
        format!(
            "#!/bin/sh\n\
             for name; do :; done\n\
             if modinfo -F alias {module} | grep -qx \"$name\"; then exec insmod {module}; fi\n\
             exec modprobe \"$@\"\n"
        ),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let usual = fs::read_to_string(MODPROBE)?;
    fs::write(MODPROBE, script.as_os_str().as_encoded_bytes())?;
    let done = rules_load_the_module(guest);
    fs::write(MODPROBE, usual)?;
    done
}

fn rules_load_the_module(guest: &Guest) -> Result<()> {
    for family in [Family::Ipv4, Family::Ipv6] {
        for &backend in Backend::all()? {
            ensure!(!module::is_loaded(), "the module is loaded already");
            let topology = Topology::new(family)?;
            let iptables = Iptables::new(guest, &topology.local, family).through(backend);
            let local = family.local();
            iptables.succeed(&format!("-A INPUT -j TRAFSTAT --local-net {local}"))?;
            ensure!(
                module::is_loaded(),
                "{} went without the module",
                iptables.program()
            );
            drop(topology);
            module::unload()?;
        }
    }
    Ok(())
}
