//! Autobahn's test suite through the gateway: each case must end as it does on a direct connection.
//!
//! The suite's fuzzing client and server are `wstest` (`pip install autobahntestsuite`, Python 2), in `WEIR_WSTEST` or the
//! path; the other end is Python's `aiohttp`, of `WEIR_PYTHON`. Without one of them the tests are skipped. The large cases
//! (9, 12, 13) run only with `WEIR_LONG`, or where `WEIR_WSTEST_CASES` asks for them (`9.*,12.1.*`).

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    grpc::python_with,
    support::{Edge, PATIENCE, backend, dead_address, forward, route},
};

/// The short cases take seconds, the large ones most of an hour, which the suite's own Python spends.
const SUITE: Duration = Duration::from_secs(7200);

fn wstest() -> Option<String> {
    let program = std::env::var("WEIR_WSTEST").unwrap_or_else(|_| "wstest".to_owned());
    let found = Command::new(&program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()).then_some(program)
}

/// A process that ends with its handle.
struct Running(Child);

impl Running {
    fn start(program: &str, arguments: &[&str], directory: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn finish(&mut self, what: &str) {
        wait(SUITE, what, || self.0.try_wait().unwrap().is_some());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits for what another process does.
#[expect(clippy::disallowed_methods, reason = "there is nothing to be woken by")]
fn wait(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Which cases run.
struct Cases {
    run: Vec<String>,
    /// Which of them do not.
    but: &'static [&'static str],
    /// How many there are at least.
    least: usize,
}

impl Cases {
    /// As the environment has it.
    fn asked() -> Self {
        let all = |but| Self { run: vec!["*".to_owned()], but, least: 201 };
        match std::env::var("WEIR_WSTEST_CASES") {
            Ok(asked) => Self { run: asked.split(',').map(str::to_owned).collect(), but: &[], least: 1 },
            Err(_) if std::env::var_os("WEIR_LONG").is_some() => all(&[]),
            Err(_) => all(&["9.*", "12.*", "13.*"]),
        }
    }
}

fn gateway(upstream: SocketAddr) -> Edge {
    Edge::start(&(route(&forward("up")) + &backend("up", upstream)))
}

/// How a case ended: the verdicts on it and on its closing handshake, and the code that the other side closed with.
type Ending = (String, String, Value);

fn endings(report: &Value, agent: &str) -> BTreeMap<String, Ending> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cases = report[agent].as_object().unwrap_or_else(|| panic!("no report of {agent}: {report}"));
    cases
        .iter()
        .map(|(case, end)| {
            let ending =
                (text(&end["behavior"]), text(&end["behaviorClose"]), end["remoteCloseCode"].clone());
            (case.clone(), ending)
        })
        .collect()
}

/// The report in `directory` has the same for both agents. What fails on both is the peer's own matter.
fn compare(role: &str, cases: &Cases, directory: &Path) -> String {
    let report = std::fs::read_to_string(directory.join("reports/index.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let (direct, through) = (endings(&report, "direct"), endings(&report, "weir"));
    let mut verdicts = BTreeMap::<&str, usize>::new();
    through.values().for_each(|(verdict, ..)| *verdicts.entry(verdict).or_default() += 1);
    let failed: Vec<_> =
        through.iter().filter(|(_, (verdict, ..))| verdict == "FAILED").map(|(case, _)| case).collect();
    let summary = format!("autobahn, {role}: {} cases, {verdicts:?}, failed {failed:?}", through.len());
    assert!(through.len() >= cases.least, "{}", through.len());
    let differing: Vec<_> =
        direct.iter().filter(|(case, ending)| through.get(*case) != Some(ending)).collect();
    let both = |(case, ending): &(&String, &Ending)| format!("{case}: {ending:?} / {:?}", through.get(*case));
    assert!(
        differing.is_empty(),
        "direct / through:\n{}",
        differing.iter().map(both).collect::<Vec<_>>().join("\n")
    );
    summary
}

/// `wstest`, and a Python that has `aiohttp`; or which is not there.
fn tools() -> Result<(String, String), &'static str> {
    let wstest = wstest().ok_or("no wstest (pip install autobahntestsuite, WEIR_WSTEST)")?;
    let python = python_with("aiohttp").ok_or("no aiohttp (pip install aiohttp, WEIR_PYTHON)")?;
    Ok((wstest, python))
}

fn peer() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/peers/ws_peer.py").display().to_string()
}

#[test]
fn autobahns_client_finds_the_server_behind_it_unchanged() {
    let (wstest, python) = match tools() {
        Ok(tools) => tools,
        Err(missing) => return println!("skipped: {missing}"),
    };
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(python);
    command.args([&peer(), "server"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = Running(command.spawn().unwrap());
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()));
    let edge = gateway(address);
    let cases = Cases::asked();
    let spec = json!({
        "outdir": "reports",
        "servers": [
            {"agent": "direct", "url": format!("ws://{address}")},
            {"agent": "weir", "url": format!("ws://{}", edge.at(80))},
        ],
        "cases": cases.run,
        "exclude-cases": cases.but,
        "exclude-agent-cases": {},
    });
    std::fs::write(directory.path().join("spec.json"), spec.to_string()).unwrap();
    Running::start(&wstest, &["-m", "fuzzingclient", "-s", "spec.json"], directory.path())
        .finish("the client");
    println!("{}", compare("server", &cases, directory.path()));
}

#[test]
fn autobahns_server_finds_the_client_before_it_unchanged() {
    let (wstest, python) = match tools() {
        Ok(tools) => tools,
        Err(missing) => return println!("skipped: {missing}"),
    };
    let directory = TempDir::new().unwrap();
    let server = dead_address();
    let cases = Cases::asked();
    let spec = json!({
        "outdir": "reports",
        "url": format!("ws://{server}"),
        "cases": cases.run,
        "exclude-cases": cases.but,
        "exclude-agent-cases": {},
    });
    std::fs::write(directory.path().join("spec.json"), spec.to_string()).unwrap();
    let arguments = ["-m", "fuzzingserver", "-s", "spec.json", "-u", "0"];
    let _server = Running::start(&wstest, &arguments, directory.path());
    wait(PATIENCE, "the fuzzing server", || TcpStream::connect(server).is_ok());
    let edge = gateway(server);
    let named = server.port().to_string();
    for (agent, through) in [("direct", server), ("weir", edge.at(80))] {
        let through = through.port().to_string();
        let arguments = [&peer(), "client", &named, &through, agent];
        Running::start(&python, &arguments, directory.path()).finish(agent);
    }
    println!("{}", compare("client", &cases, directory.path()));
}
