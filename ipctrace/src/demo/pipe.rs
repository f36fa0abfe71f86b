//! `pipe`: two writers, one reader.

use anyhow::Result;
use ipctrace_common::Mechanism;
use nix::unistd::pipe;

use super::Demo;
use super::stage::{self, Stage};

pub(super) const DEMO: Demo = Demo {
    name: "pipe",
    summary: "two writers and one reader share a pipe",
    story: "The reader takes 997 bytes at a time, the writers put in 64 and 100: what it takes cuts across what\n\
            they wrote. Look for transfers of both writers to the same reader at the same moment.",
    mechanisms: &[Mechanism::Pipe],
    play,
};

/// Writes of each writer, and their size.
const WRITERS: [(&str, usize, usize); 2] = [("writer-a", 300, 64), ("writer-b", 200, 100)];

/// What the reader takes at a time. It has no factor in common with either size, so that the borders of reads and
/// writes hardly ever meet.
const PORTION: usize = 997;

fn play(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let mut children = Vec::new();
    for (name, count, size) in WRITERS {
        children.push(stage.child(name, |stage| {
            stage::close(&reader)?;
            stage.wait_for(0, 1)?;
            for _ in 0..count {
                stage::write_all(&writer, &stage.marked(size))?;
            }
            stage.sent("pipe", count * size, None)
        })?);
    }
    children.push(stage.child("reader", |stage| {
        stage::close(&writer)?;
        stage.raise(0);
        let bytes = stage::read_to_end(&reader, PORTION)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?);
    drop((reader, writer));
    stage.reap(&children)
}
