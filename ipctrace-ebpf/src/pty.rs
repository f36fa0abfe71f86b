//! Pseudoterminals: `struct tty_struct`, include/linux/tty.h; drivers/tty/pty.c, drivers/tty/n_tty.c.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use ipctrace_common::Mechanism;
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::{Key, op_flag};

use crate::config::offset;
use crate::inflight::{self, InFlight, Side};
use crate::kernel::{Result, read};
use crate::object::{self, is_at_object, is_on};
use crate::repeat::{Repeat, opaque, repeat};
use crate::{channel, ring};

/// Device numbers as the kernel packs them (include/linux/kdev_t.h): the slaves' majors, /dev/tty and /dev/ptmx.
const MINOR_BITS: u32 = 20;
const SLAVES: core::ops::RangeInclusive<u32> = 136..=143;
const CONTROLLING: u32 = 5 << MINOR_BITS;
const PTMX: u32 = 5 << MINOR_BITS | 2;
/// `UNIX98_PTY_MASTER_MAJOR` and `UNIX98_PTY_SLAVE_MAJOR`, include/uapi/linux/major.h: majors of the two drivers.
const MASTER_DRIVER: u32 = 128;
const SLAVE_DRIVER: u32 = 136;
/// `N_TTY`.
const LINE_DISCIPLINE: u8 = 0;
/// Flags of termios(3), include/uapi/asm-generic/termbits.h.
const OPOST: u32 = 0x1;
const ONLCR: u32 = 0x4;
const ONOCR: u32 = 0x10;
const TABS: u32 = 0x1800;
const ECHO: u32 = 0x8;

/// Whether a character device may be a terminal that is to be traced.
#[inline(always)]
pub(crate) fn is_one(inode: u64) -> bool {
    if !is_on(Mechanism::Pty) {
        return false;
    }
    let device: u32 = read(inode, offset!(inode_rdev)).unwrap_or(0);
    device == PTMX || device == CONTROLLING || SLAVES.contains(&(device >> MINOR_BITS))
}

/// Fills in the side of a call on a character device, if it is a pseudoterminal. What goes to the program and what goes to
/// the screen are two channels.
#[inline(always)]
pub(crate) fn describe(file: u64, inode: u64, side: &mut Side) -> Result<()> {
    if !is_one(inode) {
        return Ok(());
    }
    let private: u64 = read(file, offset!(file_private_data))?;
    if private == 0 {
        return Ok(());
    }
    let tty: u64 = read(private, offset!(tty_file_tty))?;
    let driver: u64 = read(tty, offset!(tty_driver))?;
    let major: u32 = read(driver, offset!(tty_driver_major))?;
    let master = major == MASTER_DRIVER;
    if !master && major != SLAVE_DRIVER {
        return Ok(());
    }
    let link: u64 = read(tty, offset!(tty_link))?;
    if link == 0 {
        return Ok(());
    }
    let receive = side.receive != 0;
    let number: u32 = read(tty, offset!(tty_index))?;
    let slave = if master { link } else { tty };
    side.mechanism = Mechanism::Pty as u8;
    side.key = Key { id: slave, space: Key::TERMINAL | u64::from(master == receive) };
    // Where it is read.
    side.object = if receive { tty } else { link };
    side.own_inode = u64::from(number) + 1;
    side.peer = 0;
    side.peer_inode = side.own_inode;
    side.pos_enter = 0;
    side.pos_locked = 0;
    Ok(())
}

/// open(2) or its like gave `fd`. If that is the master of a new pair, its books begin: number and address may have been
/// another's. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn opened(fd: i64) -> i32 {
    if fd >= 0
        && !is_at_object(Mechanism::Pty as u8)
        && let Err(cause) = try_opened(fd as u32)
    {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_opened(fd: u32) -> Result<()> {
    let file = object::file(fd)?;
    if file == 0 {
        return Ok(());
    }
    let inode: u64 = read(file, offset!(file_inode))?;
    if read::<u32>(inode, offset!(inode_rdev))? == PTMX { made(file, inode) } else { Ok(()) }
}

/// A new pair, whose master is that open file: its books begin.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn made(file: u64, inode: u64) -> Result<()> {
    let mut side = Side::NONE;
    describe(file, inode, &mut side)?;
    if side.mechanism != 0 {
        let Key { id, space } = side.key;
        channel::forget(&Key { id, space: space | 1 });
        channel::forget(&Key { id, space: space & !1 });
    }
    Ok(())
}

/// What waits in a terminal to be read; `u64::MAX` if that is not known. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pty_queued(tty: u64) -> u64 {
    try_queued(tty).unwrap_or(u64::MAX)
}

#[inline(always)]
fn try_queued(tty: u64) -> Result<u64> {
    if read::<u8>(tty, offset!(tty_line))? != LINE_DISCIPLINE {
        return Ok(u64::MAX);
    }
    // First what is on its way: what arrives meanwhile is then counted twice, and never missed.
    let mut under_way =
        UnderWay { buffer: read(read(tty, offset!(tty_port))?, offset!(tty_port_head))?, sum: opaque(0) };
    repeat(&mut under_way);
    if under_way.buffer != 0 {
        return Ok(u64::MAX);
    }
    let data: u64 = read(tty, offset!(tty_disc_data))?;
    let head: u64 = read(data, offset!(n_tty_read_head))?;
    let tail: u64 = read(data, offset!(n_tty_read_tail))?;
    Ok(head.wrapping_sub(tail) + under_way.sum)
}

