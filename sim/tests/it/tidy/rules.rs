//! PURE. The rules. Each returns every breach of it.

#[cfg(test)]
mod tests;

use std::fmt;

use super::workspace::{Crate, File, Workspace, section};

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// A crate, or a file with its line.
    place: String,
    problem: String,
    why: &'static str,
    mend: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    why: {}\n    mend: {}", self.place, self.problem, self.why, self.mend)
    }
}

/// Who may depend on whom. `weir` and `sim` may depend on all; nothing depends on them.
const ARROWS: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("dialect", &["model"]),
    ("api", &["model"]),
    ("sys", &[]),
    ("store", &["api", "model"]),
    ("controller", &["store", "dialect", "api", "model"]),
    ("autoscaler", &["api", "model"]),
    ("node", &["sys", "api", "model"]),
    ("edge", &["sys", "api", "model", "dialect"]),
    ("loadtest", &["autoscaler", "api", "model"]),
];

/// The arrows of ARCHITECTURE.md, for tests too: a test that needs another crate belongs into `sim`.
pub(crate) fn arrows(workspace: &Workspace) -> Vec<Broken> {
    let ours: Vec<_> = workspace.crates.iter().map(|c| c.name.as_str()).collect();
    let mut broken = Vec::new();
    for krate in &workspace.crates {
        let allowed = ARROWS.iter().find(|(name, _)| *name == krate.name).map(|(_, allowed)| *allowed);
        for dependency in krate.dependencies.iter().filter(|d| ours.contains(&d.name.as_str())) {
            let to = dependency.name.as_str();
            let fine = match allowed {
                Some(allowed) => allowed.contains(&to),
                // A new crate must be put on the map before it may depend on anything of ours.
                None => ["weir", "sim"].contains(&krate.name.as_str()) && to != "weir" && to != "sim",
            };
            if !fine {
                broken.push(Broken {
                    place: krate.name.clone(),
                    problem: format!("depends on {to}"),
                    why: "edges, agents and the autoscaler must work without the store and the controller, and the \
                          pure crates without anything that does I/O",
                    mend: "move what is shared down (to model or api), or let weir hand it in; a new crate goes into \
                           ARCHITECTURE.md and into ARROWS first",
                });
            }
        }
    }
    broken
}

/// What makes a crate wait, read or write.
const IO: [&str; 14] = [
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tokio-rustls",
    "hyper",
    "hyper-util",
    "h2",
    "tonic",
    "tower",
    "sled",
    "raft",
    "rustix",
    "socket2",
    "tracing",
];

/// `model` and `dialect` are functions of their input.
pub(crate) fn purity(workspace: &Workspace) -> Vec<Broken> {
    let pure = workspace.crates.iter().filter(|c| ["model", "dialect"].contains(&c.name.as_str()));
    outside(
        pure,
        &IO,
        "the controller and every edge compile configurations with it and must get the same; tests run \
                        it millions of times",
        "pass in what was read, return what is to be written",
    )
}

/// `raft` and `sled` can be replaced by a change to one crate.
pub(crate) fn containment(workspace: &Workspace) -> Vec<Broken> {
    let others = workspace.crates.iter().filter(|c| c.name != "store");
    outside(
        others,
        &["raft", "protobuf", "sled"],
        "the consensus library and the database stay replaceable",
        "use store's own types: Handle, Txn, Watch",
    )
}

fn outside<'a>(
    crates: impl Iterator<Item = &'a Crate>,
    banned: &[&str],
    why: &'static str,
    mend: &'static str,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    for krate in crates {
        for dependency in krate.dependencies.iter().filter(|d| !d.dev && banned.contains(&d.name.as_str())) {
            let (place, problem) = (krate.name.clone(), format!("depends on {}", dependency.name));
            broken.push(Broken { place, problem, why, mend });
        }
    }
    broken
}

