// SPDX-License-Identifier: GPL-2.0-or-later
//! tc cannot use the target: act_ipt would show users all of it, the kernel's own pointer included.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::guest::{Guest, Skipped};
use crate::kernel_log::KernelLog;
use crate::module;
use crate::process;
use crate::tenant::{NOBODY, Tenant};

const FILTER: &str = "tc filter add dev lo ingress protocol ip matchall \
                      action xt -j TRAFSTAT --local-net 127.0.0.0/8 --name tc";

/// Prints what the kernel tells of the filters of the loopback device (linux/rtnetlink.h), as far
/// as it is the target's: its size and the eight bytes at the place of its pointer.
const DUMP: &str = r#"
import socket, struct
RTM_GETTFILTER, REQUEST_DUMP, NLMSG_DONE, INGRESS = 46, 0x301, 3, 0xfffffff2
POINTER = 2024
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
netlink.settimeout(10)
body = struct.pack("<BxxxiIII", 0, socket.if_nametoindex("lo"), 0, INGRESS, 0)
netlink.send(struct.pack("<IHHII", 16 + len(body), RTM_GETTFILTER, REQUEST_DUMP, 1, 0) + body)
dump = b""
while True:
    part = netlink.recv(65536)
    dump += part
    if struct.unpack_from("<H", part, 4)[0] == NLMSG_DONE:
        break
at = dump.find(b"TRAFSTAT")
while at >= 0:
    # struct xt_entry_target: a size of two bytes, a name of 29, a revision.
    size, = struct.unpack_from("<H", dump, at - 2)
    if size > POINTER and at - 2 + size <= len(dump):
        print("%d bytes, pointer %#x" % (size, *struct.unpack_from("<Q", dump, at + 30 + POINTER)))
    at = dump.find(b"TRAFSTAT", at + 1)
"#;

pub fn run(guest: &Guest) -> Result<()> {
    let mut modprobe = Command::new("modprobe");
    // tc asks for the target's revision through x_tables.
    modprobe.args(["-a", "act_ipt", "cls_matchall", "sch_ingress", "ip_tables"]);
    let modules = process::end(&mut modprobe)?;
    if modules.code != Some(0) {
        bail!(Skipped("this kernel has no act_ipt"));
    }
    module::load(guest)?;
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    tenant.succeed(&["tc", "qdisc", "add", "dev", "lo", "clsact"])?;
    let log = KernelLog::from_now()?;
    let filter: Vec<_> = FILTER.split_whitespace().collect();
    let refused = tenant.end(&filter, "")?;
    let shown = tenant.succeed(&["python3", "-c", DUMP])?;
    ensure!(
        refused.code != Some(0) && shown.is_empty(),
        "tc takes the target, and a user sees of it: {shown}"
    );
    let lines = log.lines()?;
    ensure!(
        lines
            .iter()
            .any(|line| line.starts_with("xt_TRAFSTAT: ") && line.contains("tc")),
        "the log does not say that tc was refused: {lines:?}, {refused:?}"
    );
    Ok(())
}
