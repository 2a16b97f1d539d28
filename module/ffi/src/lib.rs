// SPDX-License-Identifier: GPL-2.0-only
//! The boundary between the kernel module's C and trafstat-core: `module/glue/ffi.h` in Rust.
//!
//! All unsafe Rust of the kernel side is here: `memory` turns the kernel's allocator
//! and RCU into core's slots, `exports` turns C's pointers into references. `glue`
//! is generated from that header, so the two cannot differ.
#![no_std]
#![allow(unsafe_code)]

mod exports;
#[rustfmt::skip]
#[allow(dead_code, non_camel_case_types)]
mod glue;
mod memory;

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked: the build fails on any path that panics.
    loop {
        core::hint::spin_loop();
    }
}
