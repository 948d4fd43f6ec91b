//! What a user gets wrong, through the command line: a clear error, and nothing changed.

use anyhow::Result;
use sim::harness::{Installation, exchange, get, tell};

use super::{PATIENCE, one_at_a_time};

const GOOD: &str = include_str!("../../../../weir/src/up/demo.yaml");

/// What is wrong, how the good file is changed, what the error must say.
const MISTAKES: &[(&str, &str, &str, &[&str])] = &[
    ("a field that is not there", "hostnames:", "hostnmes:", &["HTTPRoute", "hostnmes"]),
    ("a kind that is not there", "kind: HTTPRoute", "kind: HTTPRout", &["HTTPRout"]),
    ("a version that is not there", "weir.dev/v1", "weir.dev/v9", &["weir.dev/v9"]),
    ("a port out of range", "port: 80\n", "port: 80000\n", &["Gateway", "port"]),
    ("a protocol that is not there", "protocol: HTTPS", "protocol: GOPHER", &["Gateway", "GOPHER"]),
    ("an address that is none", "- address: ${UPSTREAM}", "- address: nowhere", &["Backend", "address"]),
    ("another tenant's host", "- ${HOSTNAME}", "- other.localhost", &["HTTPRoute", "other.localhost"]),
    ("no YAML", "kind: Backend", "kind: [Backend", &["apply.yaml"]),
    (
        "a class of somebody else",
        "gatewayClassName: weir",
        "gatewayClassName: nginx",
        &["Gateway", "gatewayClassName"],
    ),
    (
        "a name that is none",
        "name: demo\nspec:\n  parentRefs",
        "name: De_mo\nspec:\n  parentRefs",
        &["De_mo"],
    ),
];

#[test]
fn a_mistake_is_refused_whole_and_says_what_and_where() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let before = weir.json(&["get", "-t", "demo"])?;
    for (what, from, to, expected) in MISTAKES {
        assert!(GOOD.contains(from), "{what}: {from:?} is not in the good file");
        let yaml = GOOD
            .replace(from, to)
            .replace("${HOSTNAME}", "demo.localhost")
            .replace("${UPSTREAM}", "127.0.0.1:9");
        let file = weir.directory().join("apply.yaml");
        std::fs::write(&file, yaml)?;
        let output = weir.weir(&["apply", "-t", "demo", "-f", "apply.yaml"])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        tell(&format!("{what}:\n{text}"));
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        for part in *expected {
            assert!(text.contains(part), "{what}: no {part:?} in {text}");
        }
    }
    let after = weir.json(&["get", "-t", "demo"])?;
    assert_eq!(spec(&before), spec(&after));
    assert_eq!(get(weir.ports.http, "demo.localhost", "/")?.status, 200);
    Ok(())
}

/// The objects without their conditions, which may move.
fn spec(objects: &serde_json::Value) -> serde_json::Value {
    let mut objects = objects.clone();
    for object in objects["items"].as_array_mut().into_iter().flatten() {
        if let Some(status) = object["status"].as_object_mut() {
            status.remove("conditions");
        }
    }
    objects
}

#[test]
fn usage_mistakes_end_with_2_and_failures_with_1() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&[])?;
    for (arguments, code, expected) in [
        (vec!["frobnicate"], 2, "frobnicate"),
        (vec!["apply"], 2, "--file"),
        (vec!["get", "frobnicators"], 1, "HTTPRoute"),
        (vec!["apply", "-f", "missing.yaml"], 1, "missing.yaml"),
        (vec!["describe", "gateway", "missing", "-t", "platform"], 1, "missing"),
        (vec!["tenant", "create", "Not_A_Name"], 1, "a-z"),
        (vec!["get", "--data", "nowhere"], 1, "weir up"),
        (vec!["get", "--admin", "127.0.0.1:1"], 1, "weir up"),
    ] {
        let output = weir.weir(&arguments)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
    Ok(())
}

#[test]
fn the_life_of_an_object() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let conditions =
        weir.json(&["describe", "httproute", "demo", "-t", "demo"])?["status"]["conditions"].clone();
    for kind in ["Accepted", "ResolvedRefs", "Programmed", "Propagated"] {
        let holds = |c: &serde_json::Value| c["type"] == kind && c["status"] == "True";
        assert!(conditions.as_array().is_some_and(|c| c.iter().any(holds)), "{kind}: {conditions:#}");
    }
    let explained = weir.ok(&["explain", &format!("http://demo.localhost:{}/x", weir.ports.http)])?;
    assert!(explained.contains("HTTPRoute") && explained.contains("demo"), "{explained}");
    weir.ok(&["delete", "httproute", "demo", "-t", "demo"])?;
    weir.wait(PATIENCE, "404", || Ok(get(weir.ports.http, "demo.localhost", "/")?.status == 404))?;
    let explained = weir.ok(&["explain", "http://demo.localhost/x"])?;
    assert!(explained.contains("no route"), "{explained}");
    Ok(())
}

/// Requests that must be refused at the door, each on its own connection.
#[test]
fn malformed_requests_are_answered_and_closed() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let host = "Host: demo.localhost\r\n";
    let vectors: &[(&str, String, u16)] = &[
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("two hosts", format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), 400),
        ("bare LF", "GET / HTTP/1.1\nHost: demo.localhost\n\n".into(), 400),
        (
            "CL and TE",
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (
            "two lengths",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
            400,
        ),
        ("odd length", format!("POST / HTTP/1.1\r\n{host}Content-Length: +3\r\n\r\nabc"), 400),
        ("unknown coding", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\n"), 501),
        ("obs-fold", format!("GET / HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n"), 400),
        ("space before colon", format!("GET / HTTP/1.1\r\n{host}X : a\r\n\r\n"), 400),
        ("NUL", format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"), 400),
        ("asterisk", format!("GET * HTTP/1.1\r\n{host}\r\n"), 400),
        ("version", format!("GET / HTTP/3.0\r\n{host}\r\n"), 505),
        ("encoded slash", format!("GET /a%2fb HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), 400),
        ("other expectation", format!("GET / HTTP/1.1\r\n{host}Expect: miracles\r\n\r\n"), 417),
        ("large head", format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(70_000)), 431),
        ("many fields", format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: a\r\n".repeat(120)), 431),
    ];
    for (what, request, status) in vectors {
        let answer = exchange(weir.ports.http, request.as_bytes());
        let answer = answer.map_err(|e| e.context(*what))?;
        assert_eq!(answer.status, *status, "{what}: {}", answer.head);
        assert!(answer.head.to_lowercase().contains("connection: close"), "{what}: {}", answer.head);
    }
    assert_eq!(get(weir.ports.http, "demo.localhost", "/")?.status, 200);
    Ok(())
}
