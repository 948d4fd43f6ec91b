//! The cases, by section.

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
    cases.extend(kinds());
    cases.extend(windows());
    cases.extend(continuations());
    cases.extend(messages());
    cases.extend(hpack());
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

fn kinds() -> Vec<Case> {
    let padded = |kind, payload: &[u8]| frame(kind, PADDED | WHOLE, 1, payload);
    let fill = |padding: u8, text: &[u8]| [&[padding], text, &vec![0; padding.into()]].concat();
    let with_priority = [&[0x80, 0, 0, 3, 16], &block(GET)[..]].concat();
    // What was asked before is answered, then nothing keeps us.
    let leaving = |section, what, goaway: &[u8]| {
        let frames = [post(1, &[]), frame(GOAWAY, 0, 0, goaway), frame(DATA, 1, 1, b"x")];
        case(section, what, vec![Send(frames.concat()), ok(1), Closes])
    };
    vec![
        one("6.1", "DATA", &[post(1, &[]), frame(DATA, END_STREAM, 1, b"hello")], ok(1)),
        one(
            "6.1",
            "DATA in several frames",
            &[post(1, &[]), frame(DATA, 0, 1, b"hel"), frame(DATA, 0, 1, b""), frame(DATA, 1, 1, b"lo")],
            ok(1),
        ),
        one(
            "6.1",
            "DATA with padding",
            &[post(1, &[("content-length", "5")]), frame(DATA, PADDED | 1, 1, &fill(6, b"hello"))],
            ok(1),
        ),
        one(
            "6.1",
            "DATA of nothing but padding",
            &[post(1, &[]), frame(DATA, PADDED | 1, 1, &fill(255, b""))],
            ok(1),
        ),
        one("6.1", "DATA of no stream", &[frame(DATA, END_STREAM, 0, b"x")], Dies(PROTOCOL)),
        one(
            "6.1",
            "DATA with more padding than there is",
            &[post(1, &[]), padded(DATA, b"\x06hello")],
            Dies(PROTOCOL),
        ),
        one(
            "6.1",
            "DATA with the length of its padding missing",
            &[post(1, &[]), padded(DATA, b"")],
            Dies(SIZE),
        ),
        one("6.2", "HEADERS with padding", &[padded(HEADERS, &fill(7, &block(GET)))], ok(1)),
        one(
            "6.2",
            "HEADERS with a priority",
            &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &with_priority)],
            ok(1),
        ),
        one(
            "6.2",
            "HEADERS with both",
            &[frame(HEADERS, WHOLE | WITH_PRIORITY | PADDED, 1, &fill(7, &with_priority))],
            ok(1),
        ),
        one("6.2", "HEADERS of no stream", &[frame(HEADERS, WHOLE, 0, &block(GET))], Dies(PROTOCOL)),
        one(
            "6.2",
            "HEADERS with more padding than there is",
            &[padded(HEADERS, &[&[0xff], &block(GET)[..]].concat())],
            Dies(PROTOCOL),
        ),
        one(
            "6.2",
            "HEADERS that are too short for their priority",
            &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, b"\0\0\0\0")],
            Dies(SIZE),
        ),
        one("6.3", "PRIORITY of the least weight", &[priority(1, 0, 0), get(1)], ok(1)),
        one("6.3", "PRIORITY of the largest weight", &[priority(1, 0, 255), get(1)], ok(1)),
        one("6.3", "PRIORITY with a dependency", &[priority(3, 1, 255), get(3)], ok(3)),
        one("6.3", "PRIORITY, exclusive", &[priority(3, 1 << 31 | 1, 255), get(3)], ok(3)),
        one("6.3", "PRIORITY of no stream", &[priority(0, 1, 16)], Dies(PROTOCOL)),
        one(
            "6.3",
            "PRIORITY of four bytes",
            &[post(1, &[]), frame(PRIORITY, 0, 1, b"\0\0\0\0")],
            Resets(1, SIZE),
        ),
        one("6.4", "RST_STREAM", &[post(1, &[]), reset(1, 8), get(3)], ok(3)),
        one("6.4", "RST_STREAM of no stream", &[reset(0, 8)], Dies(PROTOCOL)),
        one("6.4", "RST_STREAM of an idle stream", &[reset(3, 8)], Dies(PROTOCOL)),
        one(
            "6.4",
            "RST_STREAM of three bytes",
            &[post(1, &[]), frame(RST_STREAM, 0, 1, b"\0\0\0")],
            Dies(SIZE),
        ),
        one("6.5", "SETTINGS", &[settings(&[(3, 100), (4, 65_535)])], Acks(2)),
        one(
            "6.5",
            "SETTINGS that acknowledge and say something",
            &[frame(SETTINGS, ACK, 0, &setting(3, 1))],
            Dies(SIZE),
        ),
        one("6.5", "SETTINGS of a stream", &[frame(SETTINGS, 0, 1, &setting(3, 1))], Dies(PROTOCOL)),
        one("6.5", "SETTINGS of seven bytes", &[frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64\0")], Dies(SIZE)),
        one("6.5.2", "ENABLE_PUSH of 2", &[settings(&[(2, 2)])], Dies(PROTOCOL)),
        one("6.5.2", "ENABLE_PUSH of 0 and of 1", &[settings(&[(2, 0)]), settings(&[(2, 1)])], Acks(3)),
        one("6.5.2", "INITIAL_WINDOW_SIZE of 2^31", &[settings(&[(4, 1 << 31)])], Dies(FLOW)),
        one("6.5.2", "MAX_FRAME_SIZE of 16383", &[settings(&[(5, 16_383)])], Dies(PROTOCOL)),
        one("6.5.2", "MAX_FRAME_SIZE of 2^24", &[settings(&[(5, 1 << 24)])], Dies(PROTOCOL)),
        one("6.5.2", "MAX_FRAME_SIZE of 2^24-1", &[settings(&[(5, (1 << 24) - 1)]), get(1)], ok(1)),
        one("6.5.2", "HEADER_TABLE_SIZE of 0", &[settings(&[(1, 0)]), get(1)], ok(1)),
        one(
            "6.5.2",
            "MAX_CONCURRENT_STREAMS of 0, which is for pushes",
            &[settings(&[(3, 0)]), get(1)],
            ok(1),
        ),
        one(
            "6.5.3",
            "the last value of a setting counts",
            &[settings(&[(4, 100), (4, 1)]), get(1)],
            Data(1, 1),
        ),
        one(
            "6.6",
            "PUSH_PROMISE",
            &[post(1, &[]), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &block(GET)[..]].concat())],
            Dies(PROTOCOL),
        ),
        one("6.7", "PING", &[frame(PING, 0, 0, b"12345678")], Pong(*b"12345678")),
        one(
            "6.7",
            "PING that is an answer",
            &[frame(PING, ACK, 0, b"answered"), frame(PING, 0, 0, b"12345678")],
            Pong(*b"12345678"),
        ),
        one("6.7", "PING of a stream", &[frame(PING, 0, 1, b"12345678")], Dies(PROTOCOL)),
        one("6.7", "PING of nine bytes", &[frame(PING, 0, 0, b"123456789")], Dies(SIZE)),
        leaving("6.8", "GOAWAY", &[0; 8]),
        one("6.8", "GOAWAY while nothing is asked", &[frame(GOAWAY, 0, 0, &[0; 8])], Closes),
        one("6.8", "GOAWAY of a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], Dies(PROTOCOL)),
        one("6.8", "GOAWAY of seven bytes", &[frame(GOAWAY, 0, 0, &[0; 7])], Dies(SIZE)),
        leaving("7", "GOAWAY with a code that nobody knows", &[0, 0, 0, 0, 0, 0, 0, 0xff]),
        one("7", "RST_STREAM with a code that nobody knows", &[post(1, &[]), reset(1, 0xff), get(3)], ok(3)),
    ]
}

