// SPDX-License-Identifier: GPL-2.0-or-later
//! What core asks of the place it runs in: memory that packets can read while it is
//! being replaced.
//!
//! In the kernel a [`Slot`] is an RCU-protected pointer; in user space it is an
//! `OnceLock` (see [`StdMemory`]).

use crate::sync::{AtomicU64, Ordering};

/// Memory as the kernel or the standard library provides it.
pub trait Memory: 'static {
    /// Proof that what a slot hands out stays allocated while the guard lives: an RCU
    /// read-side section in the kernel.
    type Guard;

    /// Who pays for memory, wherever and whenever it is allocated.
    type Payer: Copy + Send + Sync;

    /// A place for one slice of `T`.
    type Slot<T: Blank>: Slot<T, Self> + Blank;
}

/// A value that starts blank and can be made blank again in place.
pub trait Blank: Sized + Send + Sync + 'static {
    /// The blank value.
    ///
    /// A constant, so that it is copied from where constants stand to where it belongs: a
    /// flow table is larger than a stack frame of the kernel should be.
    const BLANK: Self;

    /// Makes the value equal to [`Blank::BLANK`].
    fn blank(&self);
}

impl Blank for AtomicU64 {
    const BLANK: Self = Self::new(0);

    fn blank(&self) {
        self.store(0, Ordering::Relaxed);
    }
}

/// How an allocation may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// In the packet path: must not sleep, and fails early rather than late.
    Atomic,
    /// In process context, near the memory of the CPU with this id.
    Sleeping {
        /// The CPU that will use the memory.
        cpu: u32,
    },
}

/// A place that is empty, then holds one slice of `T`, then may be emptied again.
pub trait Slot<T, M: Memory + ?Sized> {
    /// The slice, which has nothing where the slot is empty.
    fn slice<'a>(&'a self, guard: &'a M::Guard) -> &'a [T];

    /// The slice, or `None` where the slot is empty.
    #[inline]
    fn get<'a>(&'a self, guard: &'a M::Guard) -> Option<&'a [T]>
    where
        T: 'a,
    {
        Some(self.slice(guard)).filter(|slice| !slice.is_empty())
    }

    /// Fills an empty slot with `len` blank values, at `payer`'s expense, and says
    /// whether it now holds a slice. A slot that was filled stays as it is.
    fn fill(&self, len: usize, how: Allocation, payer: M::Payer) -> bool;

    /// Empties the slot; what it held is freed once no guard is left that saw it, and given
    /// back to `payer` then, or with the payer's end where there is none.
    fn retire(&self, payer: Option<M::Payer>);

    /// Bytes that the slot holds.
    fn bytes(&self) -> usize;
}

#[cfg(any(test, feature = "std"))]
pub use std_memory::{StdMemory, StdSlot};

#[cfg(any(test, feature = "std"))]
mod std_memory {
    use std::boxed::Box;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Allocation, Blank, Memory, Slot};

    /// Memory of the standard library's allocator. A slot keeps what it held until it is
    /// dropped, and uses it again.
    #[derive(Debug)]
    pub struct StdMemory;

    impl Memory for StdMemory {
        type Guard = ();
        type Payer = ();
        type Slot<T: Blank> = StdSlot<T>;
    }

    /// A slot over `OnceLock`.
    #[derive(Debug)]
    pub struct StdSlot<T> {
        slice: OnceLock<Box<[T]>>,
        /// Of the slice while the slot is filled, else 0.
        len: AtomicUsize,
    }

    impl<T: Blank> Blank for StdSlot<T> {
        const BLANK: Self = Self {
            slice: OnceLock::new(),
            len: AtomicUsize::new(0),
        };

        fn blank(&self) {
            self.retire(None);
        }
    }

    impl<T: Blank> Slot<T, StdMemory> for StdSlot<T> {
        #[inline]
        fn slice<'a>(&'a self, _: &'a ()) -> &'a [T] {
            let len = self.len.load(Ordering::Acquire);
            let slice = self.slice.get().and_then(|slice| slice.get(..len));
            slice.unwrap_or_default()
        }

        fn fill(&self, len: usize, _: Allocation, (): ()) -> bool {
            if self.len.load(Ordering::Acquire) == 0 {
                let slice = self
                    .slice
                    .get_or_init(|| (0..len).map(|_| T::BLANK).collect());
                slice.iter().for_each(Blank::blank);
                self.len.store(slice.len(), Ordering::Release);
            }
            true
        }

        fn retire(&self, _: Option<()>) {
            self.len.store(0, Ordering::Release);
        }

        fn bytes(&self) -> usize {
            size_of_val(self.slice(&()))
        }
    }
}
