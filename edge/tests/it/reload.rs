//! `run_static`: SIGHUP and SIGTERM.

use std::{net::TcpListener, path::Path, thread, time::Instant};

use edge::{StaticArgs, accesslog::Sink, run_static};
use rustix::process::{Signal, getpid, kill_process};

use crate::support::{Client, PATIENCE, route};

/// Answers with a redirect to `/to`.
fn yaml(port: u16, to: &str) -> String {
    let rule = format!(
        "  - filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplaceFullPath, replaceFullPath: {to}}}}}}}]\n"
    );
    let pool = format!(
        "---\napiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: default}}\nspec: {{listen: [{{port: 80, bind: \"127.0.0.1:{port}\", protocol: HTTP}}]}}\n"
    );
    route(&rule) + &pool
}

/// Where a request is redirected to, once somebody listens.
fn location(port: u16) -> String {
    let began = Instant::now();
    // Not by connecting: a connection to a port of which clients get theirs can end up at itself.
    while !is_listening(port) {
        assert!(began.elapsed() < PATIENCE, "nobody listens");
        thread::yield_now();
    }
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.response().header("location").unwrap_or_default().to_owned()
}

fn is_listening(port: u16) -> bool {
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&format!(":{port:04X} 00000000:0000 0A "))
}

fn write(file: &Path, content: &str) {
    std::fs::write(file, content).unwrap();
}

#[test]
fn a_good_file_is_taken_over_and_a_bad_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    write(&file, &yaml(port, "/first"));
    let args =
        StaticArgs { file: file.clone(), threads: 1, metrics: None, access_log: Sink::Off, tracing: None };
    let running = thread::spawn(move || run_static(&args));
    // Once it listens, it has its signal handlers: SIGHUP does not end this process.
    assert!(location(port).ends_with("/first"));

    let until = |expect: &str| {
        let began = Instant::now();
        while !location(port).ends_with(expect) {
            assert!(began.elapsed() < PATIENCE, "{expect} is not served");
        }
    };
    let reload = || kill_process(getpid(), Signal::HUP).unwrap();
    write(&file, &yaml(port, "/second"));
    reload();
    until("/second");
    write(&file, "kind: Nothing\n");
    reload();
    // A good file after the bad one: when it is served, the bad one was read, and nothing ended.
    assert!(location(port).ends_with("/second"));
    write(&file, &yaml(port, "/third"));
    reload();
    until("/third");

    kill_process(getpid(), Signal::TERM).unwrap();
    running.join().unwrap().unwrap();
    assert!(!is_listening(port));
}
