// SPDX-License-Identifier: GPL-2.0-only
//! Core's slots over the kernel's allocator and RCU.

use core::hint::assert_unchecked;
use core::marker::PhantomData;
use core::mem::{needs_drop, size_of};
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::{
    AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use trafstat_core::memory::{Allocation, Blank, Memory, Slot};

use crate::glue::{
    ATOMIC, trafstat_alloc, trafstat_free, trafstat_free_deferred, trafstat_free_with_payer,
    trafstat_payer,
};

/// There is a slice, or one is about to be published.
const CLAIMED: u32 = 1 << 31;
const LEN: u32 = CLAIMED - 1;

/// The kernel's memory.
pub struct KernelMemory;

/// Who pays for the memory of an account or rule.
#[derive(Clone, Copy)]
pub struct Payer(NonNull<trafstat_payer>);

// SAFETY: the pointer is only handed to C, whose functions take a payer in any context.
unsafe impl Send for Payer {}
// SAFETY: as above.
unsafe impl Sync for Payer {}

impl Payer {
    /// # Safety
    /// `payer` stays a payer as long as the account or rule whose memory it pays for.
    pub unsafe fn new(payer: NonNull<trafstat_payer>) -> Self {
        Self(payer)
    }
}

/// Proof of an RCU read-side section, or that nobody retires what is read.
pub struct Guard {
    _not_send: PhantomData<*mut ()>,
}

impl Guard {
    /// # Safety
    /// While the guard lives the caller is in an RCU read-side section, or no slot that
    /// it reads through the guard is retired by another thread.
    pub unsafe fn new() -> Self {
        Self {
            _not_send: PhantomData,
        }
    }
}

impl Memory for KernelMemory {
    type Guard = Guard;
    type Payer = Payer;
    type Slot<T: Blank> = KernelSlot<T>;
}

/// An RCU-protected pointer to a slice that the slot owns.
///
/// `len` publishes: where it is 0 the slot is empty, whatever `first` points to. A slot has
/// one length for life, so that a reader which sees the length of one slice and the pointer
/// to the next, filled in between, reads beyond neither.
pub struct KernelSlot<T> {
    first: AtomicPtr<T>,
    len: AtomicU32,
    /// The length of all its slices, once there was one, and [`CLAIMED`].
    claim: AtomicU32,
    owns: PhantomData<T>,
}

impl<T: Blank> Blank for KernelSlot<T> {
    const BLANK: Self = Self {
        first: AtomicPtr::new(ptr::dangling_mut()),
        len: AtomicU32::new(0),
        claim: AtomicU32::new(0),
        owns: PhantomData,
    };

    fn blank(&self) {
        self.retire(None);
    }
}

impl<T: Blank> Slot<T, KernelMemory> for KernelSlot<T> {
    #[inline]
    fn slice<'a>(&'a self, _: &'a Guard) -> &'a [T] {
        let len = self.len.load(Acquire);
        let first = self.first.load(Acquire);
        // SAFETY: `first` starts as a dangling pointer and is only replaced by allocations.
        unsafe { assert_unchecked(!first.is_null()) };
        // SAFETY: with length 0 any aligned pointer will do, and `first` is never another.
        // Any other length was stored by `fill` after a pointer to as many values; `first`
        // is that one or that of a later slice, which has the same length. The guard keeps
        // the allocation: `retire` frees after a grace period, and `drop` has the slot to
        // itself. T is Sync.
        unsafe { slice::from_raw_parts(first, len as usize) }
    }

    #[inline(never)]
    fn fill(&self, len: usize, how: Allocation, payer: Payer) -> bool {
        if self.len.load(Relaxed) != 0 {
            return true;
        }
        let Ok(wanted) = u32::try_from(len) else {
            return false;
        };
        let claim = self.claim.load(Relaxed);
        let known = claim & LEN;
        if wanted > LEN || (known != 0 && known != wanted) {
            return false;
        }
        let Some(first) = allocate::<T>(len, how, payer) else {
            return false;
        };
        let is_claimed = claim & CLAIMED == 0
            && self
                .claim
                .compare_exchange(claim, wanted | CLAIMED, Acquire, Relaxed)
                .is_ok();
        if is_claimed {
            self.first.store(first, Release);
            self.len.store(wanted, Release);
        } else {
            // SAFETY: `first` comes from `allocate` with this length and payer, and nobody
            // else knows it. What it holds is blank, which needs no drop.
            unsafe { trafstat_free(first.cast(), bytes_of::<T>(len), payer.0.as_ptr()) };
        }
        true
    }

    fn retire(&self, payer: Option<Payer>) {
        // What a retired slice owns would have to wait for the grace period too.
        const { assert!(!needs_drop::<T>()) };
        let len = self.len.swap(0, Acquire) as usize;
        if len == 0 {
            return;
        }
        let first = self.first.load(Relaxed);
        let claim = self.claim.load(Relaxed);
        let payer = payer.map_or(ptr::null_mut(), |payer| payer.0.as_ptr());
        // SAFETY: `first` comes from `trafstat_alloc` with this size, at this payer's expense
        // if there is one, and after the swap only readers with a guard know it, for whom
        // the kernel waits.
        unsafe { trafstat_free_deferred(first.cast(), bytes_of::<T>(len), payer) };
        self.claim.store(claim & LEN, Release);
    }

    fn bytes(&self) -> usize {
        bytes_of::<T>(self.len.load(Relaxed) as usize)
    }
}

impl<T> Drop for KernelSlot<T> {
    fn drop(&mut self) {
        let len = *self.len.get_mut() as usize;
        let first = *self.first.get_mut();
        if needs_drop::<T>() {
            for at in 0..len {
                // SAFETY: `at` is below the length of the allocation.
                let place = unsafe { first.add(at) };
                // SAFETY: `allocate` wrote a value there, and `&mut self` says that nobody
                // else uses it any more.
                unsafe { place.drop_in_place() };
            }
        }
        if len != 0 {
            // SAFETY: `first` comes from `trafstat_alloc`, nobody reads it any more, and the
            // payer ends after the account or rule that this slot is in.
            unsafe { trafstat_free_with_payer(first.cast()) };
        }
    }
}

/// Bytes of `len` values.
fn bytes_of<T>(len: usize) -> usize {
    len.wrapping_mul(size_of::<T>())
}

/// Memory for `len` blank values.
fn allocate<T: Blank>(len: usize, how: Allocation, payer: Payer) -> Option<*mut T> {
    let size = len.checked_mul(size_of::<T>()).filter(|size| *size != 0)?;
    let cpu = match how {
        Allocation::Atomic => ATOMIC,
        Allocation::Sleeping { cpu } => cpu,
    };
    // SAFETY: any size and any CPU id may be asked for; `how` says whether the caller may
    // sleep.
    let memory = unsafe { trafstat_alloc(size, cpu, payer.0.as_ptr()) };
    if memory.is_null() {
        return None;
    }
    let first: *mut T = memory.cast();
    if !first.is_aligned() {
        // SAFETY: `memory` was allocated above with this size.
        unsafe { trafstat_free(memory, size, payer.0.as_ptr()) };
        return None;
    }
    for at in 0..len {
        // SAFETY: `at` is below `len`, so the place is within the allocation.
        let place = unsafe { first.add(at) };
        // SAFETY: `place` is aligned, within the allocation, and nobody else's yet.
        unsafe { place.write(T::BLANK) };
    }
    Some(first)
}
