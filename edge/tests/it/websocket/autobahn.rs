//! Autobahn's test suite through the gateway: each case must end as it does on a direct connection.
//!
//! `wstest` is on both ends; the gateway stands before its server, then before its client. Needs `wstest` (`pip install
//! autobahntestsuite`, Python 2) in `WEIR_WSTEST` or the path. The large cases (9, 12, 13) run only with `WEIR_LONG`.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Edge, PATIENCE, backend, dead_address, forward, route};

/// Cases in all 247 short ones take seconds, the 270 large ones minutes.
const SUITE: Duration = Duration::from_secs(1800);

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
        let began = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < SUITE, "{what} does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_for(address: SocketAddr) {
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < PATIENCE, "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn large_cases() -> &'static [&'static str] {
    if std::env::var_os("WEIR_LONG").is_some() { &[] } else { &["9.*", "12.*", "13.*"] }
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

/// The report in `directory` has the same for both agents, and no failure.
fn compare(role: &str, directory: &Path) {
    let report = std::fs::read_to_string(directory.join("reports/index.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let (direct, through) = (endings(&report, "direct"), endings(&report, "weir"));
    let mut verdicts = BTreeMap::<&str, usize>::new();
    through.values().for_each(|(verdict, ..)| *verdicts.entry(verdict).or_default() += 1);
    println!("autobahn, {role}: {} cases, {verdicts:?}", through.len());
    assert!(through.len() > 200, "{}", through.len());
    let differing: Vec<_> =
        direct.iter().filter(|(case, ending)| through.get(*case) != Some(ending)).collect();
    let both = |(case, ending): &(&String, &Ending)| format!("{case}: {ending:?} / {:?}", through.get(*case));
    assert!(
        differing.is_empty(),
        "direct / through:\n{}",
        differing.iter().map(both).collect::<Vec<_>>().join("\n")
    );
    let failed: Vec<_> = through.iter().filter(|(_, (verdict, ..))| verdict == "FAILED").collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn autobahns_client_finds_the_server_behind_it_unchanged() {
    let Some(wstest) = wstest() else {
        println!("skipped: no wstest (pip install autobahntestsuite, WEIR_WSTEST)");
        return;
    };
    let directory = TempDir::new().unwrap();
    let server = dead_address();
    let url = format!("ws://{server}");
    let _server = Running::start(&wstest, &["-m", "testeeserver", "-w", &url], directory.path());
    wait_for(server);
    let edge = gateway(server);
    let spec = json!({
        "outdir": "reports",
        "servers": [
            {"agent": "direct", "url": url},
            {"agent": "weir", "url": format!("ws://{}", edge.at(80))},
        ],
        "cases": ["*"],
        "exclude-cases": large_cases(),
        "exclude-agent-cases": {},
    });
    std::fs::write(directory.path().join("spec.json"), spec.to_string()).unwrap();
    Running::start(&wstest, &["-m", "fuzzingclient", "-s", "spec.json"], directory.path())
        .finish("the client");
    compare("server", directory.path());
}

#[test]
fn autobahns_server_finds_the_client_before_it_unchanged() {
    let Some(wstest) = wstest() else {
        println!("skipped: no wstest (pip install autobahntestsuite, WEIR_WSTEST)");
        return;
    };
    let directory = TempDir::new().unwrap();
    let server = dead_address();
    let url = format!("ws://{server}");
    let spec = json!({
        "outdir": "reports",
        "url": url,
        "cases": ["*"],
        "exclude-cases": large_cases(),
        "exclude-agent-cases": {},
    });
    std::fs::write(directory.path().join("spec.json"), spec.to_string()).unwrap();
    let arguments = ["-m", "fuzzingserver", "-s", "spec.json", "-u", "0"];
    let _server = Running::start(&wstest, &arguments, directory.path());
    wait_for(server);
    let edge = gateway(server);
    for (agent, url) in [("direct", url), ("weir", format!("ws://{}", edge.at(80)))] {
        let arguments = ["-m", "testeeclient", "-w", &url, "-i", agent];
        Running::start(&wstest, &arguments, directory.path()).finish(agent);
    }
    compare("client", directory.path());
}
