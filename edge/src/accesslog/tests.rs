use std::{
    fs,
    io::{self, Write},
    sync::mpsc::{Receiver, Sender, channel},
    time::UNIX_EPOCH,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn entry(path: &str) -> Entry<'_> {
    let time = UNIX_EPOCH + Duration::from_millis(1_795_471_200_007);
    Entry { method: "GET", host: "shop.example", path, ..Entry::unread(time) }
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A sink that writes only when it is let: each permit is one write.
struct Gate {
    permits: Receiver<io::Result<()>>,
    written: Sender<String>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.permits.recv().unwrap_or(Ok(()))?;
        let _gone = self.written.send(String::from_utf8(bytes.to_vec()).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated() -> (AccessLog, Sender<io::Result<()>>, Receiver<String>) {
    let (permit, permits) = channel();
    let (written, writes) = channel();
    let writer = sink::Writer::new(Sink::Stdout, Box::new(Gate { permits, written }));
    (AccessLog::start_with(writer, "w-1").unwrap(), permit, writes)
}

#[test]
fn a_line_says_all_that_is_known() {
    let (log, permit, writes) = gated();
    let logger = log.logger();
    logger.log(&Entry {
        tenant: Some("acme"),
        route: Some("default/shop"),
        status: 200,
        outcome: "forwarded",
        bytes_in: 1,
        bytes_out: 2,
        duration: Duration::from_micros(345),
        upstream: Some("127.0.0.1:9000".parse().unwrap()),
        upstream_time: Some(Duration::from_micros(300)),
        retries: 1,
        client: Some("::1".parse().unwrap()),
        tls: Some("1.3"),
        request_id: Some("ab\"c"),
        ..entry("/a")
    });
    logger.flush();
    permit.send(Ok(())).unwrap();
    assert_eq!(
        writes.recv_timeout(PATIENCE).unwrap(),
        "{\"time\":\"2026-11-23T22:00:00.007Z\",\"tenant\":\"acme\",\"route\":\"default/shop\",\"method\":\"GET\",\
        \"host\":\"shop.example\",\"path\":\"/a\",\"protocol\":\"HTTP/1.1\",\"status\":200,\"outcome\":\"forwarded\",\
        \"bytes_in\":1,\"bytes_out\":2,\"duration_us\":345,\"upstream\":\"127.0.0.1:9000\",\"upstream_us\":300,\
        \"retries\":1,\"client\":\"::1\",\"tls\":\"1.3\",\"request_id\":\"ab\\\"c\",\"worker\":\"w-1\"}\n"
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    let (log, permit, writes) = gated();
    let logger = log.logger();
    logger.log(&Entry { refusal: Some("bare_lf"), ..Entry::unread(UNIX_EPOCH) });
    logger.flush();
    permit.send(Ok(())).unwrap();
    let line = &lines(&writes.recv_timeout(PATIENCE).unwrap())[0];
    for absent in ["tenant", "route", "upstream", "upstream_us", "client", "tls", "request_id"] {
        assert!(line.get(absent).is_none(), "{absent} in {line}");
    }
    assert_eq!(line["refusal"], "bare_lf");
}

#[test]
fn a_long_path_is_cut() {
    let (log, permit, writes) = gated();
    let logger = log.logger();
    logger.log(&entry(&format!("/{}", "a".repeat(5000))));
    logger.flush();
    permit.send(Ok(())).unwrap();
    let line = &lines(&writes.recv_timeout(PATIENCE).unwrap())[0];
    assert_eq!(line["path"], format!("/{}…", "a".repeat(1023)));
}

#[test]
fn a_sink_that_stands_loses_lines_and_the_log_says_how_many() {
    let (log, permit, writes) = gated();
    let logger = log.logger();
    let mut logged = 0;
    while log.lost() < 5 {
        logger.log(&entry("/"));
        logged += 1;
        assert!(logged < 100_000, "a sink that takes nothing must lose lines");
    }
    let mut line = Vec::new();
    entry("/").write(&mut line, &mut Stamp::default(), "w-1");
    // The queue, what the writer holds, and the thread's own buffer.
    assert!((logged - 5) * line.len() <= (QUEUE + 2) * (MOST + LINE), "{logged} lines are held");

    // Every write is let through from here on.
    drop(permit);
    let mut text = String::new();
    while !text.contains("/after") {
        logger.log(&entry("/after"));
        logged += 1;
        logger.flush();
        text.push_str(&writes.recv_timeout(PATIENCE).unwrap());
    }
    drop(logger);
    let lost = log.lost();
    assert!(log.close(PATIENCE));
    text.extend(writes.iter());
    let lines = lines(&text);
    let told: u64 = lines.iter().filter_map(|line| line["lost"].as_u64()).sum();
    let written = lines.iter().filter(|line| line.get("path").is_some()).count();
    assert_eq!(written + usize::try_from(lost).unwrap(), logged);
    assert!((5..=lost).contains(&told), "{told} of {lost} are told of");
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let (log, permit, writes) = gated();
    let logger = log.logger();
    for _ in 0..3 {
        logger.log(&entry("/"));
    }
    logger.flush();
    permit.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    logger.log(&entry("/later"));
    logger.flush();
    permit.send(Ok(())).unwrap();
    assert!(writes.recv_timeout(PATIENCE).unwrap().contains("/later"));
    assert_eq!(log.lost(), 3);
}

#[test]
fn closing_writes_what_the_threads_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = AccessLog::start(&Sink::File(path.clone()), "w-1").unwrap();
    let threads: Vec<_> = (0..3)
        .map(|thread| {
            let logger = log.logger();
            std::thread::spawn(move || {
                for request in 0..200 {
                    logger.log(&entry(&format!("/{thread}/{request}")));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(log.close(PATIENCE));
    assert_eq!(lines(&fs::read_to_string(path).unwrap()).len(), 600);
}

#[test]
fn a_renamed_file_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = AccessLog::start(&Sink::File(path.clone()), "w-1").unwrap();
    let logger = log.logger();
    logger.log(&entry("/before"));
    logger.flush();
    let renamed = directory.path().join("access.log.1");
    fs::rename(&path, &renamed).unwrap();
    assert!(log.reopen());
    logger.log(&entry("/after"));
    drop(logger);
    assert!(log.close(PATIENCE));
    assert!(fs::read_to_string(renamed).unwrap().contains("/before"));
    let after = fs::read_to_string(path).unwrap();
    assert!(after.contains("/after") && !after.contains("/before"));
}

#[test]
fn without_a_sink_nothing_is_kept() {
    let log = AccessLog::start(&Sink::Off, "w-1").unwrap();
    let logger = log.logger();
    assert!(!logger.is_on() && !Logger::off().is_on());
    logger.log(&entry("/"));
    assert_eq!(log.lost(), 0);
    assert!(log.reopen() && log.close(PATIENCE));
}

#[test]
fn sinks_are_named() {
    for (text, sink) in [
        ("off", Sink::Off),
        ("stdout", Sink::Stdout),
        ("file:/var/log/weir.log", Sink::File("/var/log/weir.log".into())),
    ] {
        assert_eq!(text.parse(), Ok(sink.clone()));
        assert_eq!(sink.to_string(), text);
    }
    for bad in ["", "stdin", "/var/log/weir.log", "file:"] {
        let error = bad.parse::<Sink>().unwrap_err().to_string();
        assert!(error.contains("file:PATH"), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::File(directory.path().join("no/such/access.log"));
    assert_eq!(AccessLog::start(&sink, "w-1").unwrap_err().kind(), io::ErrorKind::NotFound);
}
