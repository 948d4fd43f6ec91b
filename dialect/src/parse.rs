//! Text to objects: documents are split, read as YAML (of which JSON is a part), and checked one by one.

mod documents;

use serde_json::Value;

use crate::{
    DEFAULT_NAMESPACE, Kind, Mistake, Object, ObjectKey, Source, SourceFile, name,
    read::{Fields, Node, Problems, alternatives, nearest},
    spec::Spec,
};

/// Reported at most: past this, nobody reads on.
const MAX_MISTAKES: usize = 256;

/// Kinds that people try and that mean something elsewhere, with what to do here.
const KINDS_ELSEWHERE: [(&str, &str); 2] = [
    ("Service", "describe its endpoints as a Backend of weir.dev/v1"),
    ("GatewayClass", "leave it out; the class is always \"weir\""),
];

/// The objects of these files: YAML or JSON, any number of documents each, also inside of a `kind: List`.
///
/// # Errors
/// All mistakes of all documents together.
pub fn parse(files: &[SourceFile]) -> Result<Vec<Object>, Vec<Mistake>> {
    let mut objects = vec![];
    let mut mistakes = vec![];
    for file in files {
        for document in documents::split(file) {
            match document.and_then(|(source, json)| parse_document(&source, json)) {
                Ok(parsed) => objects.extend(parsed),
                Err(wrong) => mistakes.extend(wrong),
            }
            if mistakes.len() >= MAX_MISTAKES {
                mistakes.truncate(MAX_MISTAKES);
                return Err(mistakes);
            }
        }
    }
    mistakes.extend(twice(&objects));
    if mistakes.is_empty() { Ok(objects) } else { Err(mistakes) }
}

/// The object or the list of objects of a document.
fn parse_document(source: &Source, mut json: Value) -> Result<Vec<Object>, Vec<Mistake>> {
    let is_list = json.get("kind").and_then(Value::as_str) == Some("List");
    let items = match json.get_mut("items").and_then(Value::as_array_mut) {
        Some(items) if is_list => std::mem::take(items),
        _ => return parse_value(source, json).map(|object| vec![object]),
    };
    let mut objects = vec![];
    let mut mistakes = vec![];
    for item in items {
        match parse_value(source, item) {
            Ok(object) => objects.push(object),
            Err(wrong) => mistakes.extend(wrong),
        }
    }
    if mistakes.is_empty() { Ok(objects) } else { Err(mistakes) }
}

/// Objects that are there twice.
fn twice(objects: &[Object]) -> Vec<Mistake> {
    let mut seen = std::collections::HashMap::new();
    let mut mistakes = vec![];
    for object in objects {
        if let Some(first) = seen.insert(&object.key, &object.source) {
            let first = format!("{}:{}", first.file, first.line);
            let problem = format!("the object is there twice, first in {first}");
            mistakes.push(
                Mistake::at(&object.source, &object.key, "")
                    .because(problem, "remove one, or name it differently"),
            );
        }
    }
    mistakes
}

/// The object that `json` describes; `source` says where it is from.
///
/// # Errors
/// All mistakes of the object together.
pub fn parse_value(source: &Source, json: Value) -> Result<Object, Vec<Mistake>> {
    let problems = Problems::default();
    let parsed = read_object(&Node::root(&json, &problems));
    let problems = problems.into_list();
    match parsed {
        Some((key, spec)) if problems.is_empty() => {
            Ok(Object { key, spec, json, source: source.clone(), created: None })
        }
        _ => {
            let object = label(&json);
            let mistake = |p: crate::read::Problem| Mistake {
                file: source.file.clone(),
                line: source.line,
                object: object.clone(),
                field: p.field,
                problem: p.problem,
                fix: p.fix,
            };
            Err(problems.into_iter().map(mistake).collect())
        }
    }
}

/// `HTTPRoute default/shop`, as far as the document says so.
fn label(json: &Value) -> String {
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).filter(|t| t.len() <= 253);
    let namespace = text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE);
    match (text("/kind"), text("/metadata/name")) {
        (Some(kind), Some(name)) => format!("{kind} {namespace}/{name}"),
        (Some(kind), None) => kind.to_owned(),
        (None, Some(name)) => format!("{namespace}/{name}"),
        (None, None) => String::new(),
    }
}

fn read_object(root: &Node<'_>) -> Option<(ObjectKey, Spec)> {
    let mut fields = root.fields()?;
    let kind = read_kind(&mut fields);
    let key = fields.required("metadata").and_then(|node| read_metadata(&node));
    fields.ignore(&["status"]);
    // The rest is read even when the name is missing, so that all mistakes are told at once. An unknown kind
    // may have any fields.
    let kind = kind?;
    let spec = Spec::read(kind, &mut fields);
    fields.finish();
    let (namespace, name) = key?;
    Some((ObjectKey { namespace, kind, name }, spec?))
}

fn read_kind(fields: &mut Fields<'_>) -> Option<Kind> {
    let version = fields.required("apiVersion").and_then(|node| Some((node.text()?, node)));
    let node = fields.required("kind")?;
    let text = node.text()?;
    let Some(kind) = Kind::parse(text) else {
        let names = Kind::ALL.map(Kind::as_str);
        let elsewhere = KINDS_ELSEWHERE.iter().find(|(name, _)| *name == text);
        let fix = match (elsewhere, nearest(text, names)) {
            (Some((_, fix)), _) => (*fix).to_owned(),
            (None, Some(near)) => format!("did you mean {near}?"),
            (None, None) => format!("use {}", alternatives(&names)),
        };
        node.wrong(format!("{text:?} is not a kind that Weir knows"), fix);
        return None;
    };
    if let Some((text, node)) = version
        && !kind.api_versions().contains(&text)
    {
        node.wrong(format!("{text:?} has no kind {kind}"), format!("use {}", kind.api_versions()[0]));
    }
    Some(kind)
}

/// Namespace and name.
fn read_metadata(node: &Node<'_>) -> Option<(String, String)> {
    let mut fields = node.fields()?;
    let own = fields.required("name").and_then(|node| name::name(&node));
    let namespace = match fields.optional("namespace") {
        Some(node) => name::namespace(&node),
        None => Some(DEFAULT_NAMESPACE.to_owned()),
    };
    for name in ["labels", "annotations"] {
        if let Some(node) = fields.optional(name) {
            node.fields();
        }
    }
    // Set by a Kubernetes API server; `kubectl get -o yaml` prints them.
    fields.ignore(&[
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generation",
        "managedFields",
        "selfLink",
        "finalizers",
        "ownerReferences",
    ]);
    fields.finish();
    Some((namespace?, own?))
}
