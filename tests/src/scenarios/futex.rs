//! Futexes in shared memory: who really woke whom, and what is no communication between processes.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::stage::{AT_FUTEXES, futex_wait, futex_wake, sits_in};
use ipctrace::demo::truth::Truth;
use ipctrace::demo::{Stage, stage};
use nix::unistd::Pid;

use super::Scenario;
use super::sysv_sem::kill_and_tell;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "futex_wakes_two_waiters", play: two_waiters },
    Scenario { name: "futex_waits_that_fail", play: that_fail },
    Scenario { name: "futexes_private_to_a_process", play: private },
    Scenario { name: "futex_waiters_moved_to_another", play: moved },
    Scenario { name: "futex_one_of_many", play: one_of_many },
    Scenario { name: "futex_of_a_dead_owner", play: dead_owner },
    Scenario { name: "futex_in_files_and_memory", play: files_and_memory },
    Scenario { name: "futex_at_an_address_that_is_mapped_anew", play: mapped_anew },
    Scenario { name: "mutex_with_priority_inheritance", play: inheritance },
    Scenario { name: "semaphore_of_posix_in_shared_memory", play: semaphore },
    Scenario { name: "mutex_and_condition_of_two_processes", play: condition },
];

/// Futexes that a process shares with its children.
fn futexes() -> Result<&'static [AtomicU32; 64]> {
    // SAFETY: zeroed memory that is never unmapped; shared between processes as atomics may be.
    Ok(unsafe { stage::shared::<[AtomicU32; 64]>()?.as_ref() })
}

fn check(status: i32, what: &'static str) -> Result<()> {
    ensure!(status == 0, "{what}: {}", std::io::Error::from_raw_os_error(status));
    Ok(())
}

fn errno<T>(outcome: std::io::Result<T>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

/// One call wakes two processes, and another a third.
fn two_waiters(stage: &Stage) -> Result<()> {
    let futexes = futexes()?;
    let mut waiters = Vec::new();
    for name in ["waiter-a", "waiter-b"] {
        waiters.push(
            stage
                .child(name, |stage| stage.woken("futex", None, 0, || Ok(futex_wait(&futexes[3], 0, 0)?)))?,
        );
    }
    let third = stage
        .child("waiter-c", |stage| stage.woken("futex", None, 1, || Ok(futex_wait(&futexes[4], 0, 0)?)))?;
    let waker = stage.child("waker", |stage| {
        stage.wake(0, &waiters, AT_FUTEXES, || {
            ensure!(futex_wake(&futexes[3], 10, 0)? == 2);
            Ok(())
        })?;
        stage.wake(1, &[third], AT_FUTEXES, || {
            ensure!(futex_wake(&futexes[4], 1, 0)? == 1);
            Ok(())
        })
    })?;
    stage.reap(&waiters)?;
    stage.reap(&[third, waker])
}

/// A wait that did not begin, ran out of time or was broken off by a signal was ended by nobody.
fn that_fail(stage: &Stage) -> Result<()> {
    let futexes = futexes()?;
    let waiter = stage.child("waiter", |stage| {
        ensure!(errno(futex_wait(&futexes[0], 1, 0)) == Some(libc::EAGAIN), "it was not to wait");
        let limit = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        // SAFETY: a valid futex and time.
        let status = unsafe {
            libc::syscall(libc::SYS_futex, futexes[0].as_ptr(), libc::FUTEX_WAIT, 0_u32, &raw const limit)
        };
        ensure!(status == -1, "it was to time out");
        // Nobody waits: nobody is woken.
        ensure!(futex_wake(&futexes[0], 1, 0)? == 0);
        stage.woken("futex", None, 0, || Ok(futex_wait(&futexes[0], 0, 0)?))
    })?;
    let waker = stage.child("waker", |stage| {
        stage.wake(0, &[waiter], AT_FUTEXES, || Ok(futex_wake(&futexes[0], 1, 0)?))?;
        Ok(())
    })?;
    stage.reap(&[waiter, waker])
}

/// Threads of one process on a private futex, and on one that could be shared but lies in memory that is not.
fn private(stage: &Stage) -> Result<()> {
    let loner = stage.child("loner", |stage| {
        for (round, flags) in [libc::FUTEX_PRIVATE_FLAG, 0].into_iter().enumerate() {
            let futex = AtomicU32::new(0);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    stage.put(10 + round, nix::unistd::gettid().as_raw() as u64);
                    futex_wait(&futex, 0, flags)
                });
                stage.wait_until(|| stage.get(10 + round) != 0)?;
                let thread = Pid::from_raw(stage.get(10 + round) as i32);
                stage.wait_until(|| sits_in(thread, AT_FUTEXES))?;
                ensure!(futex_wake(&futex, 1, flags)? == 1);
                waiting.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
                Ok(())
            })?;
        }
        Ok(())
    })?;
    // A comparison of nothing with nothing would prove nothing.
    let futexes = futexes()?;
    let waiter = stage
        .child("waiter", |stage| stage.woken("futex", None, 0, || Ok(futex_wait(&futexes[0], 0, 0)?)))?;
    let waker = stage.child("waker", |stage| {
        stage.wake(0, &[waiter], AT_FUTEXES, || Ok(futex_wake(&futexes[0], 1, 0)?))?;
        Ok(())
    })?;
    stage.reap(&[loner, waiter, waker])
}