/// Sums what was written to a port and not yet brought to the line discipline, which a worker does (`flush_to_ldisc`,
/// drivers/tty/tty_buffer.c).
struct UnderWay {
    /// The next `struct tty_buffer`; 0 at the end, or where one cannot be read.
    buffer: u64,
    sum: u64,
}

impl Repeat for UnderWay {
    /// A port has at most 64 KiB (`TTYB_DEFAULT_MEM_LIMIT`) in buffers of 256 bytes or more.
    const LIMIT: u32 = 256;
    const PLAIN_LIMIT: u32 = 16;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.buffer == 0 {
            return true;
        }
        let committed: u32 = read(self.buffer, offset!(tty_buffer_commit)).unwrap_or(0);
        let taken: u32 = read(self.buffer, offset!(tty_buffer_read)).unwrap_or(0);
        self.sum += u64::from(committed.wrapping_sub(taken));
        self.buffer = read(self.buffer, offset!(tty_buffer_next)).unwrap_or(0);
        false
    }
}

/// Notes with the call in flight of thread `tid` what the line discipline will make of what was written, or what a read has
/// left. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pty_expected(tid: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        let call = unsafe { &mut *call };
        if let Ok(Expected { bytes: Some(bytes), echo }) = expect(call) {
            call.moved.detail = bytes as i64;
            call.moved.digest = echo;
            call.moved.flags |= op_flag::DETAIL;
        }
    }
    0
}

/// What comes out at the other end (`None`: that cannot be foreseen), or is left there, and what is echoed.
struct Expected {
    bytes: Option<u64>,
    echo: u64,
}

#[inline(always)]
fn expect(call: &InFlight) -> Result<Expected> {
    let side = &call.sides[0];
    let bytes = call.moved.bytes;
    if side.receive != 0 {
        let left = pty_queued(side.object);
        return Ok(Expected { bytes: (left != u64::MAX).then_some(left), echo: 0 });
    }
    let slave = side.key.id;
    let to_screen = side.key.space & 1 != 0;
    let (output, local): (u32, u32) = (read(slave, offset!(tty_oflag))?, read(slave, offset!(tty_lflag))?);
    let echoes = !to_screen && local & ECHO != 0;
    let grows = to_screen && output & (OPOST | ONLCR) == OPOST | ONLCR;
    let (breaks, all) = if echoes || grows {
        if call.class == Class::Write as u8 { count(call.user, bytes, echoes) } else { (0, false) }
    } else {
        (0, true)
    };
    if !to_screen {
        return Ok(Expected { bytes: Some(bytes), echo: if echoes { bytes + breaks } else { 0 } });
    }
    let foreseen = all && (output & OPOST == 0 || output & (ONOCR | TABS) == 0);
    Ok(Expected { bytes: foreseen.then_some(bytes + breaks), echo: 0 })
}

/// Counts line breaks in the caller's memory.
struct Count {
    at: u64,
    left: u64,
    sum: u64,
    /// All ones if carriage returns are line breaks too, as they are when they are typed; else 0.
    carriage: u64,
}

/// Bytes that are looked at in one turn.
const CHUNK: u64 = 32;

impl Repeat for Count {
    /// 64 KiB.
    const LIMIT: u32 = 2048;
    const PLAIN_LIMIT: u32 = 32;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.left == 0 {
            return true;
        }
        // What is behind the end is zero, and no line break.
        let mut words = [0u64; (CHUNK / 8) as usize];
        let len = if self.left < CHUNK { self.left } else { CHUNK };
        // SAFETY: there is room for that much; the helper fails for pages that are not present.
        let status =
            unsafe { bpf_probe_read_user(words.as_mut_ptr().cast(), len as u32, self.at as *const _) };
        if status != 0 {
            return true;
        }
        // Without branches: where there are no helpers for loops the verifier follows each of them in every turn.
        for word in words {
            self.sum += equal(word, b'\n') + (equal(word, b'\r') & self.carriage);
        }
        self.at += len;
        self.left -= len;
        false
    }
}

/// How many of the eight bytes of a word are `byte`. Out of line: several at once would keep their intermediate values on the
/// stack.
#[inline(never)]
fn equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let differs = word ^ (ONES * byte as u64);
    // The top bit of each byte that is zero.
    let zero = !(((differs & LOW) + LOW) | differs | LOW);
    ((zero >> 7).wrapping_mul(ONES)) >> 56
}

/// Line breaks among `bytes` bytes of the caller at `user`, and whether all were looked at.
#[inline(always)]
fn count(user: u64, bytes: u64, carriage: bool) -> (u64, bool) {
    let mut count =
        Count { at: user, left: bytes, sum: opaque(0), carriage: u64::from(carriage).wrapping_neg() };
    repeat(&mut count);
    (count.sum, count.left == 0)
}
