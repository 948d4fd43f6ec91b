//! Telling HTTP/2 with prior knowledge from HTTP/1.

/// Whether a connection begins as HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// It does.
    Yes,
    /// It does not, whatever follows.
    No,
    /// More bytes are needed.
    Partial,
}

/// Whether these first bytes of a connection are the client preface of HTTP/2 (RFC 9113 section 3.4).
#[must_use]
pub fn h2_preface(input: &[u8]) -> Preface {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    if input.starts_with(PREFACE) {
        Preface::Yes
    } else if PREFACE.starts_with(input) {
        Preface::Partial
    } else {
        Preface::No
    }
}
