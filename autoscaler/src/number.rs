//! Between figures and counts.

/// A whole number of things; what is below zero or no number is zero, what is too much the most there can be.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, which is what is wanted")]
pub(crate) fn whole(value: f64) -> u32 {
    value as u32
}

/// Enough whole things for `value`; rounding errors make no further one.
pub(crate) fn whole_up(value: f64) -> u32 {
    whole((value - 1e-6).ceil())
}
