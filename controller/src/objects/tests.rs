use serde_json::json;

use super::*;

fn sealer() -> (tempfile::TempDir, Sealer) {
    let directory = tempfile::tempdir().unwrap();
    let sealer = Sealer::from_file(&directory.path().join("kek")).unwrap();
    (directory, sealer)
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn key(kind: Kind) -> ObjectKey {
    ObjectKey { namespace: "default".into(), kind, name: "x".into() }
}

fn entry(kind: Kind, value: Vec<u8>) -> Entry {
    Entry {
        key: keys::object(&tenant(), &key(kind)).into(),
        value: value.into(),
        create_revision: Revision(3),
        mod_revision: Revision(5),
        version: 2,
    }
}

/// What is stored after `json` was applied over `old`.
fn applied(json: &Value, old: Option<&Stored>, kind: Kind, sealer: &Sealer) -> (Outcome, Option<Stored>) {
    let (outcome, value) = write(&tenant(), &key(kind), json, old, sealer).unwrap();
    (outcome, value.map(|value| Stored::read(&entry(kind, value)).unwrap()))
}

#[test]
fn the_generation_rises_when_the_spec_changes_and_only_then() {
    let (_directory, sealer) = sealer();
    let first = json!({"metadata": {"name": "x"}, "spec": {"a": 1}});
    let (outcome, stored) = applied(&first, None, Kind::Backend, &sealer);
    let stored = stored.unwrap();
    assert_eq!((outcome, stored.generation, stored.created), (Outcome::Created, Generation(1), Revision(3)));

    let (outcome, again) = applied(&first, Some(&stored), Kind::Backend, &sealer);
    assert!(outcome == Outcome::Unchanged && again.is_none());

    // As a read verb prints it.
    let read = json!({"metadata": {"name": "x"}, "spec": {"a": 1}, "status": {"generation": 1}});
    let (outcome, again) = applied(&read, Some(&stored), Kind::Backend, &sealer);
    assert!(outcome == Outcome::Unchanged && again.is_none());

    let labelled = json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"a": 1}});
    let (outcome, stored) = applied(&labelled, Some(&stored), Kind::Backend, &sealer);
    let stored = stored.unwrap();
    assert_eq!((outcome, stored.generation), (Outcome::Configured, Generation(1)));

    let changed = json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"a": 2}});
    let (_, stored) = applied(&changed, Some(&stored), Kind::Backend, &sealer);
    assert_eq!(stored.unwrap().generation, Generation(2));
}

#[test]
fn a_secret_is_sealed_and_redacted() {
    let (_directory, sealer) = sealer();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "x", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "CANARY"}},
        "data": {"tls.key": "CANARY"}, "stringData": {"more": "CANARY"}, "surprise": "CANARY",
    });
    let (_, value) = write(&tenant(), &key(Kind::Secret), &secret, None, &sealer).unwrap();
    let value = value.unwrap();
    assert!(!String::from_utf8(value.clone()).unwrap().contains("CANARY"));
    let stored = Stored::read(&entry(Kind::Secret, value)).unwrap();
    assert_eq!(stored.json["data"]["tls.key"], redact::REDACTED);
    assert_eq!(stored.unsealed(&sealer).unwrap(), secret);
    // Sealing draws a nonce: that alone is no change.
    let (outcome, _) = applied(&secret, Some(&stored), Kind::Secret, &sealer);
    assert_eq!(outcome, Outcome::Unchanged);
}

#[test]
fn a_record_of_another_version_is_an_error_not_a_panic() {
    for value in ["", "{}", "[]", r#"{"generation":1,"json":{},"later":1}"#] {
        assert!(Stored::read(&entry(Kind::Backend, value.as_bytes().to_vec())).is_err(), "{value}");
    }
}
