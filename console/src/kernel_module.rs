// SPDX-License-Identifier: GPL-2.0-or-later
//! Where the kernel shows the module, and whether it is loaded.

use crate::system::System;

/// Where the module shows its accounts, as long as it is loaded.
const PROC: &str = "/proc/net/trafstat";

/// Where the kernel tells of a loaded module of this name, the original's too.
pub const SYS: &str = "/sys/module/xt_TRAFSTAT";

/// Whether the module is loaded: this one, and not the original's.
pub fn is_loaded(system: &dyn System) -> bool {
    system.path(PROC).exists()
}
