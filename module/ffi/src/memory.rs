//! Core's slots over the kernel's allocator and RCU.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::{needs_drop, size_of};
use core::ptr;
use core::slice;
use core::sync::atomic::{
    AtomicPtr, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use trafstat_core::memory::{Allocation, Blank, Memory, Slot};

unsafe extern "C" {
    fn trafstat_alloc(size: usize, cpu: u32) -> *mut c_void;
    fn trafstat_free(memory: *mut c_void, size: usize);
    fn trafstat_free_deferred(memory: *mut c_void, size: usize);
}

/// `TRAFSTAT_ATOMIC` of `glue/ffi.h`.
const ATOMIC: u32 = u32::MAX;
/// The kernel's memory.
pub struct KernelMemory;

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
    type Slot<T: Blank> = KernelSlot<T>;
}

/// An RCU-protected pointer to a slice that the slot owns; null is empty.
///
/// The length is set once, before the first slice is published, and never changes: a
/// reader that sees a pointer sees the length that belongs to it.
pub struct KernelSlot<T> {
    first: AtomicPtr<T>,
    len: AtomicUsize,
    owns: PhantomData<T>,
}

impl<T> Default for KernelSlot<T> {
    #[inline]
    fn default() -> Self {
        let first = AtomicPtr::new(ptr::null_mut());
        Self {
            first,
            len: AtomicUsize::new(0),
            owns: PhantomData,
        }
    }
}

impl<T: Blank> Blank for KernelSlot<T> {
    fn blank(&self) {
        self.retire();
    }
}

impl<T: Blank> Slot<T, Guard> for KernelSlot<T> {
    #[inline]
    fn get<'a>(&'a self, _: &'a Guard) -> Option<&'a [T]> {
        let first = self.first.load(Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: `first` was published by `fill` after it had written `len` values
        // there, and `len` never changes. The guard keeps the allocation: `retire` frees
        // after a grace period, and `drop` has the slot to itself. T is Sync.
        Some(unsafe { slice::from_raw_parts(first, self.len.load(Relaxed)) })
    }

    #[inline(never)]
    fn fill(&self, len: usize, how: Allocation) -> bool {
        if !self.first.load(Relaxed).is_null() {
            return true;
        }
        match self.len.compare_exchange(0, len, Relaxed, Relaxed) {
            Ok(_) => {}
            Err(present) if present == len => {}
            Err(_) => return false,
        }
        let Some(first) = allocate::<T>(len, how) else {
            return false;
        };
        let published = self
            .first
            .compare_exchange(ptr::null_mut(), first, Release, Relaxed)
            .is_ok();
        if !published {
            // SAFETY: `first` comes from `allocate` with this length and nobody else
            // knows it.
            unsafe { free(first, len) };
        }
        true
    }

    fn retire(&self) {
        // What a retired slice owns would have to wait for the grace period too.
        const { assert!(!needs_drop::<T>()) };
        let first = self.first.swap(ptr::null_mut(), Relaxed);
        if !first.is_null() {
            let size = self.len.load(Relaxed).wrapping_mul(size_of::<T>());
            // SAFETY: `first` comes from `trafstat_alloc` with this size, and after the
            // swap only readers with a guard know it, for whom the kernel waits.
            unsafe { trafstat_free_deferred(first.cast(), size) };
        }
    }

    fn bytes(&self) -> usize {
        if self.first.load(Relaxed).is_null() {
            return 0;
        }
        self.len.load(Relaxed).wrapping_mul(size_of::<T>())
    }
}

impl<T> Drop for KernelSlot<T> {
    fn drop(&mut self) {
        let first = *self.first.get_mut();
        if !first.is_null() {
            // SAFETY: `first` comes from `allocate` with this length, and `&mut self`
            // says that nobody reads it any more.
            unsafe { free(first, *self.len.get_mut()) };
        }
    }
}

/// Memory for `len` values, each made its default.
fn allocate<T: Blank>(len: usize, how: Allocation) -> Option<*mut T> {
    let size = len.checked_mul(size_of::<T>()).filter(|size| *size != 0)?;
    let cpu = match how {
        Allocation::Atomic => ATOMIC,
        Allocation::Sleeping { cpu } => cpu,
    };
    // SAFETY: any size and any CPU id may be asked for; `how` says whether the caller may
    // sleep.
    let memory = unsafe { trafstat_alloc(size, cpu) };
    if memory.is_null() {
        return None;
    }
    let first: *mut T = memory.cast();
    if !first.is_aligned() {
        // SAFETY: `memory` was allocated above with this size.
        unsafe { trafstat_free(memory, size) };
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
/// `first` comes from [`allocate`] with this `len`, and nobody else uses it any more.
unsafe fn free<T>(first: *mut T, len: usize) {
    if needs_drop::<T>() {
        for at in 0..len {
            // SAFETY: `at` is below the `len` of the allocation.
            let place = unsafe { first.add(at) };
            // SAFETY: `allocate` wrote a value there, and the caller owns it.
            unsafe { place.drop_in_place() };
        }
    }
    // SAFETY: the allocation has this size, and the caller owns it.
    unsafe { trafstat_free(first.cast(), len.wrapping_mul(size_of::<T>())) };
}
