//! What the programs are told of io_uring, whose structures and tracepoints differ between kernels. None of it is needed
//! by a mechanism: without it what goes through rings is not seen, and the rest is.

use zerocopy::{Immutable, IntoBytes};

macro_rules! places {
    ($($(#[$doc:meta])* $field:ident = $path:literal, $need:ident;)*) => {
        /// Byte offsets, as the kernel's BTF states them; [`Places::ABSENT`] for what this kernel does not have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
        #[repr(C)]
        pub struct Places { $($(#[$doc])* pub $field: u32,)* }

        impl Places {
            /// For each field the kernel's `struct.member` path whose offset it holds, and whether there is no tracing of
            /// rings without it.
            pub const PATHS: &'static [(&'static str, Need, fn(&mut Places) -> &mut u32)] = &[
                $(($path, Need::$need, |places| &mut places.$field),)*
            ];
            /// What the object holds until user space writes the real ones.
            pub const NONE: Places = Places { $($field: Places::ABSENT,)* };
        }
    };
}

/// Whether a place must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Rings cannot be traced without it.
    Always,
    /// Some kernels do without; what it is for is then found in another way, or later.
    Perhaps,
}

impl Places {
    /// Stands for an offset that there is not.
    pub const ABSENT: u32 = u32::MAX;
}

places! {
    /// What a request does.
    opcode = "io_kiocb.opcode", Always;
    /// Its flags; the lowest are those of the submission entry.
    flags = "io_kiocb.flags", Always;
    /// The file that it works on, once it has begun.
    file = "io_kiocb.file", Always;
    /// Its ring.
    ctx = "io_kiocb.ctx", Always;
    /// The number of its file, until it has begun.
    fd = "io_kiocb.cqe.fd", Always;
    /// What the submitter calls it.
    user_data = "io_kiocb.cqe.user_data", Always;
    /// Its place in the list of requests that are done.
    comp_list = "io_kiocb.comp_list", Perhaps;
    /// The last of those in the ring.
    comp_last = "io_ring_ctx.submit_state.compl_reqs.last", Perhaps;
    /// What a thread has to do with rings; null if nothing.
    task_uring = "task_struct.io_uring", Always;
    /// Flags of a thread.
    task_flags = "task_struct.flags", Always;
    /// Descriptor that a splice or tee takes from.
    splice_fd = "io_splice.splice_fd_in", Perhaps;
    /// Flags of a splice or tee.
    splice_flags = "io_splice.flags", Perhaps;
    /// Buffer or vector of a read or write.
    rw_addr = "io_rw.addr", Perhaps;
    /// Flags of a send or receive.
    msg_flags = "io_sr_msg.msg_flags", Perhaps;
    /// Files registered with a ring (since Linux 6.13).
    nodes = "io_ring_ctx.file_table.data.nodes", Perhaps;
    /// How many.
    nodes_count = "io_ring_ctx.file_table.data.nr", Perhaps;
    /// The file of one, with flags in its lowest bits.
    node_file = "io_rsrc_node.file_ptr", Perhaps;
    /// Files registered with a ring (before Linux 6.13).
    files = "io_ring_ctx.file_table.files", Perhaps;
    /// How many.
    files_count = "io_ring_ctx.nr_user_files", Perhaps;
}

/// Forms of the tracepoint `io_uring_complete`.
pub mod complete_form {
    /// `(ctx, req, cqe)`.
    pub const ENTRY: u32 = 1;
    /// `(ctx, req, user_data, res, cflags, …)`.
    pub const FIELDS: u32 = 2;
}

/// Everything that the programs are told of io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Uring {
    /// 1 if rings are traced.
    pub on: u32,
    /// A [`complete_form`].
    pub complete: u32,
    /// 1 if `sock_send_length` and `sock_recv_length` tell what went through sockets; else completions do.
    pub by_socket: u32,
    /// Offsets.
    pub places: Places,
}

impl Uring {
    /// Rings are not traced.
    pub const OFF: Uring = Uring { on: 0, complete: 0, by_socket: 0, places: Places::NONE };
}
