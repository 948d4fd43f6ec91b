//! The frames of a request's stream, as they come.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use quinn::RecvStream;

use crate::{
    buffer::ReadBuffer,
    h1::HeadError,
    h3::{
        Code, FrameKind, frame_header,
        qpack::{self, FieldLines, QpackError, SectionLimits},
    },
    limits::{BUFFER, H3_FOREIGN_FRAMES, LARGE_BUFFER, Limits},
};

/// Why no more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The stream was reset, or the connection is gone.
    Gone,
    /// The stream ends with that code.
    Stream(Code),
    /// The connection does.
    Connection(Code),
    /// A head that is too large.
    Head(HeadError),
}

/// What comes next on a stream.
#[derive(Debug)]
pub(super) enum Next {
    /// So many bytes of the body, in [`Frames::data`].
    Data(usize),
    /// A DATA frame without data.
    Nothing,
    /// Trailers.
    Trailers(FieldLines),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Data { left: u64 },
    Head { length: usize },
    Foreign { left: u64 },
    Ended,
}

/// The client's side of a request's stream. Whoever drops it before its end asks the client to stop.
#[derive(Debug)]
pub(super) struct Frames {
    /// Until it has ended.
    recv: Option<RecvStream>,
    input: ReadBuffer,
    state: State,
    /// A head was read.
    begun: bool,
    /// Trailers were read.
    trailed: bool,
    /// Frames of kinds that mean nothing.
    foreign: u32,
    /// Bytes at the front of the input that are data.
    data: usize,
}

impl Frames {
    /// Bytes of memory that it has.
    pub(super) fn held(&self) -> usize {
        self.input.capacity()
    }

    pub(super) fn new(recv: RecvStream) -> Self {
        Self {
            recv: Some(recv),
            input: ReadBuffer::default(),
            state: State::Header,
            begun: false,
            trailed: false,
            foreign: 0,
            data: 0,
        }
    }

    /// Reads the head.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limits: &Limits,
    ) -> Poll<Result<FieldLines, Broken>> {
        match ready!(self.poll_next(cx, limits)) {
            Ok(Next::Trailers(head)) => {
                self.begun = true;
                Poll::Ready(Ok(head))
            }
            Ok(Next::End) => Poll::Ready(Err(Broken::Stream(Code::RequestIncomplete))),
            // `poll_next` lets no data come before a head.
            Ok(Next::Data(_) | Next::Nothing) => Poll::Ready(Err(Broken::Connection(Code::FrameUnexpected))),
            Err(broken) => Poll::Ready(Err(broken)),
        }
    }

    /// The data that [`poll_next`](Self::poll_next) found.
    pub(super) fn data(&self) -> &[u8] {
        &self.input.filled()[..self.data]
    }

    /// Forgets the first `count` bytes of the data; the others come again.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.data);
        self.input.consume(count);
        if let State::Data { left } = &mut self.state {
            *left -= count as u64;
        }
        self.data = 0;
        self.input.release();
    }

    /// What comes next. Data must have been consumed before.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>, limits: &Limits) -> Poll<Result<Next, Broken>> {
        loop {
            match self.state {
                State::Ended => return Poll::Ready(Ok(Next::End)),
                State::Header => {
                    if let Some(next) = self.begin_frame(limits)? {
                        return Poll::Ready(Ok(next));
                    }
                    if self.state != State::Header {
                        continue;
                    }
                    if !ready!(self.poll_fill(cx, false))? {
                        if !self.input.is_empty() {
                            return Poll::Ready(Err(Broken::Connection(Code::FrameError)));
                        }
                        self.state = State::Ended;
                    }
                }
                State::Data { left: 0 } => self.state = State::Header,
                State::Data { left } if !self.input.is_empty() => {
                    self.data =
                        usize::try_from(left).map_or(self.input.len(), |left| left.min(self.input.len()));
                    return Poll::Ready(Ok(Next::Data(self.data)));
                }
                State::Foreign { left } if left <= self.input.len() as u64 => {
                    self.input.consume(usize::try_from(left).unwrap_or(usize::MAX));
                    self.state = State::Header;
                }
                State::Foreign { left } if !self.input.is_empty() => {
                    self.state = State::Foreign { left: left - self.input.len() as u64 };
                    self.input.consume(self.input.len());
                }
                State::Head { length } if length <= self.input.len() => {
                    let section = SectionLimits {
                        // The five pseudo-headers come on top.
                        fields: limits.head_fields + 5,
                        bytes: limits.head_bytes,
                    };
                    let lines = qpack::decode(&self.input.filled()[..length], section);
                    self.input.consume(length);
                    self.input.release();
                    self.state = State::Header;
                    self.trailed = self.begun;
                    return Poll::Ready(lines.map(Next::Trailers).map_err(|error| match error {
                        QpackError::Malformed => Broken::Connection(Code::DecompressionFailed),
                        QpackError::TooManyFields => Broken::Head(HeadError::TooManyFields),
                        QpackError::TooLarge => Broken::Head(HeadError::TooLarge),
                    }));
                }
                State::Data { left } => {
                    if !ready!(self.poll_fill(cx, left > BUFFER as u64))? {
                        return Poll::Ready(Err(Broken::Connection(Code::FrameError)));
                    }
                }
                State::Foreign { .. } | State::Head { .. } => {
                    if !ready!(self.poll_fill(cx, false))? {
                        return Poll::Ready(Err(Broken::Connection(Code::FrameError)));
                    }
                }
            }
        }
    }

    /// Reads the header of a frame, if it is there.
    fn begin_frame(&mut self, limits: &Limits) -> Result<Option<Next>, Broken> {
        let Some(header) = frame_header(self.input.filled()) else { return Ok(None) };
        self.input.consume(header.size);
        match header.kind {
            FrameKind::Data if self.begun && !self.trailed => {
                self.state = State::Data { left: header.length };
                if header.length == 0 {
                    return Ok(Some(Next::Nothing));
                }
            }
            FrameKind::Headers if !self.trailed => {
                // Coded, it is no larger than its text but for a few bytes each; a code that makes it larger is an attack.
                let most = limits.head_bytes.min(LARGE_BUFFER);
                let length = usize::try_from(header.length).ok().filter(|length| *length <= most);
                let length = length.ok_or(Broken::Head(HeadError::TooLarge))?;
                self.state = State::Head { length };
            }
            FrameKind::Unknown => {
                self.foreign += 1;
                if self.foreign > H3_FOREIGN_FRAMES {
                    return Err(Broken::Connection(Code::ExcessiveLoad));
                }
                self.state = State::Foreign { left: header.length };
            }
            _ => return Err(Broken::Connection(Code::FrameUnexpected)),
        }
        Ok(None)
    }

    /// Reads once. Whether there was something; otherwise the stream has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>, large: bool) -> Poll<Result<bool, Broken>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(false)) };
        match ready!(self.input.poll_read(cx, Pin::new(recv), large)) {
            Ok(0) => {
                self.recv = None;
                Poll::Ready(Ok(false))
            }
            Ok(_) => Poll::Ready(Ok(true)),
            Err(_) => {
                self.recv = None;
                Poll::Ready(Err(Broken::Gone))
            }
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if let Some(recv) = &mut self.recv {
            // An answer that needs no more of the request (RFC 9114 section 4.1). An error: it has ended already.
            let _ended = recv.stop(Code::NoError.value().into());
        }
    }
}
