// SPDX-License-Identifier: GPL-2.0-or-later
//! Times that are far from their neighbours', as of a clock that was wrong for a moment.
//!
//! Epochs close by the frames' times, so one frame of the year 2106 would close today's epoch and
//! have all later frames in its own. A frame that jumps ahead is held back with those that follow,
//! until they go on there or come back. Where they come back, it counts at its neighbours' time.

use std::collections::VecDeque;

use crate::interface::InterfaceId;
use crate::link::LinkType;
use crate::{Frame, Segments};

const DAY_NS: u64 = 86_400_000_000_000;

/// A frame so far ahead of the last one may be astray.
const FAR_NS: u64 = DAY_NS;

/// So far from all others, it is, though none followed to tell.
const ASTRAY_NS: u64 = 365 * DAY_NS;

/// So many frames that went on after a jump prove it.
const PROOF: usize = 64;

/// So many first frames tell the time at which a capture begins.
const FIRST: usize = 3;

/// Passes frames on in their order, with times that are near to their neighbours'.
#[derive(Debug, Default)]
pub struct Steady {
    /// The latest time so far; none until the first frames told it.
    last_ns: Option<u64>,
    /// Frames whose time is not certain yet.
    held: Vec<OwnedFrame>,
    /// Frames to be counted before the next one is read.
    ready: VecDeque<OwnedFrame>,
    astray: u64,
}

/// A frame that outlives its file's buffer.
#[derive(Debug)]
pub struct OwnedFrame {
    link: Option<LinkType>,
    interface: Option<InterfaceId>,
    time_ns: Option<u64>,
    bytes: Vec<u8>,
    wire_len: u32,
    segments: Option<Segments>,
}

impl OwnedFrame {
    fn new(frame: &Frame<'_>) -> Self {
        Self {
            link: frame.link,
            interface: frame.interface,
            time_ns: frame.time_ns,
            bytes: frame.bytes.to_vec(),
            wire_len: frame.wire_len,
            segments: frame.segments,
        }
    }

    /// The frame, to be counted.
    pub fn as_frame(&self) -> Frame<'_> {
        Frame {
            link: self.link,
            interface: self.interface,
            time_ns: self.time_ns,
            bytes: &self.bytes,
            wire_len: self.wire_len,
            segments: self.segments,
        }
    }
}

impl Steady {
    /// Whether the frame is to be counted now; else it is held, and comes from
    /// [`Steady::next_ready`], of which none may be left when this is called.
    #[inline]
    pub fn passes(&mut self, frame: &Frame<'_>) -> bool {
        if let Some(last_ns) = self.last_ns
            && self.held.is_empty()
        {
            let time_ns = frame.time_ns.unwrap_or(last_ns);
            if time_ns <= last_ns.saturating_add(FAR_NS) {
                self.last_ns = Some(last_ns.max(time_ns));
                return true;
            }
        }
        self.hold(frame);
        false
    }

    /// The next frame whose time is certain.
    pub fn next_ready(&mut self) -> Option<OwnedFrame> {
        self.ready.pop_front()
    }

    /// No frame comes any more: those that are held become ready.
    pub fn end(&mut self) {
        match self.last_ns {
            None => self.begin(),
            Some(last_ns) => {
                let first = self.held.iter().find_map(|frame| frame.time_ns);
                let is_astray = first.is_some_and(|first| first - last_ns > ASTRAY_NS);
                self.release(is_astray.then_some(last_ns));
            }
        }
    }

    /// How many frames count at another time than their own.
    pub fn astray(&self) -> u64 {
        self.astray
    }

    #[cold]
    fn hold(&mut self, frame: &Frame<'_>) {
        let Some(last_ns) = self.last_ns else {
            self.held.push(OwnedFrame::new(frame));
            if self.held.len() == FIRST {
                self.begin();
            }
            return;
        };
        let jumped_to = self.held.iter().find_map(|frame| frame.time_ns);
        let came_back = jumped_to
            .zip(frame.time_ns)
            .is_some_and(|(jumped_to, time)| time.saturating_add(FAR_NS) < jumped_to);
        if came_back {
            self.release(Some(last_ns));
        }
        self.held.push(OwnedFrame::new(frame));
        let is_near = |time_ns| time_ns <= last_ns.saturating_add(FAR_NS);
        if self.held.len() == PROOF || came_back && frame.time_ns.is_some_and(is_near) {
            self.release(None);
        }
    }

