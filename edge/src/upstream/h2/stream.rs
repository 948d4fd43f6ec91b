//! A request's stream, as the request has it.

use std::{
    collections::VecDeque,
    io,
    rc::Rc,
    task::{Context, Poll},
};

use super::Channel;
use crate::{
    h1::{Fields, ParsedResponse, ResponseError},
    h2::hpack::write_field,
    mux::Gone,
};

/// Why a stream ended before its response did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The upstream has done nothing for it.
    Refused,
    /// It was reset, or the connection ended.
    Closed(io::ErrorKind),
    /// What came is no response.
    Malformed(ResponseError),
}

/// What came of a response's body.
#[derive(Debug)]
pub(crate) enum Came {
    /// Some of it, in [`OpenStream::data`].
    Data,
    /// Its end.
    End(Fields),
}

/// A stream. Whoever drops it before its end resets it.
pub(crate) struct OpenStream {
    pub(super) channel: Rc<Channel>,
    pub(super) id: u32,
    /// What was taken of the body and not consumed: in one piece, for it was swapped as a whole.
    pub(super) data: VecDeque<u8>,
}

impl OpenStream {
    /// The head of the final response. The task of `cx` is woken when there is news.
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ParsedResponse, Failure>> {
        let state = &mut *self.channel.state.borrow_mut();
        let Some(stream) = state.held(self.id) else { return Poll::Ready(Err(gone())) };
        if let Some(head) = stream.own.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(failure) = stream.own.failed {
            return Poll::Ready(Err(failure));
        }
        stream.attend(cx);
        Poll::Pending
    }

    /// What comes next of the response's body. What came before it failed comes first.
    pub(crate) fn poll_body(&mut self, cx: &Context<'_>) -> Poll<Result<Came, Failure>> {
        if !self.data.is_empty() {
            return Poll::Ready(Ok(Came::Data));
        }
        let state = &mut *self.channel.state.borrow_mut();
        let Some(stream) = state.held(self.id) else { return Poll::Ready(Err(gone())) };
        if !stream.body.is_empty() {
            self.data.clear();
            std::mem::swap(&mut self.data, &mut stream.body);
            return Poll::Ready(Ok(Came::Data));
        }
        if stream.ended {
            return Poll::Ready(Ok(Came::End(std::mem::take(&mut stream.trailers))));
        }
        if let Some(failure) = stream.own.failed {
            return Poll::Ready(Err(failure));
        }
        stream.attend(cx);
        Poll::Pending
    }

    /// What [`poll_body`](Self::poll_body) found.
    pub(crate) fn data(&self) -> &[u8] {
        self.data.as_slices().0
    }

    /// Forgets the first bytes of the data: the upstream may send as many more.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.data.len());
        self.data.drain(..count);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.channel.state.borrow_mut().mux.take(self.id, count);
    }

    /// Sends data of the request: how many bytes of it. Pending until the upstream, or the connection, takes more.
    pub(crate) fn poll_write(&self, cx: &Context<'_>, data: &[u8]) -> Poll<Result<usize, Gone>> {
        let state = &mut *self.channel.state.borrow_mut();
        if let Some(stream) = state.mux.streams.find(self.id) {
            stream.attend(cx);
        }
        state.mux.poll_data(self.id, data)
    }

    /// Ends the request.
    pub(crate) fn finish(&self, trailers: &Fields) {
        let state = &mut *self.channel.state.borrow_mut();
        if trailers.is_empty() {
            return state.mux.finish(self.id);
        }
        let Some(stream) = state.mux.streams.find(self.id) else { return };
        stream.finished = true;
        state.mux.section(self.id, true, |out| {
            for field in trailers.iter().filter(|field| !field.hop_by_hop) {
                write_field(out, field.name, field.value);
            }
        });
    }
}

/// A stream that nobody knows any more.
fn gone() -> Failure {
    Failure::Closed(io::ErrorKind::NotConnected)
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.channel.state.borrow_mut().let_go(self.id, self.data.len());
    }
}
