//! A worker that speaks the agent's protocol and answers each line with its own name.
//!
//! It runs as a process of its own, started by the agent: this test binary again, with one ignored test.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::agent::{IdleConnection, Listen, MAX_PACKET, Slots, ToAgent, ToWorker, Transport, decode, encode};
use model::{PoolName, WorkerId};
use sys::{
    polled::{Interest, Polled},
    seqpacket::{Packet, Stream},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Mutex, Notify, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// No worker outlives the longest test by much, whatever happens.
const LIFETIME: Duration = Duration::from_secs(120);

/// A worker whose agent is gone for good ends.
const LONELY: Duration = Duration::from_secs(20);

#[test]
#[ignore = "not a test: the process that the agent starts"]
fn run_as_process() {
    let variable = |name: &str| std::env::var(format!("FAKE_WORKER_{name}")).expect("started by the agent");
    if variable("MODE") == "crash" {
        exit(3);
    }
    let worker = Worker {
        id: variable("ID").parse().unwrap(),
        pool: variable("POOL").parse().unwrap(),
        socket: variable("SOCKET").into(),
        shared: Arc::default(),
        listeners: BTreeMap::new(),
        ready: false,
        welcomed: false,
        draining: false,
        handing: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let code = runtime.block_on(async { timeout(LIFETIME, worker.run()).await.unwrap_or(4) });
    exit(code);
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    /// Accepts nothing and returns nothing any more.
    stuck: AtomicBool,
    sticks: Notify,
    changed: Notify,
    /// A connection that is to be another worker's, and who waits to hear whether it is.
    leaving: Mutex<Option<(OwnedFd, oneshot::Sender<bool>)>>,
}

struct Worker {
    id: WorkerId,
    pool: PoolName,
    socket: PathBuf,
    shared: Arc<Shared>,
    listeners: BTreeMap<(Listen, u32), (OwnedFd, JoinHandle<()>)>,
    ready: bool,
    welcomed: bool,
    draining: bool,
    handing: Option<oneshot::Sender<bool>>,
}

impl Worker {
    async fn run(mut self) -> i32 {
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        let mut linked = Instant::now();
        loop {
            if let Ok(stream) = Stream::connect(&self.socket) {
                let stream = Polled::new(stream, Interest::READABLE | Interest::WRITABLE).unwrap();
                if let Some(code) = self.converse(&stream, &mut terminate).await {
                    return code;
                }
                linked = Instant::now();
            } else if linked.elapsed() > LONELY {
                return 5;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// `None` when the connection ends, the exit code when the worker does.
    async fn converse(
        &mut self,
        stream: &Polled<Stream>,
        terminate: &mut tokio::signal::unix::Signal,
    ) -> Option<i32> {
        let hello = ToAgent::Hello {
            renews: false,
            keeps: false,
            measures: true,
            adopts: true,
            worker: self.id.clone(),
            pool: self.pool.clone(),
            pid: std::process::id(),
            welcomed: self.welcomed,
            ready: self.ready,
            draining: self.draining,
        };
        send(stream, &hello, &[]).await?;
        let shared = Arc::clone(&self.shared);
        loop {
            if self.draining && shared.connections.load(Ordering::Relaxed) == 0 && self.listeners.is_empty() {
                send(stream, &ToAgent::Drained, &[]).await?;
                return Some(0);
            }
            tokio::select! {
                packet = stream.async_io(Interest::READABLE, |stream| stream.recv(MAX_PACKET)) => {
                    self.obey(stream, packet.ok()??).await?;
                }
                () = shared.changed.notified() => {
                    if let Some((socket, told)) = shared.leaving.lock().await.take() {
                        self.handing = Some(told);
                        let connection = IdleConnection {
                            listen: self.listeners.keys().next().map(|(listen, _)| listen.clone()).unwrap(),
                            client: "127.0.0.1:1".parse().unwrap(),
                            local: "127.0.0.1:2".parse().unwrap(),
                            served: 1,
                            age_ms: 2,
                        };
                        send(stream, &ToAgent::HandOver(vec![connection]), &[socket.as_fd()]).await?;
                    }
                }
                _ = terminate.recv() => {
                    self.draining = true;
                    send(stream, &ToAgent::Draining, &[]).await?;
                }
            }
        }
    }

    async fn obey(&mut self, stream: &Polled<Stream>, packet: Packet) -> Option<()> {
        match decode(&packet.bytes).unwrap() {
            ToWorker::Renewed(_) | ToWorker::PassesOn => Some(()),
            ToWorker::HandedOver { taken } => {
                self.handing.take().unwrap().send(taken).unwrap();
                Some(())
            }
            ToWorker::Adopt(connections) => {
                assert_eq!((connections.len(), packet.fds.len()), (1, 1));
                let IdleConnection { listen, client, served, age_ms, .. } = &connections[0];
                assert_eq!((listen.transport, client.port(), *served, *age_ms), (Transport::Tcp, 1, 1, 2));
                for socket in packet.fds {
                    let stream = TcpStream::from_std(socket.into()).unwrap();
                    self.shared.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, self.id.clone(), Arc::clone(&self.shared)));
                }
                Some(())
            }
            ToWorker::Welcome(welcome) => {
                assert!(welcome.cache_dir.is_dir() && welcome.cache_key.len() == 64);
                self.welcomed = true;
                self.ready = true;
                send(stream, &ToAgent::Ready { start_us: 1000 }, &[]).await
            }
            ToWorker::Recover => {
                let mut by_address = BTreeMap::<Listen, Vec<u32>>::new();
                for (listen, slot) in self.listeners.keys() {
                    by_address.entry(listen.clone()).or_default().push(*slot);
                }
                for (listen, slots) in by_address {
                    let held = slots.iter().map(|slot| &self.listeners[&(listen.clone(), *slot)].0);
                    let sockets: Vec<_> = held.map(std::os::fd::AsFd::as_fd).collect();
                    let recovered =
                        ToAgent::Recovered(Slots { listen: listen.clone(), slots: slots.clone() });
                    send(stream, &recovered, &sockets).await?;
                }
                send(stream, &ToAgent::RecoveredAll, &[]).await
            }
            ToWorker::Lend(slots) => {
                assert_eq!(slots.slots.len(), packet.fds.len());
                for (slot, socket) in slots.slots.iter().zip(packet.fds) {
                    self.listen(slots.listen.clone(), *slot, socket);
                }
                send(stream, &ToAgent::Taken(slots), &[]).await
            }
            // It says that it does not serve UDP.
            ToWorker::Measure { question } => {
                let text = format!("# TYPE weir_edge_connections gauge\nweir_edge_connections {question}\n");
                let file = sys::handover::put(text.as_bytes()).unwrap();
                send(stream, &ToAgent::Measured { question }, &[file.as_fd()]).await
            }
            ToWorker::Keep(_) => panic!("kept"),
            ToWorker::Return(slots) => {
                if self.shared.stuck.load(Ordering::Relaxed) {
                    return Some(());
                }
                for slot in &slots.slots {
                    if let Some((_, task)) = self.listeners.remove(&(slots.listen.clone(), *slot)) {
                        task.abort();
                        // The task owns the registration: it is gone from epoll before we say so.
                        assert!(task.await.unwrap_err().is_cancelled());
                    }
                }
                send(stream, &ToAgent::Returned(slots), &[]).await
            }
            ToWorker::Drain { deadline_ms } => {
                if self.shared.stuck.load(Ordering::Relaxed) {
                    exit(0);
                }
                assert_eq!(deadline_ms, 10_000);
                self.draining = true;
                send(stream, &ToAgent::Draining, &[]).await
            }
        }
    }

    fn listen(&mut self, listen: Listen, slot: u32, socket: OwnedFd) {
        let copy = socket.try_clone().unwrap();
        let listener = TcpListener::from_std(copy.into()).unwrap();
        let task = tokio::spawn(accept(listener, self.id.clone(), Arc::clone(&self.shared)));
        self.listeners.insert((listen, slot), (socket, task));
    }
}

async fn send(stream: &Polled<Stream>, message: &ToAgent, fds: &[std::os::fd::BorrowedFd<'_>]) -> Option<()> {
    let bytes = encode(message).unwrap();
    stream.async_io(Interest::WRITABLE, |stream| stream.send(&bytes, fds)).await.ok()
}

async fn accept(listener: TcpListener, id: WorkerId, shared: Arc<Shared>) {
    loop {
        let sticks = shared.sticks.notified();
        if shared.stuck.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let accepted = tokio::select! {
            biased;
            () = sticks => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(stream, id.clone(), Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, id: WorkerId, shared: Arc<Shared>) {
    // Not a byte beyond the line: what follows may be another worker's.
    let mut stream = BufReader::with_capacity(1, stream);
    let mut line = String::new();
    while let Ok(1..) = stream.read_line(&mut line).await {
        // Set before the answer: who has it may rely on it.
        if line.trim() == "stick" {
            shared.stuck.store(true, Ordering::Relaxed);
            shared.sticks.notify_waiters();
        }
        if line.trim() == "hand over" {
            let (told, taken) = oneshot::channel();
            let socket = stream.get_ref().as_fd().try_clone_to_owned().unwrap();
            *shared.leaving.lock().await = Some((socket, told));
            shared.changed.notify_one();
            if taken.await.unwrap() {
                break;
            }
        }
        line.clear();
        if stream.write_all(format!("{id}\n").as_bytes()).await.is_err() {
            break;
        }
    }
    shared.connections.fetch_sub(1, Ordering::Relaxed);
    shared.changed.notify_one();
}
