//! One request and its response on the way to an upstream and back, driven inline by whoever serves the request.
//! Dropping it before its end closes the connection or resets the stream.

mod h1;
mod h2;

use std::{
    io,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::time::Instant;

pub(crate) use h1::H1Exchange;
pub(crate) use h2::H2Exchange;

use super::{Occupied, pool::Connection};
use crate::{
    body::{ClientError, Filled, Outbox, RequestBody},
    h1::{BodyError, Fields, ParsedResponse, ResponseError},
    share::Share,
};

/// Why an exchange ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The connection broke or was closed.
    #[error("the upstream closed the connection")]
    Closed(#[source] io::Error),
    /// What came is not a response.
    #[error(transparent)]
    Response(#[from] ResponseError),
    /// What came is not the body that was announced.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Nothing moved for too long, or the time that the route allows is over.
    #[error("the upstream did not answer in time")]
    TimedOut,
    /// The request could not be sent to its end through the client's fault.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// How far a request has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// More of the body is to come.
    Body,
    /// All is in the outbox.
    Last,
    /// All is on its way.
    Done,
    /// The upstream takes no more; it may have answered before it stopped listening.
    Broken,
}

impl Sending {
    /// Puts what the client has sent of the body into `out`, and notes its end.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
        out: &mut Outbox,
    ) -> Result<Filled, ClientError> {
        if *self != Self::Body {
            return Ok(Filled::Enough);
        }
        let filled = request.fill(cx, out)?;
        if filled == Filled::Ended {
            *self = Self::Last;
        }
        Ok(filled)
    }
}

/// A request on its way and the response that comes back.
pub(crate) enum Exchange {
    /// By an HTTP/1.1 connection.
    H1(Box<H1Exchange>),
    /// By a stream of an HTTP/2 connection.
    H2(Box<H2Exchange>),
}

impl Exchange {
    /// The route's time is over then.
    pub(crate) fn set_deadline(&mut self, at: Option<Instant>) {
        match self {
            Self::H1(exchange) => exchange.set_deadline(at),
            Self::H2(exchange) => exchange.set_deadline(at),
        }
    }

    /// How long nothing may move from now on: longer for streams that say little.
    pub(crate) fn set_patience(&mut self, patience: std::time::Duration) {
        match self {
            Self::H1(exchange) => exchange.set_patience(patience),
            Self::H2(exchange) => exchange.set_patience(patience),
        }
    }

    /// Its buffers are for that tenant.
    pub(crate) fn bill(&mut self, share: &Rc<Share>) {
        match self {
            Self::H1(exchange) => exchange.bill(share),
            Self::H2(exchange) => exchange.bill(share),
        }
    }

    /// Whether the upstream has surely done nothing for the request.
    pub(crate) fn is_unsent(&self) -> bool {
        match self {
            Self::H1(exchange) => exchange.is_unsent(),
            Self::H2(exchange) => exchange.is_unsent(),
        }
    }

    /// Sends the request and reads the head of its final response. Drop-safe.
    ///
    /// # Errors
    /// [`ExchangeError`]; the exchange is of no further use.
    pub(crate) async fn response(
        &mut self,
        request: &mut RequestBody<'_>,
    ) -> Result<ParsedResponse, ExchangeError> {
        match self {
            Self::H1(exchange) => exchange.response(request).await,
            Self::H2(exchange) => exchange.response(request).await,
        }
    }

    /// How many bytes of the response's body are there, in [`data`](Self::data): not zero. `None` at its end.
    /// Goes on sending the request in the meantime.
    ///
    /// # Errors
    /// [`ExchangeError`]: what came so far must not be taken for all of it.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
    ) -> Poll<Result<Option<usize>, ExchangeError>> {
        match self {
            Self::H1(exchange) => exchange.poll_data(cx, request),
            Self::H2(exchange) => exchange.poll_data(cx, request),
        }
    }

    /// The data that [`poll_data`](Self::poll_data) found.
    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Self::H1(exchange) => exchange.data(),
            Self::H2(exchange) => exchange.data(),
        }
    }

    /// Forgets the first bytes of the data.
    pub(crate) fn consume(&mut self, count: usize) {
        match self {
            Self::H1(exchange) => exchange.consume(count),
            Self::H2(exchange) => exchange.consume(count),
        }
    }

    /// The trailers of a body that has ended.
    pub(crate) fn take_trailers(&mut self) -> Fields {
        match self {
            Self::H1(exchange) => exchange.take_trailers(),
            Self::H2(exchange) => exchange.take_trailers(),
        }
    }

    /// The connection after a 101, with what came after it. HTTP/2 has no 101.
    pub(crate) fn into_tunnel(self) -> Option<(Box<Connection>, Occupied)> {
        match self {
            Self::H1(exchange) => exchange.into_tunnel(),
            Self::H2(_) => None,
        }
    }
}

fn closed() -> ExchangeError {
    ExchangeError::Closed(io::ErrorKind::UnexpectedEof.into())
}