/// One process moves waiters to another futex, another wakes them there.
fn moved(stage: &Stage) -> Result<()> {
    let futexes = futexes()?;
    let wait =
        |place| move |stage: &Stage| stage.woken("futex", None, place, || Ok(futex_wait(&futexes[0], 0, 0)?));
    let first = stage.child("waiter-a", wait(0))?;
    stage.wait_until(|| sits_in(first, AT_FUTEXES))?;
    let second = stage.child("waiter-b", wait(1))?;
    let mover = stage.child("mover", |stage| {
        stage.wait_until(|| sits_in(second, AT_FUTEXES))?;
        stage.wake(0, &[first], AT_FUTEXES, || {
            // Wakes the first, moves the second.
            // SAFETY: valid futexes.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    futexes[0].as_ptr(),
                    libc::FUTEX_CMP_REQUEUE,
                    1_usize,
                    1_usize,
                    futexes[1].as_ptr(),
                    0_u32,
                )
            };
            ensure!(count == 2, "requeue: {count}");
            Ok(())
        })?;
        stage.raise(1);
        Ok(())
    })?;
    let waker = stage.child("waker", |stage| {
        stage.wait_for(1, 1)?;
        stage.wake(1, &[second], AT_FUTEXES, || {
            ensure!(futex_wake(&futexes[1], 1, 0)? == 1);
            Ok(())
        })
    })?;
    stage.reap(&[first, second, mover, waker])
}

/// `struct futex_waitv`, include/uapi/linux/futex.h.
#[repr(C)]
struct Waitv {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// futex_waitv(2) waits at several at once.
fn one_of_many(stage: &Stage) -> Result<()> {
    /// `FUTEX2_SIZE_U32`.
    const SIZE_U32: u32 = 2;
    let futexes = futexes()?;
    let waiter = stage.child("waiter", |stage| {
        let all: Vec<Waitv> = (0..3)
            .map(|index| Waitv {
                value: 0,
                address: futexes[index].as_ptr() as u64,
                flags: SIZE_U32,
                reserved: 0,
            })
            .collect();
        stage.woken("futex", None, 0, || {
            // SAFETY: three valid entries, no time limit.
            let woken = unsafe {
                libc::syscall(
                    libc::SYS_futex_waitv,
                    all.as_ptr(),
                    3_u32,
                    0_u32,
                    std::ptr::null::<libc::timespec>(),
                    0,
                )
            };
            ensure!(woken == 2, "futex_waitv: {woken} {}", std::io::Error::last_os_error());
            Ok(())
        })
    })?;
    let waker = stage.child("waker", |stage| {
        stage.wake(0, &[waiter], AT_FUTEXES, || {
            ensure!(futex_wake(&futexes[2], 1, 0)? == 1);
            Ok(())
        })
    })?;
    stage.reap(&[waiter, waker])
}

/// A mutex that processes share; `set` changes its attributes.
fn mutex(set: impl Fn(*mut libc::pthread_mutexattr_t) -> i32) -> Result<*mut libc::pthread_mutex_t> {
    let mutex = stage::shared::<libc::pthread_mutex_t>()?.as_ptr();
    // SAFETY: zeroed memory of that type, which nobody uses yet.
    unsafe {
        let mut attributes = std::mem::zeroed();
        libc::pthread_mutexattr_init(&raw mut attributes);
        check(
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED),
            "pthread_mutexattr_setpshared",
        )?;
        check(set(&raw mut attributes), "the attributes of the mutex")?;
        check(libc::pthread_mutex_init(mutex, &raw const attributes), "pthread_mutex_init")?;
    }
    Ok(mutex)
}

