//! Bodies: which of the bytes that came are data, and where the message ends.

use super::{BodyLength, ChunkError, Fields, Limits, chunked::ChunkedDecoder};

/// Why a body cannot be read on; the connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The chunked coding is malformed.
    #[error("malformed body: {0}")]
    Chunk(#[from] ChunkError),
    /// The connection ended before the body did.
    #[error("the body ends too early")]
    Truncated,
}

impl BodyError {
    /// The metric label.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Chunk(error) => error.kind(),
            Self::Truncated => "truncated",
        }
    }
}

/// What the input begins with: bytes to throw away, then data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Step {
    /// Bytes of framing.
    pub skip: usize,
    /// Bytes of data after them. None: more input is needed, or the body has ended.
    pub data: usize,
}

impl Step {
    /// How much of the input has been read.
    #[must_use]
    pub const fn consumed(self) -> usize {
        self.skip + self.data
    }
}

/// Reads one body. It copies nothing: it says which part of the input is data.
#[derive(Debug)]
pub struct BodyReader(Kind);

#[derive(Debug)]
enum Kind {
    Length(u64),
    Chunked(Box<ChunkedDecoder>),
    UntilClose,
    Closed,
}

impl BodyReader {
    /// A reader of a body of that length.
    #[must_use]
    pub fn new(length: BodyLength, limits: &Limits) -> Self {
        Self(match length {
            BodyLength::None => Kind::Length(0),
            BodyLength::Length(length) => Kind::Length(length),
            BodyLength::Chunked => Kind::Chunked(Box::new(ChunkedDecoder::new(limits))),
            BodyLength::UntilClose => Kind::UntilClose,
        })
    }

    /// Whether the body has been read to its end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.0 {
            Kind::Length(left) => *left == 0,
            Kind::Chunked(chunked) => chunked.is_done(),
            Kind::UntilClose => false,
            Kind::Closed => true,
        }
    }

    /// The bytes that are still to come, where that is known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match &self.0 {
            Kind::Length(left) => Some(*left),
            Kind::Chunked(_) | Kind::UntilClose => None,
            Kind::Closed => Some(0),
        }
    }

    /// Reads on: of `input`, the bytes that are there and not yet read, the first [`Step::skip`] are framing and the
    /// next [`Step::data`] are data. The caller forgets [`Step::consumed`] bytes, and calls again until a step
    /// has no data: then [`is_done`](Self::is_done), or more input is needed.
    ///
    /// # Errors
    ///
    /// [`BodyError::Chunk`] where the chunked coding is malformed.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        match &mut self.0 {
            Kind::Length(left) => {
                let data = usize::try_from(*left).map_or(input.len(), |left| input.len().min(left));
                *left -= data as u64;
                Ok(Step { skip: 0, data })
            }
            Kind::Chunked(chunked) => Ok(chunked.step(input)?),
            Kind::UntilClose => Ok(Step { skip: 0, data: input.len() }),
            Kind::Closed => Ok(Step::default()),
        }
    }

    /// The connection ended in this direction, after all that was read.
    ///
    /// # Errors
    ///
    /// [`BodyError::Truncated`] if the body had not ended: what came must not be taken for all of it.
    pub fn close(&mut self) -> Result<(), BodyError> {
        match self.0 {
            Kind::UntilClose => self.0 = Kind::Closed,
            _ if self.is_done() => {}
            _ => return Err(BodyError::Truncated),
        }
        Ok(())
    }

    /// The trailer fields that may be forwarded: those of a chunked body that is done. Empty the second time.
    pub fn take_trailers(&mut self) -> Fields {
        match &mut self.0 {
            Kind::Chunked(chunked) => chunked.take_trailers(),
            _ => Fields::new(),
        }
    }
}
