use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::*;

/// A server that sends back what it gets, until the end of the stream, and then says `bye`.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count) = stream.read(&mut buffer) {
                    if count == 0 {
                        stream.write_all(b"bye").ok();
                        return;
                    }
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn says(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer).unwrap())
}

/// Whether nothing comes for a while, though it is read for.
fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silent = stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    silent
}

#[test]
fn bytes_pass_in_both_directions_and_so_does_the_end() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = connect(&proxy);
    let long = "x".repeat(100_000);
    let mut writer = stream.try_clone().unwrap();
    let text = long.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(text.as_bytes()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    writing.join().unwrap();
    assert_eq!(answer, long + "bye");
}

#[test]
fn a_delay_holds_in_both_directions_and_keeps_the_order() {
    let proxy = Proxy::to(echo()).unwrap();
    proxy.set(Faults::delay(Duration::from_millis(60)));
    let (mut stream, began) = (connect(&proxy), Instant::now());
    assert_eq!(says(&mut stream, "abc").unwrap(), "abc");
    assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    proxy.set(Faults::default());
    assert_eq!(says(&mut stream, "def").unwrap(), "def");
}

#[test]
fn silence_holds_what_is_said_in_one_direction_and_loses_nothing() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = connect(&proxy);
    assert_eq!(says(&mut stream, "before").unwrap(), "before");
    for faults in [
        Faults { up: Way::Silent, down: Way::Pass },
        Faults { up: Way::Pass, down: Way::Silent },
        Faults::SILENT,
    ] {
        proxy.set(faults);
        stream.write_all(b"held").unwrap();
        assert!(is_silent(&mut stream), "{faults:?}");
        proxy.set(Faults::default());
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"held");
    }
}

#[test]
fn connections_are_told_apart() {
    let origin: Origin = Arc::new(|from| Some(u64::from(from.port())));
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let proxy = Proxy::between(at, echo(), origin).unwrap();
    let (mut one, mut other) = (connect(&proxy), connect(&proxy));
    assert_eq!(says(&mut one, "1").unwrap(), "1");
    assert_eq!(says(&mut other, "2").unwrap(), "2");
    proxy.set_for(u64::from(one.local_addr().unwrap().port()), Faults::SILENT);
    assert_eq!(says(&mut other, "passes").unwrap(), "passes");
    one.write_all(b"!").unwrap();
    assert!(is_silent(&mut one));
    let second = proxy.connections()[1];
    proxy.end_one(second, End::Cut);
    assert_eq!(other.read(&mut [0]).unwrap(), 0, "the end of the stream");
    proxy.set(Faults::default());
    assert_eq!(one.read(&mut [0]).unwrap(), 1);
}

#[test]
fn ends_are_what_they_are_called() {
    let proxy = Proxy::to(echo()).unwrap();
    let (mut cut, mut reset, mut half) = (connect(&proxy), connect(&proxy), connect(&proxy));
    for stream in [&mut cut, &mut reset, &mut half] {
        assert_eq!(says(stream, "x").unwrap(), "x");
    }
    let [first, second, third] = proxy.connections()[..] else { panic!("three connections") };
    proxy.end_one(first, End::Cut);
    assert_eq!(cut.read(&mut [0]).unwrap(), 0);
    proxy.end_one(second, End::Reset);
    assert_eq!(reset.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.end_one(third, End::HalfClose);
    let mut last = String::new();
    half.read_to_string(&mut last).unwrap();
    assert_eq!(last, "bye", "the server read the end, and its last word arrived");
}

#[test]
fn nobody_behind_it_is_a_refusal() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let proxy = Proxy::to(free).unwrap();
    let mut stream = connect(&proxy);
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
}
