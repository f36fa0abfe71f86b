//! Memory that several processes map.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use ipctrace::demo::stage::{self, Folder, Memory, PAGE, Segment, Stage};
use ipctrace::demo::truth::{Party, Truth};
use libc::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE, SHM_RDONLY};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{ProtFlags, shm_open, shm_unlink};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::WaitStatus;
use nix::unistd::ftruncate;

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "segment_of_three_processes", play: segment },
    Scenario { name: "children_have_what_their_parent_has", play: inherited },
    Scenario { name: "a_new_program_leaves_the_memory", play: new_program },
    Scenario { name: "memory_by_name", play: by_name },
    Scenario { name: "memory_by_descriptor", play: by_descriptor },
    Scenario { name: "mappings_in_pieces", play: pieces },
    Scenario { name: "a_file_two_have_mapped", play: file },
    Scenario { name: "several_writers_of_a_page", play: several_writers },
    Scenario { name: "equal_ids_in_two_ipc_namespaces", play: ipc_namespaces },
    Scenario { name: "one_name_in_two_mount_namespaces", play: mount_namespaces },
    Scenario { name: "a_borrowed_address_space", play: borrowed },
];

pub(super) const IN_THE_MIDDLE: &[Scenario] =
    &[Scenario { name: "mapped_before_the_start", play: before_start }];

