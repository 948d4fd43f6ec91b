//! What the frames that an upstream sends do to the streams of its connection.

use std::io;

use super::{
    channel::{Asked, Channel},
    response,
    stream::Failure,
};
use crate::{
    h1::{Fields, FramingError, HeadError, ParsedResponse, ResponseError},
    h2::{Code, Fault, Settings, flags, write_ping, write_settings_ack},
    limits::{INTERIM_RESPONSES, UPSTREAM_H2_STREAMS},
    mux::{Arrival, CALM, Closed, Stream},
    section::{FieldLines, trailers},
};

impl Channel {
    /// Whether no stream has had that number.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id >= self.state.borrow().next || id.is_multiple_of(2)
    }

    /// A frame came that asks for nothing.
    pub(super) fn small_frame(&self) -> Result<(), Fault> {
        self.state.borrow_mut().small_frame(self)
    }

    /// A stream ends through the upstream's fault.
    pub(super) fn fault(&self, id: u32, code: Code) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        if state.mux.streams.find(id).is_none() {
            return state.small_frame(self);
        }
        state.fail(id, Closed::ByUs, Failure::Closed(io::ErrorKind::InvalidData));
        state.mux.write_reset(id, code);
        Ok(())
    }

    /// A DATA frame of that size came, `data` among it.
    pub(super) fn data(&self, id: u32, size: u32, data: &[u8], ends: bool) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        let arrival = match state.mux.data(id, size, data, ends) {
            Ok(arrival) => arrival,
            Err(Fault::Stream(Code::ProtocolError)) => {
                state.malformed(id, FramingError::Length.into());
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        // A body has a head before it.
        if state.mux.streams.find(id).is_some_and(|stream| !stream.own.answered) {
            state.malformed(id, HeadError::StartLine.into());
            return Ok(());
        }
        match arrival {
            Arrival::Data => state.useful += 1,
            // What was on its way when we reset the stream. Clients decide how often that is, and others use the connection, too.
            Arrival::Stray if !data.is_empty() => {}
            Arrival::Empty(_) | Arrival::Stray => state.small_frame(self)?,
        }
        Ok(())
    }

    /// A whole field block came: a head, interim ones before the final one, or trailers. `too_large` if it is not in `lines`.
    pub(super) fn section(
        &self,
        id: u32,
        ends: bool,
        lines: &FieldLines,
        too_large: Option<HeadError>,
    ) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        let Some(stream) = state.mux.streams.find(id) else {
            return match state.mux.streams.how_closed(id) {
                Some(Closed::ByPeer) => Err(Fault::Connection(Code::StreamClosed)),
                Some(Closed::ByUs) | None => state.small_frame(self),
            };
        };
        if stream.ended {
            return Err(Fault::Stream(Code::StreamClosed));
        }
        let read = match too_large {
            Some(error) => Err(error.into()),
            None if stream.own.answered => read_trailers(ends, lines).and_then(|trailers| {
                state.mux.trailers(id, trailers).map_err(|_| FramingError::Length.into())
            }),
            None => read_head(stream, ends, lines, self.limits.head_fields),
        };
        match read {
            Ok(()) => state.useful += 1,
            Err(error) => state.malformed(id, error),
        }
        Ok(())
    }

    /// RST_STREAM came.
    pub(super) fn reset_by_upstream(&self, id: u32, code: u32) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        if state.mux.streams.find(id).is_none() {
            state.mux.streams.forget(id);
            return state.small_frame(self);
        }
        // RFC 9113 section 8.7: a refused stream was not processed.
        let refused = code == Code::RefusedStream.value();
        let failure =
            if refused { Failure::Refused } else { Failure::Closed(io::ErrorKind::ConnectionReset) };
        state.fail(id, Closed::ByPeer, failure);
        Ok(())
    }

    /// GOAWAY came: streams above `last` were not processed, and no more are taken (RFC 9113 section 6.8).
    pub(super) fn goaway_came(&self, last: u32) -> Result<(), Fault> {
        self.retire();
        let state = &mut *self.state.borrow_mut();
        let unprocessed: Vec<_> =
            state.mux.streams.iter().map(|stream| stream.id).filter(|id| *id > last).collect();
        for id in unprocessed {
            state.fail(id, Closed::ByUs, Failure::Refused);
        }
        state.small_frame(self)
    }

    /// The upstream takes more, on a stream or (0) on the connection.
    pub(super) fn window_update(&self, id: u32, increment: u32) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        state.mux.window_update(id, increment)?;
        state.small_frame(self)
    }

    pub(super) fn ping(&self, payload: &[u8]) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        state.mux.control(|out| write_ping(out, flags::ACK, payload));
        let earned = state.earned();
        if state.floods.ping(earned, &self.limits, self.clock.now_ms()) { Err(CALM) } else { Ok(()) }
    }

    /// The upstream's settings hold from now on (RFC 9113 section 6.5.3).
    pub(super) fn settings(&self, settings: Settings) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        if settings.push == Some(true) {
            return Err(Fault::Connection(Code::ProtocolError));
        }
        if let Some(window) = settings.initial_window {
            state.mux.resize_windows(window)?;
        }
        let said = settings.streams.map(|streams| usize::try_from(streams).unwrap_or(usize::MAX));
        let first = state.most.is_none();
        state.most = said.or(state.most).or(Some(usize::MAX)).map(|most| most.min(UPSTREAM_H2_STREAMS));
        // It wants none at all: another connection may be welcome.
        state.is_retired |= state.most == Some(0);
        if first || state.is_retired {
            self.changed.notify_waiters();
        }
        // Frames of the least size that there is do for everybody, and what we send needs no table.
        state.mux.control(write_settings_ack);
        if state.floods.settings(&self.limits, self.clock.now_ms()) { Err(CALM) } else { Ok(()) }
    }
}

/// Takes in a head that came on a stream.
fn read_head(
    stream: &mut Stream<Asked>,
    ends: bool,
    lines: &FieldLines,
    most: usize,
) -> Result<(), ResponseError> {
    let said = response::read(lines, most)?;
    let status = said.head.status();
    if status < 200 {
        // None is passed on: `Expect` is not, and a client of HTTP/1.1 need not expect others.
        stream.own.interim += 1;
        let fits = !ends && stream.own.interim <= INTERIM_RESPONSES;
        return if fits { Ok(()) } else { Err(ResponseError::Status) };
    }
    let has_body = response::has_body(status, stream.own.to_head);
    stream.declared = if has_body { said.length } else { Some(0) };
    if ends && stream.declared.is_some_and(|declared| declared > 0) {
        return Err(FramingError::Length.into());
    }
    let framing = response::framing(has_body, ends, said.length);
    stream.own.head = Some(ParsedResponse { head: said.head, framing, consumed: 0 });
    stream.own.answered = true;
    stream.ended = ends;
    stream.wake();
    Ok(())
}

fn read_trailers(ends: bool, lines: &FieldLines) -> Result<Fields, ResponseError> {
    trailers(lines).filter(|_| ends).ok_or_else(|| HeadError::StartLine.into())
}
