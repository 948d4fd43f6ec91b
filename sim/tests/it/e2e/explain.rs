//! `weir explain --request`: what became of a request, through the whole installation.

use anyhow::{Context as _, Result};
use sim::harness::{Installation, get};

use super::{PATIENCE, one_at_a_time};

#[test]
fn a_past_request_is_explained_to_its_tenant_and_to_nobody_else() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    weir.ok(&["tenant", "create", "other"])?;
    let answer = get(weir.ports.http, "demo.localhost", "/some/path?secret=1")?;
    assert_eq!(answer.status, 200);
    let id = answer.header("x-request-id").context("the answer names its request")?.to_owned();
    let mut told = serde_json::Value::Null;
    // It is remembered when its last byte is on the way.
    weir.wait(PATIENCE, "the request is known", || {
        let output = weir.weir(&["explain", "--request", &id, "-t", "demo", "-o", "json"])?;
        told = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(output.status.success())
    })?;
    assert_eq!((&told["tenant"], &told["status"]), (&"demo".into(), &200.into()), "{told:#}");
    assert_eq!((&told["path"], &told["rule"]), (&"/some/path".into(), &"spec.rules[0]".into()), "{told:#}");
    assert!(told["tries"][0]["answered_us"].is_u64() && told["worker"].is_string(), "{told:#}");

    let missing = get(weir.ports.http, "nobody.localhost", "/")?;
    assert_eq!(missing.status, 404);
    let lost = missing.header("x-request-id").context("refusals are named, too")?.to_owned();
    let text = weir.ok(&["explain", "--request", &lost])?;
    assert!(text.contains("unknown_host") && text.contains("404"), "{text}");

    for (id, tenant) in [(&id, "other"), (&lost, "demo")] {
        let output = weir.weir(&["explain", "--request", id, "-t", tenant])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("workers knows this request"), "{tenant}: {text}");
    }
    Ok(())
}
