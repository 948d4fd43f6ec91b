//! Whether a request is let in at all: overload is refused at the door, at the price of a few instructions, before
//! any work was done that would be lost. Pure: delays, memory and draws are given.
//!
//! A queue that stands is what overload looks like; a queue that comes and goes is a burst, which is what queues are
//! for. So the least delay of the last second counts, as in CoDel (RFC 8289), not the worst. While it is above its
//! bound the share of requests that is let in shrinks by a fifth at each tick; when the queue is gone it grows again
//! by a twentieth of all: all or nothing would swing between an idle and a drowned thread.

use std::time::Duration;

use crate::limits::Limits;

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overload {
    /// Work waits for this thread for too long.
    #[error("the worker is overloaded")]
    Queue,
    /// Too many requests are being served.
    #[error("the worker serves too many requests at once")]
    InFlight,
    /// The process has too much memory.
    #[error("the worker is short of memory")]
    Memory,
}

impl Overload {
    /// The metric and log label.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Queue => "overload_queue",
            Self::InFlight => "overload_in_flight",
            Self::Memory => "overload_memory",
        }
    }
}

/// Samples that a standing queue outlasts: one second of ticks.
const WINDOW: usize = 4;

/// All requests.
const ALL: u32 = 1000;

/// Never fewer than one in a hundred: somebody must find out that the upstreams are well again.
const LEAST: u32 = 10;

/// What a thread knows of its load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door {
    delays: [Duration; WINDOW],
    next: usize,
    share_permille: u32,
    memory_full: bool,
}

impl Default for Door {
    fn default() -> Self {
        Self { delays: [Duration::ZERO; WINDOW], next: 0, share_permille: ALL, memory_full: false }
    }
}

impl Door {
    /// A tick: work waited for `delay` on this thread, and the process has so much memory.
    pub(crate) fn observe(&mut self, delay: Duration, memory_bytes: u64, limits: &Limits) {
        self.delays[self.next] = delay;
        self.next = (self.next + 1) % WINDOW;
        self.memory_full = memory_bytes > limits.memory_bytes;
        let standing = self.delays.iter().min().copied().unwrap_or_default();
        if standing > limits.queue_delay {
            self.share_permille = (self.share_permille * 4 / 5).max(LEAST);
        } else if delay <= limits.queue_delay {
            self.share_permille = (self.share_permille + ALL / 20).min(ALL);
        }
    }

    /// How long work waited at the last tick.
    pub(crate) fn delay(&self) -> Duration {
        self.delays[(self.next + WINDOW - 1) % WINDOW]
    }

    /// Whether one more request is let in beside `in_flight` others; `draw` gives a number below its argument.
    ///
    /// # Errors
    /// [`Overload`], if it is not.
    pub(crate) fn admit(
        &self,
        in_flight: u64,
        limits: &Limits,
        draw: impl FnOnce(u64) -> u64,
    ) -> Result<(), Overload> {
        if self.memory_full {
            return Err(Overload::Memory);
        }
        if in_flight >= limits.in_flight {
            return Err(Overload::InFlight);
        }
        if self.share_permille < ALL && draw(u64::from(ALL)) >= u64::from(self.share_permille) {
            return Err(Overload::Queue);
        }
        Ok(())
    }

    /// Whether new connections are worth their handshake.
    pub(crate) fn is_open(&self) -> bool {
        !self.memory_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIMITS;

    const LATE: Duration = Duration::from_millis(150);

    fn after(delays: &[Duration]) -> Door {
        let mut door = Door::default();
        delays.iter().for_each(|delay| door.observe(*delay, 0, &LIMITS));
        door
    }

    /// How many of a thousand are let in.
    fn admitted(door: &Door) -> usize {
        (0..1000).filter(|n| door.admit(0, &LIMITS, |_| *n).is_ok()).count()
    }

    #[test]
    fn a_burst_is_let_in_and_a_standing_queue_is_not() {
        assert_eq!(admitted(&after(&[LATE; WINDOW - 1])), 1000);
        assert_eq!(admitted(&after(&[LATE, LATE, Duration::ZERO, LATE, LATE, LATE])), 1000);
        assert_eq!(admitted(&after(&[LATE; WINDOW])), 800);
        assert_eq!(admitted(&after(&[LATE; WINDOW + 1])), 640);
        assert_eq!(admitted(&after(&[LATE; 100])), 10, "never none");
    }

    #[test]
    fn the_share_grows_back_when_the_queue_is_gone() {
        let mut door = after(&[LATE; 100]);
        door.observe(Duration::ZERO, 0, &LIMITS);
        assert_eq!(admitted(&door), 60);
        (0..19).for_each(|_| door.observe(Duration::ZERO, 0, &LIMITS));
        assert_eq!(admitted(&door), 1000, "within five seconds");
    }

    #[test]
    fn five_times_the_load_settles_near_what_can_be_served() {
        // Each tick brings five times what a tick serves; what is let in and not served is the queue.
        let (mut door, mut queue, mut served) = (Door::default(), 0.0_f64, 0.0);
        let tick = crate::limits::TICK.as_secs_f64();
        for n in 0..400 {
            queue += 5.0 * f64::from(door.share_permille) / 1000.0;
            let done = queue.min(1.0);
            queue -= done;
            served += if n >= 40 { done } else { 0.0 };
            door.observe(Duration::from_secs_f64(queue * tick), 0, &LIMITS);
        }
        assert!(served > 0.9 * 360.0, "{served} of 360");
        assert!(queue < 20.0, "{queue} ticks wait");
    }

    #[test]
    fn memory_and_requests_in_flight_are_bounded() {
        let mut door = Door::default();
        assert_eq!(door.admit(LIMITS.in_flight - 1, &LIMITS, |_| 999), Ok(()));
        assert_eq!(door.admit(LIMITS.in_flight, &LIMITS, |_| 0), Err(Overload::InFlight));
        door.observe(Duration::ZERO, LIMITS.memory_bytes + 1, &LIMITS);
        assert_eq!(door.admit(0, &LIMITS, |_| 0), Err(Overload::Memory));
        assert!(!door.is_open());
        door.observe(Duration::ZERO, LIMITS.memory_bytes, &LIMITS);
        assert_eq!(door.admit(0, &LIMITS, |_| 999), Ok(()));
    }
}
