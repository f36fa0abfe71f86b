//! `fifo`: two processes meet at a path.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use ipctrace_common::Mechanism;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::Demo;
use super::stage::{self, Folder, Stage};
use super::truth::Truth;

pub(super) const DEMO: Demo = Demo {
    name: "fifo",
    summary: "a writer and a reader meet at a path in the file system",
    story: "Each opens the FIFO by its path, neither knows the other. Look for the path in the channel.",
    mechanisms: &[Mechanism::Fifo],
    play,
};

/// Sizes of the writes; the last ones do not fit a buffer of the reader.
const WRITES: [usize; 4] = [10, 1000, 4096, 20_000];

fn play(stage: &Stage) -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().join("jobs");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).context("making a FIFO")?;
    let writer = stage.child("producer", |stage| produce(stage, &path))?;
    let reader = stage.child("consumer", |stage| consume(stage, &path))?;
    stage.reap(&[writer, reader])
}

fn produce(stage: &Stage, path: &Path) -> Result<()> {
    let fifo = OwnedFd::from(File::options().write(true).open(path)?);
    for size in WRITES {
        stage::write_all(&fifo, &stage.marked(size))?;
    }
    stage.sent("fifo", WRITES.iter().sum(), None)
}

fn consume(stage: &Stage, path: &Path) -> Result<()> {
    let fifo = OwnedFd::from(File::open(path)?);
    let bytes = stage::read_to_end(&fifo, 4096)?;
    let id = stage::fifo_id(&fifo)?;
    stage.tell(&Truth::Named { channel: id.clone(), name: path.display().to_string() })?;
    stage.heard("fifo", Some(id), &bytes)
}
