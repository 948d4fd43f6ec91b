//! A client's TLS connection over a socket.
//!
//! rustls does the handshake. Once a TLS 1.3 connection waits for its second request, our own [`Records`] take over; short
//! connections and TLS 1.2 stay with rustls to the end.
//!
//! What is sent goes out in as few packets as it takes: session tickets wait for the first response, and the last response
//! takes `close_notify` and the end of the connection with it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    AlertDescription, ProtocolVersion, ServerConfig,
    pki_types::CertificateDer,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Agreed,
    records::{Broken, Opened, PLAIN, Records},
};
use crate::{
    buffer::{ReadBuffer, give_scratch, scratch},
    hello::HelloReader,
    limits::LARGE_BUFFER,
    socket::{After, Socket},
};

/// A connection whose handshake is over.
pub(crate) struct TlsStream {
    socket: Socket,
    session: Session,
    /// What was received and not yet opened.
    input: ReadBuffer,
    /// What waits to be sent.
    out: Out,
    /// The client has said that it will send no more.
    closed: bool,
    /// We have.
    said_close: bool,
}

/// Who opens and seals.
enum Session {
    Young(Box<Young>),
    Records {
        records: Box<Records>,
        /// Bytes at the front of the input that are opened, and those behind them that are spent with them.
        ready: usize,
        spent: usize,
    },
    /// Nobody: the keys could not be taken over.
    Gone,
}

/// rustls, and what it has opened.
struct Young {
    connection: UnbufferedServerConnection,
    plain: Vec<u8>,
    taken: usize,
    /// Something was said to the client.
    sealed: bool,
}

/// Records on their way to the client.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    sent: usize,
    /// Some of it cannot wait for more.
    urgent: bool,
}

impl Out {
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, socket: &mut Socket, after: After) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let waiting = &self.bytes[self.sent..];
            let count = ready!(socket.poll_send(cx, waiting, after))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.bytes.clear();
        self.sent = 0;
        self.urgent = false;
        Poll::Ready(Ok(()))
    }

    /// Gives memory back that an idle connection should not hold.
    fn rest(&mut self) {
        if self.is_empty() {
            give_scratch(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        give_scratch(std::mem::take(&mut self.bytes));
    }
}

/// What rustls is to do once the input is used up.
#[derive(Clone, Copy)]
enum Then<'p> {
    Wait,
    Seal(&'p [u8]),
    Close,
}

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Something was opened.
    Opened,
    /// The client will say no more.
    Closed,
    /// The handshake needs more from the client.
    Starved,
    /// The handshake is over, the input used up, the wish done.
    Done,
}

impl Young {
    fn step(
        &mut self,
        input: &mut ReadBuffer,
        out: &mut Vec<u8>,
        then: Then<'_>,
    ) -> Result<Step, rustls::Error> {
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(input.filled_mut());
            let step = match state {
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    append(out, 0, |room| encoded(record.encode(room)))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    // It is in `out`, and goes from there when the time has come.
                    sent.done();
                    None
                }
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.plain.extend_from_slice(record.payload);
                    }
                    Some(Step::Opened)
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    match then {
                        Then::Wait => {}
                        Then::Seal(plain) => {
                            // In TLS 1.2 a record has 29 bytes beside its content, in TLS 1.3 22.
                            let likely = plain.len() + 32 * (plain.len() / PLAIN + 1);
                            append(out, likely, |room| encrypted(traffic.encrypt(plain, room)))?;
                        }
                        Then::Close => append(out, 32, |room| encrypted(traffic.queue_close_notify(room)))?,
                    }
                    Some(Step::Done)
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Step::Starved),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Step::Closed),
                // Early data is not accepted.
                Ok(_) => Some(Step::Starved),
                Err(error) => {
                    input.consume(discard);
                    self.last_words(input, out);
                    return Err(error);
                }
            };
            input.consume(discard);
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    /// Does what is wished, past what has come meanwhile. Whether the client said that it will send no more.
    fn finish(&mut self, input: &mut ReadBuffer, out: &mut Vec<u8>, then: Then<'_>) -> io::Result<bool> {
        let mut closed = false;
        loop {
            match self.step(input, out, then).map_err(io::Error::other)? {
                Step::Done => return Ok(closed),
                Step::Opened => {}
                Step::Closed => closed = true,
                Step::Starved => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
    }

    /// Appends the alert that tells the client what was wrong.
    fn last_words(&mut self, input: &mut ReadBuffer, out: &mut Vec<u8>) {
        // The alert is all that is left to say, whatever else comes.
        while let Ok(ConnectionState::EncodeTlsData(mut record)) =
            self.connection.process_tls_records(input.filled_mut()).state
        {
            if append(out, 64, |room| encoded(record.encode(room))).is_err() {
                return;
            }
        }
    }
}

/// What [`append`] wants to hear: what was written, or how much room that needs.
fn encoded(result: Result<usize, EncodeError>) -> Result<usize, Option<usize>> {
    result.map_err(|error| match error {
        EncodeError::InsufficientSize(more) => Some(more.required_size),
        EncodeError::AlreadyEncoded => None,
    })
}

/// As [`encoded`].
fn encrypted(result: Result<usize, EncryptError>) -> Result<usize, Option<usize>> {
    result.map_err(|error| match error {
        EncryptError::InsufficientSize(more) => Some(more.required_size),
        EncryptError::EncryptExhausted => None,
    })
}

/// Lets `write` append to `out`, with room for `likely` bytes, and once more if it says that it needs more.
fn append(
    out: &mut Vec<u8>,
    likely: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    let mut room = likely;
    for _ in 0..2 {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(required)) => room = required,
            Err(None) => break,
        }
    }
    out.truncate(start);
    Err(rustls::Error::EncryptError)
}

