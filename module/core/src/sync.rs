// SPDX-License-Identifier: GPL-2.0-or-later
//! The atomics that core counts with: the processor's or, where a model of the epochs is
//! checked (`tests/epochs.rs`), loom's, which try every order that the memory model allows.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
pub use modelled::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// An array of zeros.
#[inline]
pub(crate) const fn zeros<const N: usize>() -> [AtomicU64; N] {
    [const { AtomicU64::new(0) }; N]
}

/// Loom's atomics, made in constants. Loom's own come to be at the first access, which has
/// to happen before other threads know them.
#[cfg(loom)]
mod modelled {
    use std::sync::OnceLock;

    pub use loom::sync::atomic::Ordering;

    macro_rules! modelled {
        ($name:ident, $value:ty) => {
            /// An atomic of loom.
            #[derive(Debug, Default)]
            pub struct $name {
                initial: $value,
                atomic: OnceLock<loom::sync::atomic::$name>,
            }

            #[expect(missing_docs, reason = "as in core::sync::atomic")]
            impl $name {
                pub const fn new(initial: $value) -> Self {
                    let atomic = OnceLock::new();
                    Self { initial, atomic }
                }

                fn atomic(&self) -> &loom::sync::atomic::$name {
                    self.atomic
                        .get_or_init(|| loom::sync::atomic::$name::new(self.initial))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    self.atomic().load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    self.atomic().store(value, order);
                }

                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.atomic()
                        .compare_exchange(current, new, success, failure)
                }

                pub fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.atomic()
                        .compare_exchange_weak(current, new, success, failure)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.atomic().fetch_or(value, order)
                }
            }
        };
    }

    modelled!(AtomicBool, bool);
    modelled!(AtomicU32, u32);
    modelled!(AtomicU64, u64);
}
