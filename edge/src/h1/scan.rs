//! Finding the end of a head in one pass over its bytes, however they are cut.

use super::error::HeadError;

/// Why the search ended without a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanError {
    /// As it says.
    Head(HeadError),
    /// The first line is longer than it may be.
    FirstLine,
}

/// How far a head has been searched for its end: no byte is looked at twice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeadScan {
    scanned: usize,
    first_line_seen: bool,
}

impl HeadScan {
    /// The length of the head that `input` begins with, its empty line included; `None` if it has not ended. A
    /// head that is only an empty line (a trailer section without fields) is 2 bytes long.
    ///
    /// Sees that every LF in the head follows a CR, and answers the same for every way of cutting the input.
    pub(super) fn end(
        &mut self,
        input: &[u8],
        head_bytes: usize,
        first_line_bytes: usize,
    ) -> Result<Option<usize>, ScanError> {
        let window = &input[..input.len().min(head_bytes)];
        let unseen = window.get(self.scanned..).unwrap_or_default();
        for found in memchr::memchr_iter(b'\n', unseen) {
            let lf = self.scanned + found;
            if !self.first_line_seen {
                if lf >= first_line_bytes {
                    return Err(ScanError::FirstLine);
                }
                self.first_line_seen = true;
            }
            match window[..lf] {
                [b'\r'] | [.., b'\n', b'\r'] => return Ok(Some(lf + 1)),
                [.., b'\r'] => {}
                _ => return Err(ScanError::Head(HeadError::BareLf)),
            }
        }
        self.scanned = window.len();
        if !self.first_line_seen && window.len() >= first_line_bytes {
            return Err(ScanError::FirstLine);
        }
        if window.len() >= head_bytes {
            return Err(ScanError::Head(HeadError::TooLarge));
        }
        Ok(None)
    }
}