    /// The first frames are ready; one that is far from the middle one's time gets that.
    fn begin(&mut self) {
        let mut times: Vec<u64> = self.held.iter().filter_map(|frame| frame.time_ns).collect();
        times.sort_unstable();
        let Some(&middle) = times.get(times.len() / 2) else {
            self.release(None);
            return;
        };
        if times.len() == FIRST {
            for frame in &mut self.held {
                if let Some(time) = &mut frame.time_ns
                    && time.abs_diff(middle) > ASTRAY_NS
                {
                    *time = middle;
                    self.astray += 1;
                }
            }
        }
        self.release(None);
    }

    /// The held frames are ready, with a time in place of their own if one is given.
    fn release(&mut self, time_ns: Option<u64>) {
        for mut frame in self.held.drain(..) {
            if let Some(time_ns) = time_ns
                && frame.time_ns.is_some()
            {
                frame.time_ns = Some(time_ns);
                self.astray += 1;
            }
            let latest = self.last_ns.max(frame.time_ns);
            // A capture without times has none that is far from others.
            self.last_ns = Some(latest.unwrap_or(0));
            self.ready.push_back(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_769_860_800_000_000_000;
    const IN_2106: u64 = 4_294_967_295_000_000_000;
    const HOUR: u64 = DAY_NS / 24;

    /// The times at which frames of these times count.
    fn steady(times: &[u64]) -> Vec<u64> {
        let mut steady = Steady::default();
        let mut counted = Vec::new();
        for &time in times {
            let frame = Frame {
                link: None,
                interface: None,
                time_ns: Some(time),
                bytes: &[],
                wire_len: 0,
                segments: None,
            };
            if steady.passes(&frame) {
                counted.push(time);
            }
            counted.extend(std::iter::from_fn(|| steady.next_ready()?.time_ns));
        }
        steady.end();
        counted.extend(std::iter::from_fn(|| steady.next_ready()?.time_ns));
        assert_eq!(counted.len(), times.len());
        let moved = times
            .iter()
            .zip(&counted)
            .filter(|(time, counted)| time != counted);
        assert_eq!(steady.astray(), moved.count() as u64);
        counted
    }

    #[test]
    fn frame_far_from_its_neighbours_counts_at_their_time() {
        let at = |hours: u64| NOW + hours * HOUR;
        let now = [at(0), at(1), at(2), at(3)];
        assert_eq!(
            steady(&[now[0], now[1], IN_2106, now[2], now[3]]),
            [now[0], now[1], now[1], now[2], now[3]]
        );
        // Several at once, the first one, the second one and the last one.
        let several = [now[0], now[1], now[2], IN_2106, IN_2106 + 1, now[3]];
        assert_eq!(steady(&several)[3..], [now[2], now[2], now[3]]);
        for astray in [0, IN_2106] {
            let counted = steady(&[astray, now[0], now[1], now[2]]);
            assert!([now[0], now[1]].contains(&counted[0]), "{counted:?}");
            assert_eq!(
                steady(&[now[0], astray, now[1], now[2]])[2..],
                [now[1], now[2]]
            );
        }
        assert_eq!(steady(&[now[0], now[1], now[2], IN_2106])[3], now[2]);
    }

    #[test]
    fn gap_is_no_error() {
        let days: Vec<u64> = (0..200).map(|day| NOW + day * 3 * DAY_NS).collect();
        assert_eq!(steady(&days), days);
        let mut gap: Vec<u64> = (0..100)
            .map(|second| NOW + second * 1_000_000_000)
            .collect();
        gap.extend((0..100).map(|second| NOW + 40 * DAY_NS + second));
        assert_eq!(steady(&gap), gap);
        assert_eq!(steady(&gap[..101]), gap[..101]);
        assert_eq!(steady(&[NOW]), [NOW]);
        assert_eq!(steady(&[]), [0; 0]);
    }
}
