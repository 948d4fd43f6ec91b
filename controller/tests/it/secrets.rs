//! A secret's bytes are nowhere but where they are needed.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use api::{
    admin::{ListRequest, WatchRequest},
    pki::Ca,
};

use crate::harness::{Harness, apply, get, key, within};

/// A line of the key that is unlikely to be anywhere by chance.
fn canary(key_pem: &str) -> String {
    key_pem.lines().nth(1).unwrap()[..40].to_owned()
}

fn files_with(directory: &Path, needle: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with(&path, needle, found);
        } else {
            let bytes = fs::read(&path).unwrap();
            if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[tokio::test]
async fn a_private_key_is_in_no_file_and_no_answer() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let ca = Ca::create("users", SystemTime::now()).unwrap();
    let hosts = ["acme.localhost".to_owned()];
    let pair = ca.issue_serving(&hosts, Duration::from_secs(3600), SystemTime::now()).unwrap();
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let content = format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: tls}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g, labels: {{marker: visible-marker}}}}
spec:
  gatewayClassName: weir
  listeners:
    - name: https
      port: 443
      protocol: HTTPS
      tls: {{certificateRefs: [{{name: tls}}]}}
",
        indent(&pair.cert_pem),
        indent(&pair.key_pem)
    );
    let revision = apply(&acme, "acme", &content).await;
    let canary = canary(&pair.key_pem);

    // The edges do get it.
    let mut world = harness.controller.world();
    let world = within(world.wait_for(|world| world.revision.0 >= revision)).await.unwrap().clone();
    let snapshot = world.tenants["acme"].snapshot.clone().unwrap();
    assert_eq!(snapshot.config().unwrap().certificates.len(), 1);
    assert!(String::from_utf8_lossy(&snapshot.bytes).contains(&canary));

    let object = get(&acme, key("acme", "Secret", "tls")).await.unwrap();
    assert!(object.json.contains("tls.key"), "its names are shown");
    let list = ListRequest { tenant: "acme".into(), ..Default::default() };
    let list = acme.objects.clone().list(list).await.unwrap().into_inner();
    let watch = WatchRequest { tenant: "acme".into(), from_revision: revision, ..Default::default() };
    let mut watch = acme.objects.clone().watch(watch).await.unwrap().into_inner();
    let event = within(watch.message()).await.unwrap().unwrap();
    for answer in [format!("{object:?}"), format!("{list:?}"), format!("{event:?}")] {
        assert!(answer.contains("redacted") && !answer.contains(&canary), "{answer}");
    }

    harness.store.shutdown().await;
    let mut found = vec![];
    files_with(harness.directory.path(), "visible-marker", &mut found);
    assert!(!found.is_empty(), "the search finds what is there");
    found.clear();
    files_with(harness.directory.path(), &canary, &mut found);
    assert!(found.is_empty(), "{found:?}");
    files_with(harness.directory.path(), &harness.platform_token, &mut found);
    assert!(found.is_empty(), "{found:?}");
}
