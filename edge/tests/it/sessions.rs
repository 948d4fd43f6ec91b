//! Sessions that stay with an endpoint: by cookies and headers, over workers, endpoints that go, and splits by weight.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use api::tickets::TicketKeys;
use edge::{Config, Keyring};

use crate::support::{Edge, Response, Upstream, compile, dead_address, pause, route};

fn keys(number: u8) -> Arc<Keyring> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut next = number;
    Arc::new(Keyring::new(TicketKeys::first(now_s, &mut || {
        next += 1;
        ([next; 16], [next; 32])
    })))
}

/// Upstreams that say their own number.
fn upstreams<const N: usize>() -> [Upstream; N] {
    std::array::from_fn(|number| Upstream::start(move |exchange, _| exchange.reply(&number.to_string())))
}

fn backend(name: &str, addresses: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("{{address: \"{address}\"}}")).collect();
    format!(
        "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: {name}}}\nspec: {{endpoints: [{}]{more}}}\n",
        endpoints.join(", ")
    )
}

fn rule(backends: &str, session: &str) -> String {
    format!("  - sessionPersistence: {{{session}}}\n    backendRefs: [{backends}]\n")
}

const UP: &str = "{group: weir.dev, kind: Backend, name: up}";

fn addresses(upstreams: &[Upstream]) -> Vec<SocketAddr> {
    upstreams.iter().map(|upstream| upstream.address).collect()
}

/// A request with these fields.
fn ask(edge: &Edge, fields: &str) -> Response {
    edge.ask(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
}

/// The cookie as a browser sends it back, and its attributes.
fn cookie(response: &Response) -> (String, String) {
    let said = response.header("set-cookie").expect("a cookie");
    let (pair, attributes) = said.split_once("; ").unwrap();
    (format!("Cookie: other=1; {pair}\r\n"), attributes.to_owned())
}

#[test]
fn a_client_stays_with_its_endpoint_by_a_cookie() {
    let upstreams = upstreams::<3>();
    let edge =
        Edge::start(&(route(&rule(UP, "sessionName: sid")) + &backend("up", &addresses(&upstreams), "")));
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        let first = ask(&edge, "");
        let (cookie, attributes) = cookie(&first);
        assert!(cookie.starts_with("Cookie: other=1; sid="), "{cookie}");
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
        for _ in 0..6 {
            let next = ask(&edge, &cookie);
            assert_eq!(next.text(), first.text());
            assert_eq!(next.header("set-cookie"), None, "it has one that is good");
        }
        let token = cookie.rsplit('=').next().unwrap().trim();
        for upstream in &upstreams {
            assert!(!token.contains(&upstream.address.port().to_string()), "what it says is sealed");
        }
        seen.insert(first.text().to_owned());
    }
    assert!(seen.len() > 1, "new clients are spread");
}

#[test]
fn a_header_carries_a_session_as_well() {
    let upstreams = upstreams::<3>();
    let yaml =
        route(&rule(UP, "sessionName: X-Session, type: Header")) + &backend("up", &addresses(&upstreams), "");
    let edge = Edge::start(&yaml);
    let first = ask(&edge, "");
    assert_eq!(first.header("set-cookie"), None);
    let mut token = first.header("x-session").unwrap().to_owned();
    for _ in 0..10 {
        let next = ask(&edge, &format!("X-Session: {token}\r\n"));
        assert_eq!(next.text(), first.text());
        token = next.header("x-session").expect("each answer has it").to_owned();
    }
    assert!(
        upstreams.iter().flat_map(Upstream::received).all(|request| request.header("x-session").is_none())
    );
}

#[test]
fn every_worker_with_the_same_keys_knows_it_and_others_do_not() {
    let upstreams = upstreams::<4>();
    let yaml = route(&rule(UP, "sessionName: sid")) + &backend("up", &addresses(&upstreams), "");
    let worker = |ticket_keys: Arc<Keyring>| {
        let edge = Edge::start(&yaml);
        let config = Config { ticket_keys: Some(ticket_keys), ..compile(&yaml, 2).config };
        edge.control.activate(config).unwrap();
        edge
    };
    let [one, two] = [keys(0), keys(0)].map(worker);
    let stranger = worker(keys(9));
    for _ in 0..8 {
        let first = ask(&one, "");
        let (cookie, _) = cookie(&first);
        assert_eq!(ask(&two, &cookie).text(), first.text());
        assert!(ask(&two, &cookie).header("set-cookie").is_none());
        assert!(ask(&stranger, &cookie).header("set-cookie").is_some(), "another installation's");
    }
}

