// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory that is read nearly as in the kernel.

use crossbeam_utils::atomic::AtomicCell;
use trafstat_core::memory::{Allocation, Blank, Memory, Slot};

/// Memory that is never freed, so that a slot needs no check but the slice's bounds. A slot in
/// the kernel is a pointer and a length, this one a pointer to them; `StdMemory` asks at each
/// packet whether its `OnceLock` is filled.
pub struct Leaked;

impl Memory for Leaked {
    type Guard = ();
    type Payer = ();
    type Slot<T: Blank> = LeakedSlot<T>;
}

pub struct LeakedSlot<T: 'static>(AtomicCell<&'static Vec<T>>);

impl<T> LeakedSlot<T> {
    const EMPTY: &'static Vec<T> = &Vec::new();
}

impl<T: Blank> Blank for LeakedSlot<T> {
    const BLANK: Self = Self(AtomicCell::new(Self::EMPTY));

    fn blank(&self) {
        self.0.store(Self::EMPTY);
    }
}

impl<T: Blank> Slot<T, Leaked> for LeakedSlot<T> {
    #[inline]
    fn slice<'a>(&'a self, (): &'a ()) -> &'a [T] {
        self.0.load()
    }

    fn fill(&self, len: usize, _: Allocation, (): ()) -> bool {
        if self.0.load().is_empty() {
            let slice = (0..len).map(|_| T::BLANK).collect();
            self.0.store(Box::leak(Box::new(slice)));
        }
        true
    }

    fn retire(&self, _: Option<()>) {
        self.blank();
    }

    fn bytes(&self) -> usize {
        size_of_val(self.slice(&()))
    }
}
