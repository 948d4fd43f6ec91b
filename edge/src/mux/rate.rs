//! How often a peer does what costs it nothing.

/// How often something happened in the second that began then.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rate {
    began_ms: u64,
    count: u64,
    /// What was earned before this second began, and before the one before it: what is asked for now may be for that.
    earned: [u64; 2],
}

impl Rate {
    /// It happened once more. Whether that is more often in a second than `limit`, and once for each that was earned (`earned`,
    /// counted from the beginning).
    pub(crate) fn exceeds(&mut self, limit: u32, earned: u64, now_ms: u64) -> bool {
        if self.count == 0 || now_ms.saturating_sub(self.began_ms) >= 1000 {
            *self = Self { began_ms: now_ms, count: 0, earned: [earned, self.earned[0]] };
        }
        self.count += 1;
        self.count > u64::from(limit) + earned.saturating_sub(self.earned[1])
    }
}

/// Bytes sent for which a peer may say something once: those that say most often that they have room again do so twice, for
/// stream and connection, for each of their reads of 4 KiB.
pub(crate) const BYTES_PER_FRAME: u64 = 1024;