const READ: ProtFlags = ProtFlags::PROT_READ;
const WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// One makes a segment, another writes, a third may only read; one is killed with it.
fn segment(stage: &Stage) -> Result<()> {
    let key = 0x0200_0000 | std::process::id() as i32;
    let maker = stage.child("maker", |stage| {
        let id = Segment::get(key, IPC_CREAT | IPC_EXCL | 0o600)?;
        stage.put(0, id as u64);
        stage.shared(&format!("sysv_shm:{id}"), "create rw")?;
        // To find it is not to make it.
        ensure!(Segment::get(key, IPC_CREAT | 0o600)? == id);
        stage.raise(0);
        Ok(())
    })?;
    stage.reap(&[maker])?;
    let id = stage.get(0) as i32;
    let channel = format!("sysv_shm:{id}");
    let writer = stage.child("writer", |stage| {
        ensure!(Segment::get(key, IPC_CREAT | 0o600)? == id);
        let segment = Segment::attach(id, 0)?;
        segment.write(stage.mark());
        stage.shared(&channel, "attach rw")?;
        stage.raise(1);
        stage.wait_for(2, 1)?;
        segment.detach()?;
        stage.shared(&channel, "detach rw")
    })?;
    let reader = stage.child("reader", |stage| {
        stage.wait_for(1, 1)?;
        let segment = Segment::attach(id, SHM_RDONLY)?;
        stage.shared(&channel, "attach r")?;
        stage.saw(&channel, segment.read())?;
        // Attached twice is attached, until both are gone.
        let again = Segment::attach(id, SHM_RDONLY)?;
        segment.detach()?;
        ensure!(again.read() != 0);
        stage.shared(&channel, "detach r")?;
        stage.raise(3);
        stage.wait_for(4, 1)
    })?;
    stage.wait_for(3, 1)?;
    kill(reader, Signal::SIGKILL)?;
    ensure!(matches!(stage.wait_for_end(reader)?, WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    stage.tell(&Truth::Signal {
        signal: "SIGKILL".to_owned(),
        from: stage.me(),
        to: stage::party(reader),
        outcome: "delivered".to_owned(),
        value: None,
    })?;
    stage.raise(2);
    stage.reap(&[writer])?;
    Segment::remove(id)?;
    stage.shared(&channel, "remove rw")
}

/// A child is attached to all that its parent is; what it unmaps its parent keeps.
fn inherited(stage: &Stage) -> Result<()> {
    let memory = Memory::anonymous(PAGE)?;
    let channel = memory.id("shared_anon")?;
    stage.shared(&channel, "create rw")?;
    stage.shared(&channel, "attach rw")?;
    memory.write(stage.mark());
    let child = stage.child("child", |stage| {
        stage.shared(&channel, "attach rw")?;
        stage.saw(&channel, memory.read())?;
        let grandchild = stage.child("grandchild", |stage| {
            stage.shared(&channel, "attach rw")?;
            stage.saw(&channel, memory.read())?;
            stage.shared(&channel, "detach rw")
        })?;
        stage.reap(&[grandchild])?;
        stage.shared(&channel, "detach rw")
    })?;
    stage.reap(&[child])?;
    memory.unmap()?;
    stage.shared(&channel, "detach rw")
}

/// exec detaches, under the name that the process had.
fn new_program(stage: &Stage) -> Result<()> {
    let file = memfd_create(c"left", MFdFlags::empty())?;
    let channel = stage::file_id("memfd", &file)?;
    stage.shared_sized(&channel, "create rw", 0)?;
    ftruncate(&file, PAGE as i64)?;
    let child = stage.child("changeling", |stage| {
        let memory = Memory::of(&file, PAGE, WRITE)?;
        stage.shared(&channel, "attach rw")?;
        memory.write(stage.mark());
        stage.shared(&channel, "detach rw")?;
        let program = CString::new("/bin/true")?;
        nix::unistd::execv(&program, &[&program])?;
        Ok(())
    })?;
    stage.reap(&[child])
}

/// Two processes that have nothing in common but a name.
fn by_name(stage: &Stage) -> Result<()> {
    let name = format!("/ipctrace-name-{}", std::process::id());
    let file = CString::new(name.as_str())?;
    let channel = format!("posix_shm:{name}");
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let writer = stage.child("writer", |stage| {
        let memory = shm_open(file.as_c_str(), OFlag::O_RDWR | OFlag::O_CREAT, mode)?;
        stage.shared_sized(&channel, "create rw", 0)?;
        ftruncate(&memory, PAGE as i64)?;
        let memory = Memory::of(&memory, PAGE, WRITE)?;
        stage.shared(&channel, "attach rw")?;
        memory.write(stage.mark());
        // It is gone before anybody reads what it wrote.
        stage.shared(&channel, "detach rw")
    })?;
    stage.reap(&[writer])?;
    let reader = stage.child("reader", |stage| {
        // It is there: this does not make it.
        let memory = shm_open(file.as_c_str(), OFlag::O_RDWR | OFlag::O_CREAT, mode)?;
        let memory = Memory::of(&memory, PAGE, READ)?;
        stage.shared(&channel, "attach r")?;
        stage.saw(&channel, memory.read())?;
        stage.shared(&channel, "detach r")
    })?;
    stage.reap(&[reader])?;
    shm_unlink(file.as_c_str())?;
    stage.shared(&channel, "remove rw")
}

/// A descriptor that came over a socket, to memory that has no name.
fn by_descriptor(stage: &Stage) -> Result<()> {
    use nix::sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
        socketpair,
    };
    use std::io::{IoSlice, IoSliceMut};
    use std::os::fd::{AsRawFd, FromRawFd, RawFd};
    let (give, take) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let giver = stage.child("giver", |stage| {
        let file = memfd_create(c"given", MFdFlags::MFD_CLOEXEC)?;
        let channel = stage::file_id("memfd", &file)?;
        stage.shared_sized(&channel, "create rw", 0)?;
        ftruncate(&file, PAGE as i64)?;
        let memory = Memory::of(&file, PAGE, WRITE)?;
        stage.shared(&channel, "attach rw")?;
        memory.write(stage.mark());
        let passed = [file.as_raw_fd()];
        let byte = stage.marked(1);
        let control = [ControlMessage::ScmRights(&passed)];
        sendmsg::<()>(give.as_raw_fd(), &[IoSlice::new(&byte)], &control, MsgFlags::empty(), None)?;
        stage.wait_for(0, 1)?;
        memory.unmap()?;
        stage.shared(&channel, "detach rw")
    })?;
    let taker = stage.child("taker", |stage| {
        let mut byte = [0];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let passed = {
            let mut room = [IoSliceMut::new(&mut byte)];
            let message = recvmsg::<()>(take.as_raw_fd(), &mut room, Some(&mut space), MsgFlags::empty())?;
            message.cmsgs()?.find_map(|control| {
                if let ControlMessageOwned::ScmRights(passed) = control {
                    passed.first().copied()
                } else {
                    None
                }
            })
        };
        // SAFETY: the kernel has just made it for us.
        let file = unsafe { OwnedFd::from_raw_fd(passed.context("no descriptor came")?) };
        stage.heard("unix_stream", None, &byte)?;
        let channel = stage::file_id("memfd", &file)?;
        let object = channel.clone();
        stage.tell(&Truth::Handoff { from: Party::Mark(byte[0]), to: stage.me(), object })?;
        let memory = Memory::of(&file, PAGE, READ)?;
        stage.shared(&channel, "attach r")?;
        stage.saw(&channel, memory.read())?;
        stage.raise(0);
        memory.unmap()?;
        stage.shared(&channel, "detach r")
    })?;
    stage.reap(&[giver, taker])
}

/// A process is attached from its first mapping to the end of its last, and once more when it may write.
fn pieces(stage: &Stage) -> Result<()> {
    const SIZE: usize = 8 * PAGE;
    let file = memfd_create(c"pieces", MFdFlags::MFD_CLOEXEC)?;
    let channel = stage::file_id("memfd", &file)?;
    stage.shared_sized(&channel, "create rw", 0)?;
    ftruncate(&file, SIZE as i64)?;
    let child = stage.child("mapper", |stage| {
        let memory = Memory::of(&file, SIZE, READ)?;
        stage.shared_sized(&channel, "attach r", SIZE)?;
        let at = |page: usize| memory.address().wrapping_add(page * PAGE).cast::<libc::c_void>();
        // SAFETY: addresses of a mapping of our own, used by nobody else.
        unsafe {
            ensure!(libc::munmap(at(2), PAGE) == 0);
            ensure!(libc::mprotect(at(5), PAGE, libc::PROT_READ | libc::PROT_WRITE) == 0);
            stage.shared_sized(&channel, "attach rw", SIZE)?;
            ensure!(libc::mprotect(at(5), PAGE, libc::PROT_READ) == 0);
            // Three pieces: pages 0 and 1, which move; 3 to 6; and 7, over which something else is mapped.
            let elsewhere = libc::mremap(at(0), 2 * PAGE, 16 * PAGE, libc::MREMAP_MAYMOVE);
            ensure!(elsewhere != libc::MAP_FAILED);
            let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            ensure!(libc::mmap(at(7), PAGE, libc::PROT_READ, fixed, -1, 0) == at(7));
            ensure!(libc::munmap(at(3), 4 * PAGE) == 0);
            // Not page-aligned: refused, and nothing is gone.
            ensure!(libc::munmap(elsewhere.byte_add(1), PAGE) == -1);
            ensure!(libc::munmap(elsewhere, 15 * PAGE) == 0);
            stage.raise(0);
            stage.wait_for(1, 1)?;
            // The last piece, although it is behind the end of the file.
            ensure!(libc::munmap(elsewhere.byte_add(15 * PAGE), PAGE) == 0);
        }
        // It may have written once: what is told of the end is what it could do last.
        stage.shared_sized(&channel, "detach rw", SIZE)?;
        Ok(())
    })?;
    stage.wait_for(0, 1)?;
    stage.raise(1);
    stage.reap(&[child])
}

/// Who maps a file for reading is told once somebody maps it for writing.
fn file(stage: &Stage) -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path().join("shared");
    let file = OwnedFd::from(File::options().read(true).write(true).create_new(true).open(&path)?);
    ftruncate(&file, PAGE as i64)?;
    let channel = stage::file_id("shared_file", &file)?;
    let early = stage.child("early", |_| {
        let memory = Memory::of(File::open(&path)?, PAGE, READ)?;
        ensure!(memory.read() == 0);
        Ok(())
    })?;
    stage.reap(&[early])?;
    let reader = stage.child("reader", |stage| {
        let memory = Memory::of(File::open(&path)?, PAGE, READ)?;
        stage.raise(0);
        stage.wait_for(1, 1)?;
        stage.shared(&channel, "attach r")?;
        stage.saw(&channel, memory.read())?;
        stage.shared(&channel, "detach r")
    })?;
    let writer = stage.child("writer", |stage| {
        stage.wait_for(0, 1)?;
        let memory = Memory::of(&file, PAGE, WRITE)?;
        stage.shared(&channel, "attach rw")?;
        memory.write(stage.mark());
        stage.raise(1);
        stage.shared(&channel, "detach rw")
    })?;
    stage.reap(&[reader, writer])
}

