//! `fs/pipe.c` in small.

const PAGE: u64 = 4096;
/// Buffers of the ring.
const RING: u64 = 16;

/// One buffer. What it said last stays when it is consumed, as in the kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Buffer {
    offset: u64,
    len: u64,
}

/// The pipe, and for each byte ever put in who did it.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    buffers: Vec<Buffer>,
    tail: u64,
    /// The caller of each byte, in the order in which they stand.
    pub(super) written: Vec<u32>,
    /// How many of them are taken.
    pub(super) taken: usize,
}

impl Pipe {
    fn head(&self) -> u64 {
        self.buffers.len() as u64
    }

    /// A writer's position.
    pub(super) fn write_position(&self) -> u64 {
        let last = self.buffers.last().copied().unwrap_or_default();
        self.head() << 32 | (last.offset + last.len)
    }

    /// A reader's position.
    pub(super) fn read_position(&self) -> u64 {
        let first = self.buffers.get(self.tail as usize).map_or(0, |buffer| buffer.offset);
        self.tail << 32 | first
    }

    /// Bytes in it.
    pub(super) fn queued(&self) -> u64 {
        (self.written.len() - self.taken) as u64
    }

    /// What the lock's holder puts in of `bytes`: all, or what there is room for. `first` as the call begins.
    pub(super) fn write(&mut self, who: u32, bytes: u64, first: bool) -> u64 {
        let mut left = bytes;
        let part = bytes % PAGE;
        if first
            && part > 0
            && self.tail < self.head()
            && let Some(last) = self.buffers.last_mut()
            && last.offset + last.len + part <= PAGE
        {
            last.len += part;
            left -= part;
        }
        while left > 0 && self.head() - self.tail < RING {
            let len = left.min(PAGE);
            self.buffers.push(Buffer { offset: 0, len });
            left -= len;
        }
        self.written.extend(std::iter::repeat_n(who, (bytes - left) as usize));
        bytes - left
    }

    /// What the lock's holder takes out: up to `bytes`.
    pub(super) fn read(&mut self, bytes: u64) -> Vec<u32> {
        let mut left = bytes;
        while left > 0
            && let Some(buffer) = self.buffers.get_mut(self.tail as usize)
        {
            let count = buffer.len.min(left);
            buffer.offset += count;
            buffer.len -= count;
            left -= count;
            self.tail += u64::from(buffer.len == 0);
        }
        let from = self.taken;
        self.taken += (bytes - left) as usize;
        self.written[from..self.taken].to_vec()
    }
}
