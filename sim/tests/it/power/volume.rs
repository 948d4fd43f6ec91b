//! An ext4 file system in a file, whose power can be cut.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sim::harness::{has, pause, tell};
use tempfile::TempDir;

/// The image is sparse.
const BYTES: u64 = 256 << 20;
/// Whoever holds a file open there lets go of it by then.
const BUSY: Duration = Duration::from_secs(10);

/// A loop-mounted ext4. Unmounted and removed when it is dropped.
#[derive(Debug)]
pub(super) struct Volume {
    root: PathBuf,
    image: PathBuf,
    mounted: bool,
    _directory: TempDir,
}

impl Volume {
    /// A new one, mounted; `None`, with a word why, where the machine does not allow it.
    pub(super) fn new(test: &str) -> Result<Option<Self>> {
        if !["mkfs.ext4", "mount", "umount"].iter().all(|program| has(program, "-V")) {
            return Ok(None);
        }
        // In memory where that is possible: it is the file system's own cache that the cut loses, not the image's.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }?;
        let (root, image) = (directory.path().join("mnt"), directory.path().join("image"));
        std::fs::create_dir(&root)?;
        File::create(&image)?.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mut volume = Self { root, image, mounted: false, _directory: directory };
        let tried = volume.mount().and_then(|()| volume.cut()).and_then(|()| volume.mount_again());
        if let Err(error) = tried {
            tell(&format!("SKIPPED: {test}: no power cuts on this machine: {error:#}"));
            return Ok(None);
        }
        Ok(Some(volume))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What is not on the disk is lost.
    pub(super) fn cut(&self) -> Result<()> {
        let directory = File::open(&self.root).context("open the mounted directory")?;
        sys::powercut::cut_power(directory.as_fd()).context("shut the file system down")
    }

    /// As after the power is back: the file system recovers its journal.
    pub(super) fn mount_again(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<()> {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&self.image).arg(&self.root))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        let until = Instant::now() + BUSY;
        // A process that another test is starting has a copy of our descriptors until it executes its program.
        while let Err(error) = run(Command::new("umount").arg(&self.root)) {
            ensure!(Instant::now() < until, error);
            pause();
        }
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            // A child of a test that failed may still have files open there.
            run(Command::new("umount").arg("-l").arg(&self.root)).ok();
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