fn windows() -> Vec<Case> {
    let most = (1 << 31) - 1;
    vec![
        one("6.9", "WINDOW_UPDATE of the connection", &[update(0, 1), get(1)], ok(1)),
        one("6.9", "WINDOW_UPDATE of a stream", &[get(1), update(1, 1)], ok(1)),
        one("6.9", "WINDOW_UPDATE of the connection by nothing", &[update(0, 0)], Dies(PROTOCOL)),
        one(
            "6.9",
            "WINDOW_UPDATE of a stream by nothing",
            &[post(1, &[]), update(1, 0)],
            Resets(1, PROTOCOL),
        ),
        one("6.9", "WINDOW_UPDATE of three bytes", &[frame(WINDOW_UPDATE, 0, 0, b"\0\0\0")], Dies(SIZE)),
        one("6.9", "a reserved bit in WINDOW_UPDATE", &[update(0, 1 << 31 | 1), get(1)], ok(1)),
        one("6.9.1", "a window of one byte", &[settings(&[(4, 1)]), get(1)], Data(1, 1)),
        one(
            "6.9.1",
            "the connection's window beyond 2^31-1",
            &[update(0, most), update(0, most)],
            Dies(FLOW),
        ),
        one(
            "6.9.1",
            "a stream's window beyond 2^31-1",
            &[post(1, &[]), update(1, most), update(1, most)],
            Resets(1, FLOW),
        ),
        case(
            "6.9.2",
            "a window that opens while a response waits",
            vec![
                Send([settings(&[(4, 0)]), get(1)].concat()),
                Acks(2),
                Send(settings(&[(4, 1)])),
                Data(1, 1),
                Send(update(1, 100)),
                ok(1),
            ],
        ),
        case(
            "6.9.2",
            "a window below zero",
            vec![
                Send([settings(&[(4, 3)]), get(1)].concat()),
                Data(1, 3),
                // Three bytes are sent: minus one, zero, one.
                Send([settings(&[(4, 2)]), update(1, 1)].concat()),
                Acks(3),
                Send(update(1, 1)),
                Data(1, 1),
            ],
        ),
        one(
            "6.9.2",
            "INITIAL_WINDOW_SIZE that moves a stream beyond 2^31-1",
            &[post(1, &[]), update(1, 1 << 30), settings(&[(4, most)])],
            Dies(FLOW),
        ),
    ]
}

