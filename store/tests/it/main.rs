//! The store at its boundary: one server on a real directory, three servers in one process, and a simulation of
//! three servers whose every run is given by its seed.
#![expect(clippy::unwrap_used, reason = "tests; the lint's exception does not know helpers")]

mod cluster;
mod crash;
mod failure;
mod faults;
mod model;
mod peers;
mod rot;
mod sim;
mod single;
mod transactions;
mod watch;

use std::{fs::File, io, path::Path, sync::Arc, time::Duration};

use store::{
    Config, Handle, Store,
    fatal::{Fatal, OnFatal},
    files::FileSystem,
};

/// Small files and a quick clock.
fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.segment = 64 << 10;
    config.tick = Duration::from_millis(10);
    // The default ends the whole run without a word.
    config.on_fatal = OnFatal(Arc::new(|fatal| {
        last_words(fatal);
        std::process::abort()
    }));
    config
}

/// What a store says that cannot go on.
#[expect(clippy::print_stderr, reason = "a test's last words")]
fn last_words(fatal: &Fatal) {
    eprintln!("a store of a test cannot go on: {fatal:?}");
}

/// For tests that open thousands of directories.
#[derive(Debug)]
struct Unsynced;

impl FileSystem for Unsynced {
    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

async fn open(dir: &Path) -> Handle {
    Store::open(config(dir)).await.unwrap()
}
