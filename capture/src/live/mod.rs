// SPDX-License-Identifier: GPL-2.0-or-later
//! An interface's frames, counted by a thread of their own as they come.
//!
//! The thread counts into the accounts while their owner closes, reads and acknowledges
//! epochs, as packets and the reader of the kernel module do: a slow store keeps no frame
//! from being counted. What the reader has to wait for, that no frame is under way which
//! still saw the old epoch, the thread says between two blocks of the ring.

mod frames;
mod ring;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{netdevice, sockopt};
use thiserror::Error;
use trafstat_core::account::{Environment, Timestamp};

use crate::engine::{Engine, EngineAccount, Rules, Tally};
use frames::Frames;
use ring::Ring;

/// How often an interface that is down is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An interface that may be counted, wherever this is then done.
pub struct Interface {
    name: String,
    index: u32,
    /// Of the interface's network namespace.
    socket: OwnedFd,
}

/// An interface that is counted until this is stopped or dropped.
pub struct Live {
    accounts: Vec<EngineAccount>,
    requests: Sender<Request>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<LiveEnd>>,
}

/// What a live capture has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveStatus {
    /// What became of the frames.
    pub tally: Tally,
    /// Frames that found no room in the ring: the kernel dropped them uncounted.
    pub dropped: u64,
    /// Whether the interface was down when it was last heard of.
    pub is_down: bool,
}

/// Why an interface is not counted, or no longer.
#[derive(Debug, Error)]
pub enum LiveError {
    /// The kernel refused.
    #[error(
        "not permitted to capture on {0}: run this as root, or with CAP_NET_RAW in the \
         interface's network namespace"
    )]
    NotPermitted(String),
    /// There is none of this name.
    #[error("there is no interface {0:?}; \"ip link\" lists them")]
    NoInterface(String),
    /// It was there.
    #[error("{0} is gone; what it carried until then is counted")]
    Gone(String),
    /// Anything else that the system reports.
    #[error("cannot capture on {interface}: {source}")]
    Io {
        /// The interface.
        interface: String,
        /// The system's error.
        source: io::Error,
    },
    /// The thread ended in a way that it should not.
    #[error("the thread that counts {0} panicked")]
    Panicked(String),
}

/// What the counting thread is told.
enum Request {
    /// Answer between two blocks.
    Report(SyncSender<LiveStatus>),
    /// Count what the ring still has, and end.
    Stop,
}

/// What was seen, and why it ended by itself, if it did.
pub type LiveEnd = (LiveStatus, Result<(), LiveError>);

/// The counting thread.
struct Counting {
    interface: String,
    index: u32,
    ring: Ring,
    engine: Engine,
    requests: Receiver<Request>,
    wake: Arc<OwnedFd>,
    dropped: u64,
    is_down: bool,
    /// When a stop that was asked for is done.
    end: Option<Instant>,
}

impl Interface {
    /// The interface of this name in this thread's network namespace.
    ///
    /// # Errors
    /// That it may not be captured on, or that there is none.
    pub fn open(name: &str) -> Result<Self, LiveError> {
        let socket = ring::socket().map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::PERM | Errno::ACCESS) => LiveError::NotPermitted(name.to_owned()),
            _ => LiveError::Io {
                interface: name.to_owned(),
                source,
            },
        })?;
        let index = netdevice::name_to_index(&socket, name)
            .map_err(|_| LiveError::NoInterface(name.to_owned()))?;
        Ok(Self {
            name: name.to_owned(),
            index,
            socket,
        })
    }
}

impl Live {
    /// Counts an interface from `now` on. `ended` is called when the counting ends by itself.
    ///
    /// # Errors
    /// The system's.
    pub fn start(
        interface: Interface,
        rules: Rules<'_>,
        now: Timestamp,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, LiveError> {
        let Interface {
            name,
            index,
            socket,
        } = interface;
        let of_system = |source| LiveError::Io {
            interface: name.clone(),
            source,
        };
        let engine = Engine::started(rules, now);
        let accounts = engine.accounts().collect();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.map_err(|error| of_system(error.into()))?);
        let ring = Ring::open(socket, index).map_err(of_system)?;
        let (requests, received) = mpsc::channel();
        let counting = Counting {
            interface: name.clone(),
            index,
            ring,
            engine,
            requests: received,
            wake: Arc::clone(&wake),
            dropped: 0,
            is_down: false,
            end: None,
        };
        let thread = std::thread::Builder::new()
            .name("counting".to_owned())
            .spawn(move || {
                let left = counting.run();
                if left.1.is_err() {
                    ended();
                }
                left
            })
            .map_err(of_system)?;
        Ok(Self {
            accounts,
            requests,
            wake,
            thread: Some(thread),
        })
    }

