//! What an agent is told at its start.

use std::{fmt, path::PathBuf, time::Duration};

use tokio::sync::watch;

/// All that an agent needs to know.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// This machine's name among the nodes.
    pub node: String,
    /// The agent's own directory: its lock, its record of workers and plans, the workers' caches. Made if missing.
    pub data_dir: PathBuf,
    /// Where workers find the agent.
    pub agent_socket: PathBuf,
    /// Where the servers are at first, `host:port`; any of them will do.
    pub servers: Vec<String>,
    /// Told where they are, whenever they say so.
    pub learned: watch::Sender<Vec<String>>,
    /// Read again at each connection and for each worker: certificates are renewed while the agent runs.
    pub identities: watch::Receiver<Identities>,
    /// Program and arguments that start a worker, such as `[weir, edge]`. Appended are
    /// `--agent <socket> --worker <id> --pool <pool>`.
    pub edge_command: Vec<String>,
    /// CPUs that workers may use, as told to the servers.
    pub cpus: u32,
    /// How long things may take.
    pub timing: Timing,
}

/// Who the agent and its workers are to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identities {
    /// For [`NodeConfig::servers`].
    pub node: Identity,
    /// Handed to each worker as it starts.
    pub worker: Identity,
}

/// A certificate, its key and the authority that both sides trust. All PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The installation's CA.
    pub ca_pem: String,
    /// The certificate chain, leaf first.
    pub cert_pem: String,
    /// The leaf's private key.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A new agent waits this long for the workers of the one before it, before it binds sockets anew. It waits
    /// only while a recorded worker lives and has not answered.
    pub recovery: Duration,
    /// From spawn to ready; then the worker is killed and another one tried.
    pub start: Duration,
    /// A worker whose connection to the agent broke has this long to connect again before it is told to end.
    pub relink: Duration,
    /// What a worker has beyond its drain deadline, and after its last word, before it is killed.
    pub exit: Duration,
    /// A worker that was ready this long and dies is replaced at once; one that dies sooner after a pause.
    pub settled: Duration,
    /// The first pause before a replacement; doubled with each failure.
    pub backoff: Duration,
    /// The longest pause before a replacement.
    pub max_backoff: Duration,
    /// A slot whose accept queue has not shrunk for this long is lent to another worker.
    pub stuck: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // Workers try to connect again several times a second; the listening sockets lose nothing meanwhile.
            recovery: Duration::from_secs(3),
            // A cold start takes well under a second; a huge configuration on a busy machine takes some.
            start: Duration::from_secs(60),
            // Twice the recovery, so that a worker is never ended by an agent that merely started slowly.
            relink: Duration::from_secs(10),
            exit: Duration::from_secs(5),
            // Longer than any crash on the configuration that a worker loads at its start.
            settled: Duration::from_secs(10),
            backoff: Duration::from_millis(200),
            // A broken binary is tried twice a minute: cheap, and mended soon after its cause is.
            max_backoff: Duration::from_secs(30),
            // Longer than any pause of a healthy event loop, shorter than a client's patience.
            stuck: Duration::from_secs(3),
        }
    }
}
