//! Workers that serve nothing: each a stream on a connection of its own that unpacks, checks and acknowledges.

use std::{
    io::Write as _,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use api::{
    client,
    convert::{self, encoding},
    feed::{
        Ack, EdgeMessage, Hello, TenantSnapshot, edge_message::Message as FromEdge,
        server_message::Message as FromServer,
    },
    pki::Identity,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    PATIENCE,
    figures::{Reached, now},
};

/// The process of the subscribers.
pub(crate) struct Subscribers {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Subscribers {
    /// Starts so many; returns when all of them have everything.
    pub(crate) async fn start(directory: &Path, count: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["role", "subscribers"])
            .arg(directory)
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("the output of the subscribers")?);
        let mut line = String::new();
        timeout(PATIENCE, said.read_line(&mut line)).await.context("the subscribers are not current")??;
        ensure!(line == "current\n", "the subscribers said {line:?}");
        Ok(Self { child, said })
    }

    /// Waits until all that was written has come, and ends them.
    pub(crate) async fn finish(&mut self) -> Result<Reached> {
        let mut input = self.child.stdin.take().context("the input of the subscribers")?;
        input.write_all(b"finish\n").await?;
        let mut lines = String::new();
        timeout(PATIENCE, self.said.read_to_string(&mut lines)).await??;
        self.child.wait().await?;
        Ok(Reached::read(&lines))
    }
}

/// In the process of the subscribers.
pub(crate) fn run(directory: &Path, count: usize) -> Result<()> {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).with_context(|| name.to_owned());
    let (address, ca_pem) = (read("address")?, read("ca")?);
    let identity = Identity { cert_pem: read("cert")?, key_pem: read("key")? };
    let reached = Arc::new(Mutex::new(Reached::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (current, mut all_current) = mpsc::channel(count.max(1));
        for n in 0..count {
            let stream = stream(
                n,
                address.clone(),
                ca_pem.clone(),
                identity.clone(),
                current.clone(),
                reached.clone(),
            );
            tokio::spawn(async move {
                if let Err(error) = stream.await {
                    complain(&error);
                }
            });
        }
        for _ in 0..count {
            all_current.recv().await.context("a subscriber ended")?;
        }
        say("current\n")?;
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        // What was written last is on its way: it has come when nothing new comes.
        let lines = || reached.lock().unwrap_or_else(PoisonError::into_inner).lines();
        let mut before = lines();
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let now = lines();
            if now == before {
                break;
            }
            before = now;
        }
        say(&before)
    })
}

#[expect(clippy::print_stderr, reason = "a benchmark's output")]
fn complain(error: &anyhow::Error) {
    eprintln!("a subscriber ended: {error:#}");
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

async fn stream(
    n: usize,
    address: String,
    ca_pem: String,
    identity: Identity,
    current: mpsc::Sender<()>,
    reached: Arc<Mutex<Reached>>,
) -> Result<()> {
    let mut client = client::feed(&address, &ca_pem, &identity)?;
    let (out, outbox) = mpsc::channel(4);
    let hello = Hello {
        worker: format!("light-{n}"),
        pool: "default".into(),
        // Frames, not patches: it keeps no snapshot that could be patched.
        encodings: vec![encoding::ZSTD.into(), encoding::HOSTS_PATCH.into()],
        features: convert::known_features(),
        ..Hello::default()
    };
    out.send(EdgeMessage { message: Some(FromEdge::Hello(hello)) }).await?;
    let mut messages = client.subscribe(ReceiverStream::new(outbox)).await?.into_inner();
    let mut had = None;
    while let Some(message) = messages.message().await? {
        let Some(FromServer::Delta(delta)) = message.message else { continue };
        for snapshot in &delta.tenants {
            check(snapshot)?;
        }
        if !delta.more {
            let at = now();
            match had.replace(delta.revision) {
                Some(before) => {
                    let mut reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
                    reached.step(before, delta.revision, at);
                }
                None => current.send(()).await?,
            }
        }
        let ack = Ack { epoch: delta.epoch, revision: delta.revision };
        out.send(EdgeMessage { message: Some(FromEdge::Ack(ack)) }).await?;
    }
    bail!("the server ended the stream")
}

fn check(snapshot: &TenantSnapshot) -> Result<()> {
    let raw = convert::unpack(&snapshot.zstd, None, snapshot.length)?;
    ensure!(convert::hash(&raw)[..] == snapshot.hash[..], "the snapshot of {} is another", snapshot.tenant);
    Ok(())
}
