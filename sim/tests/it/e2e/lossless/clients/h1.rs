//! HTTP/1.1: clients that keep a connection over long pauses, and clients that use one once, for a body.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    super::{
        super::PATIENCE,
        doors::{BODIES, HOST, Io, Way},
        tally::{Row, Tally},
    },
    breathe,
};

/// Long enough that a drain finds the connection idle, far below the `Keep-Alive: timeout` that the gateway promises.
const LONG_PAUSE: Duration = Duration::from_millis(800);

/// Bodies are of this size: more than one read, less than a window.
const BODY: usize = 40 * 1024;

/// How long a byte that is here takes to be seen.
const LOOK: Duration = Duration::from_millis(2);

/// Asks, pauses, and asks again on the same connection for as long as the server keeps it.
pub(in super::super) async fn visit_now_and_then(way: Way, tally: Arc<Tally>, row: Arc<Row>) {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut kept: Option<Box<dyn Io>> = None;
    while !tally.is_stopped() {
        let visit = async {
            let mut stream = match kept.take() {
                None => way.connect(HOST).await?,
                Some(mut stream) => {
                    if !is_open(&mut stream).await {
                        row.reconnected();
                        stream = way.connect(HOST).await?;
                    }
                    stream
                }
            };
            stream.write_all(request.as_bytes()).await.context("send")?;
            let last = timeout(PATIENCE, answer(&mut stream)).await.context("no answer in time")??;
            if last {
                row.reconnected();
            } else {
                kept = Some(stream);
            }
            anyhow::Ok(())
        };
        match visit.await {
            Ok(()) => row.answered(),
            Err(error) => row.failed(error),
        }
        breathe(LONG_PAUSE).await;
    }
}

/// Whether the server has not ended the connection, as far as is known here. What TLS says for itself is no end.
async fn is_open(stream: &mut Box<dyn Io>) -> bool {
    timeout(LOOK, stream.read_u8()).await.is_err()
}

/// Sends a body on a connection of its own, and reads to the connection's end.
pub(in super::super) async fn post_once(way: Way, pause: Duration, tally: Arc<Tally>, row: Arc<Row>) {
    let body = vec![b'x'; BODY];
    let head = format!(
        "POST {BODIES} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {BODY}\r\n\r\n"
    );
    while !tally.is_stopped() {
        let post = async {
            let mut stream = way.connect(HOST).await?;
            stream.write_all(head.as_bytes()).await.context("send the head")?;
            stream.write_all(&body).await.context("send the body")?;
            stream.flush().await?;
            let last = timeout(PATIENCE, answer(&mut stream)).await.context("no answer in time")??;
            ensure!(last, "a connection that was to end is kept");
            anyhow::Ok(())
        };
        match post.await {
            Ok(()) => row.answered(),
            Err(error) => row.failed(error),
        }
        breathe(pause * 4).await;
    }
}

/// Reads an answer to its end; whether it was the connection's last.
async fn answer(stream: &mut Box<dyn Io>) -> Result<bool> {
    let mut bytes = Vec::with_capacity(4096);
    let (head, mut missing) = loop {
        ensure!(stream.read_buf(&mut bytes).await.context("receive")? > 0, "the end, and no answer");
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let Some(length) = length else { bail!("no length in {head:?}") };
            let here = bytes.len() - end - 4;
            let missing: usize = usize::checked_sub(length, here).context("more than was to come")?;
            break (head, missing);
        }
    };
    ensure!(head.starts_with("http/1.1 200"), "{head:?}");
    while missing > 0 {
        bytes.clear();
        ensure!(stream.read_buf(&mut bytes).await.context("receive")? > 0, "half an answer");
        missing = missing.checked_sub(bytes.len()).context("more than was to come")?;
    }
    Ok(head.lines().any(|line| line.strip_prefix("connection:").is_some_and(|v| v.trim() == "close")))
}