fn continuations() -> Vec<Case> {
    let whole = block(GET);
    let (first, rest) = whole.split_at(20);
    let (second, third) = rest.split_at(7);
    let head = frame(HEADERS, END_STREAM, 1, first);
    let more = |flags, part: &[u8]| frame(CONTINUATION, flags, 1, part);
    vec![
        one("6.10", "a CONTINUATION", &[head.clone(), more(END_HEADERS, rest)], ok(1)),
        one(
            "6.10",
            "CONTINUATIONs",
            &[head.clone(), more(0, second), more(0, b""), more(END_HEADERS, third)],
            ok(1),
        ),
        one(
            "6.10",
            "HEADERS of nothing, and a CONTINUATION",
            &[frame(HEADERS, END_STREAM, 1, b""), more(END_HEADERS, &whole)],
            ok(1),
        ),
        one(
            "6.10",
            "CONTINUATIONs of trailers",
            &[
                post(1, &[]),
                frame(DATA, 0, 1, b"x"),
                frame(HEADERS, END_STREAM, 1, &[0, 1]),
                more(END_HEADERS, b"a\x01b"),
            ],
            ok(1),
        ),
        one(
            "6.10",
            "DATA before the block's end",
            &[head.clone(), more(0, second), frame(DATA, 1, 1, b"x")],
            Dies(PROTOCOL),
        ),
        one(
            "6.10",
            "a CONTINUATION of no stream",
            &[head, frame(CONTINUATION, END_HEADERS, 0, rest)],
            Dies(PROTOCOL),
        ),
        one(
            "6.10",
            "a CONTINUATION behind a whole head",
            &[get(1), more(END_HEADERS, &whole)],
            Dies(PROTOCOL),
        ),
        one(
            "6.10",
            "a CONTINUATION behind the last one",
            &[frame(HEADERS, END_STREAM, 1, first), more(END_HEADERS, rest), more(END_HEADERS, rest)],
            Dies(PROTOCOL),
        ),
        one(
            "6.10",
            "a CONTINUATION behind DATA",
            &[post(1, &[]), frame(DATA, 1, 1, b"x"), more(END_HEADERS, &whole)],
            Dies(PROTOCOL),
        ),
    ]
}

