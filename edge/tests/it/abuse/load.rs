//! An honest load: requests as they come from many people who know nothing of each other (a Poisson process), whatever becomes of
//! the ones before, each timed from when it was due.

use std::{
    cell::RefCell,
    future::Future,
    net::SocketAddr,
    rc::Rc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{LocalSet, spawn_local},
};

use super::cores;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// On HTTP/1.1 connections that are kept.
    Http1,
    /// Each on an HTTP/1.1 connection of its own.
    Http1Close,
    /// On HTTP/2 connections that are kept, fifty at once on each.
    Http2,
    /// Each on an HTTP/2 connection of its own.
    Http2Close,
}

/// A load.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) to: SocketAddr,
    pub(crate) host: &'static str,
    pub(crate) manner: Manner,
    /// Requests at once, at most.
    pub(crate) clients: usize,
    pub(crate) per_second: f64,
    pub(crate) time: Duration,
}

/// What became of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    /// When each request was due that was answered with 200, since the load's begin, and how long that took.
    pub(crate) served: Vec<(Duration, Duration)>,
    /// Answered with 503 and `Retry-After`.
    pub(crate) refused: usize,
    /// All else: other answers, connections that broke.
    pub(crate) failed: usize,
    /// The part of what was due that was sent: the rest was not, for all clients were waiting.
    pub(crate) offered: f64,
    /// How long its thread was ready and did not run, as a part of the time: what was slow and not for the worker.
    pub(crate) kept_waiting: f64,
}

impl Outcome {
    /// Requests served a second, of those that were due after `skip`.
    pub(crate) fn goodput(&self, skip: Duration, time: Duration) -> f64 {
        let served = self.served.iter().filter(|(due, _)| *due >= skip).count();
        served as f64 / (time - skip).as_secs_f64()
    }

    /// The time that a hundredth of the requests exceeded, of those that were due after `skip`.
    pub(crate) fn p99(&self, skip: Duration) -> Duration {
        let mut all: Vec<_> =
            self.served.iter().filter(|(due, _)| *due >= skip).map(|(_, took)| *took).collect();
        all.sort_unstable();
        // None at all is worse than any.
        all.get(all.len() * 99 / 100).copied().unwrap_or(Duration::MAX)
    }
}

struct Shared {
    load: Load,
    began: Instant,
    /// Requests so far, and when the last one was due.
    next: u64,
    due: Duration,
    random: u64,
    outcome: Outcome,
}

impl Load {
    /// Runs it on a thread of its own.
    pub(crate) fn start(self) -> JoinHandle<Outcome> {
        std::thread::spawn(move || self.run())
    }

    /// The same, of clients that give way to honest ones.
    pub(crate) fn start_aside(self) -> JoinHandle<Outcome> {
        std::thread::spawn(move || {
            cores::give_way();
            self.run()
        })
    }

    /// Runs it.
    pub(crate) fn run(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (clients, manner, time) = (self.clients, self.manner, self.time);
            let due = self.per_second * time.as_secs_f64();
            let waited = cores::kept_waiting();
            let shared = Shared {
                load: self,
                began: Instant::now(),
                next: 0,
                due: Duration::ZERO,
                random: 0x9e37_79b9_7f4a_7c15,
                outcome: Outcome::default(),
            };
            let shared = Rc::new(RefCell::new(shared));
            let tasks: Vec<_> = (0..clients)
                .map(|number| {
                    let shared = Rc::clone(&shared);
                    spawn_local(async move {
                        match manner {
                            Manner::Http1 | Manner::Http1Close => http1(&shared).await,
                            Manner::Http2 if number % 50 == 0 => http2(&shared).await,
                            Manner::Http2 => {}
                            Manner::Http2Close => http2_close(&shared).await,
                        }
                    })
                })
                .collect();
            for task in tasks {
                // Whoever still waits a while after the end is cut off.
                let left = (time + Duration::from_secs(3)).saturating_sub(shared.borrow().began.elapsed());
                drop(tokio::time::timeout(left, task).await);
            }
            let shared = shared.borrow();
            let kept_waiting = (cores::kept_waiting() - waited).as_secs_f64() / time.as_secs_f64();
            Outcome { offered: shared.next as f64 / due, kept_waiting, ..shared.outcome.clone() }
        })
    }
}

