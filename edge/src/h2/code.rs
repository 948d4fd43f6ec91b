//! Error codes (RFC 9113 section 7), and whom an error ends.

/// Why a stream or a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each is the code of that name")]
pub enum Code {
    #[error("NO_ERROR")]
    NoError,
    #[error("PROTOCOL_ERROR")]
    ProtocolError,
    #[error("INTERNAL_ERROR")]
    InternalError,
    #[error("FLOW_CONTROL_ERROR")]
    FlowControlError,
    #[error("STREAM_CLOSED")]
    StreamClosed,
    #[error("FRAME_SIZE_ERROR")]
    FrameSizeError,
    #[error("REFUSED_STREAM")]
    RefusedStream,
    #[error("CANCEL")]
    Cancel,
    #[error("COMPRESSION_ERROR")]
    CompressionError,
    #[error("ENHANCE_YOUR_CALM")]
    EnhanceYourCalm,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u32 {
        match self {
            Self::NoError => 0x00,
            Self::ProtocolError => 0x01,
            Self::InternalError => 0x02,
            Self::FlowControlError => 0x03,
            Self::StreamClosed => 0x05,
            Self::FrameSizeError => 0x06,
            Self::RefusedStream => 0x07,
            Self::Cancel => 0x08,
            Self::CompressionError => 0x09,
            Self::EnhanceYourCalm => 0x0b,
        }
    }
}

/// What is wrong with a frame, and whom that ends (RFC 9113 section 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The stream of the frame.
    Stream(Code),
    /// The connection.
    Connection(Code),
}
