//! A timer finer than tokio's.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Wakes a task at a time. tokio's timers tick in milliseconds, which at 10,000 requests per second sends them in
/// bursts of ten; the kernel's are exact to the scheduler's wake-up (50 to 100 us here).
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "the successor is unsafe for types that lie about their fd; OwnedFd does not"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self(fd))
    }

    /// Returns at `at`, or as soon as every other task had its turn if that has passed. Cancel-safe.
    pub(crate) async fn until(&self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(left) };
        // Setting it also takes back an expiry that was not read, so there is nothing to read ever.
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            self.0.readable().await?.clear_ready();
            // The readiness may be that of an earlier alarm that nobody waited for to the end.
            if Instant::now() >= at {
                return Ok(());
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_rings_at_its_time_and_not_before() {
        let alarm = Alarm::new().unwrap();
        for ms in [0, 1, 5, 20] {
            let at = Instant::now() + Duration::from_millis(ms);
            alarm.until(at).await.unwrap();
            assert!(Instant::now() >= at, "{ms}");
        }
    }

    #[tokio::test]
    async fn an_abandoned_alarm_does_not_ring_the_next() {
        let alarm = Alarm::new().unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        tokio::select! {
            biased;
            ring = alarm.until(soon) => ring.unwrap(),
            () = std::future::ready(()) => {}
        }
        let at = Instant::now() + Duration::from_millis(20);
        alarm.until(at).await.unwrap();
        assert!(Instant::now() >= at);
    }
}
