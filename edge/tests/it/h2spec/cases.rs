//! The cases, by section; here those of how a connection begins, of frames and of the states of streams.

mod hpack;
mod kinds;
mod messages;

use edge::h2::PREFACE;

use super::{
    Case,
    Step::{self, Acks, Answers, Closes, Data, Dies, Fails, Pong, Resets, Send},
    wire::{block, frame},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;
/// A request without a body.
const WHOLE: u8 = END_STREAM | END_HEADERS;

const PROTOCOL: &[u32] = &[1];
const FLOW: &[u32] = &[3];
const CLOSED: &[u32] = &[5];
const SIZE: &[u32] = &[6];
const COMPRESSION: &[u32] = &[9];

const METHOD: (&str, &str) = (":method", "GET");
const POST: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "https");
const PATH: (&str, &str) = (":path", "/");
const HOST: (&str, &str) = (":authority", "a.test");
const GET: &[(&str, &str)] = &[METHOD, SCHEME, PATH, HOST];

/// A GET, whole.
fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(GET))
}

/// The head of a POST, whose body follows.
fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&[&[POST, SCHEME, PATH, HOST], more].concat()))
}

/// A GET with other fields.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &block(fields))
}

/// A GET with more fields.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    fields(&[GET, more].concat())
}

/// A GET whose block is this, behind its method and the like.
fn coded(more: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &[&block(GET), more].concat())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<_> = pairs.iter().map(|(id, value)| setting(*id, *value)).collect();
    frame(SETTINGS, 0, 0, &payload.concat())
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[weight]].concat())
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn ok(stream: u32) -> Step {
    Answers(stream, 200)
}

fn case(section: &'static str, what: &'static str, steps: Vec<Step>) -> Case {
    Case { section, what, raw: false, steps }
}

/// These bytes, and what comes of them.
fn one(section: &'static str, what: &'static str, frames: &[Vec<u8>], then: Step) -> Case {
    case(section, what, vec![Send(frames.concat()), then])
}

pub(super) fn all() -> Vec<Case> {
    let mut cases = vec![];
    cases.extend(starting());
    cases.extend(frames());
    cases.extend(states());
    cases.extend(kinds::all());
    cases.extend(kinds::windows());
    cases.extend(kinds::continuations());
    cases.extend(messages::all());
    cases.extend(hpack::all());
    cases
}

fn starting() -> Vec<Case> {
    let raw =
        |section, what, frames: &[Vec<u8>], then| Case { raw: true, ..one(section, what, frames, then) };
    let preface = PREFACE.to_vec();
    vec![
        case("3.4", "preface and settings", vec![]),
        raw("3.4", "settings are acknowledged", &[preface.clone(), settings(&[])], Acks(1)),
        raw("3.4", "a preface that is none", &[b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()], Closes),
        raw("3.4", "a request before settings", &[preface.clone(), get(1)], Dies(PROTOCOL)),
        raw(
            "3.4",
            "an acknowledgement before settings",
            &[preface, frame(SETTINGS, ACK, 0, &[])],
            Dies(PROTOCOL),
        ),
    ]
}

