// SPDX-License-Identifier: GPL-2.0-or-later
//! A collector as a service: signals, systemd, and the clock.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::watch::Watch;

/// A process that runs until SIGTERM or SIGINT, and tells systemd how it is.
///
/// Where systemd did not start it, it tells nobody.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    /// Every signal writes a byte to its other end.
    wake: UnixStream,
    notifier: UnixStream,
    /// How often systemd expects a sign of life.
    sign_of_life_every: Option<Duration>,
    last_sign: Cell<Instant>,
}

/// Stops a service from another thread, as SIGTERM does.
#[derive(Debug)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    notifier: UnixStream,
}

/// Why a service no longer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// It is time.
    Due,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

impl Service {
    /// Takes the signals over.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> io::Result<Self> {
        let (wake, notifier) = UnixStream::pair()?;
        let (stop, reload) = (Arc::default(), Arc::default());
        for (signal, raised) in [(SIGTERM, &stop), (SIGINT, &stop), (SIGHUP, &reload)] {
            // The flag first: whoever is woken finds it raised.
            flag::register(signal, Arc::clone(raised))?;
            low_level::pipe::register(signal, notifier.try_clone()?)?;
        }
        Ok(Self {
            stop,
            reload,
            wake,
            notifier,
            // Twice as often as systemd wants, as sd_watchdog_enabled(3) advises.
            sign_of_life_every: sd_notify::watchdog_enabled().map(|every| every / 2),
            last_sign: Cell::new(Instant::now()),
        })
    }

    /// What stops the service.
    ///
    /// # Errors
    /// The system's.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper {
            stop: Arc::clone(&self.stop),
            notifier: self.notifier.try_clone()?,
        })
    }

    /// Tells systemd that the service does its work.
    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// Tells systemd what the service is at.
    pub fn status(&self, status: &str) {
        notify(&[NotifyState::Status(status)]);
    }

    /// Tells systemd that the configuration is being read again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    /// Tells systemd that the service ends.
    pub fn end(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Waits for a time on the wall clock, however that is set meanwhile.
    pub fn wait_until(&self, due: Timestamp) -> Woken {
        loop {
            if self.stopping() {
                return Woken::Stop;
            }
            if self.reload.swap(false, Ordering::Relaxed) {
                return Woken::Reload;
            }
            self.alive();
            let now = Timestamp::now();
            if now >= due {
                return Woken::Due;
            }
            let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
            self.sleep(left.min(LONGEST_SLEEP));
        }
    }

    /// Sleeps so long, or until a signal comes or a sign of life is due.
    fn sleep(&self, length: Duration) {
        let length = match self.sign_of_life_every {
            Some(every) => length.min(every),
            None => length,
        };
        let length = length.max(Duration::from_millis(1));
        // Whether it was a signal or the time, the caller looks.
        if self.wake.set_read_timeout(Some(length)).is_ok() {
            match (&self.wake).read(&mut [0; 64]) {
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(_) => std::thread::sleep(length),
            }
        }
    }
}

impl Stopper {
    /// Tells the service to stop.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A service that does not hear this looks at its flag before long.
        let _ = self.notifier.write_all(&[0]);
    }
}

impl Watch for Service {
    fn alive(&self) {
        let Some(every) = self.sign_of_life_every else {
            return;
        };
        let now = Instant::now();
        if now - self.last_sign.get() >= every / 2 {
            self.last_sign.set(now);
            notify(&[NotifyState::Watchdog]);
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn wait(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while !self.stopping() {
            self.alive();
            let now = Instant::now();
            if now >= end {
                break;
            }
            self.sleep(end - now);
        }
    }
}

/// The next multiple of an interval on the wall clock, counted from 1970 in UTC: every
/// five minutes is at :00, :05, :10 and so on.
pub fn next_due(now: Timestamp, every: Duration) -> Timestamp {
    let every_ns = every.as_nanos().max(1);
    let every_ns = i128::try_from(every_ns).unwrap_or(i128::MAX);
    let now_ns = now.as_nanosecond();
    let next_ns = now_ns
        .div_euclid(every_ns)
        .saturating_add(1)
        .saturating_mul(every_ns);
    Timestamp::from_nanosecond(next_ns).unwrap_or(Timestamp::MAX)
}

/// A clock that was set is noticed after so long at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; one that does not listen is its own affair.
    let _ = sd_notify::notify(states);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_are_aligned_to_the_clock() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let five_minutes = Duration::from_secs(300);
        for (now, expected) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:05:00Z"),
            ("2026-01-31T12:04:59.999Z", "2026-01-31T12:05:00Z"),
            ("2026-01-31T23:57:00Z", "2026-02-01T00:00:00Z"),
        ] {
            assert_eq!(next_due(at(now), five_minutes), at(expected), "{now}");
        }
    }
}
