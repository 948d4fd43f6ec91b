//! Error codes (RFC 9114 section 8.1, RFC 9204 section 6).

/// Why a stream or a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each is the code of that name")]
pub enum Code {
    #[error("H3_NO_ERROR")]
    NoError,
    #[error("H3_GENERAL_PROTOCOL_ERROR")]
    GeneralProtocolError,
    #[error("H3_INTERNAL_ERROR")]
    InternalError,
    #[error("H3_STREAM_CREATION_ERROR")]
    StreamCreationError,
    #[error("H3_CLOSED_CRITICAL_STREAM")]
    ClosedCriticalStream,
    #[error("H3_FRAME_UNEXPECTED")]
    FrameUnexpected,
    #[error("H3_FRAME_ERROR")]
    FrameError,
    #[error("H3_EXCESSIVE_LOAD")]
    ExcessiveLoad,
    #[error("H3_ID_ERROR")]
    IdError,
    #[error("H3_SETTINGS_ERROR")]
    SettingsError,
    #[error("H3_MISSING_SETTINGS")]
    MissingSettings,
    #[error("H3_REQUEST_REJECTED")]
    RequestRejected,
    #[error("H3_REQUEST_CANCELLED")]
    RequestCancelled,
    #[error("H3_REQUEST_INCOMPLETE")]
    RequestIncomplete,
    #[error("H3_MESSAGE_ERROR")]
    MessageError,
    #[error("H3_CONNECT_ERROR")]
    ConnectError,
    #[error("QPACK_DECOMPRESSION_FAILED")]
    DecompressionFailed,
    #[error("QPACK_ENCODER_STREAM_ERROR")]
    EncoderStreamError,
    #[error("QPACK_DECODER_STREAM_ERROR")]
    DecoderStreamError,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u32 {
        match self {
            Self::NoError => 0x100,
            Self::GeneralProtocolError => 0x101,
            Self::InternalError => 0x102,
            Self::StreamCreationError => 0x103,
            Self::ClosedCriticalStream => 0x104,
            Self::FrameUnexpected => 0x105,
            Self::FrameError => 0x106,
            Self::ExcessiveLoad => 0x107,
            Self::IdError => 0x108,
            Self::SettingsError => 0x109,
            Self::MissingSettings => 0x10a,
            Self::RequestRejected => 0x10b,
            Self::RequestCancelled => 0x10c,
            Self::RequestIncomplete => 0x10d,
            Self::MessageError => 0x10e,
            Self::ConnectError => 0x10f,
            Self::DecompressionFailed => 0x200,
            Self::EncoderStreamError => 0x201,
            Self::DecoderStreamError => 0x202,
        }
    }
}
