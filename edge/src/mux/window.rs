//! What a peer may send.

use crate::h2::{FIRST_WINDOW, MOST};

/// What a peer may send before it must be given room again (RFC 9113 section 6.9).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    left: u32,
    /// Bytes that were taken since it was opened last.
    taken: u32,
    /// Bytes after which it is opened: half of it, so that a peer is not told of every few bytes.
    step: u32,
}

impl Window {
    pub(crate) fn new(size: u32) -> Self {
        let size = size.min(MOST);
        Self { left: size, taken: 0, step: (size / 2).max(1) }
    }

    /// That of a stream whose peer may not have heard of our settings yet.
    pub(crate) fn unsettled(size: u32) -> Self {
        Self { left: size.clamp(FIRST_WINDOW, MOST), ..Self::new(size) }
    }

    /// So many bytes came. Whether there was room for them.
    pub(crate) fn receive(&mut self, bytes: u32) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    /// Bytes that came and were not taken, of a window of `size`.
    pub(crate) fn held(&self, size: u32) -> u32 {
        size.min(MOST).saturating_sub(self.left).saturating_sub(self.taken)
    }

    /// So many of the bytes that came are taken. By how much the window is to be opened, if it is time for that.
    pub(crate) fn take(&mut self, bytes: u32) -> Option<u32> {
        self.taken += bytes;
        if self.taken < self.step {
            return None;
        }
        let taken = std::mem::take(&mut self.taken);
        self.left += taken;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_opened_by_what_was_taken() {
        let mut window = Window::new(1000);
        assert!(window.receive(900));
        assert_eq!(window.held(1000), 900);
        assert_eq!(window.take(499), None);
        assert_eq!(window.held(1000), 401);
        assert!(!window.receive(101), "what was taken and not given back yet");
        let mut window = Window::new(1000);
        assert!(window.receive(1000));
        assert_eq!(window.take(600), Some(600));
        assert_eq!(window.take(400), None);
        assert!(window.receive(600) && !window.receive(1));
        // Who has not heard of it may count with the first one.
        let mut window = Window::unsettled(1000);
        assert!(window.receive(FIRST_WINDOW) && !window.receive(1));
    }
}
