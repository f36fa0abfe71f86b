//! What the programs do with each system call, apart from its number.
//!
//! User space writes a table from number to [`Class`] into the programs before they are loaded, so that a call that
//! is no IPC costs one load, and one that only serves mechanisms that are off costs no more.

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal;)*) => {
        /// How a system call moves data.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Class { $($(#[$doc])* $variant = $number,)* }
        impl Class {
            /// The class with that number; `None` for 0 and what is not in the table.
            #[inline(always)]
            pub const fn from_wire(number: u8) -> Option<Class> {
                match number { $($number => Some(Class::$variant),)* _ => None }
            }
        }
    };
}

classes! {
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

/// Size of the table from system call number to class: a power of two above every number in use.
pub const TABLE: usize = 512;
