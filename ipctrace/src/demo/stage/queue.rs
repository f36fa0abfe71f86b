//! Message queues that are no sockets, for the processes of workloads.

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::PAGE;

/// A POSIX queue with messages of that priority, in a report.
pub fn queued_with_priority(channel: &str, priority: u32) -> String {
    format!("{channel} priority {priority}")
}

/// A System V queue with messages of that type, in a report.
pub fn queued_with_type(channel: &str, kind: i64) -> String {
    format!("{channel} type {kind}")
}

/// A new POSIX message queue, mq_overview(7). Its name goes when its maker drops it; a child that was forked meanwhile
/// leaves it alone.
#[derive(Debug)]
pub struct PosixQueue {
    descriptor: OwnedFd,
    name: String,
    maker: u32,
    space: String,
}

impl PosixQueue {
    /// Makes one with room for so many messages of at most so many bytes. `extra_flags` as for mq_open(3).
    ///
    /// # Errors
    /// Those of mq_open(3).
    pub fn new(stem: &str, messages: i64, size: i64, extra_flags: i32) -> Result<PosixQueue> {
        let maker = std::process::id();
        PosixQueue::named(format!("/ipctrace-{stem}-{maker}"), messages, size, extra_flags)
    }

    /// The same with that name.
    ///
    /// # Errors
    /// Those of mq_open(3).
    pub fn named(name: String, messages: i64, size: i64, extra_flags: i32) -> Result<PosixQueue> {
        // SAFETY: integers only.
        let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
        attributes.mq_maxmsg = messages;
        attributes.mq_msgsize = size;
        let path = CString::new(name.as_str())?;
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC | extra_flags;
        // SAFETY: a string and a structure that live until the call returns.
        let descriptor =
            Errno::result(unsafe { libc::mq_open(path.as_ptr(), flags, 0o600, &raw mut attributes) })
                .with_context(|| format!("mq_open {name}"))?;
        // SAFETY: a new descriptor that belongs to nobody else.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(PosixQueue { descriptor, name, maker: std::process::id(), space: String::new() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As the trace names it.
    pub fn id(&self) -> String {
        format!("posix_mq:{}{}", self.name, self.space)
    }

    /// The same queue, known to be in an IPC namespace that is not the tracer's.
    ///
    /// # Errors
    /// If /proc does not say in which.
    pub fn apart(mut self) -> Result<PosixQueue> {
        self.space = super::space("ipc")?;
        Ok(self)
    }

    /// The same with a priority, see [`queued_with_priority`].
    pub fn with(&self, priority: u32) -> String {
        queued_with_priority(&self.id(), priority)
    }

    /// Sends a message; waits for room unless the queue was made not to.
    ///
    /// # Errors
    /// Those of mq_send(3).
    pub fn send(&self, message: &[u8], priority: u32) -> Result<(), Errno> {
        // SAFETY: a buffer that lives until the call returns, and its length.
        let status = unsafe {
            libc::mq_send(self.descriptor.as_raw_fd(), message.as_ptr().cast(), message.len(), priority)
        };
        Errno::result(status).map(drop)
    }

    /// The same, but fails if there is no room now.
    ///
    /// # Errors
    /// Those of mq_timedsend(3).
    pub fn try_send(&self, message: &[u8], priority: u32) -> Result<(), Errno> {
        let past = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: as above.
        let status = unsafe {
            libc::mq_timedsend(
                self.descriptor.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                priority,
                &raw const past,
            )
        };
        Errno::result(status).map(drop)
    }

    /// Takes a message, and its priority.
    ///
    /// # Errors
    /// Those of mq_receive(3).
    pub fn receive(&self) -> Result<(Vec<u8>, u32), Errno> {
        let mut priority = 0;
        self.take(&raw mut priority).map(|message| (message, priority))
    }

    /// Takes a message without asking for its priority.
    ///
    /// # Errors
    /// Those of mq_receive(3).
    pub fn receive_unasked(&self) -> Result<Vec<u8>, Errno> {
        self.take(ptr::null_mut())
    }

    /// Takes a message that cannot be copied to where it is to go, and is gone.
    ///
    /// # Errors
    /// `EFAULT`, or others of mq_receive(3).
    pub fn receive_in_vain(&self) -> Result<(), Errno> {
        // SAFETY: nothing is written, for there is no memory at that address.
        let count =
            unsafe { libc::mq_receive(self.descriptor.as_raw_fd(), ptr::null_mut(), 8192, ptr::null_mut()) };
        Errno::result(count).map(drop)
    }

    fn take(&self, priority: *mut u32) -> Result<Vec<u8>, Errno> {
        // More than any queue of a workload has for a message.
        let mut buffer = vec![0; 8192];
        // SAFETY: a buffer and a number that live until the call returns.
        let count = unsafe {
            libc::mq_receive(self.descriptor.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), priority)
        };
        buffer.truncate(Errno::result(count)? as usize);
        Ok(buffer)
    }

