//! A whole installation as a user starts it: `weir up` as a process, driven by the command line.
//!
//! Every process started here is ended by its handle. A test that panics kills its installation's supervisor,
//! whose children end with it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// The `weir` binary: `WEIR_BIN`, or the one beside this test, built if it is not there.
///
/// # Panics
/// When it cannot be built.
pub fn weir_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("WEIR_BIN") {
            return path.into();
        }
        let test = std::env::current_exe().expect("a test has a file");
        let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
        let binary = profile.join("weir");
        if !binary.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let status = Command::new(cargo).args(["build", "--bin", "weir"]).status().expect("run cargo");
            assert!(status.success() && binary.exists(), "build it first: cargo build --bin weir");
        }
        binary
    })
}

/// A port that was free a moment ago on 127.0.0.1.
///
/// Below the kernel's ephemeral range, so that no outgoing connection of a load test can take it meanwhile.
///
/// # Errors
/// When none of the ports tried is free.
pub fn free_port() -> Result<u16> {
    static NEXT: Mutex<u16> = Mutex::new(0);
    let mut next = NEXT.lock().expect("no test panics while it holds this");
    let base = 12_000 + u16::try_from(std::process::id() % 600)? * 30;
    for _ in 0..2_000 {
        let port = 12_000 + (base - 12_000 + *next) % 18_000;
        *next += 1;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 12000 and 30000")
}

/// The addresses of one installation.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the flags of `weir up` say what each is")]
pub struct Ports {
    pub http: u16,
    pub https: u16,
    pub admin: u16,
    pub metrics: u16,
    pub worker_metrics: u16,
    pub feed: u16,
}

impl Ports {
    /// Six free ports.
    ///
    /// # Errors
    /// When there are not that many.
    pub fn free() -> Result<Self> {
        Ok(Self {
            http: free_port()?,
            https: free_port()?,
            admin: free_port()?,
            metrics: free_port()?,
            worker_metrics: free_port()?,
            feed: free_port()?,
        })
    }

    /// As `weir up` takes them.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let flag = |name: &str, port: u16| format!("--{name}=127.0.0.1:{port}");
        vec![
            flag("http", self.http),
            flag("https", self.https),
            flag("admin", self.admin),
            flag("metrics", self.metrics),
            flag("worker-metrics", self.worker_metrics),
            flag("feed", self.feed),
        ]
    }
}

/// A running `weir up`.
#[derive(Debug)]
pub struct Installation {
    directory: Arc<TempDir>,
    child: Child,
    /// Where it listens.
    pub ports: Ports,
    log: Arc<Mutex<String>>,
    banner: String,
}

impl Installation {
    /// Starts `weir up` with `flags` and waits for its banner.
    ///
    /// # Errors
    /// When it ends or says nothing within a minute; the error holds its log.
    pub fn up(flags: &[&str]) -> Result<Self> {
        Self::up_in(Arc::new(TempDir::with_prefix("weir-")?), Ports::free()?, flags)
    }

    /// The same, in a directory and on ports that are given.
    ///
    /// # Errors
    /// As [`Installation::up`].
    pub fn up_in(directory: Arc<TempDir>, ports: Ports, flags: &[&str]) -> Result<Self> {
        let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        Self::up_with(directory, ports, flags, &[("RUST_LOG", &level)])
    }

    /// The same, with variables of its environment.
    ///
    /// # Errors
    /// As [`Installation::up`].
    pub fn up_with(
        directory: Arc<TempDir>,
        ports: Ports,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        Self::up_as(weir_binary(), directory, ports, flags, environment)
    }