/// When the next request is due; `None` at the end of the load.
fn take(shared: &RefCell<Shared>) -> Option<Duration> {
    let mut shared = shared.borrow_mut();
    // xorshift64*, and the inverse of the exponential distribution.
    let mut x = shared.random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    shared.random = x;
    let drawn = (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64;
    let due = shared.due + Duration::from_secs_f64(-(1.0 - drawn).ln() / shared.load.per_second);
    (due < shared.load.time && shared.began.elapsed() < shared.load.time).then(|| {
        shared.next += 1;
        shared.due = due;
        due
    })
}

/// Asks until the end, each request when it is due. `ask` says the status and whether it may be tried again.
async fn ask_on<F: Future<Output = Option<(u16, bool)>>>(
    shared: &RefCell<Shared>,
    mut ask: impl FnMut() -> F,
) {
    while let Some(due) = take(shared) {
        let began = shared.borrow().began;
        tokio::time::sleep_until((began + due).into()).await;
        let answer = ask().await;
        let took = began.elapsed().saturating_sub(due);
        let mut shared = shared.borrow_mut();
        match answer {
            Some((200, _)) => shared.outcome.served.push((due, took)),
            Some((503, true)) => shared.outcome.refused += 1,
            _ => shared.outcome.failed += 1,
        }
    }
}

async fn http1(shared: &RefCell<Shared>) {
    let (to, host, manner) = {
        let Shared { load, .. } = &*shared.borrow();
        (load.to, load.host, load.manner)
    };
    let close = if manner == Manner::Http1Close { "Connection: close\r\n" } else { "" };
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{close}\r\n");
    let kept: RefCell<Option<TcpStream>> = RefCell::default();
    ask_on(shared, || async {
        let stream = kept.borrow_mut().take();
        let mut stream = match stream {
            Some(stream) => stream,
            None => TcpStream::connect(to).await.ok()?,
        };
        stream.write_all(request.as_bytes()).await.ok()?;
        let (status, retry_after, closes) = answer(&mut stream).await?;
        if !closes {
            kept.replace(Some(stream));
        }
        Some((status, retry_after))
    })
    .await;
}

/// Reads one response: its status, whether it has `Retry-After`, and whether the connection ends.
async fn answer(stream: &mut TcpStream) -> Option<(u16, bool, bool)> {
    let mut all = Vec::new();
    loop {
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
        let Some(end) = memchr::memmem::find(&all, b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&all[..end]).ok()?.to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = field("content-length:")?.parse().ok()?;
        if all.len() >= end + 4 + length {
            let status = head.get(9..12)?.parse().ok()?;
            return Some((status, field("retry-after:").is_some(), field("connection:") == Some("close")));
        }
    }
}

async fn h2_ask(sender: &h2::client::SendRequest<Bytes>, host: &str) -> Option<(u16, bool)> {
    let mut sender = sender.clone().ready().await.ok()?;
    let request = http::Request::get(format!("http://{host}/")).body(()).ok()?;
    let (response, _) = sender.send_request(request, true).ok()?;
    let response = response.await.ok()?;
    let (status, retry) = (response.status().as_u16(), response.headers().contains_key("retry-after"));
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
    }
    Some((status, retry))
}

async fn http2(shared: &Rc<RefCell<Shared>>) {
    let (to, host) = {
        let Shared { load, .. } = &*shared.borrow();
        (load.to, load.host)
    };
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = spawn_local(async move { drop(connection.await) });
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (shared, sender) = (Rc::clone(shared), sender.clone());
            spawn_local(async move { ask_on(&shared, || h2_ask(&sender, host)).await })
        })
        .collect();
    for task in asking {
        drop(task.await);
    }
    driver.abort();
}

async fn http2_close(shared: &RefCell<Shared>) {
    let (to, host) = {
        let Shared { load, .. } = &*shared.borrow();
        (load.to, load.host)
    };
    ask_on(shared, || async {
        let stream = TcpStream::connect(to).await.ok()?;
        let (sender, connection) = h2::client::handshake(stream).await.ok()?;
        let driver = spawn_local(async move { drop(connection.await) });
        let answer = h2_ask(&sender, host).await;
        driver.abort();
        answer
    })
    .await;
}
