//! The client's unidirectional streams (RFC 9114 section 6.2, RFC 9204 section 4.2).

use std::{cell::Cell, pin::Pin, rc::Rc};

use quinn::RecvStream;

use super::Link;
use crate::{
    buffer::ReadBuffer,
    h3::{Code, FrameKind, Settings, StreamKind, frame_header, varint},
    limits::H3_CONTROL_FRAME,
};

/// Which streams of a kind that may be there once are there.
#[derive(Debug, Default)]
pub(super) struct Roles {
    control: Cell<bool>,
    encoder: Cell<bool>,
    decoder: Cell<bool>,
}

/// Reads a stream to its end. An error of it ends the connection.
pub(super) async fn serve(link: Rc<Link>, recv: RecvStream) {
    let mut reader = Reader { recv, input: ReadBuffer::default() };
    if let Err(code) = reader.serve(&link).await {
        link.close(code);
    }
}

struct Reader {
    recv: RecvStream,
    input: ReadBuffer,
}

impl Reader {
    async fn serve(&mut self, link: &Link) -> Result<(), Code> {
        let kind = loop {
            if let Some((number, size)) = varint(self.input.filled()) {
                self.input.consume(size);
                break StreamKind::of(number);
            }
            // It may end or be reset before it says what it is.
            if !self.fill().await {
                return Ok(());
            }
        };
        match kind {
            StreamKind::Control => {
                claim(&link.control.control)?;
                self.control(link).await
            }
            StreamKind::Encoder => {
                claim(&link.control.encoder)?;
                // The capacity of our table is zero; to say so is all that is left to an encoder.
                self.instructions(|byte| byte == 0x20, Code::EncoderStreamError).await
            }
            StreamKind::Decoder => {
                claim(&link.control.decoder)?;
                // Streams that the client gives up. We insert nothing, so there is nothing to acknowledge.
                let mut inside = false;
                let cancellation = move |byte: u8| {
                    let fits = inside || byte & 0xc0 == 0x40;
                    inside = if inside { byte & 0x80 != 0 } else { byte & 0x3f == 0x3f };
                    fits
                };
                self.instructions(cancellation, Code::DecoderStreamError).await
            }
            StreamKind::Push => Err(Code::StreamCreationError),
            StreamKind::Unknown => {
                // An error means that it has ended.
                let _ended = self.recv.stop(Code::StreamCreationError.value().into());
                Ok(())
            }
        }
    }

    /// Reads a stream that never ends, of which each byte must fit.
    async fn instructions(&mut self, mut fits: impl FnMut(u8) -> bool, code: Code) -> Result<(), Code> {
        loop {
            if !self.input.filled().iter().all(|byte| fits(*byte)) {
                return Err(code);
            }
            self.input.consume(self.input.len());
            self.input.release();
            if !self.fill().await {
                return Err(Code::ClosedCriticalStream);
            }
        }
    }

    async fn control(&mut self, link: &Link) -> Result<(), Code> {
        let (mut settled, mut goaway, mut push_id) = (false, None, None);
        let (mut began_ms, mut frames) = (link.thread.clock.now_ms(), 0);
        loop {
            let header = loop {
                match frame_header(self.input.filled()) {
                    Some(header) => break header,
                    None if self.fill().await => {}
                    None => return Err(Code::ClosedCriticalStream),
                }
            };
            if !settled && header.kind != FrameKind::Settings {
                return Err(Code::MissingSettings);
            }
            let now = link.thread.clock.now_ms();
            if now.saturating_sub(began_ms) >= 1000 {
                (began_ms, frames) = (now, 0);
            }
            frames += 1;
            if frames > link.thread.limits.h3_control_frames_per_s {
                return Err(Code::ExcessiveLoad);
            }
            self.input.consume(header.size);
            match header.kind {
                FrameKind::Unknown => {
                    self.skip(header.length).await?;
                    continue;
                }
                FrameKind::Settings if settled => return Err(Code::FrameUnexpected),
                FrameKind::Settings | FrameKind::GoAway | FrameKind::MaxPushId | FrameKind::CancelPush => {}
                FrameKind::Data | FrameKind::Headers | FrameKind::PushPromise | FrameKind::Reserved => {
                    return Err(Code::FrameUnexpected);
                }
            }
            let length = usize::try_from(header.length).ok().filter(|length| *length <= H3_CONTROL_FRAME);
            let length = length.ok_or(Code::ExcessiveLoad)?;
            while self.input.len() < length {
                if !self.fill().await {
                    return Err(Code::ClosedCriticalStream);
                }
            }
            let payload = &self.input.filled()[..length];
            match header.kind {
                FrameKind::Settings => {
                    Settings::parse(payload)?;
                    settled = true;
                }
                // Both are push ids; the first may only fall, the second only rise.
                FrameKind::GoAway => {
                    let id = only(payload)?;
                    if goaway.replace(id).is_some_and(|before| id > before) {
                        return Err(Code::IdError);
                    }
                }
                FrameKind::MaxPushId => {
                    let id = only(payload)?;
                    if push_id.replace(id).is_some_and(|before| id < before) {
                        return Err(Code::IdError);
                    }
                }
                // We promise nothing.
                _ => {
                    only(payload)?;
                    return Err(Code::IdError);
                }
            }
            self.input.consume(length);
            self.input.release();
        }
    }

    async fn skip(&mut self, mut left: u64) -> Result<(), Code> {
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
            self.input.consume(here);
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            if !self.fill().await {
                return Err(Code::ClosedCriticalStream);
            }
        }
    }

    /// Reads once. Whether there was something; otherwise the stream has ended, or the connection.
    async fn fill(&mut self) -> bool {
        let Self { recv, input } = self;
        let read = std::future::poll_fn(|cx| input.poll_read(cx, Pin::new(&mut *recv), false)).await;
        matches!(read, Ok(count) if count > 0)
    }
}

/// Takes a role that may be taken once.
fn claim(role: &Cell<bool>) -> Result<(), Code> {
    if role.replace(true) { Err(Code::StreamCreationError) } else { Ok(()) }
}

/// The integer that is all of a payload.
fn only(payload: &[u8]) -> Result<u64, Code> {
    match varint(payload) {
        Some((value, size)) if size == payload.len() => Ok(value),
        _ => Err(Code::FrameError),
    }
}
