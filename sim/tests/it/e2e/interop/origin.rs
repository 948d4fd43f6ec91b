//! What answers the clients: small things, large ones, and one that waits.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use anyhow::Result;

/// 10 MB.
const BIG: usize = 10 << 20;

/// The page that Chromium is shown.
const PAGE: &str = include_str!("page.html");

/// Answers until the test's process ends.
pub(super) struct Origin {
    pub(super) port: u16,
    gate: Arc<Gate>,
}

/// Opened once.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    /// What Chromium's page said of itself.
    said: Mutex<Vec<String>>,
}

impl Origin {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let gate = Arc::new(Gate::default());
        let shared = Arc::clone(&gate);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let gate = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &gate));
            }
        });
        Ok(Self { port, gate })
    }

    /// Answers `/hold`.
    pub(super) fn release(&self) {
        *self.gate.open.lock().expect("nobody panics while he holds it") = true;
        self.gate.opened.notify_all();
    }
}

/// Byte `n` of `/big` is `n % 251`.
fn big() -> Vec<u8> {
    (0..=250_u8).cycle().take(BIG).collect()
}

fn serve(stream: &TcpStream, gate: &Gate) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if lower.starts_with("transfer-encoding:") {
                // Clients that do not say how long their bodies are send none here.
                length = 0;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let path = first.split(' ').nth(1)?;
        let (kind, answer) = match path {
            "/big" => ("application/octet-stream", big()),
            "/echo" => ("application/octet-stream", body),
            "/page" => ("text/html", PAGE.as_bytes().to_vec()),
            "/say" => {
                gate.said.lock().ok()?.push(String::from_utf8(body).ok()?);
                ("text/plain", vec![])
            }
            "/said" => {
                ("text/plain", gate.said.lock().ok()?.drain(..).collect::<Vec<_>>().join("\n").into_bytes())
            }
            "/hold" => {
                let open = gate.open.lock().ok()?;
                drop(gate.opened.wait_timeout_while(open, Duration::from_secs(60), |open| !*open).ok()?);
                ("text/plain", b"released".to_vec())
            }
            "/trailers" => {
                let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n";
                writer.write_all(answer.as_bytes()).ok()?;
                continue;
            }
            _ => ("text/plain", path.as_bytes().to_vec()),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", answer.len());
        writer.write_all(&[head.as_bytes(), &answer].concat()).ok()?;
    }
}