fn frames() -> Vec<Case> {
    let large = vec![0; 16_384];
    let larger = vec![0; 16_385];
    let garbage = frame(HEADERS, WHOLE, 1, &[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let begin = frame(HEADERS, END_STREAM, 1, &block(GET));
    vec![
        one("4.1", "a kind that nobody knows", &[frame(0x16, 0, 0, b"what?"), get(1)], ok(1)),
        one("4.1", "flags that nobody knows", &[frame(PING, 0xfe, 0, b"12345678")], Pong(*b"12345678")),
        one("4.1", "a reserved bit", &[frame(PING, 0, 1 << 31, b"12345678")], Pong(*b"12345678")),
        one("4.2", "DATA of 16384 bytes", &[post(1, &[]), frame(DATA, END_STREAM, 1, &large)], ok(1)),
        one(
            "4.2",
            "DATA of 16385 bytes",
            &[post(1, &[]), frame(DATA, END_STREAM, 1, &larger)],
            Fails(1, SIZE),
        ),
        one("4.2", "HEADERS of 16385 bytes", &[frame(HEADERS, WHOLE, 1, &larger)], Dies(SIZE)),
        one(
            "4.2",
            "CONTINUATION of 16385 bytes",
            &[begin.clone(), frame(CONTINUATION, 4, 1, &larger)],
            Dies(SIZE),
        ),
        one("4.2", "an unknown frame of 16385 bytes", &[frame(0x16, 0, 0, &larger)], Dies(SIZE)),
        one("4.3", "a field block that is none", &[garbage], Dies(COMPRESSION)),
        one("4.3", "PRIORITY within a field block", &[begin.clone(), priority(1, 0, 1)], Dies(PROTOCOL)),
        one("4.3", "HEADERS within a field block", &[begin.clone(), get(3)], Dies(PROTOCOL)),
        one(
            "4.3",
            "a CONTINUATION of another stream",
            &[begin, frame(CONTINUATION, 4, 3, &[])],
            Dies(PROTOCOL),
        ),
    ]
}

fn states() -> Vec<Case> {
    let data = |stream| frame(DATA, END_STREAM, stream, b"x");
    let continuation = |stream| frame(CONTINUATION, END_HEADERS, stream, &block(GET));
    let answered = |what, then: Vec<u8>, end| case("5.1", what, vec![Send(get(1)), ok(1), Send(then), end]);
    let cancelled =
        |what, then: Vec<u8>, end| one("5.1", what, &[post(1, &[]), reset(1, 8), then, get(3)], end);
    let many: Vec<_> = (0..101).map(|n| post(2 * n + 1, &[])).collect();
    let on_itself = [&1_u32.to_be_bytes()[..], &[16], &block(GET)].concat();
    vec![
        one("5.1", "idle: DATA", &[data(1)], Dies(PROTOCOL)),
        one("5.1", "idle: RST_STREAM", &[reset(1, 8)], Dies(PROTOCOL)),
        one("5.1", "idle: WINDOW_UPDATE", &[update(1, 100)], Dies(PROTOCOL)),
        one("5.1", "idle: CONTINUATION", &[continuation(1)], Dies(PROTOCOL)),
        one("5.1", "idle: PRIORITY", &[priority(1, 0, 255), get(1)], ok(1)),
        one("5.1", "idle: PRIORITY above what is used next", &[priority(7, 3, 255), get(1)], ok(1)),
        one("5.1", "half closed: DATA", &[get(1), data(1)], Fails(1, CLOSED)),
        one("5.1", "half closed: HEADERS", &[get(1), get(1)], Fails(1, CLOSED)),
        one("5.1", "half closed: CONTINUATION", &[get(1), continuation(1)], Dies(PROTOCOL)),
        one("5.1", "half closed: WINDOW_UPDATE", &[get(1), update(1, 100)], ok(1)),
        one("5.1", "half closed: PRIORITY", &[get(1), priority(1, 0, 255)], ok(1)),
        one("5.1", "half closed: RST_STREAM", &[get(1), reset(1, 8), get(3)], ok(3)),
        cancelled("reset: DATA", data(1), Dies(CLOSED)),
        cancelled("reset: HEADERS", get(1), Dies(CLOSED)),
        cancelled("reset: CONTINUATION", continuation(1), Dies(PROTOCOL)),
        cancelled("reset: PRIORITY", priority(1, 0, 255), ok(3)),
        cancelled("reset: WINDOW_UPDATE", update(1, 100), ok(3)),
        cancelled("reset: RST_STREAM", reset(1, 8), ok(3)),
        answered("closed: DATA", data(1), Dies(CLOSED)),
        answered("closed: HEADERS", get(1), Dies(CLOSED)),
        answered("closed: CONTINUATION", continuation(1), Dies(PROTOCOL)),
        answered("closed: PRIORITY", [priority(1, 0, 255), get(3)].concat(), ok(3)),
        answered("closed: WINDOW_UPDATE", [update(1, 100), get(3)].concat(), ok(3)),
        answered("closed: RST_STREAM", [reset(1, 8), get(3)].concat(), ok(3)),
        case(
            "5.1",
            "what was on its way to a stream that we reset is ignored",
            vec![
                Send([post(1, &[]), update(1, 0)].concat()),
                Resets(1, PROTOCOL),
                Send(
                    [frame(DATA, 0, 1, b"x"), frame(HEADERS, WHOLE, 1, &block(&[("x", "y")])), get(3)]
                        .concat(),
                ),
                ok(3),
            ],
        ),
        one("5.1.1", "an even number", &[get(2)], Dies(PROTOCOL)),
        one("5.1.1", "a number below the last", &[get(5), get(3)], Dies(PROTOCOL)),
        one("5.1.1", "numbers that are left out", &[get(5), get(9), update(3, 1), reset(7, 8)], ok(9)),
        one("5.1.2", "a stream too many", &many, Fails(201, &[1, 7])),
        one(
            "5.3.1",
            "HEADERS that depend on themselves",
            &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &on_itself)],
            Resets(1, PROTOCOL),
        ),
        one("5.3.1", "PRIORITY that depends on itself", &[priority(1, 1, 16)], Dies(PROTOCOL)),
        one(
            "5.3.1",
            "PRIORITY that depends on itself, of an open stream",
            &[post(1, &[]), priority(1, 1, 16)],
            Resets(1, PROTOCOL),
        ),
        one("5.4.1", "an error of the connection is said", &[frame(PING, 0, 0, b"1234567")], Dies(SIZE)),
        one("5.5", "a frame of an extension", &[frame(0xef, 0, 1, b"what?"), get(1)], ok(1)),
        one(
            "5.5",
            "a frame of an extension within a field block",
            &[frame(HEADERS, END_STREAM, 1, &block(GET)), frame(0xef, 0, 1, &[])],
            Dies(PROTOCOL),
        ),
        one("5.5", "a setting of an extension", &[settings(&[(0xef, 1)])], Acks(2)),
    ]
}
