//! `futex`: what POSIX semaphores, mutexes and condition variables of several processes come down to.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result, ensure};
use ipctrace_common::Mechanism;
use nix::libc::{self, c_int};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;

use super::Demo;
use super::stage::{self, AT_FUTEXES, Stage};
use super::truth::Truth;

pub(super) const DEMO: Demo = Demo {
    name: "futex",
    summary: "a named semaphore, a mutex and a condition variable that processes share, and a bare futex",
    story: "A sleeper waits at each of them in turn, a waker lets it go on. All are futexes in shared memory: look at\n\
            the file and offset, and at the name of the semaphore. Futexes private to a process do not appear.",
    mechanisms: &[Mechanism::Futex],
    play,
};

/// What sleeper and waker share.
struct Shared {
    mutex: libc::pthread_mutex_t,
    condition: libc::pthread_cond_t,
    ready: AtomicU32,
    futex: AtomicU32,
}

/// A named semaphore, removed when its maker drops it.
struct Named {
    name: CString,
    semaphore: *mut libc::sem_t,
    maker: u32,
}

impl Named {
    fn new(name: &str) -> Result<Named> {
        let name = CString::new(name)?;
        // SAFETY: a valid name; mode and value are numbers.
        let semaphore = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT | libc::O_EXCL, 0o600, 0) };
        ensure!(semaphore != libc::SEM_FAILED, "sem_open: {}", std::io::Error::last_os_error());
        Ok(Named { name, semaphore, maker: std::process::id() })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if std::process::id() == self.maker {
            // SAFETY: a valid name.
            unsafe { libc::sem_unlink(self.name.as_ptr()) };
        }
    }
}

/// What a function of the thread library returned.
fn check(status: c_int, what: &'static str) -> Result<()> {
    ensure!(status == 0, "{what}: {}", std::io::Error::from_raw_os_error(status));
    Ok(())
}

fn play(stage: &Stage) -> Result<()> {
    let name = format!("/ipctrace-{}", std::process::id());
    let named = Named::new(&name)?;
    let path = format!("/dev/shm/sem.{}", &name[1..]);
    let file = std::fs::metadata(&path).with_context(|| path.clone())?;
    let device = (major(file.dev()), minor(file.dev()));
    let channel = format!("futex:[{}:{}:{}]+0x0", device.0, device.1, file.ino());
    stage.tell(&Truth::Named { channel: channel.clone(), name: path })?;
    let shared = stage::shared::<Shared>()?.as_ptr();
    // SAFETY: zeroed memory of that type, which is initialised here before anybody else uses it.
    unsafe {
        let mut mutex = std::mem::zeroed();
        libc::pthread_mutexattr_init(&raw mut mutex);
        libc::pthread_mutexattr_setpshared(&raw mut mutex, libc::PTHREAD_PROCESS_SHARED);
        check(libc::pthread_mutex_init(&raw mut (*shared).mutex, &raw const mutex), "pthread_mutex_init")?;
        let mut condition = std::mem::zeroed();
        libc::pthread_condattr_init(&raw mut condition);
        libc::pthread_condattr_setpshared(&raw mut condition, libc::PTHREAD_PROCESS_SHARED);
        check(
            libc::pthread_cond_init(&raw mut (*shared).condition, &raw const condition),
            "pthread_cond_init",
        )?;
    }
    let sleeper = stage.child("sleeper", |stage| sleep(stage, &named, shared, channel))?;
    let waker = stage.child("waker", |stage| wake(stage, &named, shared, sleeper))?;
    stage.reap(&[sleeper, waker])
}

fn sleep(stage: &Stage, named: &Named, shared: *mut Shared, channel: String) -> Result<()> {
    // SAFETY, for all that follows: the semaphore is open, and what is shared was initialised and is never unmapped.
    stage.woken("futex", Some(channel), 0, || {
        // SAFETY: as above.
        ensure!(unsafe { libc::sem_wait(named.semaphore) } == 0, "sem_wait");
        Ok(())
    })?;
    stage.wait_for(1, 1)?;
    stage.woken("futex", None, 1, || {
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutex_lock(&raw mut (*shared).mutex) }, "pthread_mutex_lock")
    })?;
    stage.woken("futex", None, 2, || {
        // SAFETY: as above; this process holds the mutex.
        unsafe {
            while (*shared).ready.load(std::sync::atomic::Ordering::SeqCst) == 0 {
                let status = libc::pthread_cond_wait(&raw mut (*shared).condition, &raw mut (*shared).mutex);
                check(status, "pthread_cond_wait")?;
            }
            check(libc::pthread_mutex_unlock(&raw mut (*shared).mutex), "pthread_mutex_unlock")
        }
    })?;
    // SAFETY: as above.
    let futex = unsafe { &(*shared).futex };
    stage.woken("futex", None, 3, || Ok(stage::futex_wait(futex, 0, 0)?))?;
    private(stage)
}

/// Two threads of one process wake each other: no communication between processes.
fn private(stage: &Stage) -> Result<()> {
    let futex = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            stage.put(20, nix::unistd::gettid().as_raw() as u64);
            stage::futex_wait(&futex, 0, libc::FUTEX_PRIVATE_FLAG)
        });
        stage.wait_until(|| stage.get(20) != 0)?;
        let thread = Pid::from_raw(stage.get(20) as i32);
        stage.wait_until(|| stage::sits_in(thread, AT_FUTEXES))?;
        stage::futex_wake(&futex, 1, libc::FUTEX_PRIVATE_FLAG)?;
        waiting.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        Ok(())
    })
}

fn wake(stage: &Stage, named: &Named, shared: *mut Shared, sleeper: Pid) -> Result<()> {
    let sleeper = [sleeper];
    // SAFETY, for all that follows: the semaphore is open, and what is shared was initialised and is never unmapped.
    stage.wake(0, &sleeper, AT_FUTEXES, || {
        // SAFETY: as above.
        ensure!(unsafe { libc::sem_post(named.semaphore) } == 0, "sem_post");
        Ok(())
    })?;
    // SAFETY: as above.
    let mutex = unsafe { &raw mut (*shared).mutex };
    // SAFETY: as above.
    check(unsafe { libc::pthread_mutex_lock(mutex) }, "pthread_mutex_lock")?;
    stage.raise(1);
    stage.wake(1, &sleeper, AT_FUTEXES, || {
        // SAFETY: as above; this process holds the mutex.
        check(unsafe { libc::pthread_mutex_unlock(mutex) }, "pthread_mutex_unlock")
    })?;
    stage.wait_until(|| stage.get(1) != 0)?;
    stage.wake(2, &sleeper, AT_FUTEXES, || {
        // The sleeper has let go of the mutex: it is not contended.
        // SAFETY: as above.
        unsafe {
            check(libc::pthread_mutex_lock(mutex), "pthread_mutex_lock")?;
            (*shared).ready.store(1, std::sync::atomic::Ordering::SeqCst);
            check(libc::pthread_mutex_unlock(mutex), "pthread_mutex_unlock")?;
            check(libc::pthread_cond_signal(&raw mut (*shared).condition), "pthread_cond_signal")
        }
    })?;
    // SAFETY: as above.
    let futex = unsafe { &(*shared).futex };
    stage.wake(3, &sleeper, AT_FUTEXES, || {
        ensure!(stage::futex_wake(futex, 1, 0)? == 1, "nobody waited");
        Ok(())
    })
}
