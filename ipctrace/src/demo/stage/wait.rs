//! What the processes of workloads wait at: System V semaphores, and futexes in memory that they share.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::libc::{self, c_int, c_long, c_short};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::unistd::Pid;

use super::Stage;
use crate::demo::truth::{Party, Truth};

/// Flags and numbers from here on belong to [`Stage::woken`] and [`Stage::wake`]: one for each place.
const PLACES: usize = 32;

/// How long wakers let others wait on purpose.
const WAIT: Duration = Duration::from_millis(5);

/// A set of System V semaphores, all 0. It is removed when its maker drops it.
#[derive(Debug)]
pub struct Semaphores {
    id: c_int,
    maker: u32,
}

impl Semaphores {
    /// A set of `count`, with that key ([`libc::IPC_PRIVATE`] for none).
    ///
    /// # Errors
    /// If there is one, or it cannot be made.
    pub fn new(key: i32, count: i32) -> Result<Semaphores> {
        // SAFETY: a system call that takes numbers.
        let id = unsafe { libc::semget(key, count, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) };
        ensure!(id >= 0, "semget: {}", std::io::Error::last_os_error());
        Ok(Semaphores { id, maker: std::process::id() })
    }

    /// Its id, as ipcs shows it.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The id that the trace gives it.
    pub fn channel(&self) -> String {
        format!("sysv_sem:{}", self.id)
    }

    /// Adds to one of the set, or takes from it, and waits until that is possible.
    ///
    /// # Errors
    /// Those of semop(2).
    pub fn change(&self, index: u16, by: c_short, flags: c_int) -> std::io::Result<()> {
        let mut operation = libc::sembuf { sem_num: index, sem_op: by, sem_flg: flags as c_short };
        // SAFETY: one valid operation.
        done(c_long::from(unsafe { libc::semop(self.id, &raw mut operation, 1) })).map(drop)
    }

    /// The same, for so long at most.
    ///
    /// # Errors
    /// Those of semtimedop(2).
    pub fn change_within(&self, index: u16, by: c_short, limit: Duration) -> std::io::Result<()> {
        let mut operation = libc::sembuf { sem_num: index, sem_op: by, sem_flg: 0 };
        let limit = libc::timespec {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_nsec: c_long::from(limit.subsec_nanos() as i32),
        };
        // SAFETY: one valid operation and a valid time.
        done(unsafe {
            libc::syscall(libc::SYS_semtimedop, self.id, &raw mut operation, 1_usize, &raw const limit)
        })
        .map(drop)
    }

    /// Removes the set; who waits at it is sent away.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn remove(&self) -> std::io::Result<()> {
        // SAFETY: a system call that takes numbers.
        done(c_long::from(unsafe { libc::semctl(self.id, 0, libc::IPC_RMID) })).map(drop)
    }
}

impl Drop for Semaphores {
    fn drop(&mut self) {
        if std::process::id() == self.maker {
            // It may have been removed already.
            let _ = self.remove();
        }
    }
}

/// What a system call returned, as Rust has it.
fn done(returned: c_long) -> std::io::Result<c_long> {
    if returned < 0 { Err(std::io::Error::last_os_error()) } else { Ok(returned) }
}

/// Waits at a futex while it holds `value`.
///
/// # Errors
/// Those of futex(2).
pub fn futex_wait(futex: &AtomicU32, value: u32, flags: c_int) -> std::io::Result<()> {
    // SAFETY: a valid futex, and no time limit.
    done(unsafe {
        let none = std::ptr::null::<libc::timespec>();
        libc::syscall(libc::SYS_futex, futex.as_ptr(), libc::FUTEX_WAIT | flags, value, none)
    })
    .map(drop)
}

/// Wakes up to `count` that wait at a futex; gives how many there were.
///
/// # Errors
/// Those of futex(2).
pub fn futex_wake(futex: &AtomicU32, count: u32, flags: c_int) -> std::io::Result<u32> {
    // SAFETY: a valid futex.
    done(unsafe { libc::syscall(libc::SYS_futex, futex.as_ptr(), libc::FUTEX_WAKE | flags, count) })
        .map(|count| count as u32)
}

/// Memory that a process shares with the children that it makes from now on: zeroes, and never unmapped.
///
/// # Errors
/// If there is none.
pub fn shared<T>() -> Result<NonNull<T>> {
    let size = size_of::<T>().try_into()?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: new memory, of which nobody else knows.
    Ok(unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_SHARED) }?.cast())
}

/// Whether a process sits in one of these system calls: proc_pid_syscall(5).
pub fn sits_in(pid: Pid, calls: &[c_long]) -> bool {
    let line = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = line.split(' ').next().and_then(|number| number.parse::<c_long>().ok());
    number.is_some_and(|number| calls.contains(&number))
}

/// The calls that wait at System V semaphores.
pub const AT_SEMAPHORES: &[c_long] = &[libc::SYS_semop, libc::SYS_semtimedop];
/// Those that wait at futexes.
pub const AT_FUTEXES: &[c_long] = &[libc::SYS_futex, libc::SYS_futex_waitv];

impl Stage {
    /// Does `wait`, which is to end because of a process that does [`Stage::wake`] with the same `place` (below 16), and
    /// reports that.
    ///
    /// # Errors
    /// If it fails, or the report cannot be written.
    pub fn woken(
        &self,
        mechanism: &str,
        channel: Option<String>,
        place: usize,
        wait: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.raise(PLACES + place);
        let start = Instant::now();
        wait()?;
        let most = start.elapsed().as_nanos() as u64;
        let waker = u32::try_from(self.get(place))?;
        ensure!(waker != 0, "nobody has woken this process");
        self.tell(&Truth::Wake {
            mechanism: mechanism.to_owned(),
            channel,
            from: Party::Pid(waker),
            to: self.me(),
            waited: Some((WAIT.as_nanos() as u64, most)),
        })
    }

    /// Does `wake` once all of `waiting`, which do [`Stage::woken`], have sat in one of these calls for a while.
    ///
    /// # Errors
    /// If they do not, or it fails.
    pub fn wake<T>(
        &self,
        place: usize,
        waiting: &[Pid],
        calls: &[c_long],
        wake: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        // They are not still in another wait.
        let begun = self.get(PLACES + place) + waiting.len() as u64;
        self.wait_for(PLACES + place, begun as u32)?;
        self.put(PLACES + place, begun);
        for pid in waiting {
            self.wait_until(|| sits_in(*pid, calls)).with_context(|| format!("{pid} is to wait"))?;
        }
        std::thread::sleep(WAIT);
        self.put(place, u64::from(std::process::id()));
        // What the others read once they are awake.
        std::sync::atomic::fence(Ordering::SeqCst);
        wake()
    }
}
