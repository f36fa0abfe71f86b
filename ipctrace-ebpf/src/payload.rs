//! Copies from the caller's memory: socket addresses, and the start of messages if the user asked for it.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use ipctrace_common::Cause;
use ipctrace_common::config::PAYLOAD_MAX;
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::ADDRESS_MAX;

use crate::config;
use crate::inflight::Moved;
use crate::kernel::{Result, read_either};
use crate::message::MsgHdr;
use crate::repeat::opaque;

/// Room for an address and a payload. Twice the payload, so that the verifier sees that a copy of a masked length at a
/// masked offset fits.
type Tail = [u8; ADDRESS_MAX + PAYLOAD_MAX as usize * 2];

/// Buffers of an iovec that are looked into.
const SEGMENTS: u64 = 8;

/// Copies `len` bytes of the caller to `place[at..]`.
///
/// # Errors
/// [`Cause::PageAbsent`] if that memory is not there.
#[inline(always)]
pub(crate) fn copy(place: &mut Tail, at: usize, source: u64, len: usize) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    // Looked at here and nowhere before, and masked: bounds that no verifier loses (see `ring::output_with`).
    let at = core::hint::black_box(at) & (PAYLOAD_MAX as usize * 2 - 1);
    let at = if at > ADDRESS_MAX + PAYLOAD_MAX as usize { 0 } else { at };
    let len = core::hint::black_box(len);
    let len = if len > PAYLOAD_MAX as usize { PAYLOAD_MAX as usize } else { len };
    // SAFETY: `at` + `len` is at most ADDRESS_MAX + 2 × PAYLOAD_MAX, the length of the place; the helper checks the source.
    let status =
        unsafe { bpf_probe_read_user(place.as_mut_ptr().add(at).cast(), len as u32, source as *const _) };
    if status == 0 { Ok(()) } else { Err(Cause::PageAbsent) }
}

/// Copies a socket address of `len` bytes to the begin of `place`: the caller's, or the kernel's copy of it.
///
/// # Errors
/// If that memory is not there.
#[inline(always)]
pub(crate) fn address(place: &mut Tail, source: u64, len: usize, is_copy: bool) -> Result<()> {
    if !is_copy {
        return copy(place, 0, source, len);
    }
    let len = core::hint::black_box(len);
    let len = if len > ADDRESS_MAX { ADDRESS_MAX } else { len };
    // SAFETY: the place is longer than ADDRESS_MAX; the helper checks the source.
    let status = unsafe { bpf_probe_read_kernel(place.as_mut_ptr().cast(), len as u32, source as *const _) };
    if status == 0 { Ok(()) } else { Err(Cause::ReadFailed) }
}

/// Copies the start of the message behind `place[at..]` and gives how many bytes there are now.
#[inline(always)]
pub(crate) fn capture(place: &mut Tail, at: usize, class: u8, moved: &Moved) -> usize {
    let wanted = moved.bytes.min(u64::from(config::payload())).min(u64::from(PAYLOAD_MAX)) as usize;
    let vector = match Class::from_wire(class) {
        Some(Class::Write | Class::Sendto | Class::Read | Class::Recvfrom) => {
            return if copy(place, at, moved.user, wanted).is_ok() { wanted } else { 0 };
        }
        Some(Class::Writev | Class::Readv | Class::Vmsplice) => Some((moved.user, moved.count)),
        Some(Class::Sendmsg | Class::Sendmmsg | Class::Recvmsg | Class::Recvmmsg) => {
            MsgHdr::read(moved.user).ok().map(|header| (header.iov, header.iov_count))
        }
        Some(Class::Splice | Class::Tee | Class::Sendfile | Class::Sigwait) | None => None,
    };
    let Some((vector, count)) = vector else {
        return 0;
    };
    let (vector, count, wanted) = (opaque(vector), opaque(count), opaque(wanted as u64) as usize);
    let mut done = opaque(0) as usize;
    for index in 0..SEGMENTS {
        if index >= count || done >= wanted {
            break;
        }
        let Ok([base, len]) = read_either::<[u64; 2]>(vector, index as usize * 16) else {
            break;
        };
        let part = (len as usize).min(wanted - done);
        if copy(place, at + done, base, part).is_err() {
            break;
        }
        done = opaque((done + part) as u64) as usize;
    }
    done
}
