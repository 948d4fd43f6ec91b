//! WebSocket (RFC 6455) as little as it takes: text messages of one size, echoed.

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Bytes of a message: the most whose length is one byte of the frame.
pub(crate) const MESSAGE: usize = 125;

/// Final, text.
const TEXT: u8 = 0x81;
const LENGTH: u8 = 125;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [1, 2, 3, 4];

/// The key and the answer to it are those of RFC 6455, section 1.3.
pub(crate) const UPGRADE: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A message as a client sends it: masked.
pub(crate) fn message() -> Vec<u8> {
    let mut frame = vec![TEXT, MASKED | LENGTH];
    frame.extend_from_slice(&MASK);
    frame.extend(MASK.iter().cycle().take(MESSAGE).map(|mask| b'm' ^ mask));
    frame
}

/// The same message as a server sends it.
pub(crate) fn echoed() -> Vec<u8> {
    let mut frame = vec![TEXT, LENGTH];
    frame.resize(2 + MESSAGE, b'm');
    frame
}

/// Serves one connection until its end.
pub(crate) async fn echo(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 8192, "no end of the head");
        head.push(stream.read_u8().await?);
    }
    stream.write_all(SWITCHED).await?;
    let (mut request, mut reply) = ([0; 2 + MASK.len() + MESSAGE], echoed());
    loop {
        stream.read_exact(&mut request).await?;
        let (frame, rest) = request.split_at(2);
        let (mask, payload) = rest.split_at(MASK.len());
        ensure!(frame == [TEXT, MASKED | LENGTH], "another frame: {frame:?}");
        for ((to, from), mask) in reply.iter_mut().skip(2).zip(payload).zip(mask.iter().cycle()) {
            *to = from ^ mask;
        }
        stream.write_all(&reply).await?;
    }
}
