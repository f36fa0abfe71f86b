//! Digest of the beginning of a datagram's content, in the kernel's memory.

#[cfg(feature = "loads")]
pub(crate) use loaded::digest_of;
#[cfg(not(feature = "loads"))]
pub(crate) use read::digest_of;

/// By loads.
#[cfg(feature = "loads")]
mod loaded {
    use core::hint::black_box;

    use ipctrace_common::digest;

    use crate::kernel::read;

    /// Digest of `len` bytes, at most [`digest::BYTES`], in a buffer. What is no memory counts as zeros.
    #[inline(always)]
    pub(crate) fn digest_of(source: u64, len: u64, _what: u32) -> u64 {
        let (whole, rest) = (len / 8, len % 8);
        let across = (1 << (rest * 8)) - 1;
        // Masked where it is used, so that verifiers know what it is at the most.
        let first = black_box(digest::WORDS as u64 - whole) as usize & 15;
        let mut words = [0; digest::WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: initialised statics that nothing writes; both are so long. Volatile, or the compiler would make jumps of them.
            let mask = unsafe {
                let within = core::ptr::read_volatile((&raw const WITHIN).cast::<u64>().add(first + index));
                let at_end = core::ptr::read_volatile((&raw const AT_END).cast::<u64>().add(first + index));
                within | (at_end & across)
            };
            // Behind the content there is at least what the kernel keeps with each buffer (`struct skb_shared_info`), so that a word
            // across its end is there.
            *word = read::<u64>(source, index * 8).unwrap_or(0) & mask;
        }
        digest::of(&words)
    }

    /// Which words of [`digest::WORDS`] are within a content, looked at from as far in as there are too few of them: a table in place of
    /// comparisons, of which verifiers would follow both ways.
    static WITHIN: [u64; 15 + digest::WORDS] = {
        let mut words = [0; _];
        let mut index = 0;
        while index < digest::WORDS {
            words[index] = u64::MAX;
            index += 1;
        }
        words
    };

    /// Likewise, the one at its end, of which a part is.
    static AT_END: [u64; 15 + digest::WORDS] = {
        let mut words = [0; _];
        words[digest::WORDS] = u64::MAX;
        words
    };
}

/// By a helper, which wants a place to read to.
#[cfg(not(feature = "loads"))]
mod read {
    use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
    use aya_ebpf::macros::map;
    use aya_ebpf::maps::PerCpuArray;
    use ipctrace_common::digest;
    use ipctrace_common::wire::datagram;

    use crate::kernel::add;

    /// The beginning of a content: of what is in a queue or just taken, and of what is on its way. The latter is looked at where no other
    /// packet can come in between, and may come while the former is looked at.
    #[map]
    static BEGINNING: PerCpuArray<[u64; digest::WORDS]> = PerCpuArray::with_max_entries(2, 0);

    /// Not 0 while a task has that place: programs on functions look at what is in a queue, too, and another task's may come in between.
    #[map]
    static BEGINNING_IN_USE: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

    /// Digest of `len` bytes, at most [`digest::BYTES`], in the kernel's memory; 0 if they could not be read.
    #[inline(always)]
    pub(crate) fn digest_of(source: u64, len: u64, what: u32) -> u64 {
        let on_its_way = what == u32::from(datagram::SENT) || what == u32::from(datagram::ARRIVED);
        let (Some(place), Some(in_use)) = (
            BEGINNING.get_ptr_mut(u32::from(on_its_way)),
            BEGINNING_IN_USE.get_ptr_mut(u32::from(on_its_way)),
        ) else {
            return 0;
        };
        // SAFETY: this CPU's valid, aligned place; a task stays on its CPU as long as the program runs.
        let digest = if unsafe { add(in_use, 1) } == 0 { digest_at(place, source, len) } else { 0 };
        // SAFETY: as above.
        unsafe { add(in_use, u64::MAX) };
        digest
    }

    /// The same, by way of that place.
    #[inline(always)]
    fn digest_at(place: *mut [u64; digest::WORDS], source: u64, len: u64) -> u64 {
        // SAFETY: this CPU's valid, aligned place, used as is said there.
        let words = unsafe {
            *place = [0; digest::WORDS];
            &*place
        };
        let len = if len > digest::BYTES { digest::BYTES } else { len } as u32;
        let status = if len == 0 {
            0
        } else {
            // SAFETY: the place has so many bytes; the helper checks the source.
            unsafe { bpf_probe_read_kernel(place.cast(), len, source as *const _) }
        };
        if status == 0 { digest::of(words) } else { 0 }
    }
}