/// Every crate but `sys` forbids unsafe code at its root.
pub(crate) fn forbid_unsafe(workspace: &Workspace) -> Vec<Broken> {
    let roots = workspace.files.iter().filter(|f| is_root(&f.path) && !f.path.starts_with("sys/"));
    let open = roots.filter(|f| !f.text.contains("#![forbid(unsafe_code)]"));
    open.map(|f| Broken {
        place: f.path.clone(),
        problem: "does not forbid unsafe code".into(),
        why: "all unsafe code is in sys, where each block has its SAFETY line and is read twice",
        mend: "begin the crate with #![forbid(unsafe_code)]; what needs unsafe becomes a safe function of sys",
    })
    .collect()
}

/// `crate/src/lib.rs` or `crate/src/main.rs`.
fn is_root(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    matches!(parts[..], [_, "src", "lib.rs" | "main.rs"])
}

/// The longest source file, lines.
const MAX_LINES: usize = 800;

/// Source files are read as a whole.
pub(crate) fn length(workspace: &Workspace) -> Vec<Broken> {
    let long =
        sources(workspace).map(|f| (f, f.text.lines().count())).filter(|(_, lines)| *lines > MAX_LINES);
    long.map(|(f, lines)| Broken {
        place: f.path.clone(),
        problem: format!("has {lines} lines"),
        why: "a reader should be able to say that a file is right, which nobody does past 800 lines",
        mend: "split where a part has a small interface of its own; tests go to foo/tests.rs",
    })
    .collect()
}

/// Rust files under a crate's `src`.
fn sources(workspace: &Workspace) -> impl Iterator<Item = &File> {
    workspace.files.iter().filter(|f| f.path.ends_with(".rs") && f.path.contains("/src/"))
}

/// Where standard output and standard error belong to us: the command line, and the tests' harness.
const PRINTERS: [&str; 3] = ["weir/src/", "loadtest/src/cli.rs", "sim/src/"];

/// Libraries log; they do not print.
pub(crate) fn printing(workspace: &Workspace) -> Vec<Broken> {
    let libraries = sources(workspace).filter(|f| !PRINTERS.iter().any(|p| f.path.starts_with(p)));
    let macros = ["println!(", "print!(", "dbg!("];
    let mut broken = Vec::new();
    for file in libraries.filter(|f| !is_test(&f.path)) {
        for (number, line) in code_lines(&file.text) {
            // `eprintln!(` contains `println!(`: both are meant.
            if macros.iter().any(|m| line.contains(m)) {
                broken.push(Broken {
                    place: format!("{}:{number}", file.path),
                    problem: format!("prints: {}", line.trim()),
                    why: "a worker's standard output is its supervisor's log, and a command's is its answer",
                    mend: "use tracing, or return the text to weir",
                });
            }
        }
    }
    broken
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Lines with their numbers, comments and the tests at the file's end left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    code.map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// What the workspace declares, some crate uses.
pub(crate) fn unused(workspace: &Workspace) -> Vec<Broken> {
    let used = |name: &str| workspace.crates.iter().flat_map(|c| &c.dependencies).any(|d| d.name == name);
    let unused = workspace.shared.iter().filter(|name| !used(name));
    unused
        .map(|name| Broken {
            place: "Cargo.toml".into(),
            problem: format!("no crate uses {name}"),
            why: "a declared dependency looks decided; a reader asks what it is for",
            mend: "remove it from [workspace.dependencies]",
        })
        .collect()
}

/// Versions and features are in the workspace's manifest only.
pub(crate) fn declared_once(workspace: &Workspace) -> Vec<Broken> {
    let mut broken = Vec::new();
    for manifest in manifests(workspace) {
        let mut dependencies = false;
        for (index, line) in manifest.text.lines().enumerate() {
            if line.starts_with('[') {
                dependencies = line.trim_end().ends_with("dependencies]");
            } else if dependencies && line.contains('=') && !line.starts_with('#') && !from_workspace(line) {
                broken.push(Broken {
                    place: format!("{}:{}", manifest.path, index + 1),
                    problem: format!("declares {}", line.trim()),
                    why: "a crate built alone and the whole workspace share one build of a dependency only if its \
                          version and features are said once",
                    mend: "declare it in the workspace's Cargo.toml and write name.workspace = true here",
                });
            }
        }
    }
    broken
}

fn from_workspace(line: &str) -> bool {
    line.replace(' ', "").contains("workspace=true")
}

/// `crate/Cargo.toml`. A fuzz crate is a workspace of its own.
fn manifests(workspace: &Workspace) -> impl Iterator<Item = &File> {
    let depth = |path: &str| path.split('/').count();
    workspace.files.iter().filter(move |f| f.path.ends_with("/Cargo.toml") && depth(&f.path) == 2)
}

/// Lints are the same everywhere.
pub(crate) fn lints(workspace: &Workspace) -> Vec<Broken> {
    let without =
        manifests(workspace).filter(|m| !section(&m.text, "[lints]").iter().any(|key| key == "workspace"));
    without
        .map(|m| Broken {
            place: m.path.clone(),
            problem: "does not take the workspace's lints".into(),
            why: "a crate without them may unwrap, print and block unseen",
            mend: "add [lints] with workspace = true",
        })
        .collect()
}

/// An exception from a lint says why.
pub(crate) fn reasons(workspace: &Workspace) -> Vec<Broken> {
    let mut broken = Vec::new();
    for file in workspace.files.iter().filter(|f| f.path.ends_with(".rs") && !is_this(&f.path)) {
        for opening in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (at, _) in file.text.match_indices(opening) {
                let attribute = &file.text[at..];
                let end = attribute.find(")]").unwrap_or(attribute.len());
                if !attribute[..end].contains("reason") {
                    broken.push(Broken {
                        place: format!("{}:{}", file.path, file.text[..at].lines().count() + 1),
                        problem: format!("{} without a reason", attribute.lines().next().unwrap_or_default()),
                        why: "the next reader cannot tell a decision from a shortcut",
                        mend: "write #[expect(lint, reason = \"..\")]; expect also says when it is needed no more",
                    });
                }
            }
        }
    }
    broken
}

