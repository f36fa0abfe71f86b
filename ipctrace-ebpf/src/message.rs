//! `struct msghdr` and `struct mmsghdr` of callers, include/linux/socket.h (64-bit layout of user space).

use core::marker::PhantomData;

use ipctrace_common::Cause;

use crate::handoff;
use crate::inflight::{self, InFlight};
use crate::kernel::{Result, read_user};
use crate::repeat::{Repeat, opaque, repeat};

/// Size of `struct mmsghdr`.
pub(crate) const MMSGHDR: u64 = 64;
/// `msg_len` in it.
const MSG_LEN: usize = 56;
/// `msg_control` and `msg_controllen` in a `struct user_msghdr`.
pub(crate) const CONTROL: usize = 32;
/// What else matters of a `struct user_msghdr`.
#[derive(Clone, Copy)]
pub(crate) struct MsgHdr {
    pub(crate) name: u64,
    pub(crate) name_len: u64,
    pub(crate) iov: u64,
    pub(crate) iov_count: u64,
}

impl MsgHdr {
    /// Reads the caller's header.
    ///
    /// # Errors
    /// If the memory is not there.
    #[inline(always)]
    pub(crate) fn read(address: u64) -> Result<MsgHdr> {
        let [name, name_len, iov, iov_count]: [u64; 4] = read_user(address, 0)?;
        // msg_namelen is an int, followed by padding.
        Ok(MsgHdr { name, name_len: name_len & 0xffff_ffff, iov, iov_count })
    }
}

/// What the kernel wrote to `msg_len` of message `index`: how many bytes went.
///
/// # Errors
/// If the memory is not there.
#[inline(always)]
pub(crate) fn moved(array: u64, index: u32) -> Result<u64> {
    read_user::<u32>(array + u64::from(index) * MMSGHDR, MSG_LEN).map(u64::from)
}

/// What is done with each message of a call.
pub(crate) trait Visit {
    /// Visits message `index`, of which so many bytes went.
    ///
    /// # Errors
    /// If something could not be read.
    fn visit(tid: u32, call: &mut InFlight, index: u32, bytes: u64) -> Result<()>;
}

/// Only the sum of bytes is wanted, and the descriptors that go along.
pub(crate) struct AddUp;

impl Visit for AddUp {
    #[inline(always)]
    fn visit(tid: u32, call: &mut InFlight, index: u32, _bytes: u64) -> Result<()> {
        handoff::passed_along(tid, call.user + u64::from(index) * MMSGHDR);
        Ok(())
    }
}

/// A walk over the messages of a call.
struct Walk<V> {
    sum: u64,
    tid: u32,
    count: u32,
    done: u32,
    visitor: PhantomData<V>,
}

impl<V: Visit> Repeat for Walk<V> {
    /// UIO_MAXIOV, beyond which the kernel itself stops.
    const LIMIT: u32 = 1024;
    const PLAIN_LIMIT: u32 = 8;

    #[inline(always)]
    fn turn(&mut self, index: u32) -> bool {
        if index >= self.count {
            return true;
        }
        let Some(call) = inflight::get(self.tid) else {
            return true;
        };
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        let call = unsafe { &mut *call };
        match moved(call.user, index).and_then(|bytes| V::visit(self.tid, call, index, bytes).map(|()| bytes))
        {
            Ok(bytes) => {
                self.sum += bytes;
                self.done += 1;
                false
            }
            Err(_) => true,
        }
    }
}

/// Visits the first `count` messages of the call in flight of thread `tid`; gives the sum of their bytes.
///
/// # Errors
/// [`Cause::ReadFailed`] if one could not be read: it and those behind it are not visited.
#[inline(always)]
pub(crate) fn each<V: Visit>(tid: u32, count: u32) -> Result<u64> {
    let mut walk = Walk::<V> { sum: opaque(0), tid, count, done: opaque(0) as u32, visitor: PhantomData };
    repeat(&mut walk);
    if walk.done == count { Ok(walk.sum) } else { Err(Cause::ReadFailed) }
}
