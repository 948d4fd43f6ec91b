//! Each kind of frame (RFC 9113 sections 6 and 7).

use super::*;

pub(super) fn all() -> Vec<Case> {
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

pub(super) fn windows() -> Vec<Case> {
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

pub(super) fn continuations() -> Vec<Case> {
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
