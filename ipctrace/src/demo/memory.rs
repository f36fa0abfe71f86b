//! `sysv_shm`, `posix_shm`, `memfd`, `shared_file`, `shared_anon`: one process writes to a page, another reads it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use ipctrace_common::Mechanism;
use nix::fcntl::OFlag;
use nix::libc::{IPC_CREAT, IPC_EXCL, SHM_RDONLY};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{ProtFlags, shm_open, shm_unlink};
use nix::sys::stat::Mode;
use nix::unistd::ftruncate;

use super::Demo;
use super::stage::{self, Folder, Memory, PAGE, Segment, Stage};
use super::truth::Truth;

pub(super) const SYSV_SHM: Demo = Demo {
    name: "sysv_shm",
    summary: "a segment that one process writes to and another attaches for reading",
    story: "The writer makes the segment and writes to it; the reader attaches it read-only. Look for the line of\n\
            evidence from writer to reader, and for the one flow: the reader cannot write.",
    mechanisms: &[Mechanism::SysvShm],
    play: sysv_shm,
};

pub(super) const POSIX_SHM: Demo = Demo {
    name: "posix_shm",
    summary: "a named piece of memory that two processes open by its name",
    story: "The writer makes it with shm_open, the reader opens it for reading, and the writer unlinks it: its name is\n\
            gone, the memory stays until both have unmapped it.",
    mechanisms: &[Mechanism::PosixShm],
    play: posix_shm,
};

pub(super) const MEMFD: Demo = Demo {
    name: "memfd",
    summary: "memory without a name in any directory, shared by its descriptor",
    story: "The stage makes it and maps it nowhere; its children inherit the descriptor and map it. The second is\n\
            ended by the end of its process, not by munmap.",
    mechanisms: &[Mechanism::Memfd],
    play: memfd,
};

pub(super) const SHARED_FILE: Demo = Demo {
    name: "shared_file",
    summary: "an ordinary file that two processes have mapped",
    story: "The reader maps it first, which is nobody's business; once the writer maps it for writing both are told.",
    mechanisms: &[Mechanism::SharedFile],
    play: shared_file,
};

pub(super) const SHARED_ANON: Demo = Demo {
    name: "shared_anon",
    summary: "memory that children have from their parent",
    story: "The stage maps it and forks: its children are attached from their first moment on, and can all write.\n\
            The other piece of anonymous memory is the one in which the demo keeps order among its processes.",
    mechanisms: &[Mechanism::SharedAnon],
    play: shared_anon,
};

/// Flags: the memory is there; it has been written to.
const MADE: usize = 0;
const WRITTEN: usize = 1;
/// Place of a number: the id of a segment.
const ID: usize = 0;

const READ: ProtFlags = ProtFlags::PROT_READ;
const WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

fn sysv_shm(stage: &Stage) -> Result<()> {
    let key = 0x0100_0000 | std::process::id() as i32;
    let writer = stage.child("writer", |stage| {
        let id = Segment::get(key, IPC_CREAT | IPC_EXCL | 0o600)?;
        stage.put(ID, id as u64);
        let channel = format!("sysv_shm:{id}");
        stage.tell(&Truth::Named { channel: channel.clone(), name: format!("{key:#x}") })?;
        stage.shared(&channel, "create rw")?;
        let segment = Segment::attach(id, 0)?;
        stage.shared(&channel, "attach rw")?;
        segment.write(stage.mark());
        stage.raise(WRITTEN);
        stage.wait_for(MADE, 1)?;
        Segment::remove(id)?;
        stage.shared(&channel, "remove rw")?;
        segment.detach()?;
        stage.shared(&channel, "detach rw")
    })?;
    let reader = stage.child("reader", |stage| {
        stage.wait_for(WRITTEN, 1)?;
        let channel = format!("sysv_shm:{}", stage.get(ID));
        let segment = Segment::attach(stage.get(ID) as i32, SHM_RDONLY)?;
        stage.shared(&channel, "attach r")?;
        stage.saw(&channel, segment.read())?;
        stage.raise(MADE);
        segment.detach()?;
        stage.shared(&channel, "detach r")
    })?;
    stage.reap(&[writer, reader])
}

/// Maps a file, leaves this process's mark in it and unmaps it once somebody has seen it.
fn write(stage: &Stage, file: &OwnedFd, channel: &str) -> Result<()> {
    let memory = Memory::of(file, PAGE, WRITE)?;
    stage.shared(channel, "attach rw")?;
    memory.write(stage.mark());
    stage.raise(WRITTEN);
    stage.wait_for(WRITTEN, 2)?;
    memory.unmap()?;
    stage.shared(channel, "detach rw")
}

