//! What user space decides before the programs are loaded: offsets in this kernel's structures, and switches.

use zerocopy::{Immutable, IntoBytes};

use crate::uring::Uring;

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident = $path:literal;)*) => {
        /// Byte offsets in the running kernel's structures, as its BTF states them.
        ///
        /// The programs read them as constants: they are written into read-only data that is frozen before load, so
        /// the verifier knows their values.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
        #[repr(C)]
        pub struct Offsets { $($(#[$doc])* pub $field: u32,)* }

        impl Offsets {
            /// For each field the kernel's `struct.member` path whose offset it holds, or `sizeof struct`; several, the newest
            /// last and with ` or ` between them, where kernels differ in the name.
            pub const PATHS: &'static [(&'static str, fn(&mut Offsets) -> &mut u32)] = &[
                $(($path, |offsets| &mut offsets.$field),)*
            ];
            /// All zero: what the object holds until user space writes the real ones.
            pub const ZERO: Offsets = Offsets { $($field: 0,)* };
        }
    };
}

offsets! {
    /// Thread group id (`pid` of user space).
    task_tgid = "task_struct.tgid";
    /// Thread id.
    task_pid = "task_struct.pid";
    /// First thread of the process.
    task_group_leader = "task_struct.group_leader";
    /// Command name of the thread.
    task_comm = "task_struct.comm";
    /// Start time, boot clock, ns.
    task_start = "task_struct.start_boottime";
    /// Parent as seen by wait(2).
    task_real_parent = "task_struct.real_parent";
    /// Effective credentials.
    task_cred = "task_struct.cred";
    /// Exit code in wait(2) form.
    task_exit_code = "task_struct.exit_code";
    /// State shared by the threads of a process.
    task_signal = "task_struct.signal";
    /// Blocked signals.
    task_blocked = "task_struct.blocked";
    /// Descriptor table.
    task_files = "task_struct.files";
    /// Control groups.
    task_cgroups = "task_struct.cgroups";
    /// Architecture flags of the thread.
    task_thread_info_status = "task_struct.thread_info.status";
    /// Where the fair scheduler has the thread.
    task_cfs_rq = "task_struct.se.cfs_rq";
    /// The run queue of its processor.
    cfs_rq_rq = "cfs_rq.rq";
    /// The thread that a processor runs.
    rq_curr = "rq.curr";
    /// Which processor that is.
    rq_cpu = "rq.cpu";
    /// Real user id.
    cred_uid = "cred.uid";
    /// Threads still alive.
    signal_live = "signal_struct.live";
    /// Exit code of the whole process, set when a fatal signal begins to end it.
    signal_group_exit_code = "signal_struct.group_exit_code";
    /// Controlling terminal.
    signal_tty = "signal_struct.tty";
    /// Name of a terminal.
    tty_name = "tty_struct.name";
    /// The task's group in the unified hierarchy.
    css_set_dfl_cgrp = "css_set.dfl_cgrp";
    /// Node of a control group.
    cgroup_kn = "cgroup.kn";
    /// Identity of that node.
    kernfs_node_id = "kernfs_node.id";
    /// Table of open files.
    files_fdt = "files_struct.fdt";
    /// Number of slots in it.
    fdt_max_fds = "fdtable.max_fds";
    /// The slots.
    fdt_fd = "fdtable.fd";
    /// Inode of an open file.
    file_inode = "file.f_inode";
    /// Mode of an open file.
    file_mode = "file.f_mode";
    /// Object of an open file.
    file_private_data = "file.private_data";
    /// Dentry of an open file.
    file_dentry = "file.f_path.dentry";
    /// Mount of an open file.
    file_mnt = "file.f_path.mnt";
    /// Type and permissions.
    inode_mode = "inode.i_mode";
    /// Inode number.
    inode_ino = "inode.i_ino";
    /// File system.
    inode_sb = "inode.i_sb";
    /// Device number of a file system.
    sb_dev = "super_block.s_dev";
    /// Magic number of a file system.
    sb_magic = "super_block.s_magic";
    /// Name of a dentry.
    dentry_name = "dentry.d_name.name";
    /// Parent of a dentry.
    dentry_parent = "dentry.d_parent";
    /// Root of a mount.
    vfsmount_root = "vfsmount.mnt_root";
    /// Where the public part of a mount stands in the private one.
    mount_mnt = "mount.mnt";
    /// Parent of a mount.
    mount_parent = "mount.mnt_parent";
    /// Where a mount is mounted.
    mount_mountpoint = "mount.mnt_mountpoint";
    /// Lock of a pipe.
    pipe_mutex = "pipe_inode_info.mutex";
    /// The thread that holds a lock, and bits of its own (three; real-time kernels: one).
    mutex_owner = "mutex.owner or mutex.rtmutex.owner";
    /// Buffers ever filled.
    pipe_head = "pipe_inode_info.head";
    /// Buffers ever emptied.
    pipe_tail = "pipe_inode_info.tail";
    /// Buffers there are.
    pipe_ring_size = "pipe_inode_info.ring_size";
    /// The buffers.
    pipe_bufs = "pipe_inode_info.bufs";
    /// Where the data of a buffer begins.
    pipe_buffer_offset = "pipe_buffer.offset";
    /// How much a buffer holds.
    pipe_buffer_len = "pipe_buffer.len";
    /// Protocol state of a socket.
    socket_sk = "socket.sk";
    /// Where the socket stands beside its inode.
    socket_alloc_socket = "socket_alloc.socket";
    /// Where the inode stands beside its socket.
    socket_alloc_inode = "socket_alloc.vfs_inode";
    /// Number of its inode, kept in the protocol state since Linux 6.18.
    sock_ino = "sock.sk_ino";
    /// Address family.
    sock_family = "sock.__sk_common.skc_family";
    /// Socket type.
    sock_type = "sock.sk_type";
    /// The open file of a socket.
    socket_file = "socket.file";
    /// File side of a socket.
    sock_socket = "sock.sk_socket";
    /// Its flags, the first of which is that it is closed.
    sock_flags = "sock.__sk_common.skc_flags";
    /// Which of its directions are shut.
    sock_shutdown = "sock.sk_shutdown";
    /// How much there must be for a receive to return.
    sock_rcvlowat = "sock.sk_rcvlowat";
    /// Receive queue.
    sock_receive_queue = "sock.sk_receive_queue";
    /// How many buffers are in such a queue.
    queue_len = "sk_buff_head.qlen";
    /// Peer of a unix socket.
    unix_peer = "unix_sock.peer";
    /// Bound name of a unix socket.
    unix_addr = "unix_sock.addr";
    /// Length of a bound name.
    unix_address_len = "unix_address.len";
    /// Bytes of a bound name.
    unix_address_name = "unix_address.name";
    /// Bytes of a queued buffer already read.
    unix_cb_consumed = "unix_skb_parms.consumed";
    /// Protocol of an internet socket.
    sock_protocol = "sock.sk_protocol";
    /// State of a TCP connection.
    sock_state = "sock.__sk_common.skc_state";
    /// Network namespace of a socket.
    sock_net = "sock.__sk_common.skc_net.net";
    /// Inode of a network namespace.
    net_inum = "net.ns.inum";
    /// Remote port of a socket, in network order.
    sock_dport = "sock.__sk_common.skc_dport";
    /// Remote IPv4 address.
    sock_daddr = "sock.__sk_common.skc_daddr";
    /// Local IPv4 address.
    sock_rcv_saddr = "sock.__sk_common.skc_rcv_saddr";
    /// Remote IPv6 address.
    sock_v6_daddr = "sock.__sk_common.skc_v6_daddr";
    /// Local IPv6 address.
    sock_v6_rcv_saddr = "sock.__sk_common.skc_v6_rcv_saddr";
    /// Local port of an internet socket, in network order; stays when the connection ends.
    inet_sport = "inet_sock.inet_sport";
    /// Sequence number of the next byte that is sent.
    tcp_write_seq = "tcp_sock.write_seq";
    /// Sequence number of the next byte that is received by the caller.
    tcp_copied_seq = "tcp_sock.copied_seq";
    /// Sequence number of the next byte expected from the peer.
    tcp_rcv_nxt = "tcp_sock.rcv_nxt";
    /// Where a UDP socket's receivers move its queue to.
    udp_reader_queue = "udp_sock.reader_queue";
    /// Last buffer of a queue; the one before another.
    skb_prev = "sk_buff.prev";
    /// Memory of a buffer.
    skb_head = "sk_buff.head";
    /// Where the header of the network layer begins in it.
    skb_network_header = "sk_buff.network_header";
    /// Where the header of the transport layer begins in it.
    skb_transport_header = "sk_buff.transport_header";
    /// Where what is in it ends; what is behind is in pages elsewhere.
    skb_tail = "sk_buff.tail";
    /// Next buffer in a queue.
    skb_next = "sk_buff.next";
    /// Length of a buffer.
    skb_len = "sk_buff.len";
    /// Socket that a buffer belongs to.
    skb_sk = "sk_buff.sk";
    /// Device that a buffer is at.
    skb_dev = "sk_buff.dev";
    /// Control block of a buffer.
    skb_cb = "sk_buff.cb";
    /// Namespaces of a task.
    task_nsproxy = "task_struct.nsproxy";
    /// The IPC namespace among them.
    nsproxy_ipc = "nsproxy.ipc_ns";
    /// Number of an IPC namespace, as /proc/PID/ns/ipc shows it.
    ipc_inum = "ipc_namespace.ns.inum";
    /// System V objects of an IPC namespace: semaphores, message queues, shared memory.
    ipc_ids = "ipc_namespace.ids";
    /// Size of one of these three.
    ipc_ids_size = "sizeof ipc_ids";
    /// Root of the tree of objects of one kind.
    ipc_ids_root = "ipc_ids.ipcs_idr.idr_rt.xa_head";
    /// How many bits of the index are below a node of such a tree.
    xa_node_shift = "xa_node.shift";
    /// What is under such a node.
    xa_node_slots = "xa_node.slots";
    /// Identifier of a System V object.
    ipc_perm_id = "kern_ipc_perm.id";
    /// Its key.
    ipc_perm_key = "kern_ipc_perm.key";
    /// Messages in a System V queue.
    msg_queue_count = "msg_queue.q_qnum";
    /// The first of them.
    msg_queue_messages = "msg_queue.q_messages";
    /// Next message of a list.
    msg_next = "msg_msg.m_list.next";
    /// Type of a System V message, priority of a POSIX one.
    msg_type = "msg_msg.m_type";
    /// Length of a message.
    msg_len = "msg_msg.m_ts";
    /// Where the content of a message begins.
    msg_size = "sizeof msg_msg";
    /// Where the inode stands in a POSIX queue.
    mqueue_inode = "mqueue_inode_info.vfs_inode";
    /// What a file system's own data are: of POSIX queues, the IPC namespace.
    sb_fs_info = "super_block.s_fs_info";
    /// Messages in a POSIX queue.
    mqueue_count = "mqueue_inode_info.attr.mq_curmsgs";
    /// Root of its tree of priorities.
    mqueue_root = "mqueue_inode_info.msg_tree.rb_node";
    /// Where the node stands in such a priority.
    mqueue_leaf_node = "posix_msg_tree_node.rb_node";
    /// The messages of that priority.
    mqueue_leaf_messages = "posix_msg_tree_node.msg_list";
    /// The priority.
    mqueue_leaf_priority = "posix_msg_tree_node.priority";
    /// What is less in a tree.
    rb_left = "rb_node.rb_left";
    /// What is greater.
    rb_right = "rb_node.rb_right";
    /// Signal information: code.
    siginfo_code = "kernel_siginfo.si_code";
    /// Signal information: value of sigqueue.
    siginfo_value = "kernel_siginfo._sifields._rt._sigval";
    /// Handler of a signal.
    sigaction_handler = "k_sigaction.sa.sa_handler";
    /// Address space.
    task_mm = "task_struct.mm";
    /// Counts the programs that the process has run.
    task_exec_id = "task_struct.self_exec_id";
    /// Counts changes of an address space; odd while there is one. Since Linux 6.13 on most builds.
    mm_lock_seq = "mm_struct.mm_lock_seq";
    /// Mount namespace.
    nsproxy_mnt_ns = "nsproxy.mnt_ns";
    /// Size of a segment.
    shm_size = "shmid_kernel.shm_segsz";
    /// Task that made a segment.
    shm_creator = "shmid_kernel.shm_creator";
    /// Number of a mount namespace.
    mnt_ns_inum = "mnt_namespace.ns.inum";
    /// Size of a file.
    inode_size = "inode.i_size";
    /// Begin of a mapping.
    vma_start = "vm_area_struct.vm_start";
    /// What may be done with a mapping.
    vma_flags = "vm_area_struct.vm_flags";
    /// Where in its file a mapping begins, pages.
    vma_pgoff = "vm_area_struct.vm_pgoff";
    /// End of a mapping.
    vma_end = "vm_area_struct.vm_end";
    /// File of a mapping.
    vma_file = "vm_area_struct.vm_file";
    /// Id of an attached System V segment.
    shm_file_id = "shm_file_data.id";
    /// IPC namespace of an attached System V segment.
    shm_file_ns = "shm_file_data.ns";
    /// Functions of an open file.
    file_op = "file.f_op";
    /// Units in an event counter.
    eventfd_count = "eventfd_ctx.count";
    /// Flags of an event counter.
    eventfd_flags = "eventfd_ctx.flags";
    /// Number of an event counter.
    eventfd_id = "eventfd_ctx.id";
    /// Open file of a read.
    kiocb_file = "kiocb.ki_filp";
    /// What sort of memory a read writes to.
    iter_kind = "iov_iter.type or iov_iter.iter_type";
    /// How far into it.
    iter_offset = "iov_iter.iov_offset";
    /// The caller's memory, if it is one piece.
    iter_ubuf = "iov_iter.ubuf";
    /// The pieces of the caller's memory.
    iter_iovec = "iov_iter.iov or iov_iter.__iov";
    /// How many they are.
    iter_count = "iov_iter.nr_segs";
    /// How many bytes there are, or how many there is room for.
    iter_bytes = "iov_iter.count";
    /// Address that a message is for, or room for that of its sender.
    msghdr_name = "msghdr.msg_name";
    /// Its length.
    msghdr_namelen = "msghdr.msg_namelen";
    /// Where the bytes of a message are.
    msghdr_iter = "msghdr.msg_iter";
    /// What goes along with a message; of one that is received, where the next of that is put.
    msghdr_control = "msghdr.msg_control";
    /// Its length.
    msghdr_controllen = "msghdr.msg_controllen";
    /// Device number of a special file.
    inode_rdev = "inode.i_rdev";
    /// Terminal of an open file.
    tty_file_tty = "tty_file_private.tty";
    /// Driver of a terminal.
    tty_driver = "tty_struct.driver";
    /// Major device number of a driver's terminals.
    tty_driver_major = "tty_driver.major";
    /// The other side of a pseudoterminal.
    tty_link = "tty_struct.link";
    /// Number of a terminal.
    tty_index = "tty_struct.index";
    /// Output settings of a terminal.
    tty_oflag = "tty_struct.termios.c_oflag";
    /// Local settings of a terminal.
    tty_lflag = "tty_struct.termios.c_lflag";
    /// Line discipline of a terminal.
    tty_line = "tty_struct.termios.c_line";
    /// State of that line discipline.
    tty_disc_data = "tty_struct.disc_data";
    /// The port through which what was written comes to a terminal.
    tty_port = "tty_struct.port";
    /// The first of its buffers.
    tty_port_head = "tty_port.buf.head";
    /// The one after a buffer.
    tty_buffer_next = "tty_buffer.next";
    /// Bytes in it that are there to be taken.
    tty_buffer_commit = "tty_buffer.commit";
    /// Bytes of it that have been taken.
    tty_buffer_read = "tty_buffer.read";
    /// Bytes ever put into the buffer to be read.
    n_tty_read_head = "n_tty_data.read_head";
    /// Bytes ever read from it.
    n_tty_read_tail = "n_tty_data.read_tail";
    /// Ids of a thread.
    task_thread_pid = "task_struct.thread_pid";
    /// Where a thread stands in the lists of its ids.
    task_pid_links = "task_struct.pid_links";
    /// How deep in the hierarchy of PID namespaces an id is.
    pid_level = "pid.level";
    /// The tasks that have an id.
    pid_tasks = "pid.tasks";
    /// The numbers of an id, one for each namespace that sees it.
    pid_numbers = "pid.numbers";
    /// Directory entry of a pidfd: there since they have a file system of their own (Linux 6.9).
    pid_stashed = "pid.stashed";
    /// Number of an id in one namespace.
    upid_nr = "upid.nr";
    /// That namespace.
    upid_ns = "upid.ns";
    /// Ids by number in one namespace.
    pid_namespace_idr = "pid_namespace.idr.idr_rt.xa_head";
    /// What a file system knows of an inode.
    inode_private = "inode.i_private";
    /// `PF_` flags of a thread.
    task_flags = "task_struct.flags";
    /// Signals pending for the thread.
    task_pending = "task_struct.pending.signal";
    /// Signals pending for the process.
    signal_shared_pending = "signal_struct.shared_pending.signal";
    /// Number that tells users of one inode apart.
    inode_generation = "inode.i_generation";
    /// Names of an inode.
    inode_dentries = "inode.i_dentry";
    /// Place of a name among those of its inode.
    dentry_alias = "dentry.d_u.d_alias or dentry.d_alias";
    /// Hash and length of a name.
    dentry_hash_len = "dentry.d_name.hash_len";
    /// Place of a name in the cache of names: not set once it is deleted.
    dentry_hash = "dentry.d_hash.pprev";
}

