//! The key-encryption key is replaced while secrets are in use.

use std::{
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use api::{
    admin::{ResealRequest, ResealResponse, RetireKeyRequest, SealingStatusRequest, SealingStatusResponse},
    pki::Ca,
};
use store::{Read, Revision, seal};
use tonic::{Code, Status};

use crate::harness::{Harness, apply, get, key, within};

/// A TLS secret; `value` changes with its metadata.
fn secret(name: &str, value: &str) -> String {
    static PAIR: LazyLock<String> = LazyLock::new(|| {
        let ca = Ca::create("users", SystemTime::now()).unwrap();
        let hosts = ["acme.localhost".to_owned()];
        let pair = ca.issue_serving(&hosts, Duration::from_secs(3600), SystemTime::now()).unwrap();
        let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        format!("  tls.crt: |\n{}  tls.key: |\n{}", indent(&pair.cert_pem), indent(&pair.key_pem))
    });
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, annotations: {{is: {value}}}}}\n\
         type: kubernetes.io/tls\nstringData:\n{}",
        *PAIR
    )
}

impl Harness {
    fn key_file(&self) -> PathBuf {
        self.directory.path().join("kek")
    }

    async fn sealing(&self) -> SealingStatusResponse {
        self.platform().secrets.sealing_status(SealingStatusRequest {}).await.unwrap().into_inner()
    }

    async fn reseal(&self, key: impl ToString) -> Result<ResealResponse, Status> {
        let request = ResealRequest { key: key.to_string() };
        Ok(self.platform().secrets.reseal(request).await?.into_inner())
    }

    async fn retire(&self, key: impl ToString, forget_history: bool) -> Result<(), Status> {
        let request = RetireKeyRequest { key: key.to_string(), forget_history };
        self.platform().secrets.retire_key(request).await.map(drop)
    }

    /// How many values need each key: now, and in history.
    async fn uses(&self) -> Vec<(String, u64, u64)> {
        self.sealing().await.keys.into_iter().map(|key| (key.id, key.values, key.past_values)).collect()
    }
}

#[tokio::test]
async fn a_key_is_replaced_and_dropped_when_nothing_needs_it() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let many: String = (0..250).map(|n| secret(&format!("s{n}"), "first") + "---\n").collect();
    apply(&acme, "acme", &many).await;
    let last = apply(&acme, "acme", &secret("s0", "second")).await;
    let [old] = seal::key_ids(&harness.key_file()).unwrap()[..] else { panic!("one key") };
    // And the ticket keys.
    assert_eq!(harness.uses().await, [(old.to_string(), 251, 1)]);

    let strange = "0123456789abcdef";
    let refused = harness.reseal(strange).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("1"), "{refused}");

    let new = seal::add_key(&harness.key_file()).unwrap();
    assert_eq!(harness.sealing().await.current, old.to_string(), "nothing is chosen by itself");
    assert_eq!(harness.retire(old, true).await.unwrap_err().code(), Code::FailedPrecondition, "it seals");
    let first = harness.reseal(new).await.unwrap();
    assert!(first.resealed == 100 && first.remaining > 0 && first.failed.is_empty(), "{first:?}");
    // What is written meanwhile is sealed with the new one.
    apply(&acme, "acme", &secret("s249", "second")).await;
    let refused = harness.retire(old, true).await.unwrap_err();
    assert!(refused.message().contains("Seal them anew"), "{refused}");
    // Again, as after an interruption.
    while harness.reseal(new).await.unwrap().remaining > 0 {}
    assert_eq!(harness.sealing().await.current, new.to_string());

    let object = get(&acme, key("acme", "Secret", "s7")).await.unwrap();
    assert!(object.json.contains("redacted") && object.generation == 1, "{object:?}");
    let refused = harness.retire(old, false).await.unwrap_err();
    assert!(refused.message().contains("history") && refused.message().contains("252"), "{refused}");
    assert!(harness.store.get("objects/acme/Secret/default/s0", Read::At(Revision(last - 1))).await.is_ok());
    harness.retire(old, true).await.unwrap();
    assert!(seal::drop_key(&harness.key_file(), old).unwrap());
    assert_eq!(harness.uses().await, [(new.to_string(), 251, 0)]);
    apply(&acme, "acme", &secret("s1", "second")).await;

    let notes = harness.store.audit(Revision(harness.store.status().compacted.0 + 1), 1000).unwrap();
    let notes: Vec<_> = notes.into_iter().map(|record| record.note.to_string()).collect();
    assert!(notes.iter().any(|note| *note == format!("retire key {old}")), "{notes:?}");
}

#[tokio::test]
async fn only_the_platforms_administrator_rotates() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let refused = acme.secrets.clone().sealing_status(SealingStatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = acme.secrets.clone().reseal(ResealRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(harness.reseal("not a key").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_value_that_does_not_open_is_named_and_keeps_no_other_back() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    apply(&acme, "acme", &(secret("a", "1") + "---\n" + &secret("b", "2"))).await;
    let new = seal::add_key(&harness.key_file()).unwrap();
    // One of them has rotted.
    let name = "objects/acme/Secret/default/a";
    let entry = harness.store.get(name, Read::Local).await.unwrap().unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    // The key's id is in the first twelve digits of its base64.
    let sealed = record["sealed"].as_str().unwrap();
    record["sealed"] = format!("{}zzzz{}", &sealed[..20], &sealed[24..]).into();
    let txn = store::Txn::new("test").put(name, serde_json::to_vec(&record).unwrap());
    harness.store.txn(txn).await.unwrap();
    let answer = within(harness.reseal(new)).await.unwrap();
    assert_eq!((answer.resealed, answer.remaining), (2, 1));
    assert!(answer.failed[0].contains("Secret/default/a"), "{answer:?}");
}
