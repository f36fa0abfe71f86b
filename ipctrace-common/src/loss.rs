//! Why something was not seen. Every loss is counted under one of these causes, in the kernel or in the collector.

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A cause of loss. The number is the index in the kernel's counter map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Cause { $($(#[$doc])* $variant = $number,)* }

        impl Cause {
            /// All causes.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)*];
            /// The name in `lost` and `end` lines.
            pub const fn name(self) -> &'static str {
                match self { $(Cause::$variant => $name,)* }
            }
        }
    };
}

causes! {
    /// The ring buffer had no room: the collector did not keep up.
    RingFull = 0, "ring-full";
    /// A kernel map had no room for a call in flight or a channel.
    MapFull = 1, "map-full";
    /// A structure of the kernel's could not be read, or not what a call did be found in it.
    ReadFailed = 2, "read-failed";
    /// A 32-bit system call, whose arguments the programs do not read.
    CompatCall = 3, "compat-call";
    /// A program was skipped by the kernel because it was already running on that CPU.
    Recursion = 4, "recursion";
    /// A record on the ring was not understood.
    Malformed = 5, "malformed";
    /// The collector's bound on memory made it forget something not yet matched.
    Evicted = 6, "evicted";
    /// An event could not be written to the output.
    WriteFailed = 7, "write-failed";
    /// A request through io_uring whose end the kernel does not tell, or tells without saying which request it was.
    NoCompletion = 8, "no-completion";
    /// A page of the caller's memory was not present: programs do not wait for one to be brought.
    PageAbsent = 9, "page-absent";
    /// Another thread of the caller was changing its mappings, so that those could not be looked at.
    MappingsBusy = 10, "mappings-busy";
}

/// How many causes there are: the size of the kernel's counter map.
pub const CAUSES: u32 = Cause::ALL.len() as u32;
