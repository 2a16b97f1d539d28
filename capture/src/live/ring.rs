// SPDX-License-Identifier: GPL-2.0-or-later
//! A ring that the kernel writes an interface's frames into: packet(7), TPACKET_V3, and all
//! unsafe code of this crate.
//!
//! The ring is memory that is shared with the kernel, in blocks. A block's status word says
//! who has it; from the moment it says "user" until this program writes "kernel" there, the
//! kernel neither reads nor writes the block (Documentation/networking/packet_mmap.rst).
//! Nobody else has the memory mapped: the socket's descriptor never leaves this module, and
//! is closed on exec.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use trafstat_core::parse::HEADER_BYTES;

/// Bytes of a block: many frames, and many pages.
const BLOCK_BYTES: usize = 1 << 18;
/// 32 MiB in all: some 45,000 frames of the longest that are kept.
pub(super) const BLOCKS: usize = 128;
/// The kernel hands over a block that is not full after so long.
pub(super) const HAND_OVER: Duration = Duration::from_millis(64);
/// Bytes of a frame that are kept: what core looks at, behind any link layer's header.
const KEPT_BYTES: u32 = HEADER_BYTES as u32 + 64;

/// Linux has these as enumerators and in `linux/bpf_common.h`.
const TPACKET_V3: i32 = 2;
const BPF_RET_K: u16 = 0x06;

const STATUS: usize =
    offset_of!(libc::tpacket_block_desc, hdr) + offset_of!(libc::tpacket_hdr_v1, block_status);
const _: () = assert!(STATUS.is_multiple_of(align_of::<AtomicU32>()));

/// The frames of one interface, from the moment it is opened on.
pub(super) struct Ring {
    socket: OwnedFd,
    memory: Mapping,
    /// The block that the kernel fills first of those that this program has not had.
    next: usize,
}

/// Memory that is shared with the kernel, until it is dropped.
struct Mapping {
    start: NonNull<c_void>,
}

/// SAFETY: the memory belongs to the process, not to the thread that mapped it, and
/// [`Ring`] reads it through `&mut` alone.
unsafe impl Send for Mapping {}

impl Ring {
    /// The ring of the interface of this index in this network namespace.
    ///
    /// # Errors
    /// The system's; `EPERM` without CAP_NET_RAW, `ENODEV` without such an interface.
    pub(super) fn open(socket: OwnedFd, index: u32) -> io::Result<Self> {
        set(&socket, libc::PACKET_VERSION, &TPACKET_V3)?;
        // Before each frame stands what offloading makes or has made of it.
        set(&socket, libc::PACKET_VNET_HDR, &1_i32)?;
        keep_first_bytes(&socket)?;
        let blocks = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: BLOCKS as u32,
            // The third version lays frames out by itself; these have to be divisors.
            tp_frame_size: BLOCK_BYTES as u32,
            tp_frame_nr: BLOCKS as u32,
            tp_retire_blk_tov: HAND_OVER.as_millis() as u32,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::PACKET_RX_RING, &blocks)?;
        let memory = Mapping::of(&socket)?;
        bind(&socket, index)?;
        Ok(Self {
            socket,
            memory,
            next: 0,
        })
    }

    /// Shows the next block, if the kernel has handed it over, and gives it back.
    pub(super) fn read(&mut self, see: impl FnOnce(&[u8])) -> bool {
        let offset = self.next * BLOCK_BYTES;
        // SAFETY: `next` is below BLOCKS, so the block lies within the mapping.
        let block = unsafe { self.memory.start.cast::<u8>().add(offset) };
        // SAFETY: the status word lies within the block.
        let status = unsafe { block.add(STATUS) };
        // SAFETY: blocks begin at pages, so the word is aligned; it is mapped as long as the
        // ring is; the kernel's accesses to it are those of another CPU.
        let status = unsafe { AtomicU32::from_ptr(status.cast().as_ptr()) };
        // What the kernel wrote before it handed the block over is seen.
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        // SAFETY: the block is mapped, initialised by the kernel and, while its status says
        // "user", written by nobody; the slice ends with the call, before that changes.
        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), BLOCK_BYTES) };
        see(bytes);
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % BLOCKS;
        true
    }

    /// How many frames found no room since the last time it was asked.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn dropped(&self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut len = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to a value of that size, which any
        // bytes are a value of, and the length to `len`; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        };
        checked(result)?;
        Ok(u64::from(statistics.tp_drops))
    }
}

impl AsFd for Ring {
    /// To wait for a block, and to ask for the socket's error.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Mapping {
    fn of(socket: &OwnedFd) -> io::Result<Self> {
        // SAFETY: the kernel chooses where, so nothing that is mapped already is touched.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                BLOCKS * BLOCK_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                socket,
                0,
            )?
        };
        NonNull::new(start)
            .map(|start| Self { start })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no slice of it outlives the ring.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr(), BLOCKS * BLOCK_BYTES) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// A socket that receives nothing yet.
///
/// # Errors
/// The system's; `EPERM` without CAP_NET_RAW.
pub(super) fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn keep_first_bytes(socket: &OwnedFd) -> io::Result<()> {
    let mut accept = libc::sock_filter {
        code: BPF_RET_K,
        jt: 0,
        jf: 0,
        k: KEPT_BYTES,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut accept,
    };
    set_at(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set<T>(socket: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
    set_at(socket, libc::SOL_PACKET, option, value)
}

fn set_at<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads a value of this size, which outlives the call, as does the
    // program that a filter points to.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    checked(result)
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads an address of this size, which outlives the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    checked(result)
}

fn checked(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
