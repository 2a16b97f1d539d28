//! Core's slots over the kernel's allocator and RCU.

use core::hint::assert_unchecked;
use core::marker::PhantomData;
use core::mem::{needs_drop, size_of};
use core::ptr;
use core::slice;
use core::sync::atomic::{
    AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use trafstat_core::memory::{Allocation, Blank, Memory, Slot};

use crate::glue::{
    ATOMIC, SHARE_HOST, SHARE_USERS, trafstat_alloc, trafstat_free, trafstat_free_deferred,
    trafstat_payer,
};

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

/// An RCU-protected pointer to a slice that the slot owns.
///
/// `len` publishes: where it is 0 the slot is empty, whatever `first` points to. A slot has
/// one length for life, so that a reader which sees the length of one slice and the pointer
/// to the next, filled in between, reads beyond neither.
pub struct KernelSlot<T> {
    first: AtomicPtr<T>,
    len: AtomicU32,
    /// The length and, as [`OF_USERS`], the share of all its slices, once there was one, and
    /// [`CLAIMED`].
    claim: AtomicU32,
    owns: PhantomData<T>,
}

/// There is a slice, or one is about to be published.
const CLAIMED: u32 = 1 << 31;
/// Taken from `SHARE_USERS`, not from `SHARE_HOST`.
const OF_USERS: u32 = 1 << 30;
const LEN: u32 = OF_USERS - 1;
const _: () = assert!(SHARE_HOST == 0 && SHARE_USERS == 1);

impl<T> Default for KernelSlot<T> {
    #[inline]
    fn default() -> Self {
        Self {
            first: AtomicPtr::new(ptr::dangling_mut()),
            len: AtomicU32::new(0),
            claim: AtomicU32::new(0),
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
        let share = payer.0.share;
        let wanted_claim = wanted | if share == SHARE_USERS { OF_USERS } else { 0 };
        let claim = self.claim.load(Relaxed);
        let known = claim & !CLAIMED;
        if wanted > LEN || (known != 0 && known != wanted_claim) {
            return false;
        }
        let Some(first) = allocate::<T>(len, how, payer) else {
            return false;
        };
        let is_claimed = claim & CLAIMED == 0
            && self
                .claim
                .compare_exchange(claim, wanted_claim | CLAIMED, Acquire, Relaxed)
                .is_ok();
        if is_claimed {
            self.first.store(first, Release);
            self.len.store(wanted, Release);
        } else {
            // SAFETY: `first` comes from `allocate` with this length and nobody else
            // knows it.
            unsafe { free(first, len, share) };
        }
        true
    }

    fn retire(&self) {
        // What a retired slice owns would have to wait for the grace period too.
        const { assert!(!needs_drop::<T>()) };
        let len = self.len.swap(0, Acquire) as usize;
        if len == 0 {
            return;
        }
        let first = self.first.load(Relaxed);
        let claim = self.claim.load(Relaxed);
        let size = len.wrapping_mul(size_of::<T>());
        // SAFETY: `first` comes from `trafstat_alloc` with this size, and after the swap
        // only readers with a guard know it, for whom the kernel waits.
        unsafe { trafstat_free_deferred(first.cast(), size, share(claim)) };
        self.claim.store(claim & !CLAIMED, Release);
    }

    fn bytes(&self) -> usize {
        (self.len.load(Relaxed) as usize).wrapping_mul(size_of::<T>())
    }
}

impl<T> Drop for KernelSlot<T> {
    fn drop(&mut self) {
        let len = *self.len.get_mut() as usize;
        if len != 0 {
            let share = share(*self.claim.get_mut());
            // SAFETY: `first` comes from `allocate` with this length, and `&mut self`
            // says that nobody reads it any more.
            unsafe { free(*self.first.get_mut(), len, share) };
        }
    }
}

fn share(claim: u32) -> u32 {
    if claim & OF_USERS == 0 {
        SHARE_HOST
    } else {
        SHARE_USERS
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
