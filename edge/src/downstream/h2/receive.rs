//! What a client's frames mean (RFC 9113 sections 5 and 6).

use std::{net::SocketAddr, rc::Rc};

use tokio::task::spawn_local;

use super::{Leaving, Request, link::Link, serve_stream};
use crate::{
    downstream::{Client, request},
    h1::{FramingError, HeadError, RequestError, Version},
    h2::{
        Code, Fault, Frame, FrameHeader, FrameKind, PREFACE, Settings, data, flags, goaway, headers,
        hpack::{Decoder, FieldLines, SectionLimits},
        priority, window_update,
    },
    mux::{Blocks, Closed, too_large},
    section,
    serve::{record, refusal::Refusal},
};

/// Reads a connection's frames.
pub(super) struct Receiver {
    link: Rc<Link>,
    client: Rc<Client>,
    decoder: Decoder,
    lines: FieldLines,
    /// Of which one may have begun and not ended.
    blocks: Blocks,
    /// The largest number that the client has used for a stream.
    last: u32,
    /// Requests that were begun.
    pub(super) requests: u64,
    preface: bool,
    /// The client's settings came.
    settled: bool,
    /// The client knows our settings.
    acknowledged: bool,
    /// The client goes away.
    pub(super) client_leaves: bool,
    /// The client has answered our PING.
    pub(super) pinged: bool,
}

/// What our PING says.
pub(super) const DRAIN_PING: [u8; 8] = *b"leaving!";

impl Receiver {
    pub(super) fn new(link: Rc<Link>, client: Rc<Client>) -> Self {
        Self {
            link,
            client,
            decoder: Decoder::default(),
            lines: FieldLines::default(),
            blocks: Blocks::default(),
            last: 0,
            requests: 0,
            preface: false,
            settled: false,
            acknowledged: false,
            client_leaves: false,
            pinged: false,
        }
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.client.peer
    }

    /// Gives memory back that the next request needs again.
    pub(super) fn release(&mut self) {
        self.lines = FieldLines::default();
    }

    /// The largest number that the client has used for a stream.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// The client's settings came, with which it says that it speaks HTTP/2.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// A field block has begun and not ended.
    pub(super) fn is_in_block(&self) -> bool {
        self.blocks.is_open()
    }