/// A page that two wrote to: what was read may be either's.
fn several_writers(stage: &Stage) -> Result<()> {
    let file = memfd_create(c"several", MFdFlags::MFD_CLOEXEC)?;
    let channel = stage::file_id("memfd", &file)?;
    stage.shared_sized(&channel, "create rw", 0)?;
    ftruncate(&file, PAGE as i64)?;
    let mut marks = Vec::new();
    for name in ["first", "second"] {
        let writer = stage.child(name, |stage| {
            let memory = Memory::of(&file, PAGE, WRITE)?;
            stage.shared(&channel, "attach rw")?;
            memory.write(stage.mark());
            stage.shared(&channel, "detach rw")
        })?;
        marks.push(stage::party(writer));
        stage.reap(&[writer])?;
    }
    let reader = stage.child("reader", |stage| {
        let memory = Memory::of(&file, PAGE, READ)?;
        stage.shared(&channel, "attach r")?;
        ensure!(memory.read() != 0);
        for from in marks {
            let (channel, to) = (channel.clone(), stage.me());
            stage.tell(&Truth::Evidence { channel, from, to, pages: 1 })?;
        }
        stage.shared(&channel, "detach r")
    })?;
    stage.reap(&[reader])
}

/// The first segment of each new namespace has the same id.
fn ipc_namespaces(stage: &Stage) -> Result<()> {
    let mut children = Vec::new();
    for name in ["one", "other"] {
        children.push(stage.child(name, |stage| {
            unshare(CloneFlags::CLONE_NEWIPC)?;
            let namespace = std::fs::read_link("/proc/self/ns/ipc")?;
            let id = Segment::get(IPC_PRIVATE, IPC_CREAT | 0o600)?;
            let channel = format!("sysv_shm:{id}@{}", namespace.display());
            stage.put(usize::from(stage.mark()), id as u64 + 1);
            stage.shared(&channel, "create rw")?;
            let segment = Segment::attach(id, 0)?;
            stage.shared(&channel, "attach rw")?;
            segment.write(stage.mark());
            stage.raise(0);
            stage.wait_for(0, 2)?;
            ensure!(segment.read() == stage.mark());
            segment.detach()?;
            stage.shared(&channel, "detach rw")?;
            Segment::remove(id)?;
            stage.shared(&channel, "remove rw")
        })?);
    }
    stage.reap(&children)?;
    ensure!(stage.get(1) == stage.get(2), "the ids differ: the case is not made");
    Ok(())
}

