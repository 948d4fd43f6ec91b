//! Realistic files, and what they amount to. `UPDATE_GOLDEN=1 cargo test -p dialect` writes the expected files anew.

use std::{fs, path::Path};

use dialect::{Environment, SourceFile};
use model::{CompileLimits, RouteTable};

use crate::set::demo;

fn read(path: &Path) -> SourceFile {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    SourceFile { name, content: fs::read_to_string(path).unwrap() }
}

/// Compiles the files and compares configuration, statuses and warnings with `golden/<name>.json`.
#[track_caller]
fn check(name: &str, files: &[SourceFile], environment: &Environment) {
    let objects = dialect::parse(files).unwrap_or_else(|mistakes| {
        panic!("{}", mistakes.iter().map(|m| format!("{m}\n")).collect::<String>());
    });
    let compiled = dialect::compile(&objects, environment);
    assert_eq!(compiled.mistakes, []);
    if let Err(errors) = RouteTable::compile(&compiled.config, &CompileLimits::default()) {
        panic!("{errors:#?}");
    }
    let warnings: Vec<String> = compiled.warnings.iter().map(ToString::to_string).collect();
    let value = serde_json::json!({
        "config": compiled.config,
        "statuses": compiled.statuses,
        "warnings": warnings,
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/golden/{name}.json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expect = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expect, "{} differs; if that is right, run with UPDATE_GOLDEN=1\n{text}", path.display());
}

fn golden(name: &str) -> SourceFile {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/golden/{name}.yaml")))
}

#[test]
fn the_quickstart_compiles() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart");
    let files = ["backend.yaml", "gateway.yaml", "route.yaml"].map(|name| read(&directory.join(name)));
    check("quickstart", &files, &demo());
}

#[test]
fn a_shop_compiles() {
    check("shop", &[golden("shop")], &demo());
}

#[test]
fn a_static_proxy_compiles() {
    check("static", &[golden("static")], &Environment::standalone("static".parse().unwrap()));
}

#[test]
fn several_teams_compile() {
    check("teams", &[golden("teams")], &demo());
}

#[test]
fn static_examples_compile_without_a_warning() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/static");
    for name in [
        "clients.yaml",
        "proxy.yaml",
        "upstreams.yaml",
        "grpc.yaml",
        "proxy-protocol.yaml",
        "sessions.yaml",
        "streams.yaml",
        "observe.yaml",
    ] {
        let objects = dialect::parse(&[read(&directory.join(name))]).unwrap();
        let compiled = dialect::compile(&objects, &Environment::standalone("static".parse().unwrap()));
        assert_eq!((compiled.mistakes, compiled.warnings), (vec![], vec![]), "{name}");
        assert!(!compiled.config.backends.is_empty(), "{name}");
    }
}
