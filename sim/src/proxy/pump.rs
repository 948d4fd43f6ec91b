//! One connection through the proxy.

use std::{collections::VecDeque, io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{End, Faults, Told, Way};

/// Bytes that wait in one direction; then the sender has to wait, as it would for a real network.
const MOST: usize = 1 << 20;
const CHUNK: usize = 16 << 10;

/// Moves bytes both ways until both have ended or the connection is told to.
pub(super) async fn between(client: TcpStream, server: TcpStream, told: watch::Receiver<Told>) {
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = Pump { from: from_client, to: to_server, told: told.clone(), way: |faults| faults.up };
    let down = Pump { from: from_server, to: to_client, told: told.clone(), way: |faults| faults.down };
    let mut told = told;
    let (up, down) = {
        let (mut up, mut down) = (up, down);
        let ended = told.wait_for(|told| matches!(told.end, Some(End::Cut | End::Reset)));
        tokio::select! {
            _ = async { tokio::join!(up.run(true), down.run(false)) } => {}
            _ = ended => {}
        }
        (up, down)
    };
    let reset = told.borrow().end == Some(End::Reset);
    for (from, to) in [(up.from, down.to), (down.from, up.to)] {
        if let Ok(stream) = from.reunite(to)
            && reset
        {
            stream.set_zero_linger().ok();
        }
    }
}

struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    told: watch::Receiver<Told>,
    way: fn(&Faults) -> Way,
}

impl Pump {
    /// Until the end of the stream has been passed on, or either side is gone. `up` may be closed by half.
    async fn run(&mut self, up: bool) -> io::Result<()> {
        let mut waiting: VecDeque<(Instant, Bytes)> = VecDeque::new();
        let (mut buffer, mut bytes, mut open) = (BytesMut::with_capacity(CHUNK), 0, true);
        loop {
            let Told { faults, end } = *self.told.borrow_and_update();
            let way = (self.way)(&faults);
            if up && end == Some(End::HalfClose) {
                return self.to.shutdown().await;
            }
            if !open && waiting.is_empty() && way != Way::Silent {
                return self.to.shutdown().await;
            }
            let due = waiting.front().map(|(due, _)| *due).filter(|_| way != Way::Silent);
            tokio::select! {
                changed = self.told.changed() => if changed.is_err() { return Ok(()) },
                read = self.from.read_buf(&mut buffer), if open && bytes < MOST => {
                    let count = read?;
                    open = count > 0;
                    bytes += count;
                    let by = if let Way::Delay(by) = way { by } else { Duration::ZERO };
                    if count > 0 {
                        waiting.push_back((Instant::now() + by, buffer.split().freeze()));
                    }
                    buffer.reserve(CHUNK);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some((_, chunk)) = waiting.pop_front() {
                        bytes -= chunk.len();
                        self.to.write_all(&chunk).await?;
                    }
                }
            }
        }
    }
}