    /// Reads what `input` begins with. How many bytes that were; zero if there is not all of it yet.
    ///
    /// # Errors
    /// The connection ends with that code.
    pub(super) fn read(&mut self, input: &[u8], leaving: Leaving) -> Result<usize, Code> {
        if !self.preface {
            let Some(rest) = input.get(..PREFACE.len()) else {
                return if PREFACE.starts_with(input) { Ok(0) } else { Err(Code::ProtocolError) };
            };
            self.preface = rest == PREFACE;
            return if self.preface { Ok(PREFACE.len()) } else { Err(Code::ProtocolError) };
        }
        let Some(frame) = Frame::read(input)? else { return Ok(0) };
        let came = match frame.fault {
            Some(code) => Err(Fault::Stream(code)),
            None => self.frame(&frame.header, frame.payload, leaving),
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

    fn fault(&mut self, stream: u32, code: Code) -> Result<(), Fault> {
        // One that was never used cannot be reset.
        if stream > self.last {
            return Err(Fault::Connection(code));
        }
        self.link.fault(stream, code)
    }

    fn frame(&mut self, header: &FrameHeader, payload: &[u8], leaving: Leaving) -> Result<(), Fault> {
        const PROTOCOL: Fault = Fault::Connection(Code::ProtocolError);
        let id = header.stream;
        self.blocks.check(header)?;
        if !self.settled && (header.kind != FrameKind::Settings || header.has(flags::ACK)) {
            return Err(PROTOCOL);
        }
        match header.kind {
            FrameKind::Data => {
                let data = data(header, payload)?;
                if self.is_idle(id) {
                    return Err(PROTOCOL);
                }
                let size = u32::try_from(header.length).unwrap_or(u32::MAX);
                self.link.data(id, size, data, header.has(flags::END_STREAM))
            }
            FrameKind::Headers => {
                let frame = headers(header, payload)?;
                let ends = header.has(flags::END_STREAM);
                if header.has(flags::END_HEADERS) {
                    let came = self.section(id, ends, frame.depends_on_itself, frame.fragment, leaving);
                    self.lines.clear();
                    return came;
                }
                self.blocks.begin(header, frame.fragment, frame.depends_on_itself);
                Ok(())
            }
            FrameKind::Continuation => {
                let block = self.blocks.go_on(header, payload, &self.link.thread.limits)?;
                let Some(block) = block else { return Ok(()) };
                let came = self.section(id, block.ends, block.depends_on_itself, &block.bytes, leaving);
                self.lines.clear();
                came
            }
            FrameKind::Priority => {
                priority(header, payload)?;
                self.link.small_frame()
            }
            FrameKind::Reset if self.is_idle(id) => Err(PROTOCOL),
            FrameKind::Reset => self.link.reset_by_client(id),
            FrameKind::Settings if header.has(flags::ACK) => {
                self.acknowledged = true;
                self.link.small_frame()
            }
            FrameKind::Settings => {
                self.settled = true;
                self.link.settings(Settings::read(payload).map_err(Fault::Connection)?)
            }
            FrameKind::Ping if header.has(flags::ACK) => {
                self.pinged |= payload == DRAIN_PING;
                self.link.small_frame()
            }
            FrameKind::Ping => self.link.ping(payload),
            FrameKind::GoAway => {
                self.client_leaves |= goaway(payload).is_some();
                self.link.small_frame()
            }
            FrameKind::WindowUpdate if id != 0 && self.is_idle(id) => Err(PROTOCOL),
            FrameKind::WindowUpdate => self.link.window_update(id, window_update(header, payload)?),
            FrameKind::PushPromise => Err(PROTOCOL),
            FrameKind::Unknown => self.link.small_frame(),
        }
    }

    /// Whether the client has not used that number, or may not (RFC 9113 section 5.1.1).
    fn is_idle(&self, id: u32) -> bool {
        id > self.last || id.is_multiple_of(2)
    }

    /// A whole field block came: a head, or trailers.
    fn section(
        &mut self,
        id: u32,
        ends: bool,
        depends_on_itself: bool,
        block: &[u8],
        leaving: Leaving,
    ) -> Result<(), Fault> {
        // Whatever becomes of it, the decoder must have seen it.
        let limits = &self.link.thread.limits;
        // The five pseudo-headers come on top.
        let bounds = SectionLimits { fields: limits.head_fields + 5, bytes: limits.head_bytes };
        let too_large = too_large(self.decoder.decode(block, bounds, &mut self.lines))?;
        if id.is_multiple_of(2) {
            return Err(Fault::Connection(Code::ProtocolError));
        }
        if id > self.last {
            self.last = id;
            if leaving == Leaving::Final {
                // The client was told that it is not served.
                return self.link.small_frame();
            }
            return self.head(id, ends, depends_on_itself, too_large);
        }
        match self.link.is_ended(id) {
            Some(true) => Err(Fault::Stream(Code::StreamClosed)),
            Some(false) if !ends || depends_on_itself => Err(Fault::Stream(Code::ProtocolError)),
            Some(false) => match too_large {
                Some(_) => Err(Fault::Stream(Code::Cancel)),
                None => {
                    let trailers =
                        section::trailers(&self.lines).ok_or(Fault::Stream(Code::ProtocolError))?;
                    self.link.trailers(id, trailers)
                }
            },
            None => match self.link.how_closed(id) {
                Some(Closed::ByUs) => self.link.small_frame(),
                Some(Closed::ByPeer) => Err(Fault::Connection(Code::StreamClosed)),
                // A number below others that was never used, or too long ago.
                None => Err(Fault::Connection(Code::ProtocolError)),
            },
        }
    }

    /// A request's head came.
    fn head(
        &mut self,
        id: u32,
        ends: bool,
        depends_on_itself: bool,
        too_large: Option<HeadError>,
    ) -> Result<(), Fault> {
        let thread = &self.link.thread;
        let limits = &thread.limits;
        if depends_on_itself {
            return Err(Fault::Stream(Code::ProtocolError));
        }
        let most = usize::try_from(limits.h2_streams).unwrap_or(usize::MAX);
        if self.link.open_streams() >= most {
            // Before it knows how many we take it may well ask for more.
            if self.acknowledged {
                return Err(Fault::Stream(Code::RefusedStream));
            }
            self.link.refuse(id);
            return self.link.small_frame();
        }
        self.requests += 1;
        let read = match too_large {
            Some(error) => Err(request::Fault::Refused(Refusal::Request(error.into()))),
            None => request::convert(&self.lines, limits, Version::Http2),
        };
        let (request, declared) = match read {
            Ok(request) => {
                let declared = request.length;
                (Request::Read(Box::new(request)), declared)
            }
            Err(request::Fault::Malformed(error)) => {
                record::unread(thread, &self.client, &Refusal::Request(error));
                return Err(Fault::Stream(Code::ProtocolError));
            }
            Err(request::Fault::Refused(refusal)) => (Request::Refused(refusal), None),
        };
        if ends && declared.is_some_and(|declared| declared > 0) {
            record::unread(
                thread,
                &self.client,
                &Refusal::Request(RequestError::Framing(FramingError::Length)),
            );
            return Err(Fault::Stream(Code::ProtocolError));
        }
        let stream = self.link.open(id, declared, ends, self.acknowledged);
        // The task ends with its stream; nobody waits for it.
        drop(spawn_local(serve_stream(stream, Rc::clone(&self.client), request, ends)));
        Ok(())
    }
}