#[test]
fn what_nobody_sealed_leads_nowhere() {
    let upstreams = upstreams::<3>();
    let yaml = route(&rule(UP, "sessionName: sid")) + &backend("up", &addresses(&upstreams), "");
    let edge = Edge::start(&yaml);
    let first = ask(&edge, "");
    let (good, _) = cookie(&first);
    let token = good.rsplit('=').next().unwrap().trim().to_owned();
    let changed = |at: usize| {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let middle = token.len() / 2;
    for forged in [
        changed(0),
        changed(middle),
        token[..middle].to_owned(),
        String::new(),
        "127.0.0.1".to_owned(),
        "A".repeat(5000),
        format!("{token}{token}"),
    ] {
        let response = ask(&edge, &format!("Cookie: sid={forged}\r\n"));
        assert_eq!(response.status, 200);
        assert!(response.header("set-cookie").is_some(), "{forged}");
    }
    // Nor is one of another name this one.
    let other = route(&rule(UP, "sessionName: other")) + &backend("up", &addresses(&upstreams), "");
    let mut edge = edge;
    edge.activate(&other);
    assert!(ask(&edge, &format!("Cookie: other={token}\r\n")).header("set-cookie").is_some());
}

#[test]
fn a_session_moves_when_its_endpoint_is_gone_and_stays_where_it_went() {
    let upstreams = upstreams::<3>();
    let all = addresses(&upstreams);
    let yaml =
        |addresses: &[SocketAddr]| route(&rule(UP, "sessionName: sid")) + &backend("up", addresses, "");
    let mut edge = Edge::start(&yaml(&all));
    let first = ask(&edge, "");
    let (mut held, _) = cookie(&first);
    let own: usize = first.text().parse().unwrap();
    let rest: Vec<_> = all.iter().copied().filter(|address| *address != all[own]).collect();

    // Others come and go: it stays.
    edge.activate(&yaml(&[all[own], rest[0]]));
    assert_eq!(ask(&edge, &held).text(), first.text());
    edge.activate(&yaml(&rest));
    let moved = ask(&edge, &held);
    assert_ne!(moved.text(), first.text());
    held = cookie(&moved).0;
    for _ in 0..6 {
        assert_eq!(ask(&edge, &held).text(), moved.text());
    }
    // One that does not answer any more is left as well, by a retry.
    let place: usize = moved.text().parse().unwrap();
    let dead = dead_address();
    edge.activate(&yaml(&[dead, all[place]]));
    for _ in 0..6 {
        assert_eq!(ask(&edge, &held).text(), moved.text());
    }
}

#[test]
fn an_endpoint_that_is_ejected_loses_its_sessions() {
    let failing = Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 500 No\r\nContent-Length: 7\r\n\r\nfailing");
    });
    let fine = Upstream::saying("fine");
    let outliers = ", healthCheck: {passive: {consecutive5xx: 2}, panicThreshold: 0}";
    let both = backend("up", &[failing.address, fine.address], outliers);
    let edge = Edge::start(&(route(&rule(UP, "sessionName: sid")) + &both));
    let held = loop {
        let response = ask(&edge, "");
        if response.text() == "failing" {
            break cookie(&response).0;
        }
    };
    let mut answers = vec![];
    for _ in 0..6 {
        answers.push(ask(&edge, &held).text().to_owned());
    }
    assert_eq!(answers.last().map(String::as_str), Some("fine"), "{answers:?}");
    assert!(cookie(&ask(&edge, &held)).0 != held);
}

#[test]
fn of_backends_that_share_a_rule_a_session_has_one() {
    let upstreams = upstreams::<2>();
    let split = "{group: weir.dev, kind: Backend, name: a, weight: 1}, {group: weir.dev, kind: Backend, name: b, weight: 1}";
    let yaml = |backends: &str| {
        route(&rule(backends, "sessionName: sid"))
            + &backend("a", &[upstreams[0].address], "")
            + &backend("b", &[upstreams[1].address], "")
    };
    let mut edge = Edge::start(&yaml(split));
    let mut held = HashMap::new();
    while held.len() < 2 {
        let response = ask(&edge, "");
        held.insert(response.text().to_owned(), cookie(&response).0);
    }
    for (place, cookie) in &held {
        for _ in 0..10 {
            assert_eq!(ask(&edge, cookie).text(), place);
        }
    }
    // A backend that gets nothing any more keeps no session.
    edge.activate(&yaml(&split.replace("name: b, weight: 1", "name: b, weight: 0")));
    for cookie in held.values() {
        assert_eq!(ask(&edge, cookie).text(), "0");
    }
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let upstreams = upstreams::<2>();
    let yaml = |session: &str| {
        let rules = format!(
            "  - matches: [{{path: {{value: /shop}}}}]\n    sessionPersistence: {{{session}}}\n    backendRefs: [{UP}]\n"
        );
        route(&rules) + &backend("up", &addresses(&upstreams), "")
    };
    let get = |edge: &Edge, fields: &str| {
        edge.ask(&format!("GET /shop/1 HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
    };
    let permanent = "cookieConfig: {lifetimeType: Permanent}";
    let mut edge = Edge::start(&yaml(&format!("absoluteTimeout: 1h, {permanent}")));
    let (held, attributes) = cookie(&get(&edge, ""));
    assert!(held.starts_with("Cookie: other=1; weir-session-"), "{held}");
    assert_eq!(attributes, "Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax");
    assert_eq!(get(&edge, &held).header("set-cookie"), None);
    // Idle for a second: each request begins it anew, and a second without one ends it.
    edge.activate(&yaml("idleTimeout: 2s"));
    let (held, _) = cookie(&get(&edge, ""));
    let mut current = held.clone();
    for _ in 0..3 {
        pause(Duration::from_millis(1100));
        let response = get(&edge, &current);
        let renewed = response.header("set-cookie").is_some();
        assert!(renewed, "sealed anew in time");
        current = cookie(&response).0;
    }
    let over = get(&edge, &held);
    assert!(
        over.header("set-cookie").is_some() && cookie(&over).0 != current,
        "the first has ended meanwhile"
    );
}
