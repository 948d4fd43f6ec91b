//! What readers see of a secret.

use serde_json::{Map, Value, json};

/// Stands for a value that is write-only.
pub(super) const REDACTED: &str = "<redacted>";

/// A secret without its data. What is kept is listed, what is not listed is dropped: kubectl's
/// `last-applied-configuration` annotation, for one, repeats the data.
pub(super) fn redact(secret: &Value) -> Value {
    let mut shown = Map::new();
    for field in ["apiVersion", "kind", "type", "immutable"] {
        if let Some(value) = secret.get(field) {
            shown.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(metadata) = secret.get("metadata") {
        let kept = ["name", "namespace", "labels"]
            .into_iter()
            .filter_map(|field| Some((field.to_owned(), metadata.get(field)?.clone())));
        shown.insert("metadata".to_owned(), Value::Object(kept.collect()));
    }
    for field in ["data", "stringData"] {
        if let Some(data) = secret.get(field).and_then(Value::as_object) {
            let names = data.keys().map(|name| (name.clone(), json!(REDACTED)));
            shown.insert(field.to_owned(), Value::Object(names.collect()));
        }
    }
    Value::Object(shown)
}