    /// The accounts that are counted into.
    pub fn accounts(&self) -> &[EngineAccount] {
        &self.accounts
    }

    /// What was seen so far; none once the counting has ended.
    pub fn status(&self) -> Option<LiveStatus> {
        let (reply, report) = mpsc::sync_channel(1);
        self.tell(Request::Report(reply));
        report.recv().ok()
    }

    /// Counts what came until now and ends; gives what was seen, with the reason if it had
    /// ended before, and nothing the second time. Epochs stay to be closed and read.
    pub fn stop(&mut self) -> Option<LiveEnd> {
        self.tell(Request::Stop);
        self.thread.take().map(|thread| {
            thread.join().unwrap_or_else(|_| {
                let panicked = LiveError::Panicked("the interface".to_owned());
                (LiveStatus::default(), Err(panicked))
            })
        })
    }

    fn tell(&self, request: Request) {
        // Who has ended hears nothing, and needs not: no frame is under way then.
        if self.requests.send(request).is_ok() {
            // A counter that is full has woken the thread already.
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Environment for Live {
    fn wait_for_writers(&self) {
        self.status();
    }

    fn go_on(&self) -> bool {
        true
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Counting {
    fn run(mut self) -> LiveEnd {
        // After the end, no more than the ring may hold: it may be filled for ever.
        let mut last_blocks = ring::BLOCKS;
        let result = loop {
            let engine = &mut self.engine;
            let has_read = self.ring.read(|block| {
                for frame in Frames::of(block) {
                    engine.count(&frame);
                }
            });
            if let Err(error) = self.answer() {
                break Err(error);
            }
            if self.end.is_some_and(|end| Instant::now() >= end) {
                last_blocks = last_blocks.saturating_sub(1);
                if !has_read || last_blocks == 0 {
                    break Ok(());
                }
            }
            if has_read {
                continue;
            }
            if let Err(error) = self.wait() {
                break Err(error);
            }
        };
        match self.look() {
            Ok(seen) => (seen, result),
            Err(error) => (self.status(), result.and(Err(error))),
        }
    }

    /// Does what was asked for meanwhile.
    fn answer(&mut self) -> Result<(), LiveError> {
        loop {
            match self.requests.try_recv() {
                Ok(Request::Report(reply)) => {
                    // Who no longer waits needs no answer.
                    let _ = reply.send(self.look()?);
                }
                Ok(Request::Stop) | Err(TryRecvError::Disconnected) => {
                    // The kernel holds on to a block for so long, and once more for its
                    // timer to be late.
                    self.end.get_or_insert(Instant::now() + 2 * ring::HAND_OVER);
                    return Ok(());
                }
                Err(TryRecvError::Empty) => return Ok(()),
            }
        }
    }

    /// Waits for a block, a request or the end.
    fn wait(&mut self) -> Result<(), LiveError> {
        let left = self
            .end
            .map(|end| end.saturating_duration_since(Instant::now()));
        let pause = match self.is_down {
            // The socket says so only once: look whether the interface is still there.
            true => Some(left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))),
            false => left,
        };
        let pause = pause.map(|pause| Timespec {
            tv_sec: pause.as_secs() as i64,
            tv_nsec: i64::from(pause.subsec_nanos()),
        });
        let mut waiting = [
            PollFd::new(&self.ring, PollFlags::IN),
            PollFd::new(&*self.wake, PollFlags::IN),
        ];
        match poll(&mut waiting, pause.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(self.failed(error)),
        }
        let [ring, wake] = waiting.map(|waited| waited.revents());
        if wake.contains(PollFlags::IN) {
            // Only its reading counts; whoever wrote has a request in the channel.
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        }
        if ring.contains(PollFlags::ERR) {
            match sockopt::socket_error(&self.ring) {
                Ok(Ok(())) => {}
                Ok(Err(Errno::NETDOWN)) => self.is_down = true,
                Ok(Err(error)) | Err(error) => return Err(self.failed(error)),
            }
        } else if ring.contains(PollFlags::IN) {
            self.is_down = false;
        }
        if self.is_down && netdevice::index_to_name(&self.ring, self.index).is_err() {
            return Err(LiveError::Gone(self.interface.clone()));
        }
        Ok(())
    }

    fn look(&mut self) -> Result<LiveStatus, LiveError> {
        self.dropped += self.ring.dropped().map_err(|source| LiveError::Io {
            interface: self.interface.clone(),
            source,
        })?;
        Ok(self.status())
    }

    fn status(&self) -> LiveStatus {
        LiveStatus {
            tally: *self.engine.tally(),
            dropped: self.dropped,
            is_down: self.is_down,
        }
    }

    fn failed(&self, error: Errno) -> LiveError {
        LiveError::Io {
            interface: self.interface.clone(),
            source: error.into(),
        }
    }
}