/// The registers that carry a system call's number and arguments, as offsets in `struct pt_regs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Registers {
    /// The number, still there when the call returns.
    pub number: u32,
    /// The six arguments.
    pub argument: [u32; 6],
    /// Bits of `thread_info.status` that mark a 32-bit call (x86 `TS_COMPAT`); 0 where there are none.
    pub compat: u32,
}

/// Everything that the programs are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    /// Offsets in this kernel's structures.
    pub offsets: Offsets,
    /// Where system call arguments are.
    pub registers: Registers,
    /// The tracer's own thread group: never reported.
    pub own_tgid: u32,
    /// Mechanisms that are on, by [`crate::Mechanism::bit`].
    pub mechanisms: u32,
    /// Those of them that are told of at the functions of their objects, and not at system calls.
    pub objects: u32,
    /// How many bytes of each message to capture; 0 for none.
    pub payload: u32,
    /// Size of `struct pipe_buffer`.
    pub pipe_buffer_size: u32,
    /// Bits of an address within a page.
    pub page_shift: u32,
    /// 1 if the programs are to log what went wrong, not only to count it.
    pub verbose: u32,
    /// 1 if the kernel does not tell of datagrams that arrive (before Linux 6.3): those that are taken are told of instead.
    pub udp_by_taking: u32,
    /// Of the kinds of memory that a read can write to, by their numbers in this kernel: the caller's in one piece
    /// (`ITER_UBUF`); [`Config::NO_KIND`] if it has none.
    pub iter_ubuf: u32,
    /// The caller's in several pieces (`ITER_IOVEC`).
    pub iter_iovec: u32,
    /// 1 if the kernel says how much it adds to an event counter, and it is not always 1 (before Linux 6.8).
    pub eventfd_signal_counts: u32,
    /// How many arguments functions have by which internet sockets are received from: 4; 5 with room for the length of an address,
    /// until Linux 7.0; 6 with one before the flags, until Linux 5.18.
    pub inet_receive: u32,
    /// What differs between kernels in io_uring.
    pub uring: Uring,
    /// Numbers of the calls that may tell the kernel nothing of the signal that they send: kill(2) and pidfd_send_signal(2).
    pub kills: [u32; 2],
    /// Longest run of small calls that one record tells of, ns; 0 to tell of every call by itself. See [`crate::run`].
    pub run: u32,
}

