//! WebSocket: messages of which each is echoed, or answered by an orderly Close and delivered to nobody.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    super::{
        super::PATIENCE,
        doors::{Io, WEBSOCKET, Way},
        frames::{CLOSE, Frame, KEY, KEY_ANSWERED, Socket, head},
        tally::{Row, Tally},
        upstream::Delivered,
    },
    breathe,
};

/// What a Close may say that comes of an event: going away, or restarting (RFC 6455 section 7.4.1, and IANA's list).
const ORDERLY: [u16; 2] = [1001, 1012];

/// Clients mask what they say, with a key that hides nothing here.
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

type Open = Socket<Box<dyn Io>>;

/// One that talks by WebSocket.
pub(in super::super) struct Client {
    number: u64,
    way: Way,
    delivered: Delivered,
    row: Arc<Row>,
    said: u64,
}

/// How a message fared.
enum Fate {
    Echoed,
    /// The connection is over, and the message was delivered to nobody.
    TurnedAway,
}

impl Client {
    pub(in super::super) fn new(number: u64, way: Way, delivered: Delivered, row: Arc<Row>) -> Self {
        Self { number, way, delivered, row, said: 0 }
    }

    /// Says one message after the other.
    pub(in super::super) async fn talk(mut self, pause: Duration, tally: Arc<Tally>) {
        let mut open: Option<Open> = None;
        while !tally.is_stopped() {
            match self.say(&mut open).await {
                Ok(Fate::Echoed) => self.row.answered(),
                Ok(Fate::TurnedAway) => {
                    self.row.turned_away();
                    self.row.reconnected();
                    open = None;
                }
                Err(error) => {
                    self.row.failed(error);
                    open = None;
                }
            }
            self.listen(&mut open, pause).await;
        }
        if let Some(mut socket) = open
            && let Err(error) = leave(&mut socket).await
        {
            self.row.failed(error.context("leave"));
        }
    }

    /// Waits; a Close that comes meanwhile ends the connection.
    async fn listen(&self, open: &mut Option<Open>, pause: Duration) {
        let Some(socket) = open else { return breathe(pause).await };
        let heard = tokio::select! {
            () = breathe(pause) => return,
            heard = socket.hear() => heard,
        };
        let ended = match heard {
            Ok(frame) => answer_close(socket, &frame).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => self.row.reconnected(),
            Err(error) => self.row.failed(error.context("between two messages")),
        }
        *open = None;
    }

    async fn say(&mut self, open: &mut Option<Open>) -> Result<Fate> {
        let socket = match open {
            Some(socket) => socket,
            None => open.insert(self.open().await?),
        };
        self.said += 1;
        let message = Frame::of(self.number, self.said);
        // One that has ended by now tells why when it is read.
        let sent = socket.say(&message, MASK).await;
        let heard = timeout(PATIENCE, socket.hear()).await.context("no echo in time")?;
        let heard = heard.with_context(|| format!("message {} ({sent:?})", self.said))?;
        if heard == message {
            return Ok(Fate::Echoed);
        }
        answer_close(socket, &heard).await?;
        let delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        let last = delivered.get(&self.number).copied().unwrap_or(0);
        ensure!(last < self.said, "message {} was delivered, and a Close was its answer", self.said);
        Ok(Fate::TurnedAway)
    }

    async fn open(&self) -> Result<Open> {
        let mut stream = self.way.connect(WEBSOCKET).await?;
        let request = format!(
            "GET /chat HTTP/1.1\r\nHost: {WEBSOCKET}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.context("ask for a WebSocket")?;
        stream.flush().await?;
        let head = timeout(PATIENCE, head(&mut stream)).await.context("no WebSocket in time")?;
        let (head, input) = head.context("be given a WebSocket")?;
        ensure!(head.starts_with("HTTP/1.1 101") && head.contains(KEY_ANSWERED), "{head:?}");
        Ok(Socket::new(stream, input))
    }
}

/// Says goodbye, and is told goodbye.
async fn leave(socket: &mut Open) -> Result<()> {
    let goodbye = Frame { first: CLOSE, payload: 1000u16.to_be_bytes().to_vec() };
    socket.say(&goodbye, MASK).await.context("say goodbye")?;
    let heard = timeout(PATIENCE, socket.hear()).await.context("no goodbye in time")??;
    ensure!(heard.first == CLOSE, "{heard:?}");
    Ok(())
}

/// Answers an orderly Close with the same, and sees the connection end.
async fn answer_close(socket: &mut Open, heard: &Frame) -> Result<()> {
    match heard.close_code() {
        Some(code) if ORDERLY.contains(&code) => {}
        _ => bail!("not an orderly Close: {heard:?}"),
    }
    socket.say(heard, MASK).await.context("answer a Close")?;
    let rest = timeout(PATIENCE, socket.rest()).await.context("a Close and no end")?;
    let rest = rest.context("a Close and a broken end")?;
    ensure!(rest == 0, "{rest} bytes after a Close");
    Ok(())
}