/// The owner of a robust mutex dies: who waits for it is woken by the dead.
fn dead_owner(stage: &Stage) -> Result<()> {
    let mutex = mutex(|attributes| {
        // SAFETY: initialised by the caller.
        unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) }
    })?;
    let owner = stage.child("owner", |stage| {
        // SAFETY: initialised above, in memory that is never unmapped.
        check(unsafe { libc::pthread_mutex_lock(mutex) }, "pthread_mutex_lock")?;
        stage.raise(0);
        loop {
            nix::unistd::pause();
        }
    })?;
    stage.wait_for(0, 1)?;
    let waiter = stage.child("waiter", |stage| {
        // SAFETY: as above.
        let status = unsafe { libc::pthread_mutex_lock(mutex) };
        ensure!(status == libc::EOWNERDEAD, "pthread_mutex_lock: {status}");
        stage.tell(&Truth::Wake {
            mechanism: "futex".to_owned(),
            channel: None,
            from: stage::party(owner),
            to: stage.me(),
            waited: None,
        })
    })?;
    stage.wait_until(|| sits_in(waiter, AT_FUTEXES))?;
    kill_and_tell(stage, owner)?;
    stage.reap(&[waiter])
}

/// The same futex through two mappings at different addresses and offsets: one object, by the file's name.
fn files_and_memory(stage: &Stage) -> Result<()> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("a page size")? as usize;
    let folder = stage::Folder::new()?;
    let path = folder.path().join("futexes");
    let file = std::fs::File::options().create_new(true).read(true).write(true).open(&path)?;
    file.set_len(4 * page as u64)?;
    let status = nix::sys::stat::fstat(&file)?;
    let (major, minor) = (nix::sys::stat::major(status.st_dev), nix::sys::stat::minor(status.st_dev));
    let offset = 2 * page + 0x80;
    let channel = format!("futex:[{major}:{minor}:{}]+{offset:#x}", status.st_ino);
    let name = path.to_str().context("a path that is text")?.to_owned();
    stage.tell(&Truth::Named { channel: channel.clone(), name })?;
    let map = |from: usize| -> Result<&AtomicU32> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let len = (4 * page - from).try_into()?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, within the file, that is never unmapped; the offset is within it and aligned.
        unsafe {
            let base = mmap(None, len, access, MapFlags::MAP_SHARED, &file, from as i64)?;
            Ok(base.byte_add(offset - from).cast::<AtomicU32>().as_ref())
        }
    };
    let waiter = stage.child("waiter", |stage| {
        let futex = map(page)?;
        stage.woken("futex", Some(channel.clone()), 0, || Ok(futex_wait(futex, 0, 0)?))
    })?;
    let waker = stage.child("waker", |stage| {
        let futex = map(0)?;
        futex.load(Ordering::SeqCst);
        stage.wake(0, &[waiter], AT_FUTEXES, || {
            ensure!(futex_wake(futex, 1, 0)? == 1);
            Ok(())
        })
    })?;
    stage.reap(&[waiter, waker])
}

/// One process waits twice at one address, where another part of a file is mapped in between: these are two futexes.
fn mapped_anew(stage: &Stage) -> Result<()> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};

    const AT: usize = 0x80;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("a page size")? as usize;
    let folder = stage::Folder::new()?;
    let file = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(folder.path().join("futexes"))?;
    file.set_len(2 * page as u64)?;
    let status = nix::sys::stat::fstat(&file)?;
    let (major, minor) = (nix::sys::stat::major(status.st_dev), nix::sys::stat::minor(status.st_dev));
    let channel = |part: usize| format!("futex:[{major}:{minor}:{}]+{:#x}", status.st_ino, part * page + AT);
    let map = |place: Option<&AtomicU32>, part: usize| -> Result<&'static AtomicU32> {
        let fixed = if place.is_some() { MapFlags::MAP_FIXED } else { MapFlags::empty() };
        let place = place.and_then(|futex| (futex.as_ptr() as usize - AT).try_into().ok());
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let from = (part * page) as i64;
        // SAFETY: a new mapping within the file, that takes the place of none but one that the caller is done with.
        unsafe {
            let base = mmap(place, page.try_into()?, access, MapFlags::MAP_SHARED | fixed, &file, from)?;
            Ok(base.byte_add(AT).cast::<AtomicU32>().as_ref())
        }
    };
    let waiter = stage.child("waiter", |stage| {
        let mut futex = map(None, 0)?;
        stage.woken("futex", Some(channel(0)), 0, || Ok(futex_wait(futex, 0, 0)?))?;
        let before = futex.as_ptr();
        futex = map(Some(futex), 1)?;
        ensure!(futex.as_ptr() == before, "the same address");
        stage.woken("futex", Some(channel(1)), 1, || Ok(futex_wait(futex, 0, 0)?))
    })?;
    let waker = stage.child("waker", |stage| {
        for part in [0, 1] {
            let futex = map(None, part)?;
            futex.load(Ordering::SeqCst);
            stage.wake(part, &[waiter], AT_FUTEXES, || {
                ensure!(futex_wake(futex, 1, 0)? == 1);
                Ok(())
            })?;
        }
        Ok(())
    })?;
    stage.reap(&[waiter, waker])
}

