//! The workspace as data: its crates from `cargo metadata`, its files as text.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 5] = ["target", ".git", "weir-data", "node_modules", "corpus"];
/// Files that rules look at.
const READ: [&str; 8] = ["rs", "toml", "md", "yaml", "yml", "proto", "sh", "run"];

/// What the rules look at.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) crates: Vec<Crate>,
    /// Names in `[workspace.dependencies]`.
    pub(crate) shared: Vec<String>,
    pub(crate) files: Vec<File>,
}

#[derive(Debug)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Whether tests alone need it.
    pub(crate) dev: bool,
}

#[derive(Debug)]
pub(crate) struct File {
    /// From the workspace's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Workspace {
    /// Reads the workspace that this test is built in.
    pub(crate) fn read() -> Self {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("sim is a directory of the workspace");
        let mut files = Vec::new();
        walk(root, root, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace has a Cargo.toml");
        Self { crates: crates(root), shared: section(&manifest, "[workspace.dependencies]"), files }
    }
}

fn crates(root: &Path) -> Vec<Crate> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root);
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    packages
        .iter()
        .map(|package| Crate { name: text(&package["name"]), dependencies: dependencies(package) })
        .collect()
}

fn dependencies(package: &Value) -> Vec<Dependency> {
    let listed = package["dependencies"].as_array().expect("a package lists its dependencies");
    listed.iter().map(|d| Dependency { name: text(&d["name"]), dev: d["kind"] == "dev" }).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a name is a string").to_owned()
}

/// The keys of one section of a TOML file in which each key has a line of its own.
pub(crate) fn section(manifest: &str, header: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let keys = lines.filter_map(|line| line.split_once('=')).map(|(key, _)| key.trim());
    keys.filter(|key| !key.starts_with('#'))
        .map(|key| key.trim_end_matches(".workspace").to_owned())
        .collect()
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(directory).expect("a directory of the workspace can be read") {
        let path = entry.expect("a directory's entry can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(root, &path, files);
            }
        } else if READ.contains(&name.rsplit('.').next().unwrap_or_default())
            // Gone since it was listed, or not text: not a file of ours.
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path =
                path.strip_prefix(root).expect("walked from the root").to_string_lossy().replace('\\', "/");
            files.push(File { path, text });
        }
    }
}
