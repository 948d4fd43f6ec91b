//! Parts of the arrays that a table is made of.

use std::ops::Range;

/// A part of an array.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl Span {
    /// The last `len` of `end`.
    pub(crate) fn before(end: usize, len: usize) -> Self {
        Self { start: short(end - len), len: short(len) }
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// A position as it is kept: [`CompileLimits`](crate::CompileLimits) bounds the sum of all paths and ids far below.
pub(crate) fn short(position: usize) -> u32 {
    u32::try_from(position).expect("the limits on routes, ids and paths keep their sum below 4 GiB")
}