    /// The same of another file than [`weir_binary`].
    ///
    /// # Errors
    /// As [`Installation::up`].
    pub fn up_as(
        program: &Path,
        directory: Arc<TempDir>,
        ports: Ports,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("up")
            .args(ports.flags())
            .args(flags)
            .current_dir(directory.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start weir up")?;
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stderr.take().context("stderr is piped")?, Arc::clone(&log));
        let out = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().context("stdout is piped")?, Arc::clone(&out));
        let mut installation = Self { directory, child, ports, log, banner: String::new() };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = out.lock().expect("the collector does not panic").clone();
            if text.contains("Ctrl-C drains and stops.") {
                installation.banner = text;
                return Ok(installation);
            }
            if let Some(status) = installation.child.try_wait()? {
                bail!("weir up ended with {status}:\n{}", installation.log());
            }
            ensure!(Instant::now() < deadline, "no banner in 60 s:\n{}", installation.log());
            pause();
        }
    }

    /// What `up` printed for its user.
    #[must_use]
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// All that the installation's processes logged.
    ///
    /// # Panics
    /// Never: the collector does not panic.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("the collector does not panic").clone()
    }

    /// Its working directory; the data is in `weir-data` below it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `weir <args>` in the installation's directory.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn weir(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(weir_binary());
        command.args(args).current_dir(self.directory.path()).stdin(Stdio::null());
        command.output().with_context(|| format!("run weir {args:?}"))
    }

    /// The standard output of a command that must succeed.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.weir(args)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir {args:?} failed: {stderr}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The JSON that a read verb answers.
    ///
    /// # Errors
    /// When the command fails or answers something else.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.ok(&all)?)?)
    }

    /// Applies YAML for a tenant.
    ///
    /// # Errors
    /// When it is refused.
    pub fn apply(&self, tenant: &str, yaml: &str) -> Result<String> {
        let file = self.directory.path().join("apply.yaml");
        fs::write(&file, yaml)?;
        self.ok(&["apply", "-t", tenant, "-f", &file.display().to_string()])
    }

    /// The workers as `weir workers` shows them.
    ///
    /// # Errors
    /// When the admin API does not answer.
    pub fn workers(&self) -> Result<Vec<Value>> {
        match self.json(&["workers"])? {
            Value::Array(workers) => Ok(workers),
            other => bail!("not a list: {other}"),
        }
    }

    /// The workers that take connections.
    ///
    /// # Errors
    /// When the admin API does not answer.
    pub fn ready_workers(&self) -> Result<Vec<Value>> {
        let serving = |w: &Value| w["state"] == "ready" && w["slots"].as_u64() > Some(0);
        Ok(self.workers()?.into_iter().filter(serving).collect())
    }

    /// Waits until `count` workers take connections and none starts or drains.
    ///
    /// # Errors
    /// When that does not happen in time; the error shows the workers.
    pub fn settle(&self, count: usize, within: Duration) -> Result<()> {
        self.wait(within, &format!("{count} workers"), || {
            let workers = self.workers()?;
            Ok(workers.len() == count && self.ready_workers()?.len() == count)
        })
        .with_context(|| format!("workers: {:?}", self.workers()))
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// When the condition fails or does not hold in time.
    pub fn wait(&self, within: Duration, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            if holds()? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no {what} within {within:?}");
            pause();
        }
    }

    /// The process ids of the supervisor's children whose command line has `word` as its subcommand.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn child(&self, word: &str) -> Result<u32> {
        let supervisor = self.child.id();
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
        let mut all: Vec<u32> = children.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        for task in fs::read_dir(format!("/proc/{supervisor}/task"))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
        }
        let is_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).nth(1) == Some(word.as_bytes())
        };
        all.into_iter().find(is_it).with_context(|| format!("no {word} process"))
    }

    /// Asks it to stop as Ctrl-C does, and waits.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(self) -> Result<(ExitStatus, String)> {
        let stopped = self.stop_keeping()?;
        Ok((stopped.status, stopped.log))
    }

    /// The same; its directory stays, for a look at it or for another installation.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_keeping(mut self) -> Result<Stopped> {
        kill(self.child.id(), Signal::INT)?;
        let status = wait_exit(&mut self.child, Duration::from_secs(40))?;
        Ok(Stopped { directory: Arc::clone(&self.directory), status, log: self.log() })
    }
}

/// What is left of an installation.
#[derive(Debug)]
pub struct Stopped {
    /// Its working directory, removed with the last handle.
    pub directory: Arc<TempDir>,
    /// How it ended.
    pub status: ExitStatus,
    /// All that it logged.
    pub log: String,
}

