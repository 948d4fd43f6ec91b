//! How much a client may do that costs it nothing.

use crate::{
    limits::Limits,
    mux::{BYTES_PER_FRAME, Rate},
};

/// What a connection's client has done of that. Each method notes one thing more and says whether it is too much.
#[derive(Debug, Default)]
pub(super) struct Floods {
    resets: Rate,
    pings: Rate,
    settings: Rate,
    small: Rate,
    /// Streams that were answered.
    answered: u64,
    /// Streams that were reset before they were answered, less those that were answered. Below zero after many answers: a
    /// client that was served may take back all that it waits for.
    unanswered: i64,
    /// Streams that we reset through the client's fault.
    local_resets: usize,
}

impl Floods {
    /// A stream was reset by the client (Rapid Reset, CVE-2023-44487). What was answered was worth asking for.
    pub(super) fn reset(&mut self, answered: bool, limits: &Limits, now_ms: u64) -> bool {
        if !answered {
            self.unanswered += 1;
        }
        self.resets.exceeds(limits.h2_resets_per_s, self.answered, now_ms)
            || self.unanswered > limits.h2_pending_resets.into()
    }

    /// A stream was answered: the client waits for what it asks.
    pub(super) fn answered(&mut self, limits: &Limits) {
        self.answered += 1;
        self.unanswered = (self.unanswered - 1).max(-i64::from(limits.h2_pending_resets));
    }

    /// We reset a stream through the client's fault (`MadeYouReset`, CVE-2025-8671).
    pub(super) fn local_reset(&mut self, limits: &Limits) -> bool {
        self.local_resets += 1;
        self.local_resets > limits.h2_local_resets
    }

    /// A PING came, when so many bytes had been sent: gRPC's clients measure their windows by one for each frame of data.
    pub(super) fn ping(&mut self, sent: u64, limits: &Limits, now_ms: u64) -> bool {
        self.pings.exceeds(limits.h2_pings_per_s, sent / BYTES_PER_FRAME, now_ms)
    }

    pub(super) fn settings(&mut self, limits: &Limits, now_ms: u64) -> bool {
        self.settings.exceeds(limits.h2_settings_per_s, 0, now_ms)
    }

    /// A frame came that asks for nothing, when so many bytes had been sent: a window's opening, a priority, one that means
    /// nothing or is of a stream that has ended. Windows are opened as data is sent, so that allows more of them.
    pub(super) fn small_frame(&mut self, sent: u64, limits: &Limits, now_ms: u64) -> bool {
        self.small.exceeds(limits.h2_small_frames_per_s, sent / BYTES_PER_FRAME, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIMITS;

    #[test]
    fn a_rate_is_that_of_a_second() {
        let mut floods = Floods::default();
        let many = LIMITS.h2_settings_per_s;
        assert!((0..many).all(|_| !floods.settings(&LIMITS, 500)));
        assert!(floods.settings(&LIMITS, 1499));
        assert!(!floods.settings(&LIMITS, 1500));
    }

    #[test]
    fn answers_make_up_for_requests_that_are_taken_back() {
        let mut floods = Floods::default();
        for _ in 0..10_000 {
            floods.answered(&LIMITS);
            assert!(!floods.reset(false, &LIMITS, 1000));
        }
        // Slow enough for the rate.
        let mut floods = Floods::default();
        let first = (0..1000_u64).find(|n| floods.reset(false, &LIMITS, n * 1000));
        assert_eq!(first, Some(LIMITS.h2_pending_resets.into()));
    }

    #[test]
    fn whoever_takes_data_may_say_so_for_two_seconds() {
        let mut floods = Floods::default();
        let allowed = LIMITS.h2_small_frames_per_s;
        assert!((0..allowed).all(|_| !floods.small_frame(0, &LIMITS, 5000)));
        assert!(floods.small_frame(0, &LIMITS, 5000));
        let sent = u64::from(allowed) * 1024;
        assert!(!floods.small_frame(sent, &LIMITS, 5000));
        assert!(
            (0..2 * allowed).all(|_| !floods.small_frame(sent, &LIMITS, 6000)),
            "earned in the last second"
        );
        assert!(floods.small_frame(sent, &LIMITS, 6000));
        assert!((0..allowed).all(|_| !floods.small_frame(sent, &LIMITS, 7000)));
        assert!(floods.small_frame(sent, &LIMITS, 7000), "too long ago");
    }
}
