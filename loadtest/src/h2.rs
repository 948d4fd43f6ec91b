//! HTTP/2: one connection, several requests at a time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use tokio::sync::Mutex;

use crate::{
    FailureKind,
    tally::{Answer, Failure},
    wire::Wire,
};

/// Stream window: an answer of this size needs no WINDOW_UPDATE in between.
const STREAM_WINDOW: u32 = 1 << 20;
/// Connection window: 16 answers of that size at once.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How often a request may find that its connection was told to go before it was sent.
const MAX_UNSENT: usize = 3;

/// One connection at a time, opened anew when the server ends it. Its clients share it.
pub(crate) struct Link {
    wire: Rc<Wire>,
    current: RefCell<Option<Session>>,
    opening: Mutex<()>,
    opened: Cell<u64>,
}

#[derive(Clone)]
struct Session {
    number: u64,
    sender: SendRequest<Bytes>,
}

impl Link {
    pub(crate) fn new(wire: Rc<Wire>) -> Rc<Self> {
        Rc::new(Self { wire, current: RefCell::new(None), opening: Mutex::new(()), opened: Cell::new(0) })
    }

    /// Connects, if it is not connected.
    pub(crate) async fn open(&self) -> Result<(), Failure> {
        self.session().await.map(drop)
    }

    /// The connection for the next request; many may ask at a time, one opens.
    async fn session(&self) -> Result<Session, Failure> {
        let _one_opens = self.opening.lock().await;
        let current = self.current.borrow().clone();
        if let Some(session) = current {
            return Ok(session);
        }
        let sender = handshake(&self.wire).await?;
        let number = self.opened.get() + 1;
        self.opened.set(number);
        let session = Session { number, sender };
        *self.current.borrow_mut() = Some(session.clone());
        Ok(session)
    }

    /// Sends nothing more on that connection. What is under way on it goes on.
    fn retire(&self, number: u64) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_some_and(|session| session.number == number) {
            *current = None;
            self.wire.tally.borrow_mut().reconnects += 1;
        }
    }

    /// Sends the request and reads its answer to the end. Cancelled in between, it resets the stream.
    pub(crate) async fn exchange(&self) -> Result<Answer, Failure> {
        let (mut unsent, mut refused) = (0, false);
        loop {
            if self.wire.connect_per_request {
                self.current.borrow_mut().take();
            }
            let Session { number, sender } = self.session().await?;
            match attempt(&self.wire, sender).await {
                Ok(answer) => return Ok(answer),
                Err(Lost::Unsent) if unsent < MAX_UNSENT => unsent += 1,
                Err(Lost::Refused) if !refused => {
                    refused = true;
                    self.wire.tally.borrow_mut().retried_safe += 1;
                }
                Err(lost) => return Err(lost.into()),
            }
            self.retire(number);
        }
    }
}

/// Why an attempt has no answer.
enum Lost {
    /// The connection was already at its end: no frame of the request was made.
    Unsent,
    /// The server says that it did not process the request.
    Refused,
    /// The server may have processed it.
    Failed(Failure),
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Unsent => {
                Self::new(FailureKind::Reset, "the server ends every connection before a request is sent")
            }
            Lost::Refused => {
                Self::new(FailureKind::Reset, "the server refused the request twice, unprocessed")
            }
            Lost::Failed(failure) => failure,
        }
    }
}

async fn handshake(wire: &Wire) -> Result<SendRequest<Bytes>, Failure> {
    let stream = wire.connect().await?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| Failure::new(FailureKind::Protocol, error))?;
    // It ends when its last sender and stream are gone, or with an error that those are told.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

async fn attempt(wire: &Wire, sender: SendRequest<Bytes>) -> Result<Answer, Lost> {
    let mut sender = sender.ready().await.map_err(|_| Lost::Unsent)?;
    let body = &wire.request.body;
    let (answer, mut stream) =
        sender.send_request(wire.request.h2.clone(), body.is_empty()).map_err(|_| Lost::Unsent)?;
    // A sender that lives would keep a retired connection open.
    drop(sender);
    if !body.is_empty() {
        stream.send_data(body.clone(), true).map_err(lost)?;
    }
    let (head, mut body) = answer.await.map_err(lost)?.into_parts();
    let mut body_bytes = 0;
    while let Some(data) = body.data().await {
        // From here on the server has processed the request, whatever it says.
        let data = data.map_err(|error| Lost::Failed(failure(&error)))?;
        body_bytes += data.len() as u64;
        body.flow_control().release_capacity(data.len()).map_err(|error| Lost::Failed(failure(&error)))?;
    }
    body.trailers().await.map_err(|error| Lost::Failed(failure(&error)))?;
    let worker =
        head.headers.get("x-weir-worker").map(|w| String::from_utf8_lossy(w.as_bytes()).into_owned());
    Ok(Answer { status: head.status.as_u16(), worker, body_bytes })
}

/// RFC 9113 section 8.7: a request was not processed if its stream was reset with REFUSED_STREAM, or if its number is
/// above the last one that a GOAWAY names. (h2 gives GOAWAY as an answer's error in that case only: streams below go
/// on, and end with an I/O error if the connection breaks.)
fn lost(error: h2::Error) -> Lost {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        Lost::Refused
    } else {
        Lost::Failed(failure(&error))
    }
}

fn failure(error: &h2::Error) -> Failure {
    let kind = if error.is_library() { FailureKind::Protocol } else { FailureKind::Reset };
    Failure::new(kind, error)
}
