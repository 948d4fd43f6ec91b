//! HTTP/1.1: one connection, one request at a time.
//!
//! Not hyper: the request's bytes are the same every time and are written as they stand, a load generator must cost
//! less than its target, and only own code knows whether a byte of a request was written.

mod codec;

use std::rc::Rc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    FailureKind,
    connect::Stream,
    tally::{Answer, Failure},
    wire::Wire,
};
use codec::{Body, Chunks, Head};

/// Read at a time.
const READ_BUFFER: usize = 16 * 1024;

/// A client with at most one connection.
pub(crate) struct Client {
    wire: Rc<Wire>,
    idle: Option<Stream>,
}

impl Client {
    pub(crate) fn new(wire: Rc<Wire>) -> Self {
        Self { wire, idle: None }
    }

    /// Connects, if it is not connected.
    pub(crate) async fn open(&mut self) -> Result<(), Failure> {
        if self.idle.is_none() {
            self.idle = Some(self.wire.connect().await?);
        }
        Ok(())
    }

    /// Sends the request and reads its answer to the end. Cancelled in between, it closes the connection.
    pub(crate) async fn exchange(&mut self) -> Result<Answer, Failure> {
        let mut stream = self.ready().await?;
        let request = &self.wire.request;
        // The answer may come, with or without the connection's end, before the body is written: read it anyway.
        let written = stream.write_all(&request.h1).await;
        let written = if written.is_ok() { stream.flush().await } else { written };
        let (answer, reusable) = read_answer(&mut stream, request.is_head()).await?;
        if reusable && written.is_ok() && !self.wire.connect_per_request {
            self.idle = Some(stream);
        }
        Ok(answer)
    }

    /// A connection that nothing has happened on since its last answer.
    async fn ready(&mut self) -> Result<Stream, Failure> {
        match self.idle.take() {
            None => self.wire.connect().await,
            Some(mut stream) => {
                if stream.is_quiet().await {
                    return Ok(stream);
                }
                self.wire.tally.borrow_mut().reconnects += 1;
                self.wire.connect().await
            }
        }
    }
}

async fn read_answer(stream: &mut Stream, to_head: bool) -> Result<(Answer, bool), Failure> {
    let mut buffer = BytesMut::with_capacity(READ_BUFFER);
    let head = loop {
        if let Some(head) = codec::parse_head(&buffer, to_head).map_err(malformed)? {
            buffer.advance(head.length);
            // An interim answer (RFC 9110 section 15.2) has no body and another one follows.
            if !(100..200).contains(&head.status) {
                break head;
            }
        } else {
            fill(stream, &mut buffer).await?;
        }
    };
    let body_bytes = read_body(stream, &mut buffer, &head).await?;
    // Bytes after the answer are the answer to nothing: whatever they are, this connection is not used again.
    let reusable = head.keep_alive && buffer.is_empty();
    Ok((Answer { status: head.status, worker: head.worker, body_bytes }, reusable))
}

async fn read_body(stream: &mut Stream, buffer: &mut BytesMut, head: &Head) -> Result<u64, Failure> {
    match head.body {
        Body::Length(length) => {
            let mut missing = length;
            loop {
                let here = usize::try_from(missing).map_or(buffer.len(), |missing| missing.min(buffer.len()));
                buffer.advance(here);
                missing -= here as u64;
                if missing == 0 {
                    return Ok(length);
                }
                fill(stream, buffer).await?;
            }
        }
        Body::Chunked => {
            let mut chunks = Chunks::default();
            loop {
                let taken = chunks.feed(buffer).map_err(malformed)?;
                buffer.advance(taken);
                if chunks.is_done() {
                    return Ok(chunks.body_bytes());
                }
                fill(stream, buffer).await?;
            }
        }
        Body::UntilClose => {
            let mut length = 0;
            loop {
                length += buffer.len() as u64;
                buffer.clear();
                if read(stream, buffer).await? == 0 {
                    return Ok(length);
                }
            }
        }
    }
}

async fn read(stream: &mut Stream, buffer: &mut BytesMut) -> Result<usize, Failure> {
    buffer.reserve(READ_BUFFER);
    stream.read_buf(buffer).await.map_err(|error| Failure::new(FailureKind::Reset, error))
}

/// Reads more, where more must come.
async fn fill(stream: &mut Stream, buffer: &mut BytesMut) -> Result<(), Failure> {
    match read(stream, buffer).await? {
        0 => Err(Failure::new(FailureKind::Reset, "the connection ended before the answer was complete")),
        _ => Ok(()),
    }
}

fn malformed(error: codec::Malformed) -> Failure {
    Failure::new(FailureKind::Protocol, error)
}
