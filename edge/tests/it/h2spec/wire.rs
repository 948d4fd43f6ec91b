//! A client that says frame by frame what it is told.

use edge::h2::{
    FrameHeader, FrameKind, PREFACE, flags,
    hpack::{Decoder, FieldLines, SectionLimits},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A frame of that kind's number.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as text that is not to be remembered (RFC 7541 section 6.2.2); all are shorter than 127 bytes.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![];
    for text in fields.iter().flat_map(|(name, value)| [(true, name), (false, value)]) {
        if text.0 {
            block.push(0);
        }
        block.push(u8::try_from(text.1.len()).unwrap());
        block.extend(text.1.bytes());
    }
    block
}

/// A frame as it came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) header: FrameHeader,
    pub(crate) payload: Vec<u8>,
    /// Of a field block that is whole.
    pub(crate) fields: Vec<(String, String)>,
}

impl Came {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// All that came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(pub(crate) Vec<Came>);

impl Log {
    fn of(&self, kind: FrameKind) -> impl Iterator<Item = &Came> {
        self.0.iter().filter(move |came| came.header.kind == kind)
    }

    pub(crate) fn goaway(&self, codes: &[u32]) -> bool {
        self.of(FrameKind::GoAway).any(|came| codes.contains(&came.number(4)))
    }

    /// Whether GOAWAY without an error names that stream as the last that is served.
    pub(crate) fn leaves_after(&self, last: u32) -> bool {
        self.of(FrameKind::GoAway).any(|came| came.number(0) == last && came.number(4) == 0)
    }

    /// What we are asked by PING.
    pub(crate) fn ping(&self) -> Option<&[u8]> {
        self.of(FrameKind::Ping).find(|came| !came.header.has(flags::ACK)).map(|came| &*came.payload)
    }

    pub(crate) fn reset(&self, id: u32, codes: &[u32]) -> bool {
        self.of(FrameKind::Reset).any(|came| came.header.stream == id && codes.contains(&came.number(0)))
    }

    pub(crate) fn pong(&self, payload: &[u8]) -> bool {
        self.of(FrameKind::Ping).any(|came| came.header.has(flags::ACK) && came.payload == payload)
    }

    pub(crate) fn acks(&self) -> usize {
        self.of(FrameKind::Settings).filter(|came| came.header.has(flags::ACK)).count()
    }

    /// The sizes of a stream's DATA frames.
    pub(crate) fn data(&self, id: u32) -> Vec<usize> {
        self.of(FrameKind::Data)
            .filter(|came| came.header.stream == id)
            .map(|came| came.payload.len())
            .collect()
    }

    /// By how much a stream's window was opened.
    pub(crate) fn opened(&self, id: u32) -> u32 {
        self.of(FrameKind::WindowUpdate)
            .filter(|came| came.header.stream == id)
            .map(|came| came.number(0))
            .sum()
    }

    pub(crate) fn has_head(&self, id: u32) -> bool {
        self.of(FrameKind::Headers).any(|came| came.header.stream == id)
    }

    /// The status of a stream that has ended.
    pub(crate) fn answer(&self, id: u32) -> Option<u16> {
        let mut frames = self.0.iter().filter(|came| {
            came.header.stream == id && matches!(came.header.kind, FrameKind::Headers | FrameKind::Data)
        });
        if !frames.clone().any(|came| came.header.has(flags::END_STREAM)) {
            return None;
        }
        frames.find_map(|came| came.fields.iter().find(|(name, _)| name == ":status")?.1.parse().ok())
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One connection.
pub(crate) struct Peer {
    io: Box<dyn Io>,
    input: Vec<u8>,
    decoder: Decoder,
    pub(crate) log: Log,
}

impl Peer {
    pub(crate) fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { io: Box::new(io), input: vec![], decoder: Decoder::default(), log: Log::default() }
    }

    /// The preface and settings, both ways.
    pub(crate) async fn greet(&mut self) {
        self.greet_saying(&[]).await;
    }

    pub(crate) async fn greet_saying(&mut self, settings: &[u8]) {
        self.send(&[PREFACE, &frame(4, 0, 0, settings)].concat()).await;
        assert!(self.until(|log| log.acks() > 0).await, "no HTTP/2");
        self.send(&frame(4, flags::ACK, 0, &[])).await;
    }

    /// The other side may have closed: what matters is what it said.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        drop(self.io.write_all(bytes).await);
        drop(self.io.flush().await);
    }

    /// Whether what came is what is wanted, before the connection ends.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Log) -> bool) -> bool {
        while !wanted(&self.log) {
            if !self.next().await {
                return false;
            }
        }
        true
    }

    /// Whether the connection ends.
    pub(crate) async fn ends(&mut self) -> bool {
        while self.next().await {}
        true
    }

    /// Reads a frame. `false`: the connection has ended.
    pub(crate) async fn next(&mut self) -> bool {
        loop {
            if let Some(header) = FrameHeader::read(&self.input)
                && self.input.len() >= 9 + header.length
            {
                let payload: Vec<_> = self.input.drain(..9 + header.length).skip(9).collect();
                let fields = self.fields(&header, &payload);
                self.log.0.push(Came { header, payload, fields });
                return true;
            }
            match self.io.read_buf(&mut self.input).await {
                Ok(count) if count > 0 => {}
                _ => return false,
            }
        }
    }

    fn fields(&mut self, header: &FrameHeader, payload: &[u8]) -> Vec<(String, String)> {
        if header.kind != FrameKind::Headers || !header.has(flags::END_HEADERS) {
            return vec![];
        }
        let mut lines = FieldLines::default();
        let limits = SectionLimits { fields: 100, bytes: 1 << 16 };
        self.decoder.decode(payload, limits, &mut lines).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        lines.iter().map(|(name, value)| (text(name), text(value))).collect()
    }
}
