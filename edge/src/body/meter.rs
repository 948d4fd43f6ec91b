//! Whether a body comes as it must: fast enough, and not in empty frames.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::ClientError;
use crate::{
    clock::Timer,
    grpc,
    h1::{BodyLength, RequestHead},
    limits::Limits,
    worker::Thread,
};

/// Whether a body comes fast enough, counting only the time in which we waited for it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited_ms: u64,
    since_ms: Option<u64>,
    bytes: u64,
}

impl Pace {
    /// Bytes came.
    pub(crate) fn came(&mut self, bytes: usize, now_ms: u64) {
        self.bytes += bytes as u64;
        if let Some(since) = self.since_ms.take() {
            self.waited_ms += now_ms.saturating_sub(since);
        }
    }

    /// None came, we wait: for how long at most, if only the time since the last bytes counts.
    pub(crate) fn silence(&mut self, now_ms: u64, limit: Duration) -> Duration {
        let since = *self.since_ms.get_or_insert(now_ms);
        limit.saturating_sub(Duration::from_millis(now_ms.saturating_sub(since)))
    }

    /// None came, we wait: for how long at most. Zero means that the client is too slow.
    pub(crate) fn waits(&mut self, now_ms: u64, limits: &Limits) -> Duration {
        let since = *self.since_ms.get_or_insert(now_ms);
        let waited = self.waited_ms + now_ms.saturating_sub(since);
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / limits.body_rate.max(1));
        (limits.body_grace + earned)
            .min(limits.body_grace.max(limits.stall) + Duration::from_millis(self.waited_ms))
            .saturating_sub(Duration::from_millis(waited))
    }
}

/// What has come of a body by a stream of HTTP/2 or HTTP/3, and whether it comes as it must.
pub(crate) struct Meter {
    length: BodyLength,
    used: bool,
    received: u64,
    /// DATA frames without data since the last with some.
    empty_frames: u32,
    pace: Pace,
    /// The rate does not count, only the time between two messages.
    pauses: bool,
    timer: Timer,
    limits: Limits,
}

impl Meter {
    pub(crate) fn new(thread: &Thread, length: BodyLength, head: &RequestHead) -> Self {
        Self {
            length,
            used: false,
            received: 0,
            empty_frames: 0,
            pace: Pace::default(),
            // A gRPC stream is right to say nothing for a while.
            pauses: grpc::is_grpc(&head.fields),
            timer: thread.clock.timer(),
            limits: thread.limits,
        }
    }

    pub(crate) fn length(&self) -> BodyLength {
        self.length
    }

    pub(crate) fn is_used(&self) -> bool {
        self.used
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Something of it was taken.
    pub(crate) fn taken(&mut self) {
        self.used = true;
    }

    /// A DATA frame came, or a part of one.
    ///
    /// # Errors
    /// [`ClientError::Malformed`]: too many in a row had no data.
    pub(crate) fn came(&mut self, bytes: usize) -> Result<(), ClientError> {
        self.used = true;
        if bytes > 0 {
            self.empty_frames = 0;
            self.received += bytes as u64;
            self.pace.came(bytes, self.timer.now_ms());
            return Ok(());
        }
        self.empty_frames += 1;
        if self.empty_frames > self.limits.h2_empty_frames { Err(ClientError::Malformed) } else { Ok(()) }
    }

    /// None came. Ready when that is too slow.
    pub(crate) fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<ClientError> {
        let now = self.timer.now_ms();
        self.timer.set(if self.pauses {
            self.pace.silence(now, self.limits.tunnel_idle)
        } else {
            self.pace.waits(now, &self.limits)
        });
        self.timer.poll(cx).map(|()| ClientError::TooSlow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIMITS;

    #[test]
    fn only_waiting_counts_against_a_body() {
        let mut pace = Pace::default();
        assert_eq!(pace.waits(0, &LIMITS), LIMITS.body_grace);
        pace.came(2048, 5_000);
        // The upstream did not take it for a minute; that is not the client's fault.
        assert_eq!(pace.waits(65_000, &LIMITS), Duration::from_secs(7), "10 s + 2 KiB at 1 KiB/s - 5 s");
        assert_eq!(pace.waits(72_000, &LIMITS), Duration::ZERO);
    }

    #[test]
    fn a_fast_start_does_not_buy_a_long_silence() {
        let mut pace = Pace::default();
        pace.came(100 << 20, 0);
        assert_eq!(pace.waits(1_000, &LIMITS), LIMITS.stall);
    }

    #[test]
    fn a_stream_may_pause_again_and_again() {
        let (mut pace, limit) = (Pace::default(), LIMITS.tunnel_idle);
        for begin in [0, 200_000, 400_000] {
            assert_eq!(pace.silence(begin, limit), limit);
            assert_eq!(pace.silence(begin + 100_000, limit), limit - Duration::from_secs(100));
            pace.came(1, begin + 199_000);
        }
    }
}