fn messages() -> Vec<Case> {
    let trailers = |fields: &[(&str, &str)]| frame(HEADERS, WHOLE, 1, &block(fields));
    let body = |bytes| frame(DATA, 0, 1, bytes);
    let last = |bytes| frame(DATA, END_STREAM, 1, bytes);
    let mut cases = vec![
        one("8.1", "GET", &[get(1)], ok(1)),
        one("8.1", "HEAD", &[fields(&[(":method", "HEAD"), SCHEME, PATH, HOST])], ok(1)),
        one("8.1", "POST", &[post(1, &[]), last(b"hello")], ok(1)),
        one("8.1", "POST with trailers", &[post(1, &[]), body(b"hello"), trailers(&[("x-sum", "1")])], ok(1)),
        one(
            "8.1",
            "trailers that do not end the stream",
            &[post(1, &[]), frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")]))],
            Resets(1, PROTOCOL),
        ),
        one("8.1", "requests at once", &[get(1), get(3), get(5), get(7)], ok(5)),
        one("8.1.1", "a length without a body", &[with(&[("content-length", "5")])], Resets(1, PROTOCOL)),
        one(
            "8.1.1",
            "a length that is not the body's",
            &[post(1, &[("content-length", "1")]), last(b"hello")],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.1.1",
            "a length that is not the body's, of two frames",
            &[post(1, &[("content-length", "1")]), body(b"he"), last(b"llo")],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.1.1",
            "a length that is more than the body",
            &[post(1, &[("content-length", "6")]), last(b"hello")],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.1.1",
            "a length that is more than the body before trailers",
            &[post(1, &[("content-length", "6")]), body(b"hello"), trailers(&[("x", "y")])],
            Resets(1, PROTOCOL),
        ),
        one("8.1.1", "a length of nothing", &[with(&[("content-length", "0")])], ok(1)),
        one(
            "8.3",
            "a pseudo-header in trailers",
            &[post(1, &[]), body(b"x"), trailers(&[(":method", "GET")])],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.3",
            "a name in uppercase in trailers",
            &[post(1, &[]), body(b"x"), trailers(&[("X-Sum", "1")])],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.3",
            "a pseudo-header behind a field",
            &[fields(&[METHOD, SCHEME, HOST, ("x", "y"), PATH])],
            Resets(1, PROTOCOL),
        ),
        one("8.3.1", "an empty path", &[fields(&[METHOD, SCHEME, HOST, (":path", "")])], Resets(1, PROTOCOL)),
        one("8.3.1", "a fragment", &[fields(&[METHOD, SCHEME, HOST, (":path", "/#a")])], Answers(1, 400)),
        one(
            "8.3.1",
            "no authority but a host",
            &[fields(&[METHOD, SCHEME, PATH, ("host", "a.test")])],
            ok(1),
        ),
        one(
            "8.5",
            "CONNECT with a path",
            &[fields(&[(":method", "CONNECT"), HOST, PATH])],
            Resets(1, PROTOCOL),
        ),
        one("8.5", "CONNECT without an authority", &[fields(&[(":method", "CONNECT")])], Answers(1, 400)),
        one(
            "8441",
            "an extended CONNECT for what is not served",
            &[fields(&[(":method", "CONNECT"), (":protocol", "x"), SCHEME, PATH, HOST])],
            Answers(1, 501),
        ),
        one(
            "8441",
            ":protocol without CONNECT",
            &[with(&[("x", "y"), (":protocol", "websocket")])],
            Resets(1, PROTOCOL),
        ),
        one(
            "9110 10.1.1",
            "the body is asked for",
            &[post(1, &[("expect", "100-continue")]), last(b"hello")],
            ok(1),
        ),
        one("9110 10.1.1", "another expectation", &[with(&[("expect", "x")])], Answers(1, 417)),
    ];
    for field in [
        ("X-Upper", "y"),
        ("", "y"),
        (":x", "y"),
        (":status", "200"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers, deflate"),
        ("x", "a\r\nb"),
        ("x", "a\0b"),
        ("x y", "z"),
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "a.test"),
    ] {
        // Pseudo-headers come first.
        let list = if field.0.starts_with(':') { [&[field], GET].concat() } else { [GET, &[field]].concat() };
        cases.push(one("8.2", "a field that no request has", &[fields(&list)], Resets(1, PROTOCOL)));
    }
    cases.push(one("8.2.2", "te: trailers", &[with(&[("te", "trailers")])], ok(1)));
    for missing in 0..3 {
        let list: Vec<_> =
            GET.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, field)| *field).collect();
        cases.push(one("8.3.1", "no method, no scheme or no path", &[fields(&list)], Resets(1, PROTOCOL)));
    }
    cases
}