/// Whether this is the rules' own source, which names what it forbids.
fn is_this(path: &str) -> bool {
    path.starts_with("sim/tests/it/tidy/")
}

/// Tests of a crate's boundary are modules of `tests/it`.
pub(crate) fn one_test_binary(workspace: &Workspace) -> Vec<Broken> {
    let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let of_its_own = |path: &str| {
        let parts = parts(path);
        parts.len() >= 3 && parts[1] == "tests" && parts[2] != "it" && path.ends_with(".rs")
    };
    let more = workspace.files.iter().filter(|f| of_its_own(&f.path));
    more.map(|f| Broken {
        place: f.path.clone(),
        problem: "is a test binary of its own".into(),
        why: "each binary links the whole crate again, which is most of the time of a test run",
        mend: "make it a module of tests/it/main.rs",
    })
    .collect()
}

/// Directories that exist on one person's machine.
const MACHINE_PATHS: [&str; 5] = ["/work/", "/root/", "/home/", "/Users/", "/var/tmp/t/"];

/// What is written works on every machine.
pub(crate) fn machine_paths(workspace: &Workspace) -> Vec<Broken> {
    let mut broken = Vec::new();
    for file in workspace.files.iter().filter(|f| !is_this(&f.path)) {
        for (index, line) in file.text.lines().enumerate() {
            if MACHINE_PATHS.iter().any(|path| names(line, path)) {
                broken.push(Broken {
                    place: format!("{}:{}", file.path, index + 1),
                    problem: format!("names a directory of one machine: {}", line.trim()),
                    why: "a reader does not have it",
                    mend: "write a path from the repository's root, or a placeholder in capitals",
                });
            }
        }
    }
    broken
}

/// Whether `line` has `path` where a path begins: not in the middle of a URL or of a longer path.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"./-_}>*".contains(c))
    })
}