/// One name in two mount namespaces is two pieces of memory.
fn mount_namespaces(stage: &Stage) -> Result<()> {
    let name = format!("/ipctrace-twice-{}", std::process::id());
    let file = CString::new(name.as_str())?;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let use_it = |stage: &Stage, other: bool| -> Result<()> {
        let memory = shm_open(file.as_c_str(), OFlag::O_RDWR | OFlag::O_CREAT, mode)?;
        let plain = format!("posix_shm:{name}");
        let channel = if other { stage::file_id("posix_shm", &memory)? } else { plain };
        stage.shared_sized(&channel, "create rw", 0)?;
        ftruncate(&memory, PAGE as i64)?;
        let memory = Memory::of(&memory, PAGE, WRITE)?;
        stage.shared(&channel, "attach rw")?;
        memory.write(stage.mark());
        stage.raise(0);
        stage.wait_for(0, 2)?;
        if other {
            // This removes the one, and leaves the other alone.
            shm_unlink(file.as_c_str())?;
            stage.shared(&channel, "remove rw")?;
            stage.raise(1);
        }
        stage.wait_for(1, 1)?;
        memory.unmap()?;
        stage.shared(&channel, "detach rw")?;
        if !other {
            shm_unlink(file.as_c_str())?;
            stage.shared(&channel, "remove rw")?;
        }
        Ok(())
    };
    let inside = stage.child("outside", |stage| use_it(stage, false))?;
    let outside = stage.child("inside", |stage| {
        stage.wait_for(0, 1)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        use_it(stage, true)
    })?;
    stage.reap(&[inside, outside])
}