impl Config {
    /// No kind of memory.
    pub const NO_KIND: u32 = u32::MAX;
    /// What the object holds until user space writes the real one.
    pub const ZERO: Config = Config {
        offsets: Offsets::ZERO,
        registers: Registers { number: 0, argument: [0; 6], compat: 0 },
        own_tgid: 0,
        mechanisms: 0,
        objects: 0,
        payload: 0,
        pipe_buffer_size: 0,
        page_shift: 0,
        verbose: 0,
        udp_by_taking: 0,
        iter_ubuf: Config::NO_KIND,
        iter_iovec: Config::NO_KIND,
        eventfd_signal_counts: 0,
        inet_receive: 0,
        uring: Uring::OFF,
        kills: [0; 2],
        run: 0,
    };
}

/// Size of a channel's books in the programs, into which user space does not look.
pub const BOOKS_SIZE: usize = 128;

/// How many channels can have books at a time. A power of two.
pub const CHANNELS: u32 = 65_536;

/// How many of them the collector knows at a time. Fewer, for there is to be room for what comes while it is told which may be
/// forgotten.
pub const CHANNELS_KNOWN: u32 = CHANNELS / 4 * 3;

/// Size of a place for books in the array of them, which begins with the key of their channel.
pub const BOOKS_PLACE: usize = 192;
/// Where in it its state stands: a word that is one of [`books_state`].
pub const BOOKS_STATE: usize = 16;

/// Whose a place for books is. It is closed by whoever makes it [`books_state::CLOSING`] where it was [`books_state::OPEN`].
pub mod books_state {
    /// Nobody's. The key there is 0.
    pub const FREE: u64 = 0;
    /// Somebody's who is about to open books there. Once the table of channels says that a channel's are there they are complete, and
    /// whoever needs them may make this [`OPEN`].
    pub const OPENING: u64 = 1;
    /// The channel's with that key.
    pub const OPEN: u64 = 2;
    /// Somebody's who is about to take them out of the table of channels.
    pub const CLOSING: u64 = 3;
}

/// On each CPU, how many programs on functions can be telling of a channel with a long name at the same time.
pub const CHANNEL_DESKS: u32 = 3;

/// Most bytes of a message that can be captured.
pub const PAYLOAD_MAX: u32 = 4096;

/// Where the programs call `bpf_rdonly_cast`, a function of the kernel's, they call the helper of this number, which no kernel
/// has: the loader writes the call of the function over it, whose number differs from kernel to kernel. What the programs read
/// through the pointer that it gives is one load each, in place of a helper's call. Only programs for kernels that let them do so
/// call it.
pub const CAST: u32 = 0x7265_6164;
