//! What the programs do with each system call, apart from its number.
//!
//! User space writes a table from number to [`Class`] or [`Special`] into the programs before they are loaded, so that a call that
//! is no IPC costs one load, and one that only serves mechanisms that are off costs no more.

macro_rules! classes {
    ($(#[$about:meta])* $name:ident: $($(#[$doc:meta])* $variant:ident = $number:literal;)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $number,)* }
        impl $name {
            /// The one with that number; `None` for 0 and what is not in the table.
            #[inline(always)]
            pub const fn from_wire(number: u8) -> Option<$name> {
                match number { $($number => Some($name::$variant),)* _ => None }
            }
        }
    };
}

classes! {
    /// How a system call moves data through a descriptor.
    Class:
    /// `(fd, buf, count)`: read, pread64.
    Read = 1;
    /// `(fd, buf, count)`: write, pwrite64.
    Write = 2;
    /// `(fd, iov, count)`: readv, preadv, preadv2.
    Readv = 3;
    /// `(fd, iov, count)`: writev, pwritev, pwritev2.
    Writev = 4;
    /// `(fd, buf, len, flags, addr, addrlen)`: sendto.
    Sendto = 5;
    /// `(fd, msghdr, flags)`: sendmsg.
    Sendmsg = 6;
    /// `(fd, mmsghdr[], vlen, flags)`: sendmmsg.
    Sendmmsg = 7;
    /// `(fd, buf, len, flags, addr, addrlen)`: recvfrom.
    Recvfrom = 8;
    /// `(fd, msghdr, flags)`: recvmsg.
    Recvmsg = 9;
    /// `(fd, mmsghdr[], vlen, flags, timeout)`: recvmmsg.
    Recvmmsg = 10;
    /// `(fd_in, off_in, fd_out, off_out, len, flags)`: splice.
    Splice = 11;
    /// `(fd_in, fd_out, len, flags)`: tee; copies without taking.
    Tee = 12;
    /// `(fd, iov, count, flags)`: vmsplice, whose direction is that of the pipe's end.
    Vmsplice = 13;
    /// `(fd_out, fd_in, off, count)`: sendfile.
    Sendfile = 14;
    /// `(set, info, timeout, size)`: rt_sigtimedwait, which takes a signal without delivering it.
    Sigwait = 15;
}

impl Class {
    /// Which argument of a receive from a socket has its flags (`MSG_PEEK` and the like); `None` of other calls.
    #[inline(always)]
    pub const fn receive_flags(self) -> Option<usize> {
        match self {
            Class::Recvmsg => Some(2),
            Class::Recvfrom | Class::Recvmmsg => Some(3),
            Class::Read
            | Class::Readv
            | Class::Write
            | Class::Writev
            | Class::Sendto
            | Class::Sendmsg
            | Class::Sendmmsg
            | Class::Splice
            | Class::Tee
            | Class::Vmsplice
            | Class::Sendfile
            | Class::Sigwait => None,
        }
    }
}

/// The numbers from here on are those of [`Special`], below are those of [`Class`].
pub const SPECIAL: u8 = 32;

classes! {
    /// A system call that its mechanism's own module deals with: it names its object otherwise than by a descriptor that
    /// bytes go through, or does something else with it than move bytes.
    Special:
    /// `(mqd, msg, len, prio, timeout)`: mq_timedsend.
    MqSend = 32;
    /// `(mqd, msg, len, prio*, timeout)`: mq_timedreceive.
    MqReceive = 33;
    /// `(id, msgbuf, size, flags)`: msgsnd.
    Msgsnd = 36;
    /// `(id, msgbuf, size, type, flags)`: msgrcv.
    Msgrcv = 37;
    /// `(id, command, buf)`: msgctl.
    Msgctl = 38;
    /// `(key, size, flags)`: shmget.
    Shmget = 40;
    /// `(id, address, flags)`: shmat.
    Shmat = 41;
    /// `(address)`: shmdt.
    Shmdt = 42;
    /// `(id, command, buf)`: shmctl.
    Shmctl = 43;
    /// `(address, len, prot, flags, fd, offset)`: mmap.
    Mmap = 44;
    /// `(address, len)`: munmap.
    Munmap = 45;
    /// `(old, old_len, new_len, flags, new)`: mremap.
    Mremap = 46;
    /// `(address, len, prot)`: mprotect.
    Mprotect = 47;
    /// `(name, flags)`: memfd_create.
    MemfdCreate = 48;
    /// `(path)`: unlink.
    Unlink = 49;
    /// `(dirfd, path, flags)`: unlinkat.
    Unlinkat = 50;
    /// `(dirfd, path, flags, mode)`: openat.
    Openat = 51;
    /// `(path, flags, mode)`: open.
    Open = 54;
    /// `(id, ops, count, timeout)`: semop, semtimedop.
    Semop = 52;
    /// `(uaddr, op, val, timeout, uaddr2, val3)`: futex.
    Futex = 53;
    /// `(count, flags)`: eventfd2, eventfd.
    Eventfd = 56;
    /// `(pid, local, count, remote, count, flags)`: process_vm_readv.
    ProcessVmReadv = 57;
    /// The same: process_vm_writev.
    ProcessVmWritev = 58;
    /// `(pidfd, fd, flags)`: pidfd_getfd.
    PidfdGetfd = 59;
    /// `(uaddr, mask, count, flags)`: futex_wake.
    FutexWake = 60;
    /// `(uaddr, value, mask, flags, timeout, clock)`: futex_wait.
    FutexWait = 61;
    /// `(futex_waitv[2], flags, wake, requeue)`: futex_requeue.
    FutexRequeue = 62;
    /// `(id, index, command, value)`: semctl.
    Semctl = 63;
    /// `(futex_waitv[], count, flags, timeout, clock)`: futex_waitv.
    FutexWaitv = 64;
    /// `(dirfd, path, how, size)`: openat2.
    Openat2 = 65;
}

/// Size of the table from system call number to class: a power of two above every number in use.
pub const TABLE: usize = 512;
