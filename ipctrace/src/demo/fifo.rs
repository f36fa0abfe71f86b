//! `fifo`: two processes meet at a path.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipctrace_common::Mechanism;
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::unistd::{mkdtemp, mkfifo};

use super::Demo;
use super::stage::{self, Stage};

pub(super) const DEMO: Demo = Demo {
    name: "fifo",
    summary: "a writer and a reader meet at a path in the file system",
    story: "Each opens the FIFO by its path, neither knows the other. Look for the path in the channel.",
    mechanisms: &[Mechanism::Fifo],
    play,
};

fn play(stage: &Stage) -> Result<()> {
    let folder = mkdtemp(&std::env::temp_dir().join("ipctrace-demo-XXXXXX"))?;
    let path = folder.join("jobs");
    let played = mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
        .context("making a FIFO")
        .and_then(|()| at_the_fifo(stage, &path));
    // Also if it failed: nothing is to stay behind.
    std::fs::remove_dir_all(&folder)?;
    played
}

fn at_the_fifo(stage: &Stage, path: &PathBuf) -> Result<()> {
    let writer = stage.child("producer", |stage| {
        let fifo = OwnedFd::from(File::options().write(true).open(path)?);
        for size in [10, 1000, 4096, 20_000] {
            stage::write_all(&fifo, &stage.marked(size))?;
        }
        Ok(())
    })?;
    let reader = stage.child("consumer", |stage| {
        let fifo = OwnedFd::from(File::open(path)?);
        let bytes = stage::read_to_end(&fifo, 4096)?;
        let status = fstat(&fifo)?;
        let id = format!("fifo:[{}:{}:{}]", major(status.st_dev), minor(status.st_dev), status.st_ino);
        stage.heard("fifo", Some(id), &bytes)
    })?;
    stage.reap(&[writer, reader])
}
