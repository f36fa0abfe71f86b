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

/// What there is to know of a [`Class`] at both ends of a call, in one number: programs look it up, so that the verifier need not
/// follow each class by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form(u16);

impl Form {
    /// The first argument is a descriptor that data goes through.
    const FIRST: u16 = 1;
    /// Out of it.
    const RECEIVES: u16 = 1 << 1;
    /// Another argument is such a descriptor too.
    const SECOND: u16 = 1 << 2;
    /// Data comes out of that one.
    const SECOND_RECEIVES: u16 = 1 << 3;
    /// It is the third argument, not the second.
    const SECOND_IS_THIRD: u16 = 1 << 4;
    /// The fifth argument is an address, the sixth its length.
    const ADDRESS: u16 = 1 << 5;
    /// Which way data goes through the first descriptor is a matter of what that is.
    const EITHER_WAY: u16 = 1 << 6;
    /// Data moves from file to file, or in pages, which does not come to the functions of pipes and connections.
    const MOVES: u16 = 1 << 7;
    /// There are flags of a receive from a socket (`MSG_PEEK` and the like).
    const FLAGS: u16 = 1 << 8;
    /// They are the fourth argument, not the third.
    const FLAGS_ARE_FOURTH: u16 = 1 << 9;

    /// Of the class with that number.
    #[inline(always)]
    pub fn of(class: u8) -> Form {
        static FORMS: [Form; 16] = Form::table();
        let index = usize::from(class) % FORMS.len();
        // SAFETY: within the table. Not to be made a match again.
        unsafe { core::ptr::read_volatile((&raw const FORMS).cast::<Form>().add(index)) }
    }

    const fn table() -> [Form; 16] {
        let mut forms = [Form(0); 16];
        let mut number = 0;
        while number < 16 {
            if let Some(class) = Class::from_wire(number) {
                forms[number as usize] = class.form();
            }
            number += 1;
        }
        assert!(Class::from_wire(number).is_none(), "a class has no place in the table");
        forms
    }

    #[inline(always)]
    const fn has(self, what: u16) -> bool {
        self.0 & what != 0
    }

    /// Whether data goes through the descriptor that is the first argument.
    #[inline(always)]
    pub const fn has_first(self) -> bool {
        self.has(Form::FIRST)
    }

    /// Whether it comes out of it; if that is known from the call.
    #[inline(always)]
    pub const fn receives(self) -> bool {
        self.has(Form::RECEIVES)
    }

    /// Whether which way it goes is a matter of what the descriptor is: vmsplice(2).
    #[inline(always)]
    pub const fn goes_either_way(self) -> bool {
        self.has(Form::EITHER_WAY)
    }

    /// Whether there is another descriptor.
    #[inline(always)]
    pub const fn has_second(self) -> bool {
        self.has(Form::SECOND)
    }

    /// Which argument that is.
    #[inline(always)]
    pub const fn second(self) -> usize {
        if self.has(Form::SECOND_IS_THIRD) { 2 } else { 1 }
    }

    /// Whether data comes out of it.
    #[inline(always)]
    pub const fn second_receives(self) -> bool {
        self.has(Form::SECOND_RECEIVES)
    }

    /// Whether there is an address.
    #[inline(always)]
    pub const fn has_address(self) -> bool {
        self.has(Form::ADDRESS)
    }

    /// Whether data moves from file to file, or in pages.
    #[inline(always)]
    pub const fn moves(self) -> bool {
        self.has(Form::MOVES)
    }

    /// Which argument of a receive from a socket has its flags (`MSG_PEEK` and the like); `None` of other calls.
    #[inline(always)]
    pub const fn receive_flags(self) -> Option<usize> {
        if !self.has(Form::FLAGS) {
            return None;
        }
        Some(if self.has(Form::FLAGS_ARE_FOURTH) { 3 } else { 2 })
    }
}

impl Class {
    const fn form(self) -> Form {
        const RECEIVE: u16 = Form::FIRST | Form::RECEIVES;
        const SEND: u16 = Form::FIRST;
        Form(match self {
            Class::Read | Class::Readv => RECEIVE,
            Class::Recvmsg => RECEIVE | Form::FLAGS,
            Class::Recvmmsg => RECEIVE | Form::FLAGS | Form::FLAGS_ARE_FOURTH,
            Class::Recvfrom => RECEIVE | Form::FLAGS | Form::FLAGS_ARE_FOURTH | Form::ADDRESS,
            Class::Write | Class::Writev | Class::Sendmsg | Class::Sendmmsg => SEND,
            Class::Sendto => SEND | Form::ADDRESS,
            Class::Splice => RECEIVE | Form::SECOND | Form::SECOND_IS_THIRD | Form::MOVES,
            Class::Tee => Form::SECOND | Form::MOVES,
            Class::Vmsplice => Form::FIRST | Form::EITHER_WAY | Form::MOVES,
            Class::Sendfile => SEND | Form::SECOND | Form::SECOND_RECEIVES | Form::MOVES,
            Class::Sigwait => 0,
        })
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
