//! How much an upstream may do that costs it nothing.

use crate::{
    limits::Limits,
    mux::{BYTES_PER_FRAME, Rate},
};

/// What it has done of that. Each method notes one thing more and says whether it is too much.
///
/// Streams that it resets are no flood: each is one that we opened.
#[derive(Debug, Default)]
pub(super) struct Floods {
    pings: Rate,
    settings: Rate,
    small: Rate,
}

impl Floods {
    /// PING came. Servers measure their windows by one for each frame of data.
    pub(super) fn ping(&mut self, earned: u64, limits: &Limits, now_ms: u64) -> bool {
        self.pings.exceeds(limits.h2_pings_per_s, earned, now_ms)
    }

    /// SETTINGS came.
    pub(super) fn settings(&mut self, limits: &Limits, now_ms: u64) -> bool {
        self.settings.exceeds(limits.h2_settings_per_s, 0, now_ms)
    }

    /// A frame came that asks for nothing and brings nothing: a window's opening, data without data, one that means nothing or
    /// is of a stream that has ended.
    pub(super) fn small_frame(&mut self, earned: u64, limits: &Limits, now_ms: u64) -> bool {
        self.small.exceeds(limits.h2_small_frames_per_s, earned, now_ms)
    }
}

/// How many frames that cost nothing an upstream has earned, ever, that was sent so many frames of so many bytes, and has sent
/// `useful` frames that brought something: two for each frame, which may open the windows of its stream and of the connection
/// (or cross the head and the trailers of a stream that we reset), more for large ones, and one for each of its own, which some
/// servers follow by an empty one.
pub(super) fn earned(frames: u64, bytes: u64, useful: u64) -> u64 {
    2 * frames + bytes / BYTES_PER_FRAME + useful
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIMITS;

    #[test]
    fn an_upstream_may_say_what_it_has_earned() {
        let mut floods = Floods::default();
        let allowed = LIMITS.h2_small_frames_per_s;
        assert!((0..allowed).all(|_| !floods.small_frame(0, &LIMITS, 5000)));
        assert!(floods.small_frame(0, &LIMITS, 5000));
        let earned = earned(10, 1024, 5);
        assert_eq!(earned, 26);
        assert!((0..25).all(|_| !floods.small_frame(earned, &LIMITS, 5000)));
        assert!(floods.small_frame(earned, &LIMITS, 5000), "one was too many before");
        assert!((0..LIMITS.h2_pings_per_s).all(|_| !floods.ping(0, &LIMITS, 5000)));
        assert!(floods.ping(0, &LIMITS, 5999) && !floods.ping(0, &LIMITS, 6000));
        assert!((0..LIMITS.h2_settings_per_s).all(|_| !floods.settings(&LIMITS, 5000)));
        assert!(floods.settings(&LIMITS, 5999) && !floods.settings(&LIMITS, 6000));
    }
}
