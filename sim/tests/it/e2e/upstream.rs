//! A real upstream: Debian's nginx behind the gateway.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sim::harness::{Installation, command, connect, exchange, free_port, get, has, kill, wait_exit};
use tempfile::TempDir;

use super::{PATIENCE, objects, one_at_a_time};

struct Nginx {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Nginx {
    fn start() -> Result<Self> {
        let directory = TempDir::with_prefix("weir-nginx-")?;
        let d = directory.path().display().to_string();
        let port = free_port()?;
        fs::create_dir_all(directory.path().join("www"))?;
        let big: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(directory.path().join("www/big"), big)?;
        fs::write(
            directory.path().join("nginx.conf"),
            format!(
                "daemon off; worker_processes 1; pid {d}/pid; error_log {d}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f;
  uwsgi_temp_path {d}/u; scgi_temp_path {d}/s; client_max_body_size 8m;
  server {{
    listen 127.0.0.1:{port}; root {d}/www;
    location / {{ return 200 \"$request_method $request_uri host=$host connection=$http_connection\\n\"; }}
    location /empty {{ return 204; }}
    location /big {{ add_header ETag '\"v1\"'; if ($http_if_none_match = '\"v1\"') {{ return 304; }} }}
    location /discard {{ proxy_pass http://127.0.0.1:{port}/accepted; }}
    location /accepted {{ return 200 \"length=$http_content_length chunked=$http_transfer_encoding\\n\"; }}
    location /chunked {{ chunked_transfer_encoding on; sub_filter_types *; sub_filter 'no such text' 'x'; sub_filter_once off; alias {d}/www/big; }}
  }}
}}"
            ),
        )?;
        let child = command("nginx")
            .args(["-p", &d, "-c", &format!("{d}/nginx.conf")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start nginx")?;
        let nginx = Self { child, port, _directory: directory };
        for _ in 0..500 {
            if connect(port).is_ok() {
                return Ok(nginx);
            }
            sim::harness::pause();
        }
        anyhow::bail!("nginx does not listen")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let stopped = kill(self.child.id(), Signal::TERM)
            .and_then(|()| wait_exit(&mut self.child, std::time::Duration::from_secs(5)));
        if stopped.is_err() {
            self.child.kill().ok();
        }
    }
}

fn site(port: u16) -> String {
    objects::gateway(objects::HTTP) + &objects::forward("up") + &objects::backend("up", &[port])
}

const HOST: &str = "acme.localhost";

/// Reads one response with a Content-Length or chunked body from a connection that stays open.
fn read_response(reader: &mut impl BufRead, head_only: bool) -> Result<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the connection ended in a head: {head:?}");
    }
    let lower = head.to_ascii_lowercase();
    let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("status")?;
    let mut body = vec![];
    if head_only || status == 204 || status == 304 {
        return Ok((head, body));
    }
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size =
                usize::from_str_radix(line.trim(), 16).with_context(|| format!("chunk size {line:?}"))?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok((head, body));
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let length =
        lower.split("content-length: ").nth(1).and_then(|r| r.split("\r\n").next()).context("length")?;
    body.resize(length.parse()?, 0);
    reader.read_exact(&mut body)?;
    Ok((head, body))
}

#[test]
fn nginx_behind_the_gateway_is_seen_as_it_is() -> Result<()> {
    let _turn = one_at_a_time();
    if !has("nginx", "-v") {
        return Ok(());
    }
    let nginx = Nginx::start()?;
    let weir = Installation::up(&[])?;
    weir.ok(&["tenant", "create", "acme"])?;
    weir.apply("acme", &site(nginx.port))?;
    let port = weir.ports.http;
    weir.wait(PATIENCE, "the route", || Ok(get(port, HOST, "/").is_ok_and(|a| a.status == 200)))?;

    // The upstream sees the path, the host and no hop-by-hop field.
    let answer = get(port, HOST, "/a/b?c=d")?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains(&format!("GET /a/b?c=d host={HOST} connection=")), "{text}");
    assert!(!text.contains("connection=close"), "hop-by-hop field forwarded: {text}");

    // One client connection for all of these, one after another.
    let direct = get(nginx.port, HOST, "/big")?.body;
    let stream = connect(port)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut ask = |request: &str, body: &[u8], head_only| {
        writer.write_all(request.as_bytes())?;
        writer.write_all(body)?;
        read_response(&mut reader, head_only)
    };
    for round in 0..3 {
        let (head, body) = ask(&format!("GET /big HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), b"", false)?;
        assert!(head.starts_with("HTTP/1.1 200") && body == direct, "1 MiB, round {round}: {head}");
        let (head, body) = ask(&format!("GET /chunked HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), b"", false)?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.to_lowercase().contains("transfer-encoding: chunked") && body == direct, "{head}");
        let (head, _) = ask(&format!("HEAD /big HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), b"", true)?;
        assert!(head.to_lowercase().contains("content-length: 1048576"), "{head}");
        let (head, _) = ask(&format!("GET /empty HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), b"", false)?;
        assert!(
            head.starts_with("HTTP/1.1 204") && !head.to_lowercase().contains("transfer-encoding"),
            "{head}"
        );
        let conditional = format!("GET /big HTTP/1.1\r\nHost: {HOST}\r\nIf-None-Match: \"v1\"\r\n\r\n");
        let (head, _) = ask(&conditional, b"", false)?;
        assert!(head.starts_with("HTTP/1.1 304"), "{head}");
        let post =
            format!("POST /discard HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n", direct.len());
        let (head, body) = ask(&post, &direct, false)?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            String::from_utf8_lossy(&body).contains("length=1048576"),
            "{}",
            String::from_utf8_lossy(&body)
        );
        let chunked = format!("POST /discard HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (head, body) = ask(&chunked, b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n", false)?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(String::from_utf8_lossy(&body).contains("length=11"), "{}", String::from_utf8_lossy(&body));
    }
    // Expect: 100-continue is answered before the body is sent.
    let expect = format!(
        "POST /discard HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    );
    writer.write_all(expect.as_bytes())?;
    let (head, _) = read_response(&mut reader, true)?;
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    writer.write_all(b"hello")?;
    let (head, _) = read_response(&mut reader, false)?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // Pipelining: answers in order.
    let pipeline: String = (0..20).map(|n| format!("GET /p{n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).collect();
    writer.write_all(pipeline.as_bytes())?;
    for n in 0..20 {
        let (_, body) = read_response(&mut reader, false)?;
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.starts_with(&format!("GET /p{n} ")), "{n}: {text}");
    }
    Ok(())
}

/// An upstream that answers with trailers, which nginx does not make.
#[test]
fn trailers_reach_the_client() -> Result<()> {
    let _turn = one_at_a_time();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let heads = Arc::clone(&seen);
    let upstream = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(reader.read_line(&mut head)? > 0, "ended");
        }
        *heads.lock().expect("nobody panics") = head;
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n",
        )?;
        Ok(())
    });
    let weir = Installation::up(&[])?;
    weir.ok(&["tenant", "create", "acme"])?;
    weir.apply("acme", &site(port))?;
    weir.wait(PATIENCE, "the route", || {
        Ok(weir.json(&["get", "httproutes", "-t", "acme"])?["items"][0]["status"]["conditions"]
            .as_array()
            .is_some_and(|c| c.iter().any(|c| c["type"] == "Propagated" && c["status"] == "True")))
    })?;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n");
    let answer = exchange(weir.ports.http, request.as_bytes())?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(body.to_lowercase().contains("x-sum: 3"), "{}\n{body}", answer.head);
    upstream.join().expect("the upstream does not panic")?;
    Ok(())
}
