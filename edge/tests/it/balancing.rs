//! Which endpoint answers, as a Backend's `loadBalancer` says.

use std::collections::HashMap;

use crate::{
    endpoints::spread,
    support::{Edge, Response, Upstream, forward, gate, pass, route},
};

fn three() -> [Upstream; 3] {
    [Upstream::saying("a"), Upstream::saying("b"), Upstream::saying("c")]
}

fn balancer(spec: &str) -> String {
    format!("  loadBalancer: {{{spec}}}\n")
}

/// One request with these header lines.
fn ask(edge: &Edge, target: &str, headers: &str) -> Response {
    let response = edge.ask(&format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n"));
    assert_eq!(response.status, 200);
    response
}

#[test]
fn round_robin_honours_weights() {
    let [a, b, c] = three();
    let yaml = route(&forward("up"))
        + &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: up}}\nspec:\n  endpoints:\n  \
             - {{address: \"{}\", weight: 3}}\n  - {{address: \"{}\", weight: 2}}\n  - {{address: \"{}\"}}\n{}",
            a.address,
            b.address,
            c.address,
            balancer("type: RoundRobin")
        );
    let edge = Edge::start(&yaml);
    let mut counts: HashMap<String, u32> = HashMap::new();
    for _ in 0..60 {
        *counts.entry(edge.get("/").text().to_owned()).or_default() += 1;
    }
    assert_eq!((counts["a"], counts["b"], counts["c"]), (30, 20, 10));
}

#[test]
fn a_busy_endpoint_is_passed_over() {
    for policy in ["PowerOfTwo", "LeastRequest"] {
        let (open, wait) = gate();
        let slow = Upstream::start(move |exchange, request| {
            if request.line().contains("/slow") {
                pass(&wait);
            }
            exchange.reply("slow");
        });
        let quick = Upstream::start(|exchange, request| {
            // What was to be slow has come to the wrong place; it is asked again.
            exchange.reply(if request.line().contains("/slow") { "no" } else { "quick" });
        });
        let edge = Edge::start(&spread(&[&slow, &quick], &balancer(&format!("type: {policy}"))));
        let mut waiting = edge.connect();
        loop {
            let came = slow.received().len() + quick.received().len();
            waiting.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
            while slow.received().len() + quick.received().len() == came {}
            if quick.received().len() == came + 1 - slow.received().len() && slow.received().is_empty() {
                assert_eq!(waiting.response().text(), "no");
            } else {
                break;
            }
        }
        for _ in 0..50 {
            assert_eq!(edge.get("/").text(), "quick", "{policy}");
        }
        open.send(()).unwrap();
        assert_eq!(waiting.response().text(), "slow");
    }
}

#[test]
fn a_key_keeps_its_endpoint() {
    for policy in ["RingHash", "Maglev"] {
        let [a, b, c] = three();
        let by_user = balancer(&format!("type: {policy}, hash: {{type: Header, name: X-User}}"));
        let mut edge = Edge::start(&spread(&[&a, &b, &c], &by_user));
        let of = |edge: &Edge, user: u32| ask(edge, "/", &format!("x-user: {user}\r\n")).text().to_owned();
        let before: Vec<_> = (0..60).map(|user| of(&edge, user)).collect();
        for name in ["a", "b", "c"] {
            let count = before.iter().filter(|answer| *answer == name).count();
            assert!((5..=40).contains(&count), "{policy}: {count} of 60 at {name}");
        }
        edge.activate(&spread(&[&a, &c], &by_user));
        let mut moved = 0;
        for (user, before) in (0..).zip(&before) {
            let after = of(&edge, user);
            moved += u32::from(before != "b" && after != *before);
        }
        assert!(moved <= 3, "{policy}: {moved} users of other endpoints moved");
    }
}

#[test]
fn a_client_is_given_a_cookie_that_keeps_its_endpoint() {
    let [a, b, c] = three();
    let cookie = balancer("type: Maglev, hash: {type: Cookie, name: stay, ttl: 1h, path: /shop}");
    let edge = Edge::start(&spread(&[&a, &b, &c], &cookie));
    for _ in 0..10 {
        let first = ask(&edge, "/", "Cookie: other=1\r\n");
        let issued = first.header("set-cookie").expect("a cookie").to_owned();
        let (pair, rest) = issued.split_once(';').unwrap();
        assert!(pair.starts_with("stay=") && pair.len() == 37, "{pair}");
        assert_eq!(rest, " Path=/shop; Max-Age=3600; HttpOnly");
        for _ in 0..5 {
            let again = ask(&edge, "/", &format!("Cookie: other=1; {pair}\r\n"));
            assert_eq!(again.text(), first.text());
            assert_eq!(again.header("set-cookie"), None);
        }
    }
    let unissued = balancer("type: Maglev, hash: {type: Cookie, name: stay}");
    let edge = Edge::start(&spread(&[&a, &b, &c], &unissued));
    assert_eq!(ask(&edge, "/", "").header("set-cookie"), None);
}

#[test]
fn a_client_or_a_parameter_keeps_its_endpoint() {
    let [a, b, c] = three();
    let edge = Edge::start(&spread(&[&a, &b, &c], &balancer("type: RingHash, hash: {type: SourceIP}")));
    let answers: Vec<_> = (0..20).map(|_| edge.get("/").text().to_owned()).collect();
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");

    let by_id = balancer("type: RingHash, hash: {type: QueryParam, name: id}");
    let edge = Edge::start(&spread(&[&a, &b, &c], &by_id));
    for id in 0..10 {
        let first = ask(&edge, &format!("/?x=1&id={id}"), "").text().to_owned();
        assert_eq!(ask(&edge, &format!("/y?id={id}&x=2"), "").text(), first);
    }
}
