//! What an upstream's frames mean (RFC 9113 sections 5 and 6).

use std::rc::Rc;

use super::Channel;
use crate::{
    h2::{
        Code, Fault, Frame, FrameHeader, FrameKind, Settings, data, flags, goaway, headers,
        hpack::{Decoder, FieldLines, SectionLimits},
        priority, reset, window_update,
    },
    mux::{Blocks, too_large},
};

const PROTOCOL: Fault = Fault::Connection(Code::ProtocolError);

/// Reads a connection's frames.
pub(super) struct Receiver {
    channel: Rc<Channel>,
    decoder: Decoder,
    lines: FieldLines,
    blocks: Blocks,
    /// The upstream's settings came, with which it says that it speaks HTTP/2.
    settled: bool,
}

impl Receiver {
    pub(super) fn new(channel: Rc<Channel>) -> Self {
        Self {
            channel,
            decoder: Decoder::default(),
            lines: FieldLines::default(),
            blocks: Blocks::default(),
            settled: false,
        }
    }

    /// Reads what `input` begins with. How many bytes that were; zero if there is not all of it yet.
    ///
    /// # Errors
    /// The connection ends with that code.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<usize, Code> {
        let Some(frame) = Frame::read(input)? else { return Ok(0) };
        let came = match frame.fault {
            Some(code) => Err(Fault::Stream(code)),
            None => self.frame(&frame.header, frame.payload),
        };
        let fault = match came {
            Err(Fault::Stream(code)) => self.fault(frame.header.stream, code),
            other => other,
        };
        match fault {
            Err(Fault::Connection(code) | Fault::Stream(code)) => Err(code),
            Ok(()) => Ok(frame.size()),
        }
    }

    fn fault(&self, stream: u32, code: Code) -> Result<(), Fault> {
        // One that was never used cannot be reset.
        if self.channel.is_idle(stream) {
            Err(Fault::Connection(code))
        } else {
            self.channel.fault(stream, code)
        }
    }

    fn frame(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let id = header.stream;
        self.blocks.check(header)?;
        if !self.settled && (header.kind != FrameKind::Settings || header.has(flags::ACK)) {
            return Err(PROTOCOL);
        }
        match header.kind {
            FrameKind::Data => {
                let data = data(header, payload)?;
                if self.channel.is_idle(id) {
                    return Err(PROTOCOL);
                }
                let size = u32::try_from(header.length).unwrap_or(u32::MAX);
                self.channel.data(id, size, data, header.has(flags::END_STREAM))
            }
            FrameKind::Headers => {
                let frame = headers(header, payload)?;
                if header.has(flags::END_HEADERS) {
                    return self.section(id, header.has(flags::END_STREAM), frame.fragment);
                }
                self.blocks.begin(header, frame.fragment, frame.depends_on_itself);
                Ok(())
            }
            FrameKind::Continuation => match self.blocks.go_on(header, payload, &self.channel.limits)? {
                Some(block) => self.section(id, block.ends, &block.bytes),
                None => Ok(()),
            },
            FrameKind::Priority => {
                priority(header, payload)?;
                self.channel.small_frame()
            }
            FrameKind::Reset if self.channel.is_idle(id) => Err(PROTOCOL),
            FrameKind::Reset => self.channel.reset_by_upstream(id, reset(payload).ok_or(PROTOCOL)?),
            FrameKind::Settings if header.has(flags::ACK) => self.channel.small_frame(),
            FrameKind::Settings => {
                self.settled = true;
                self.channel.settings(Settings::read(payload).map_err(Fault::Connection)?)
            }
            FrameKind::Ping if header.has(flags::ACK) => self.channel.small_frame(),
            FrameKind::Ping => self.channel.ping(payload),
            FrameKind::GoAway => self.channel.goaway_came(goaway(payload).ok_or(PROTOCOL)?.0),
            FrameKind::WindowUpdate if id != 0 && self.channel.is_idle(id) => Err(PROTOCOL),
            FrameKind::WindowUpdate => self.channel.window_update(id, window_update(header, payload)?),
            // We have said that we want none.
            FrameKind::PushPromise => Err(PROTOCOL),
            FrameKind::Unknown => self.channel.small_frame(),
        }
    }

    /// A whole field block came.
    fn section(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Fault> {
        // Whatever becomes of it, the decoder must have seen it.
        let limits = &self.channel.limits;
        // The pseudo-header comes on top.
        let bounds = SectionLimits { fields: limits.head_fields + 1, bytes: limits.head_bytes };
        let too_large = too_large(self.decoder.decode(block, bounds, &mut self.lines))?;
        if self.channel.is_idle(id) {
            return Err(PROTOCOL);
        }
        let came = self.channel.section(id, ends, &self.lines, too_large);
        self.lines.clear();
        came
    }
}