/// Holder and waiter of one mutex.
fn contended(stage: &Stage, mutex: *mut libc::pthread_mutex_t) -> Result<()> {
    let holder = stage.child("holder", |stage| {
        // SAFETY: initialised by the caller, in memory that is never unmapped.
        check(unsafe { libc::pthread_mutex_lock(mutex) }, "pthread_mutex_lock")?;
        stage.raise(0);
        stage.wait_for(1, 1)?;
        let waiter = Pid::from_raw(stage.get(5) as i32);
        stage.wake(0, &[waiter], AT_FUTEXES, || {
            // SAFETY: as above; this process holds it.
            check(unsafe { libc::pthread_mutex_unlock(mutex) }, "pthread_mutex_unlock")
        })
    })?;
    stage.wait_for(0, 1)?;
    let waiter = stage.child("waiter", |stage| {
        stage.woken("futex", None, 0, || {
            // SAFETY: as above.
            check(unsafe { libc::pthread_mutex_lock(mutex) }, "pthread_mutex_lock")
        })
    })?;
    stage.put(5, waiter.as_raw() as u64);
    stage.raise(1);
    stage.reap(&[holder, waiter])
}

fn inheritance(stage: &Stage) -> Result<()> {
    let mutex = mutex(|attributes| {
        // SAFETY: initialised by the caller.
        unsafe { libc::pthread_mutexattr_setprotocol(attributes, libc::PTHREAD_PRIO_INHERIT) }
    })?;
    contended(stage, mutex)
}

/// An unnamed POSIX semaphore in shared anonymous memory.
fn semaphore(stage: &Stage) -> Result<()> {
    let semaphore = stage::shared::<libc::sem_t>()?.as_ptr();
    // SAFETY: zeroed memory of that type, which nobody uses yet, and which is never unmapped.
    ensure!(unsafe { libc::sem_init(semaphore, 1, 0) } == 0, "sem_init");
    let waiter = stage.child("waiter", |stage| {
        for _ in 0..3 {
            stage.woken("futex", None, 0, || {
                // SAFETY: as above.
                ensure!(unsafe { libc::sem_wait(semaphore) } == 0, "sem_wait");
                Ok(())
            })?;
        }
        Ok(())
    })?;
    let poster = stage.child("poster", |stage| {
        for _ in 0..3 {
            stage.wake(0, &[waiter], AT_FUTEXES, || {
                // SAFETY: as above.
                ensure!(unsafe { libc::sem_post(semaphore) } == 0, "sem_post");
                Ok(())
            })?;
        }
        Ok(())
    })?;
    stage.reap(&[waiter, poster])
}

fn condition(stage: &Stage) -> Result<()> {
    let mutex = mutex(|_| 0)?;
    contended(stage, mutex)?;
    let condition = stage::shared::<libc::pthread_cond_t>()?.as_ptr();
    let futexes = futexes()?;
    // SAFETY: zeroed memory of that type, which nobody uses yet, and which is never unmapped.
    unsafe {
        // The last holder has ended with it locked.
        libc::pthread_mutex_unlock(mutex);
        let mut attributes = std::mem::zeroed();
        libc::pthread_condattr_init(&raw mut attributes);
        libc::pthread_condattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED);
        check(libc::pthread_cond_init(condition, &raw const attributes), "pthread_cond_init")?;
    }
    let consumer = stage.child("consumer", |stage| {
        stage.woken("futex", None, 1, || {
            // SAFETY: as above.
            unsafe {
                check(libc::pthread_mutex_lock(mutex), "pthread_mutex_lock")?;
                while futexes[0].load(Ordering::SeqCst) == 0 {
                    check(libc::pthread_cond_wait(condition, mutex), "pthread_cond_wait")?;
                }
                check(libc::pthread_mutex_unlock(mutex), "pthread_mutex_unlock")
            }
        })
    })?;
    let producer = stage.child("producer", |stage| {
        stage.wake(1, &[consumer], AT_FUTEXES, || {
            // SAFETY: as above.
            unsafe {
                check(libc::pthread_mutex_lock(mutex), "pthread_mutex_lock")?;
                futexes[0].store(1, Ordering::SeqCst);
                check(libc::pthread_mutex_unlock(mutex), "pthread_mutex_unlock")?;
                check(libc::pthread_cond_signal(condition), "pthread_cond_signal")
            }
        })
    })?;
    stage.reap(&[consumer, producer])
}