    /// Asks for a signal with a value when a message comes to the empty queue.
    ///
    /// # Errors
    /// Those of mq_notify(3).
    pub fn notify(&self, signal: i32, value: usize) -> Result<(), Errno> {
        // SAFETY: integers and pointers.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        event.sigev_value.sival_ptr = ptr::without_provenance_mut(value);
        // SAFETY: a structure that lives until the call returns.
        Errno::result(unsafe { libc::mq_notify(self.descriptor.as_raw_fd(), &raw const event) }).map(drop)
    }
}

impl Drop for PosixQueue {
    fn drop(&mut self) {
        if std::process::id() == self.maker
            && let Ok(name) = CString::new(self.name.as_str())
        {
            // SAFETY: a string that lives until the call returns. Nothing to do if the name is gone.
            unsafe { libc::mq_unlink(name.as_ptr()) };
        }
    }
}

/// A new System V message queue, sysvipc(7). It goes, with all that is in it, when its maker drops it; a child that was
/// forked meanwhile leaves it alone.
#[derive(Debug)]
pub struct SysvQueue {
    id: i32,
    key: i32,
    maker: u32,
    space: String,
}

impl SysvQueue {
    /// Makes one with a key that follows from the process id.
    ///
    /// # Errors
    /// Those of msgget(2).
    pub fn new() -> Result<SysvQueue> {
        SysvQueue::with_key(0x6900_0000 | (std::process::id() & 0xff_ffff) as i32)
    }

    /// Makes one with that key; 0 for none.
    ///
    /// # Errors
    /// Those of msgget(2).
    pub fn with_key(key: i32) -> Result<SysvQueue> {
        // SAFETY: a system call that takes numbers.
        let id = Errno::result(unsafe { libc::msgget(key, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) })
            .with_context(|| format!("msgget {key:#x}"))?;
        Ok(SysvQueue { id, key, maker: std::process::id(), space: String::new() })
    }

    /// As the trace names it, and ipcs(1).
    pub fn id(&self) -> String {
        format!("sysv_msg:{}{}", self.id, self.space)
    }

    /// The same queue, known to be in an IPC namespace that is not the tracer's.
    ///
    /// # Errors
    /// If /proc does not say in which.
    pub fn apart(mut self) -> Result<SysvQueue> {
        self.space = super::space("ipc")?;
        Ok(self)
    }

    /// Its identifier.
    pub fn number(&self) -> i32 {
        self.id
    }

    /// Its key as the trace writes it.
    pub fn name(&self) -> String {
        format!("{:#x}", self.key)
    }

    /// As [`SysvQueue::id`] with a type, see [`queued_with_type`].
    pub fn with(&self, kind: i64) -> String {
        queued_with_type(&self.id(), kind)
    }

    /// Sends a message of that type.
    ///
    /// # Errors
    /// Those of msgsnd(2).
    pub fn send(&self, kind: i64, content: &[u8], flags: i32) -> Result<(), Errno> {
        let message = [&kind.to_ne_bytes()[..], content].concat();
        // SAFETY: a type and content of that length, which live until the call returns.
        Errno::result(unsafe { libc::msgsnd(self.id, message.as_ptr().cast(), content.len(), flags) })
            .map(drop)
    }

    /// Takes a message as `kind` and `flags` say, at most `room` bytes of it, and gives its type too.
    ///
    /// # Errors
    /// Those of msgrcv(2).
    pub fn receive(&self, kind: i64, room: usize, flags: i32) -> Result<(i64, Vec<u8>), Errno> {
        const TYPE: usize = size_of::<i64>();
        let mut message = vec![0; TYPE + room];
        // SAFETY: room for a type and so much content, which lives until the call returns.
        let count =
            Errno::result(unsafe { libc::msgrcv(self.id, message.as_mut_ptr().cast(), room, kind, flags) })?;
        let kind = message.first_chunk().map_or(0, |bytes| i64::from_ne_bytes(*bytes));
        message.truncate(TYPE + count as usize);
        Ok((kind, message.split_off(TYPE)))
    }

    /// Takes a message of which only the type can be copied to where it is to go, and which is gone.
    ///
    /// # Errors
    /// `EFAULT`, or others of msgrcv(2) and mmap(2).
    pub fn receive_in_vain(&self, kind: i64) -> Result<(), Errno> {
        let len = NonZeroUsize::MIN.saturating_add(2 * PAGE - 1);
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of which nobody else knows; its second page is taken away again, and it is given back in the end.
        unsafe {
            let place = mmap_anonymous(None, len, access, MapFlags::MAP_PRIVATE)?;
            munmap(place.byte_add(PAGE), PAGE)?;
            let message = place.byte_add(PAGE - size_of::<i64>());
            let status = Errno::result(libc::msgrcv(self.id, message.as_ptr(), 8192, kind, 0));
            munmap(place, PAGE)?;
            status.map(drop)
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// Those of msgctl(2).
    pub fn remove(&self) -> Result<(), Errno> {
        // SAFETY: a command that has no structure.
        Errno::result(unsafe { libc::msgctl(self.id, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
    }
}

impl Drop for SysvQueue {
    fn drop(&mut self) {
        if std::process::id() == self.maker {
            // It may have been removed already.
            let _ = self.remove();
        }
    }
}