/// Reports whose mark is in memory once one is there.
fn look(stage: &Stage, memory: &Memory, channel: &str) -> Result<()> {
    stage.wait_for(WRITTEN, 1)?;
    stage.saw(channel, memory.read())?;
    stage.raise(WRITTEN);
    Ok(())
}

fn posix_shm(stage: &Stage) -> Result<()> {
    let name = format!("/ipctrace-demo-{}", std::process::id());
    let channel = format!("posix_shm:{name}");
    let file = CString::new(name.as_str())?;
    stage.tell(&Truth::Named { channel: channel.clone(), name: format!("/dev/shm{name}") })?;
    let writer = stage.child("writer", |stage| {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let memory = shm_open(file.as_c_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        stage.shared_sized(&channel, "create rw", 0)?;
        ftruncate(&memory, PAGE as i64)?;
        stage.raise(MADE);
        write(stage, &memory, &channel)?;
        shm_unlink(file.as_c_str())?;
        stage.shared(&channel, "remove rw")
    })?;
    let reader = stage.child("reader", |stage| {
        stage.wait_for(MADE, 1)?;
        let memory = shm_open(file.as_c_str(), OFlag::O_RDONLY, Mode::empty())?;
        let memory = Memory::of(&memory, PAGE, READ)?;
        stage.shared(&channel, "attach r")?;
        look(stage, &memory, &channel)?;
        memory.unmap()?;
        stage.shared(&channel, "detach r")
    })?;
    stage.reap(&[writer, reader])
}

fn memfd(stage: &Stage) -> Result<()> {
    let file = memfd_create(c"ipctrace-demo", MFdFlags::MFD_CLOEXEC)?;
    let channel = stage::file_id("memfd", &file)?;
    stage.tell(&Truth::Named { channel: channel.clone(), name: "memfd:ipctrace-demo".to_owned() })?;
    stage.shared_sized(&channel, "create rw", 0)?;
    ftruncate(&file, PAGE as i64)?;
    let writer = stage.child("writer", |stage| write(stage, &file, &channel))?;
    let reader = stage.child("reader", |stage| {
        let memory = Memory::of(&file, PAGE, READ)?;
        stage.shared(&channel, "attach r")?;
        look(stage, &memory, &channel)?;
        // The end of the process detaches it.
        stage.shared(&channel, "detach r")
    })?;
    stage.reap(&[writer, reader])
}

fn shared_file(stage: &Stage) -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().join("ledger");
    let file = OwnedFd::from(File::options().read(true).write(true).create_new(true).open(&path)?);
    ftruncate(&file, PAGE as i64)?;
    let channel = stage::file_id("shared_file", &file)?;
    stage.tell(&Truth::Named { channel: channel.clone(), name: path.display().to_string() })?;
    let reader = stage.child("reader", |stage| {
        let memory = Memory::of(File::open(&path)?, PAGE, READ)?;
        stage.shared(&channel, "attach r")?;
        stage.raise(MADE);
        look(stage, &memory, &channel)?;
        memory.unmap()?;
        stage.shared(&channel, "detach r")
    })?;
    let writer = stage.child("writer", |stage| {
        stage.wait_for(MADE, 1)?;
        write(stage, &file, &channel)
    })?;
    stage.reap(&[writer, reader])
}

fn shared_anon(stage: &Stage) -> Result<()> {
    let memory = Memory::anonymous(PAGE)?;
    let channel = memory.id("shared_anon")?;
    stage.shared(&channel, "create rw")?;
    stage.shared(&channel, "attach rw")?;
    let writer = stage.child("writer", |stage| {
        stage.shared(&channel, "attach rw")?;
        memory.write(stage.mark());
        stage.raise(WRITTEN);
        stage.shared(&channel, "detach rw")
    })?;
    let reader = stage.child("reader", |stage| {
        stage.shared(&channel, "attach rw")?;
        look(stage, &memory, &channel)?;
        stage.shared(&channel, "detach rw")
    })?;
    stage.reap(&[writer, reader])?;
    ensure!(memory.read() != 0, "nobody wrote");
    // It has not been touched here before: the stage has read what the writer wrote, too.
    stage.saw(&channel, memory.read())?;
    memory.unmap()?;
    stage.shared(&channel, "detach rw")
}