impl Drop for Installation {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let stopped = kill(self.child.id(), Signal::INT)
                .and_then(|()| wait_exit(&mut self.child, Duration::from_secs(40)).map(|_| ()));
            if stopped.is_err() {
                self.child.kill().ok();
                self.child.wait().ok();
            }
        }
        if std::thread::panicking() {
            tell(&format!("--- log of the installation ---\n{}", self.log()));
        }
    }
}

/// Sends a signal to a process that the test's installation started.
///
/// # Errors
/// When there is no such process.
pub fn kill(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("process ids are positive")?;
    rustix::process::kill_process(pid, signal).with_context(|| format!("signal {pid:?}"))
}

/// Stops a process and returns when all its threads stand still: a signal takes effect some time after it was sent.
///
/// # Errors
/// When there is no such process, or it goes on.
pub fn freeze(pid: u32) -> Result<()> {
    kill(pid, Signal::STOP)?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut stopped = true;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            // The state is the first word behind the name, which is in parentheses.
            stopped &= stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        }
        if stopped {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "process {pid} does not stop");
        pause();
    }
}

/// Waits for a child's end.
///
/// # Errors
/// When it does not end in time.
pub fn wait_exit(child: &mut Child, within: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "process {} did not end within {within:?}", child.id());
        pause();
    }
}

/// A load test as a process of its own.
#[derive(Debug)]
pub struct Load(Child);

impl Load {
    /// Starts `weir loadtest <args> --json`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(args: &[&str]) -> Result<Self> {
        let child = Command::new(weir_binary())
            .arg("loadtest")
            .args(args)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("start weir loadtest")?;
        Ok(Self(child))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// Asks it to end early. Its report says so; what fell due and was not sent by then is in `not_sent`.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn interrupt(&self) -> Result<()> {
        kill(self.0.id(), Signal::INT)
    }

    /// Waits for its end and gives its report.
    ///
    /// # Errors
    /// When it fails or prints something else than a report.
    pub fn finish(mut self) -> Result<Value> {
        let mut text = String::new();
        self.0.stdout.take().context("stdout is piped")?.read_to_string(&mut text)?;
        let status = self.0.wait()?;
        serde_json::from_str(&text)
            .with_context(|| format!("loadtest ended with {status} and printed {text:?}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

/// A response as bytes came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    /// What came after the head, undecoded.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of the first field of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// One request on a connection of its own, `Connection: close`, read to its end.
///
/// # Errors
/// When the connection fails or what comes is not HTTP.
pub fn get(port: u16, host: &str, path: &str) -> Result<Answer> {
    exchange(port, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Sends bytes and reads to the end of the connection.
///
/// # Errors
/// As [`get`].
pub fn exchange(port: u16, bytes: &[u8]) -> Result<Answer> {
    let mut stream = connect(port)?;
    stream.write_all(bytes)?;
    let mut all = vec![];
    stream.read_to_end(&mut all)?;
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").context("no end of the head")?;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    Ok(Answer { status, head, body: all[end + 4..].to_vec() })
}

/// A connection with a deadline on every read and write.
///
/// # Errors
/// When nobody listens.
pub fn connect(port: u16) -> Result<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// A moment before a condition is looked at again.
#[expect(clippy::disallowed_methods, reason = "a poll of another process, always under a deadline")]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut text = into.lock().expect("nobody panics while it holds this");
            text.push_str(&line);
            text.push('\n');
        }
    });
}

/// Says something to whoever runs the tests.
#[expect(clippy::print_stderr, reason = "a test's output is for people")]
pub fn tell(text: &str) {
    eprintln!("{text}");
}

/// Whether a program of the machine can be run; if not, says that the test is skipped and why.
#[must_use]
pub fn has(program: &str, version_flag: &str) -> bool {
    let found = Command::new(program).arg(version_flag).output().is_ok();
    if !found {
        tell(&format!("SKIPPED: {program} is not installed on this machine"));
    }
    found
}

/// A command in a process group of its own, so that a signal to the test does not reach it first.
#[must_use]
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.process_group(0);
    command
}
