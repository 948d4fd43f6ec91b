//! gRPC by the letter of its protocol over HTTP/2: unary calls, and streams that go on over events. Not tonic or
//! grpcio, which send a call once more by themselves where they believe that nobody saw it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::Request;
use rand::RngExt as _;
use tokio::{sync::Mutex, time::timeout};

use super::{
    super::{
        super::PATIENCE,
        doors::{GRPC, Way},
        size::Size,
        tally::{Row, Tally},
    },
    breathe,
};

/// One connection at a time for all who share it.
pub(in super::super) struct Link {
    way: Way,
    current: Mutex<Option<SendRequest<Bytes>>>,
    row: Arc<Row>,
}

impl Link {
    pub(in super::super) fn new(way: Way, row: Arc<Row>) -> Arc<Self> {
        Arc::new(Self { way, current: Mutex::default(), row })
    }

    /// Begins a call on the connection, or on another where its server said GOAWAY: no frame was made for that one.
    async fn begin(&self) -> Result<Call> {
        let request = || {
            Request::post(format!("http://{GRPC}/test.Peer/Echo"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
        };
        let mut current = self.current.lock().await;
        if let Some(sender) = current.take() {
            let ready = timeout(PATIENCE, sender.ready()).await.context("no stream in time")?;
            if let Ok(mut sender) = ready
                && let Ok((response, send)) = sender.send_request(request()?, false)
            {
                *current = Some(sender);
                return Ok(Call { response: Some(response), body: None, send, input: BytesMut::new() });
            }
            self.row.reconnected();
        }
        let (sender, connection) = h2::client::handshake(self.way.connect(GRPC).await?).await?;
        tokio::spawn(async move { drop(connection.await) });
        let mut sender = sender.ready().await.context("a new connection")?;
        let (response, send) = sender.send_request(request()?, false)?;
        *current = Some(sender);
        Ok(Call { response: Some(response), body: None, send, input: BytesMut::new() })
    }
}

/// A call under way.
struct Call {
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    send: SendStream<Bytes>,
    input: BytesMut,
}

impl Call {
    /// Sends a message: not compressed, its length, itself.
    async fn say(&mut self, message: u64, is_last: bool) -> Result<()> {
        let mut frame = BytesMut::with_capacity(5 + 8);
        frame.put_u8(0);
        frame.put_u32(8);
        frame.put_u64(message);
        let Err(error) = self.send.send_data(frame.freeze(), is_last) else { return Ok(()) };
        // A stream that has ended has said why.
        let heard = timeout(PATIENCE, self.hear()).await.context("no status in time")?;
        bail!("a message cannot be said ({error}); heard instead: {heard:?}")
    }

    /// The next message; `None` at the end, with a status that must be 0.
    async fn hear(&mut self) -> Result<Option<u64>> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.context("receive the head")?.into_parts();
            ensure!(head.status == 200 && !head.headers.contains_key("grpc-status"), "{head:?}");
            self.body = Some(body);
        }
        let body = self.body.as_mut().context("a call has one answer")?;
        loop {
            if let Some((header, message)) = self.input.split_first_chunk::<5>() {
                ensure!(*header == [0, 0, 0, 0, 8], "not a message of ours: {header:?}");
                if let Some(message) = message.first_chunk() {
                    let message = u64::from_be_bytes(*message);
                    drop(self.input.split_to(5 + 8));
                    return Ok(Some(message));
                }
            }
            let Some(data) = body.data().await else { break };
            let data = data.context("receive a message")?;
            body.flow_control().release_capacity(data.len())?;
            self.input.extend_from_slice(&data);
        }
        ensure!(self.input.is_empty(), "half a message");
        let trailers = body.trailers().await.context("receive the trailers")?.context("no trailers")?;
        let status = trailers.get("grpc-status").context("no status")?;
        ensure!(status == "0", "{trailers:?}");
        Ok(None)
    }

    /// The echo of a message, and nothing else.
    async fn echo(&mut self, message: u64) -> Result<()> {
        match timeout(PATIENCE, self.hear()).await.context("no answer in time")?? {
            Some(heard) if heard == message => Ok(()),
            other => bail!("{message} was said, {other:?} was heard"),
        }
    }

    async fn end(&mut self) -> Result<()> {
        let end = timeout(PATIENCE, self.hear()).await.context("no end in time")??;
        ensure!(end.is_none(), "a message too many");
        Ok(())
    }
}

/// Unary calls, one after the other.
pub(in super::super) async fn call(link: Arc<Link>, pause: Duration, tally: Arc<Tally>, row: Arc<Row>) {
    while !tally.is_stopped() {
        let number = rand::rng().random();
        let call = async {
            let mut call = link.begin().await?;
            call.say(number, true).await?;
            call.echo(number).await?;
            call.end().await
        };
        match call.await {
            Ok(()) => row.answered(),
            Err(error) => row.failed(error),
        }
        breathe(pause).await;
    }
}

/// Streams of messages in both directions, one after the other, each well within a drain. A message counts when its
/// echo is there, and the last one with the status of the whole.
pub(in super::super) async fn converse(link: Arc<Link>, size: Size, tally: Arc<Tally>, row: Arc<Row>) {
    while !tally.is_stopped() {
        let stream = async {
            let mut call = link.begin().await?;
            let count = rand::rng().random_range(1..=size.messages);
            for number in 1..count {
                call.say(number, false).await?;
                call.echo(number).await?;
                row.answered();
                breathe(size.message_pause).await;
            }
            call.say(count, true).await?;
            call.echo(count).await?;
            call.end().await
        };
        match stream.await {
            Ok(()) => row.answered(),
            Err(error) => row.failed(error),
        }
    }
}
