//! Field blocks that come in pieces (RFC 9113 sections 4.3 and 6.10).

use super::CALM;
use crate::{
    h1::HeadError,
    h2::{Code, Fault, FrameHeader, FrameKind, flags, hpack::HpackError},
    limits::Limits,
};

/// What came of decoding a field block: why its lines are not all there, if they are too many, which is its stream's matter.
///
/// # Errors
/// The decoder is of no further use: the connection ends.
pub(crate) fn too_large(decoded: Result<(), HpackError>) -> Result<Option<HeadError>, Fault> {
    match decoded {
        Ok(()) => Ok(None),
        Err(HpackError::Malformed) => Err(Fault::Connection(Code::CompressionError)),
        Err(HpackError::Bomb) => Err(CALM),
        Err(HpackError::TooManyFields) => Ok(Some(HeadError::TooManyFields)),
        Err(HpackError::TooLarge) => Ok(Some(HeadError::TooLarge)),
    }
}

/// A field block, or its beginning.
pub(crate) struct Block {
    pub(crate) stream: u32,
    /// Nothing follows it on its stream.
    pub(crate) ends: bool,
    pub(crate) depends_on_itself: bool,
    pub(crate) bytes: Vec<u8>,
    continuations: u32,
}

/// The field block of a connection that has begun and not ended, if there is one.
#[derive(Default)]
pub(crate) struct Blocks(Option<Block>);

impl Blocks {
    /// Whether one has begun.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Whether this frame may come now: within a block only its next piece may.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check(&self, header: &FrameHeader) -> Result<(), Fault> {
        let continues = header.kind == FrameKind::Continuation;
        match &self.0 {
            Some(block) if !continues || block.stream != header.stream => {
                Err(Fault::Connection(Code::ProtocolError))
            }
            _ => Ok(()),
        }
    }

    /// A HEADERS frame came whose block goes on.
    pub(crate) fn begin(&mut self, header: &FrameHeader, fragment: &[u8], depends_on_itself: bool) {
        self.0 = Some(Block {
            stream: header.stream,
            ends: header.has(flags::END_STREAM),
            depends_on_itself,
            bytes: fragment.to_vec(),
            continuations: 0,
        });
    }

    /// A CONTINUATION came. The whole block, if that was its end.
    ///
    /// # Errors
    /// Nothing was to be continued, or it goes on for too long (CVE-2024-27316).
    pub(crate) fn go_on(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        limits: &Limits,
    ) -> Result<Option<Block>, Fault> {
        let mut block = self.0.take().ok_or(Fault::Connection(Code::ProtocolError))?;
        block.continuations += 1;
        if block.continuations > limits.h2_continuations
            || block.bytes.len() + payload.len() > limits.head_bytes.saturating_mul(2)
        {
            return Err(CALM);
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flags::END_HEADERS) {
            return Ok(Some(block));
        }
        self.0 = Some(block);
        Ok(None)
    }
}
