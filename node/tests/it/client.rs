//! Clients. One request is a line, one answer is the worker's name on a line.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// More than any answer takes, less than a test's patience.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("connection refused")))
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).await.expect("cannot write");
    }

    pub(crate) async fn hear(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("no answer in time").expect("reset");
        assert!(line.ends_with('\n'), "the connection was closed without an answer");
        line.trim().to_owned()
    }

    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await
    }
}

/// Asks until somebody listens.
pub(crate) async fn ask_until_answered(address: SocketAddr) -> String {
    let answered = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return Connection(BufReader::new(stream)).ask("hello").await,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("nobody listens")
}

/// Connects until nobody listens.
pub(crate) async fn until_refused(address: SocketAddr) {
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("somebody still listens");
}

/// Clients that connect, ask and close, again and again; a single failure fails the test.
pub(crate) struct Load {
    clients: Vec<JoinHandle<()>>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, clients: usize) -> Self {
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let client = || {
            let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    Connection::open(address).await.ask("hello").await;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        Self { clients: (0..clients).map(|_| client()).collect(), answered, stop }
    }

    /// Waits for so many more answers.
    pub(crate) async fn at_least(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.answered.load(Ordering::Relaxed) < goal {
                assert!(self.clients.iter().all(|client| !client.is_finished()), "a client failed");
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("too few answers");
    }

    /// How many were answered; panics if one was not.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client failed");
        }
        self.answered.load(Ordering::Relaxed)
    }
}