fn hpack() -> Vec<Case> {
    let works = |what, more: &[u8]| one("hpack 6", what, &[coded(more), get(3)], ok(1));
    let fails = |section, what, more: &[u8]| one(section, what, &[coded(more)], Dies(COMPRESSION));
    let huffman_host = frame(
        HEADERS,
        WHOLE,
        1,
        &[&[0x82, 0x87, 0x84], &block(&[HOST])[..], &[0x7a, 0x82, 0x1c, 0x67]].concat(),
    );
    let insert_then_use = [
        frame(HEADERS, WHOLE, 1, &[&block(GET)[..], b"\x40\x01a\x01b"].concat()),
        frame(HEADERS, WHOLE, 3, &[&block(GET)[..], &[0xbe]].concat()),
    ];
    let all_indexed = [
        frame(HEADERS, WHOLE, 1, &[&[0x82, 0x87, 0x84, 0x41, 6], &b"a.test"[..]].concat()),
        frame(HEADERS, WHOLE, 3, &[0x82, 0x87, 0x84, 0xbe]),
    ];
    vec![
        works("an indexed field", &[0x90]),
        works("a literal to be remembered, with a known name", b"\x7a\x01x"),
        works("a literal to be remembered", b"\x40\x01a\x01b"),
        works("a literal not to be remembered, with a known name", b"\x0f\x2b\x01x"),
        works("a literal not to be remembered", b"\0\x01a\x01b"),
        works("a literal never to be remembered, with a known name", b"\x1f\x2b\x01x"),
        works("a literal never to be remembered", b"\x10\x01a\x01b"),
        works("a name in Huffman's code", b"\0\x81\x1f\x01b"),
        works("a value in Huffman's code", b"\0\x01a\x81\x1f"),
        works("an empty value", b"\0\x01a\0"),
        one("hpack 5.2", "Huffman's code", &[huffman_host], ok(1)),
        one("hpack 2.3.2", "an entry of the dynamic table", &insert_then_use, ok(3)),
        one("hpack 2.3.2", "a request of one byte for each field", &all_indexed, ok(3)),
        one(
            "hpack 4.2",
            "a change of the table's size",
            &[frame(HEADERS, WHOLE, 1, &[&[0x20, 0x3f, 0xe1, 0x1f], &block(GET)[..]].concat())],
            ok(1),
        ),
        one(
            "hpack 4.2",
            "three changes of the table's size",
            &[frame(HEADERS, WHOLE, 1, &[&[0x20, 0x20, 0x20], &block(GET)[..]].concat())],
            Dies(COMPRESSION),
        ),
        fails("hpack 2.3.3", "an index beyond the tables", &[0xff, 0]),
        fails("hpack 2.3.3", "the name of an index beyond the tables", b"\x7f\0\x01x"),
        fails("hpack 4.2", "a change of the table's size behind the fields", &[0x20]),
        fails("hpack 4.2", "a table without room forgets", b"\x20\xbe"),
        fails(
            "hpack 5.1",
            "an integer without end",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ),
        fails("hpack 5.2", "padding of more than seven bits", b"\0\x01a\x82\x1f\xff"),
        fails("hpack 5.2", "padding of zeros", b"\0\x01a\x81\x18"),
        fails("hpack 5.2", "the end of a string, coded", b"\0\x01a\x84\xff\xff\xff\xff"),
        fails("hpack 5.2", "a string that is cut off", b"\0\x01a\x7f\x01x"),
        fails("hpack 6.1", "index 0", &[0x80]),
        one(
            "hpack 6.3",
            "a table larger than we allow",
            &[frame(HEADERS, WHOLE, 1, &[&[0x3f, 0xe2, 0x1f], &block(GET)[..]].concat())],
            Dies(COMPRESSION),
        ),
        one(
            "hpack 4.3",
            "a block that is cut off",
            &[frame(HEADERS, WHOLE, 1, &block(GET)[..30])],
            Dies(COMPRESSION),
        ),
        case(
            "hpack 2.3.2",
            "the table is in step behind what was reset",
            vec![
                Send(frame(HEADERS, WHOLE, 1, &[&block(&[METHOD])[..], b"\x40\x01a\x01b"].concat())),
                Resets(1, PROTOCOL),
                Send(frame(HEADERS, WHOLE, 3, &[&block(GET)[..], &[0xbe]].concat())),
                ok(3),
            ],
        ),
        case(
            "10.5.1",
            "a head that is too large is answered, and the next is read",
            vec![
                Send(frame(
                    HEADERS,
                    WHOLE,
                    1,
                    &[&block(GET)[..], &vec![0x90; 2000], b"\x40\x01a\x01b"].concat(),
                )),
                Answers(1, 431),
                Send(frame(HEADERS, WHOLE, 3, &[&block(GET)[..], &[0xbe]].concat())),
                ok(3),
            ],
        ),
    ]
}
