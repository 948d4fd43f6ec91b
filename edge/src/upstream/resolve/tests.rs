use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::Mutex,
    thread,
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};

use super::*;

#[test]
fn metadata_services_are_out_of_reach() {
    for denied in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
        assert!(is_denied(denied.parse().unwrap()), "{denied}");
    }
    for allowed in ["127.0.0.1", "::1", "10.0.0.1", "169.254.1.1"] {
        assert!(!is_denied(allowed.parse().unwrap()), "{allowed}");
    }
}

fn answer(addresses: &[&str], ttl_s: u64) -> Result<Answer, String> {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Ok(Answer { addresses, ttl: Duration::from_secs(ttl_s) })
}

#[test]
fn an_answer_holds_for_its_time_to_live_within_bounds() {
    let now = Instant::now();
    for (ttl_s, expect_s) in [(0, 5), (1, 5), (60, 60), (300, 300), (86_400, 300)] {
        let mut entry = Entry::default();
        entry.take(answer(&["10.0.0.1"], ttl_s), now);
        assert_eq!(entry.due, Some(now + Duration::from_secs(expect_s)), "{ttl_s}");
    }
}

#[test]
fn what_was_known_outlives_a_failure() {
    let (now, mut entry) = (Instant::now(), Entry::default());
    entry.take(Err("refused".to_owned()), now);
    assert_eq!(entry.addresses, None);
    entry.take(answer(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 60), now);
    let known: Vec<IpAddr> = ["10.0.0.1", "10.0.0.2"].iter().map(|ip| ip.parse().unwrap()).collect();
    assert_eq!(entry.addresses.as_ref(), Some(&known));
    entry.take(Err("no answer in time".to_owned()), now);
    assert_eq!(entry.addresses, Some(known));
    assert_eq!(entry.due, Some(now + Duration::from_secs(5)));
}

#[test]
fn every_answer_is_looked_at_for_what_may_not_be_reached() {
    let (now, mut entry) = (Instant::now(), Entry::default());
    entry.take(answer(&["10.0.0.1"], 60), now);
    entry.take(answer(&["169.254.169.254"], 60), now);
    assert_eq!(entry.addresses, Some(vec![]), "a name that comes to stand for it later");
}

/// A DNS server that answers A with what stands there, and a count of the questions.
fn server(says: Arc<Mutex<(Ipv4Addr, u32)>>) -> (u16, Arc<Mutex<u32>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            // The question is behind a head of twelve bytes: labels, a zero, type and class (RFC 1035 section 4.1).
            let labels = packet[12..length].iter().position(|byte| *byte == 0).unwrap();
            let end = 12 + labels + 5;
            let is_a = packet[end - 4..end - 2] == [0, 1];
            let (address, ttl) = *says.lock().unwrap();
            let mut reply = packet[..2].to_vec();
            reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            reply.extend(&packet[12..end]);
            if is_a {
                *count.lock().unwrap() += 1;
                reply.extend([0xc0, 12, 0, 1, 0, 1]);
                reply.extend(ttl.to_be_bytes());
                reply.extend([0, 4]);
                reply.extend(address.octets());
            }
            socket.send_to(&reply, client).unwrap();
        }
    });
    (port, asked)
}

#[tokio::test]
async fn a_name_is_asked_for_again_when_its_time_has_come() {
    let says = Arc::new(Mutex::new((Ipv4Addr::new(10, 0, 0, 1), 60)));
    let (port, asked) = server(Arc::clone(&says));
    let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
    server.connections[0].port = port;
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.options_mut().cache_size = 0;
    let resolver = Resolver::with(builder.build().unwrap());

    let mut known = Known::default();
    known.keep(&BTreeSet::from(["up.test.".to_owned()]));
    let first = |known: &Known| known.0["up.test."].addresses.clone().unwrap()[0].to_string();
    known.refresh(&resolver).await;
    assert_eq!(first(&known), "10.0.0.1");
    let left = known.next_due().unwrap().saturating_duration_since(Instant::now());
    assert!((58..=60).contains(&left.as_secs()), "{left:?}");

    says.lock().unwrap().0 = Ipv4Addr::new(10, 0, 0, 2);
    known.refresh(&resolver).await;
    assert_eq!((first(&known).as_str(), *asked.lock().unwrap()), ("10.0.0.1", 1), "it holds");
    known.expire();
    known.refresh(&resolver).await;
    assert_eq!((first(&known).as_str(), *asked.lock().unwrap()), ("10.0.0.2", 2));
}