/// A child made with vfork has no memory of its own: it attaches nothing, and its exec detaches nothing.
fn borrowed(stage: &Stage) -> Result<()> {
    let memory = Memory::anonymous(PAGE)?;
    let channel = memory.id("shared_anon")?;
    stage.shared(&channel, "create rw")?;
    stage.shared(&channel, "attach rw")?;
    // The standard library starts it with posix_spawn, which borrows the memory.
    ensure!(std::process::Command::new("/bin/true").status()?.success());
    stage.bereaved()?;
    memory.write(1);
    memory.unmap()?;
    stage.shared(&channel, "detach rw")
}

/// Mapped when tracing begins: known, with names, and no news until it ends. One that has ended by then was never there.
fn before_start(stage: &Stage) -> Result<()> {
    let file = memfd_create(c"early", MFdFlags::MFD_CLOEXEC)?;
    ftruncate(&file, 2 * PAGE as i64)?;
    let channel = stage::file_id("memfd", &file)?;
    let key = IPC_PRIVATE;
    let id = Segment::get(key, IPC_CREAT | 0o600)?;
    let segment = Segment::attach(id, 0)?;
    let sysv = format!("sysv_shm:{id}");
    let ended = stage.child("ended", |_| Memory::of(&file, PAGE, WRITE).map(|memory| memory.write(9)))?;
    // The trace does not see it end: that is not told.
    ensure!(nix::sys::wait::waitpid(ended, None)? == WaitStatus::Exited(ended, 0));
    let writer = stage.child("writer", |stage| {
        let memory = Memory::of(&file, 2 * PAGE, WRITE)?;
        stage.raise(0);
        stage.wait_for(2, 1)?;
        // SAFETY: within the mapping.
        unsafe { memory.address().add(PAGE).write_volatile(stage.mark()) };
        stage.raise(1);
        stage.shared_sized(&sysv, "detach rw", PAGE)?;
        stage.shared_sized(&channel, "detach rw", 2 * PAGE)
    })?;
    let reader = stage.child("reader", |stage| {
        let memory = Memory::of(&file, 2 * PAGE, READ)?;
        stage.raise(0);
        stage.wait_for(1, 1)?;
        // SAFETY: within the mapping.
        stage.saw(&channel, unsafe { memory.address().add(PAGE).read_volatile() })?;
        memory.unmap()?;
        stage.shared_sized(&channel, "detach r", 2 * PAGE)?;
        stage.shared_sized(&sysv, "detach rw", PAGE)
    })?;
    stage.wait_for(0, 2)?;
    stage.tell(&Truth::Named { channel: channel.clone(), name: "memfd:early".to_owned() })?;
    super::middle(stage)?;
    stage.raise(2);
    stage.reap(&[writer, reader])?;
    Segment::remove(id)?;
    stage.shared(&sysv, "remove rw")?;
    segment.detach()?;
    stage.shared(&sysv, "detach rw")
}
