//! The atomics that core counts with: the processor's or, where a model of the epochs is
//! checked (`tests/epochs.rs`), loom's, which try every order that the memory model allows.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// So many zeros.
#[cfg(not(loom))]
#[inline]
pub(crate) fn zeros<const N: usize>() -> [AtomicU64; N] {
    [const { AtomicU64::new(0) }; N]
}

/// So many zeros.
#[cfg(loom)]
pub(crate) fn zeros<const N: usize>() -> [AtomicU64; N] {
    core::array::from_fn(|_| AtomicU64::new(0))
}
