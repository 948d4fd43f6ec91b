//! WebSocket frames as both ends of these conversations make and read them (RFC 6455 section 5.2): small and whole.

use anyhow::{Result, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The key of section 1.3, and what its owner must be answered: these ends need no SHA-1.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const KEY_ANSWERED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// First bytes: a binary message, and a Close.
pub(super) const BINARY: u8 = 0x82;
pub(super) const CLOSE: u8 = 0x88;

const MASKED: u8 = 0x80;

/// A frame of fewer than 126 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) first: u8,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// A message: who says it, and which of its messages it is.
    pub(super) fn of(client: u64, number: u64) -> Self {
        let payload = [client.to_be_bytes(), number.to_be_bytes()].concat();
        Self { first: BINARY, payload }
    }

    pub(super) fn message(&self) -> Option<(u64, u64)> {
        let (client, number) = self.payload.split_first_chunk()?;
        Some((u64::from_be_bytes(*client), u64::from_be_bytes(number.try_into().ok()?)))
    }

    /// The code of a Close that has one.
    pub(super) fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        code.filter(|_| self.first == CLOSE)
    }

    /// Takes a frame off the front of what was read, if a whole one is there.
    pub(super) fn take(input: &mut BytesMut) -> Result<Option<Self>> {
        let [first, length, ..] = **input else { return Ok(None) };
        let masked = length & MASKED != 0;
        let length = usize::from(length & !MASKED);
        ensure!(length < 126, "a frame that nobody here made");
        let header = if masked { 2 + 4 } else { 2 };
        if input.len() < header + length {
            return Ok(None);
        }
        let mut frame = input.split_to(header + length);
        let mut payload = frame.split_off(header).to_vec();
        if masked {
            let mask = &frame[2..];
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        Ok(Some(Self { first, payload }))
    }

    /// As it is sent.
    pub(super) fn bytes(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let length = u8::try_from(self.payload.len()).expect("these frames are short");
        let mut bytes = vec![self.first, length | if mask.is_some() { MASKED } else { 0 }];
        bytes.extend(mask.into_iter().flatten());
        let mask = mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

/// One end of a WebSocket.
pub(super) struct Socket<S> {
    pub(super) stream: S,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// An end of which this was read after its head.
    pub(super) fn new(stream: S, input: BytesMut) -> Self {
        Self { stream, input }
    }

    /// The next frame. Cancel-safe.
    pub(super) async fn hear(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.input)? {
                return Ok(frame);
            }
            ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the end, and no Close");
        }
    }

    pub(super) async fn say(&mut self, frame: &Frame, mask: Option<[u8; 4]>) -> Result<()> {
        self.stream.write_all(&frame.bytes(mask)).await?;
        Ok(self.stream.flush().await?)
    }

    /// How many bytes come before the end.
    pub(super) async fn rest(&mut self) -> Result<usize> {
        while self.stream.read_buf(&mut self.input).await? > 0 {
            ensure!(self.input.len() < 16 * 1024, "no end");
        }
        Ok(self.input.len())
    }
}

/// Reads a head to its end; also what came behind it.
pub(super) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Result<(String, BytesMut)> {
    let mut input = BytesMut::with_capacity(1024);
    loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = input.split_to(end + 4);
            return Ok((String::from_utf8_lossy(&head).into_owned(), input));
        }
        ensure!(input.len() < 16 * 1024, "a head without an end");
        ensure!(stream.read_buf(&mut input).await? > 0, "the end, and no head");
    }
}