impl TlsStream {
    /// Does a handshake as the server that `choose` takes for the host that the client asks for (empty when it does not say).
    /// `input` is what was read already. Not bounded in time; dropping it closes the connection.
    ///
    /// # Errors
    /// The client was told by an alert, if it still listens.
    pub(super) async fn accept(
        socket: Socket,
        input: ReadBuffer,
        choose: impl FnOnce(&str) -> Arc<ServerConfig>,
    ) -> io::Result<(Self, Agreed)> {
        let mut greeted = Greeted { socket, input, reader: HelloReader::default() };
        let host = std::future::poll_fn(|cx| greeted.poll_host(cx)).await?;
        let connection = UnbufferedServerConnection::new(choose(host.as_deref().unwrap_or_default()));
        let connection = connection.map_err(io::Error::other)?;
        let young = Box::new(Young { connection, plain: Vec::new(), taken: 0, sealed: false });
        let Greeted { socket, input, .. } = greeted;
        let mut stream = Self {
            socket,
            session: Session::Young(young),
            input,
            out: Out::default(),
            closed: false,
            said_close: false,
        };
        std::future::poll_fn(|cx| stream.poll_handshake(cx)).await?;
        let Session::Young(young) = &stream.session else { unreachable!("nothing was read yet") };
        let agreed = Agreed::of(&young.connection, host);
        Ok((stream, agreed))
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Session::Young(young) = &mut self.session else { return Poll::Ready(Ok(())) };
            match young.step(&mut self.input, &mut self.out.bytes, Then::Wait) {
                Ok(Step::Starved) => {}
                Ok(Step::Closed) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(Step::Done | Step::Opened) => {
                    // Tickets are all that may wait.
                    if young.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                        return Poll::Ready(Ok(()));
                    }
                    return self.out.poll_send(cx, &mut self.socket, After::More);
                }
                Err(error) => {
                    // The client may be gone, or its window closed: the error stands either way.
                    let _told = self.out.poll_send(cx, &mut self.socket, After::More);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
            ready!(self.out.poll_send(cx, &mut self.socket, After::More))?;
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// What the client has shown in the handshake, the leaf first. Known until rustls is left behind.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.session {
            Session::Young(young) => young.connection.peer_certificates(),
            Session::Records { .. } | Session::Gone => None,
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether something came that nobody has read.
    pub(crate) fn holds_input(&self) -> bool {
        !self.input.is_empty()
            || matches!(&self.session, Session::Young(young) if young.taken < young.plain.len())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_full() {
            // Longer than any message of a handshake that we take.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.input.poll_read(cx, Pin::new(&mut self.socket), false)
    }

    /// Gives the reader what is opened. Whether there was something.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        match &mut self.session {
            Session::Young(young) => {
                let plain = &young.plain[young.taken..];
                let count = plain.len().min(buf.remaining());
                buf.put_slice(&plain[..count]);
                young.taken += count;
                if young.taken == young.plain.len() {
                    young.plain.clear();
                    young.taken = 0;
                }
                count > 0
            }
            Session::Records { ready, spent, .. } => {
                let count = (*ready).min(buf.remaining());
                buf.put_slice(&self.input.filled()[..count]);
                *ready -= count;
                let used = if *ready == 0 { count + std::mem::take(spent) } else { count };
                self.input.consume(used);
                count > 0
            }
            Session::Gone => false,
        }
    }

    /// Opens the next record. Whether one was there.
    fn open(&mut self) -> io::Result<bool> {
        match &mut self.session {
            Session::Young(young) => {
                let before = self.out.bytes.len();
                let step = young.step(&mut self.input, &mut self.out.bytes, Then::Wait);
                self.out.urgent |= self.out.bytes.len() > before;
                match step.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                    Step::Opened => Ok(true),
                    Step::Closed => {
                        self.closed = true;
                        Ok(true)
                    }
                    Step::Starved | Step::Done => Ok(false),
                }
            }
            Session::Records { records, ready, spent } => {
                let before = self.out.bytes.len();
                let opened = records.open(self.input.filled_mut(), &mut self.out.bytes);
                self.out.urgent |= self.out.bytes.len() > before;
                match opened {
                    Ok(None) => return Ok(false),
                    Ok(Some((length, Opened::Data(range)))) => {
                        self.input.consume(range.start);
                        *ready = range.len();
                        *spent = length - range.end;
                    }
                    Ok(Some((length, Opened::Nothing))) => self.input.consume(length),
                    Ok(Some((_, Opened::Closed))) => self.closed = true,
                    Err(broken) => {
                        if let Broken::Ours(description) = broken {
                            // Without it the client sees only the end.
                            let _sealed = records.seal_alert(description, &mut self.out.bytes);
                            self.out.urgent = true;
                        }
                        return Err(io::Error::new(io::ErrorKind::InvalidData, broken));
                    }
                }
                Ok(true)
            }
            Session::Gone => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Leaves rustls behind, where it has nothing half done and the client seems to stay.
    fn mature(&mut self) -> io::Result<()> {
        let Session::Young(young) = &self.session else { return Ok(()) };
        let settled = self.input.is_empty() && self.out.is_empty() && !self.said_close;
        let stays = young.sealed && young.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if !settled || !stays {
            return Ok(());
        }
        let Session::Young(young) = std::mem::replace(&mut self.session, Session::Gone) else {
            return Ok(());
        };
        let (keys, secrets) =
            young.connection.dangerous_into_kernel_connection().map_err(io::Error::other)?;
        let records = Records::new(keys, secrets).map_err(io::Error::other)?;
        self.session = Session::Records { records: Box::new(records), ready: 0, spent: 0 };
        Ok(())
    }

    /// Seals as much of `plain` as may wait. How much that was.
    fn seal(&mut self, plain: &[u8]) -> io::Result<usize> {
        let room = LARGE_BUFFER.saturating_sub(self.out.waiting().len());
        let plain = &plain[..plain.len().min(room)];
        if plain.is_empty() {
            return Ok(0);
        }
        if self.out.bytes.capacity() == 0 {
            self.out.bytes = scratch();
        }
        match &mut self.session {
            Session::Young(young) => {
                young.sealed = true;
                self.closed |= young.finish(&mut self.input, &mut self.out.bytes, Then::Seal(plain))?;
            }
            Session::Records { records, .. } => {
                records.seal(plain, &mut self.out.bytes).map_err(io::Error::other)?;
            }
            Session::Gone => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        Ok(plain.len())
    }

    /// Says that no more will come.
    fn close(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.said_close, true) {
            return Ok(());
        }
        match &mut self.session {
            Session::Young(young) => {
                self.closed |= young.finish(&mut self.input, &mut self.out.bytes, Then::Close)?;
                Ok(())
            }
            Session::Records { records, .. } => records
                .seal_alert(AlertDescription::CloseNotify, &mut self.out.bytes)
                .map_err(io::Error::other),
            Session::Gone => Ok(()),
        }
    }

    /// As `poll_write`, and if all is taken, nothing follows: `close_notify` goes with it, and the close that the caller does
    /// next.
    pub(crate) fn poll_write_last(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, plain, After::Close)
    }

    fn poll_seal(&mut self, cx: &mut Context<'_>, plain: &[u8], after: After) -> Poll<io::Result<usize>> {
        if self.out.waiting().len() >= LARGE_BUFFER {
            ready!(self.out.poll_send(cx, &mut self.socket, After::More))?;
        }
        let count = self.seal(plain)?;
        let after = if count == plain.len() { after } else { After::More };
        if after == After::Close {
            self.close()?;
        }
        match self.out.poll_send(cx, &mut self.socket, after) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What is sealed is as good as written; `poll_flush` sees to the rest.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }
}

impl AsyncRead for TlsStream {
    /// The end without `close_notify` is an error: it may be an attacker's.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.take(buf) || this.closed {
                return Poll::Ready(Ok(()));
            }
            let opened = this.open();
            if this.out.urgent {
                // What the socket does not take now goes with the next write.
                let sent = this.out.poll_send(cx, &mut this.socket, After::More);
                if let (Ok(_), Poll::Ready(Err(error))) = (&opened, sent) {
                    return Poll::Ready(Err(error));
                }
            }
            if opened? {
                continue;
            }
            if this.input.is_empty() {
                this.mature()?;
            }
            match this.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.input.release();
                    this.out.rest();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, plain, After::More)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.out.poll_send(cx, &mut this.socket, After::More)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.close()?;
        ready!(this.out.poll_send(cx, &mut this.socket, After::More))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// A client that has not yet said which host it wants.
struct Greeted {
    socket: Socket,
    input: ReadBuffer,
    reader: HelloReader,
}

impl Greeted {
    /// The host. `None` when the hello does not say or cannot be read: then rustls will say why.
    fn poll_host(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<String>>> {
        loop {
            match self.reader.advance(self.input.filled()) {
                Ok(Some(hello)) => return Poll::Ready(Ok(hello.server_name)),
                Ok(None) if !self.input.is_full() => {}
                Ok(None) | Err(_) => return Poll::Ready(Ok(None)),
            }
            if ready!(self.input.poll_read(cx, Pin::new(&mut self.socket), false))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}
