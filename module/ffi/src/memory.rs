//! Core's slots over the kernel's allocator and RCU.

use core::marker::PhantomData;
use core::mem::{needs_drop, size_of};
use core::ptr;
use core::slice;
use core::sync::atomic::{
    AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use trafstat_core::memory::{Allocation, Blank, Memory, Slot};

use crate::glue::{ATOMIC, trafstat_alloc, trafstat_free, trafstat_free_deferred, trafstat_payer};

/// The kernel's memory.
pub struct KernelMemory;

/// Who pays for an account's memory.
#[derive(Clone, Copy)]
pub struct Payer(&'static trafstat_payer);

// SAFETY: nobody writes a payer after it was handed over, and whose memory cgroup it
// points to is a matter for C, which holds a reference to that.
unsafe impl Send for Payer {}
// SAFETY: as above.
unsafe impl Sync for Payer {}

impl Payer {
    /// # Safety
    /// Nobody writes `payer` any more, and its memory cgroup stays as long as it does.
    pub unsafe fn new(payer: &'static trafstat_payer) -> Self {
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

/// An RCU-protected pointer to a slice that the slot owns; null is empty.
///
/// Length and share are set before the first slice is published and never change: a
/// reader that sees a pointer sees the length that belongs to it, and what is freed is
/// given back to the share that it was taken from.
pub struct KernelSlot<T> {
    first: AtomicPtr<T>,
    len: AtomicU32,
    share: AtomicU32,
    owns: PhantomData<T>,
}

impl<T> Default for KernelSlot<T> {
    #[inline]
    fn default() -> Self {
        let first = AtomicPtr::new(ptr::null_mut());
        Self {
            first,
            len: AtomicU32::new(0),
            share: AtomicU32::new(0),
            owns: PhantomData,
        }
    }
}

impl<T: Blank> Blank for KernelSlot<T> {
    fn blank(&self) {
        self.retire();
    }
}

impl<T: Blank> Slot<T, KernelMemory> for KernelSlot<T> {
    #[inline]
    fn get<'a>(&'a self, _: &'a Guard) -> Option<&'a [T]> {
        let first = self.first.load(Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: `first` was published by `fill` after it had written `len` values
        // there, and `len` never changes. The guard keeps the allocation: `retire` frees
        // after a grace period, and `drop` has the slot to itself. T is Sync.
        Some(unsafe { slice::from_raw_parts(first, self.len()) })
    }

    #[inline(never)]
    fn fill(&self, len: usize, how: Allocation, payer: Payer) -> bool {
        if !self.first.load(Relaxed).is_null() {
            return true;
        }
        let Ok(wanted) = u32::try_from(len) else {
            return false;
        };
        match self.len.compare_exchange(0, wanted, Relaxed, Relaxed) {
            Ok(_) => {}
            Err(present) if present == wanted => {}
            Err(_) => return false,
        }
        // One account's slots have one payer.
        self.share.store(payer.0.share, Relaxed);
        let Some(first) = allocate::<T>(len, how, payer) else {
            return false;
        };
        let published = self
            .first
            .compare_exchange(ptr::null_mut(), first, Release, Relaxed)
            .is_ok();
        if !published {
            // SAFETY: `first` comes from `allocate` with this length and nobody else
            // knows it.
            unsafe { free(first, len, payer.0.share) };
        }
        true
    }

    fn retire(&self) {
        // What a retired slice owns would have to wait for the grace period too.
        const { assert!(!needs_drop::<T>()) };
        let first = self.first.swap(ptr::null_mut(), Relaxed);
        if !first.is_null() {
            let size = self.len().wrapping_mul(size_of::<T>());
            let share = self.share.load(Relaxed);
            // SAFETY: `first` comes from `trafstat_alloc` with this size, and after the
            // swap only readers with a guard know it, for whom the kernel waits.
            unsafe { trafstat_free_deferred(first.cast(), size, share) };
        }
    }

    fn bytes(&self) -> usize {
        if self.first.load(Relaxed).is_null() {
            return 0;
        }
        self.len().wrapping_mul(size_of::<T>())
    }
}

impl<T> KernelSlot<T> {
    #[inline]
    fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }
}

impl<T> Drop for KernelSlot<T> {
    fn drop(&mut self) {
        let first = *self.first.get_mut();
        if !first.is_null() {
            // SAFETY: `first` comes from `allocate` with this length, and `&mut self`
            // says that nobody reads it any more.
            unsafe { free(first, self.len(), *self.share.get_mut()) };
        }
    }
}

/// Memory for `len` values, each made its default.
fn allocate<T: Blank>(len: usize, how: Allocation, payer: Payer) -> Option<*mut T> {
    let size = len.checked_mul(size_of::<T>()).filter(|size| *size != 0)?;
    let cpu = match how {
        Allocation::Atomic => ATOMIC,
        Allocation::Sleeping { cpu } => cpu,
    };
    // SAFETY: any size and any CPU id may be asked for; `how` says whether the caller may
    // sleep.
    let memory = unsafe { trafstat_alloc(size, cpu, payer.0) };
    if memory.is_null() {
        return None;
    }
    let first: *mut T = memory.cast();
    if !first.is_aligned() {
        // SAFETY: `memory` was allocated above with this size.
        unsafe { trafstat_free(memory, size, payer.0.share) };
        return None;
    }
    for at in 0..len {
        // SAFETY: `at` is below `len`, so the place is within the allocation.
        let place = unsafe { first.add(at) };
        // SAFETY: `place` is aligned, within the allocation, and nobody else's yet.
        unsafe { place.write(T::default()) };
    }
    Some(first)
}

/// Drops `len` values and frees their memory.
///
/// # Safety
/// `first` comes from [`allocate`] with this `len` and a payer of this `share`, and
/// nobody else uses it any more.
unsafe fn free<T>(first: *mut T, len: usize, share: u32) {
    if needs_drop::<T>() {
        for at in 0..len {
            // SAFETY: `at` is below the `len` of the allocation.
            let place = unsafe { first.add(at) };
            // SAFETY: `allocate` wrote a value there, and the caller owns it.
            unsafe { place.drop_in_place() };
        }
    }
    // SAFETY: the allocation has this size, and the caller owns it.
    unsafe { trafstat_free(first.cast(), len.wrapping_mul(size_of::<T>()), share) };
}
