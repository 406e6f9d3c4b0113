//! The kinds of images, with their magics, file names and messages.

/// The first word of every image except the inventory, service images and raw images.
pub const COMMON_MAGIC: u32 = 0x5456_4319;

/// The first word of service images, which CRIU writes next to a dump: statistics, caches.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

/// How many entries an image of a kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// Exactly one. Bytes after the entry are trailing data.
    One,
    /// Any number.
    Many,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $magic:literal, [$($file:literal),*], $first:expr, $rest:expr, $entries:expr;)*) => {
        /// The content type of an image file. Names, magics and file names are those of CRIU.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The name in CRIU's headers and tools, such as `PIPES_DATA`.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// The word that identifies this kind.
            pub const fn magic(self) -> u32 {
                match self { $(Kind::$kind => $magic,)* }
            }

            /// The file names of this kind without `.img`: `%d` is a decimal id, `%x` a hexadecimal id. Empty for kinds
            /// that are not stored in `.img` files.
            pub const fn patterns(self) -> &'static [&'static str] {
                match self { $(Kind::$kind => &[$($file),*],)* }
            }

            /// The message name of entry `index` (from 0), or `None` if this crate has no message for the kind.
            pub const fn message(self, index: u64) -> Option<&'static str> {
                match (self, index) { $((Kind::$kind, 0) => $first, (Kind::$kind, _) => $rest,)* }
            }

            /// How many messages an image of this kind contains.
            pub const fn entries(self) -> Entries {
                match self { $(Kind::$kind => $entries,)* }
            }
        }
    };
}

kinds! {
    /// Properties of the whole dump: format version, root namespaces.
    Inventory = "INVENTORY", 0x5831_3116, ["inventory"], Some("inventory_entry"), Some("inventory_entry"), Entries::One;
    /// The process tree: one entry per process, with its threads.
    Pstree = "PSTREE", 0x5027_3030, ["pstree"], Some("pstree_entry"), Some("pstree_entry"), Entries::Many;
    /// A descriptor table: maps each fd to a file of `files.img`.
    Fdinfo = "FDINFO", 0x5621_3732, ["fdinfo-%d"], Some("fdinfo_entry"), Some("fdinfo_entry"), Entries::Many;
    /// The pages of an address space or of shared memory that a pages file contains.
    Pagemap = "PAGEMAP", 0x5608_4025, ["pagemap-%d", "pagemap-shmem-%d"], Some("pagemap_head"), Some("pagemap_entry"), Entries::Many;
    /// A thread: registers and credentials. The core image of the leader also has the shared state of the process.
    Core = "CORE", 0x5505_3847, ["core-%d"], Some("core_entry"), Some("core_entry"), Entries::One;
    /// Ids of the kernel objects that processes can share.
    Ids = "IDS", 0x5443_2030, ["ids-%d"], Some("task_kobj_ids_entry"), Some("task_kobj_ids_entry"), Entries::One;
    /// Mappings, in dumps older than `mm-PID.img`.
    Vmas = "VMAS", 0x5412_3737, ["vmas-%d"], Some("vma_entry"), Some("vma_entry"), Entries::Many;
    /// Pipe ends, in dumps older than `files.img`.
    Pipes = "PIPES", 0x5651_3555, ["pipes"], Some("pipe_entry"), Some("pipe_entry"), Entries::Many;
    /// Unread data of pipes. Each entry is followed by its bytes.
    PipesData = "PIPES_DATA", 0x5645_3709, ["pipes-data"], Some("pipe_data_entry"), Some("pipe_data_entry"), Entries::Many;
    /// Named pipes, in dumps older than `files.img`.
    Fifo = "FIFO", 0x5836_4939, ["fifo"], Some("fifo_entry"), Some("fifo_entry"), Entries::Many;
    /// Unread data of named pipes. Each entry is followed by its bytes.
    FifoData = "FIFO_DATA", 0x5933_3054, ["fifo-data"], Some("pipe_data_entry"), Some("pipe_data_entry"), Entries::Many;
    /// Signal actions, in dumps older than the field in the core image.
    Sigact = "SIGACT", 0x5534_4201, ["sigacts-%d"], Some("sa_entry"), Some("sa_entry"), Entries::Many;
    /// Unix sockets, in dumps older than `files.img`.
    Unixsk = "UNIXSK", 0x5437_3943, ["unixsk"], Some("unix_sk_entry"), Some("unix_sk_entry"), Entries::Many;
    /// TCP, UDP and raw sockets, in dumps older than `files.img`.
    Inetsk = "INETSK", 0x5644_3851, ["inetsk"], Some("inet_sk_entry"), Some("inet_sk_entry"), Entries::Many;
    /// Packet sockets, in dumps older than `files.img`.
    Packetsk = "PACKETSK", 0x6045_4618, ["packetsk"], Some("packet_sock_entry"), Some("packet_sock_entry"), Entries::Many;
    /// Interval timers, in dumps older than the field in the core image.
    Itimers = "ITIMERS", 0x5746_4056, ["itimers-%d"], Some("itimer_entry"), Some("itimer_entry"), Entries::Many;
    /// POSIX timers, in dumps older than the field in the core image.
    PosixTimers = "POSIX_TIMERS", 0x5260_3957, ["posix-timers-%d"], Some("posix_timer_entry"), Some("posix_timer_entry"), Entries::Many;
    /// Packets queued in sockets. Each entry is followed by its bytes.
    SkQueues = "SK_QUEUES", 0x5626_4026, ["sk-queues"], Some("sk_packet_entry"), Some("sk_packet_entry"), Entries::Many;
    /// Host name and domain name of a UTS namespace.
    Utsns = "UTSNS", 0x5447_3203, ["utsns-%d"], Some("utsns_entry"), Some("utsns_entry"), Entries::One;
    /// Credentials, in dumps older than the field in the core image.
    Creds = "CREDS", 0x5402_3547, ["creds-%d"], Some("creds_entry"), Some("creds_entry"), Entries::One;
    /// Limits of an IPC namespace.
    IpcVar = "IPC_VAR", 0x5311_5007, ["ipcns-var-%d"], Some("ipc_var_entry"), Some("ipc_var_entry"), Entries::One;
    /// System V shared memory. An entry is followed by its bytes unless the bytes are in a pagemap.
    IpcnsShm = "IPCNS_SHM", 0x4628_3044, ["ipcns-shm-%d"], Some("ipc_shm_entry"), Some("ipc_shm_entry"), Entries::Many;
    /// System V message queues.
    IpcnsMsg = "IPCNS_MSG", 0x5545_3737, ["ipcns-msg-%d"], Some("ipc_msg_entry"), None, Entries::Many;
    /// System V semaphores.
    IpcnsSem = "IPCNS_SEM", 0x5957_3019, ["ipcns-sem-%d"], Some("ipc_sem_entry"), Some("ipc_sem_entry"), Entries::Many;
    /// Open regular files, in dumps older than `files.img`.
    RegFiles = "REG_FILES", 0x5036_3636, ["reg-files"], Some("reg_file_entry"), Some("reg_file_entry"), Entries::Many;
    /// Files that a plugin restores, in dumps older than `files.img`.
    ExtFiles = "EXT_FILES", 0x5925_5641, ["ext-files"], Some("ext_file_entry"), Some("ext_file_entry"), Entries::Many;
    /// Working directory, root and umask.
    Fs = "FS", 0x5140_3912, ["fs-%d"], Some("fs_entry"), Some("fs_entry"), Entries::One;
    /// An address space: its mappings, executable and auxiliary vector.
    Mm = "MM", 0x5749_2820, ["mm-%d"], Some("mm_entry"), Some("mm_entry"), Entries::One;
    /// Paths that no longer lead to the open file, with their replacement.
    RemapFpath = "REMAP_FPATH", 0x5913_3954, ["remap-fpath"], Some("remap_file_path_entry"), Some("remap_file_path_entry"), Entries::Many;
    /// A file that is deleted but still open: its attributes, then its content.
    GhostFile = "GHOST_FILE", 0x5258_3605, ["ghost-file-%x"], Some("ghost_file_entry"), Some("ghost_chunk_entry"), Entries::Many;
    /// An established TCP connection: its state, then the bytes of both queues.
    TcpStream = "TCP_STREAM", 0x5146_5506, ["tcp-stream-%x"], Some("tcp_stream_entry"), Some("tcp_stream_entry"), Entries::One;
    /// eventfd counters, in dumps older than `files.img`.
    EventfdFile = "EVENTFD_FILE", 0x4452_3722, ["eventfd"], Some("eventfd_file_entry"), Some("eventfd_file_entry"), Entries::Many;
    /// epoll instances, in dumps older than `files.img`.
    EventpollFile = "EVENTPOLL_FILE", 0x4502_3858, ["eventpoll"], Some("eventpoll_file_entry"), Some("eventpoll_file_entry"), Entries::Many;
    /// Watches of epoll instances, in dumps older than the field in the entry of the instance.
    EventpollTfd = "EVENTPOLL_TFD", 0x4443_3746, ["eventpoll-tfd"], Some("eventpoll_tfd_entry"), Some("eventpoll_tfd_entry"), Entries::Many;
    /// signalfds, in dumps older than `files.img`.
    Signalfd = "SIGNALFD", 0x5732_3820, ["signalfd"], Some("signalfd_entry"), Some("signalfd_entry"), Entries::Many;
    /// inotify instances, in dumps older than `files.img`.
    InotifyFile = "INOTIFY_FILE", 0x4842_4431, ["inotify"], Some("inotify_file_entry"), Some("inotify_file_entry"), Entries::Many;
    /// inotify watches, in dumps older than the field in the entry of the instance.
    InotifyWd = "INOTIFY_WD", 0x5456_2009, ["inotify-wd"], Some("inotify_wd_entry"), Some("inotify_wd_entry"), Entries::Many;
    /// The mounts of a mount namespace.
    Mnts = "MNTS", 0x5556_3928, ["mountpoints-%d"], Some("mnt_entry"), Some("mnt_entry"), Entries::Many;
    /// Network devices of a network namespace.
    Netdev = "NETDEV", 0x5737_3951, ["netdev-%d"], Some("net_device_entry"), Some("net_device_entry"), Entries::Many;
    /// Settings of a network namespace.
    Netns = "NETNS", 0x5593_3752, ["netns-%d"], Some("netns_entry"), Some("netns_entry"), Entries::One;
    /// Open terminals, in dumps older than `files.img`.
    TtyFiles = "TTY_FILES", 0x5943_3025, ["tty"], Some("tty_file_entry"), Some("tty_file_entry"), Entries::Many;
    /// Terminals: settings, window size, owner.
    TtyInfo = "TTY_INFO", 0x5945_3036, ["tty-info"], Some("tty_info_entry"), Some("tty_info_entry"), Entries::Many;
    /// Unread data of terminals.
    TtyData = "TTY_DATA", 0x5941_3026, ["tty-data"], Some("tty_data_entry"), Some("tty_data_entry"), Entries::Many;
    /// File locks.
    FileLocks = "FILE_LOCKS", 0x5432_3616, ["filelocks"], Some("file_lock_entry"), Some("file_lock_entry"), Entries::Many;
    /// Resource limits, in dumps older than the field in the core image.
    Rlimit = "RLIMIT", 0x5711_3925, ["rlimit-%d"], Some("rlimit_entry"), Some("rlimit_entry"), Entries::Many;
    /// fanotify instances, in dumps older than `files.img`.
    FanotifyFile = "FANOTIFY_FILE", 0x5509_6122, ["fanotify"], Some("fanotify_file_entry"), Some("fanotify_file_entry"), Entries::Many;
    /// fanotify marks, in dumps older than the field in the entry of the instance.
    FanotifyMark = "FANOTIFY_MARK", 0x5650_6035, ["fanotify-mark"], Some("fanotify_mark_entry"), Some("fanotify_mark_entry"), Entries::Many;
    /// Pending signals, in dumps older than the field in the core image.
    Signal = "SIGNAL", 0x5925_5647, ["signal-s-%d", "signal-p-%d"], Some("siginfo_entry"), Some("siginfo_entry"), Entries::Many;
    /// netlink sockets, in dumps older than `files.img`.
    NetlinkSk = "NETLINK_SK", 0x5800_5614, ["netlinksk"], Some("netlink_sk_entry"), Some("netlink_sk_entry"), Entries::Many;
    /// Open files of `/proc/PID/ns`, in dumps older than `files.img`.
    NsFiles = "NS_FILES", 0x6139_4011, ["ns-files"], Some("ns_file_entry"), Some("ns_file_entry"), Entries::Many;
    /// Open tun and tap devices, in dumps older than `files.img`.
    Tunfile = "TUNFILE", 0x5714_3751, ["tunfile"], Some("tunfile_entry"), Some("tunfile_entry"), Entries::Many;
    /// The cgroups, and the sets of cgroups that processes belong to.
    Cgroup = "CGROUP", 0x5938_3330, ["cgroup"], Some("cgroup_entry"), Some("cgroup_entry"), Entries::One;
    /// timerfds, in dumps older than `files.img`.
    Timerfd = "TIMERFD", 0x5049_3712, ["timerfd"], Some("timerfd_entry"), Some("timerfd_entry"), Entries::Many;
    /// The CPU features of the dumped host.
    Cpuinfo = "CPUINFO", 0x6140_4013, ["cpuinfo"], Some("cpuinfo_entry"), Some("cpuinfo_entry"), Entries::One;
    /// The uid and gid maps of a user namespace.
    Userns = "USERNS", 0x5547_4906, ["userns-%d"], Some("userns_entry"), Some("userns_entry"), Entries::One;
    /// Seccomp filters.
    Seccomp = "SECCOMP", 0x6441_3049, ["seccomp"], Some("seccomp_entry"), Some("seccomp_entry"), Entries::One;
    /// Registered binfmt_misc formats.
    BinfmtMisc = "BINFMT_MISC", 0x6734_3323, ["binfmt-misc", "binfmt-misc-%d"], None, None, Entries::Many;
    /// An autofs mount.
    Autofs = "AUTOFS", 0x4935_3943, ["autofs-%d"], None, None, Entries::One;
    /// All open files of all types, one entry each.
    Files = "FILES", 0x5630_3138, ["files"], Some("file_entry"), Some("file_entry"), Entries::Many;
    /// Inodes of memfd_create.
    MemfdInode = "MEMFD_INODE", 0x4845_3499, ["memfd"], Some("memfd_inode_entry"), Some("memfd_inode_entry"), Entries::Many;
    /// Clock offsets of a time namespace.
    Timens = "TIMENS", 0x4311_4433, ["timens-%d"], Some("timens_entry"), Some("timens_entry"), Entries::One;
    /// A pid namespace.
    Pidns = "PIDNS", 0x6115_7326, ["pidns-%d"], Some("pidns_entry"), Some("pidns_entry"), Entries::One;
    /// Open BPF maps, in dumps older than `files.img`.
    BpfmapFile = "BPFMAP_FILE", 0x5750_6142, ["bpfmap-file"], Some("bpfmap_file_entry"), Some("bpfmap_file_entry"), Entries::Many;
    /// The contents of BPF maps.
    BpfmapData = "BPFMAP_DATA", 0x6432_4033, ["bpfmap-data"], None, None, Entries::Many;
    /// AppArmor namespaces and policies.
    Apparmor = "APPARMOR", 0x5942_3047, ["apparmor"], None, None, Entries::One;
    /// pidfds, in dumps older than `files.img`.
    Pidfd = "PIDFD", 0x5443_5556, ["pidfd"], Some("pidfd_entry"), Some("pidfd_entry"), Entries::Many;
    /// Statistics of a dump or restore: `stats-dump`, `stats-restore`.
    Stats = "STATS", 0x5709_3306, [], Some("stats_entry"), Some("stats_entry"), Entries::One;
    /// A cache that maps inodes to paths.
    IrmapCache = "IRMAP_CACHE", 0x5700_4059, [], Some("irmap_cache_entry"), Some("irmap_cache_entry"), Entries::Many;
    /// CRIU's cache of kernel features. Never part of a dump.
    Kdat = "KDAT", 0x5702_3458, [], None, None, Entries::One;
}

impl Kind {
    /// The magics at the start of an image of this kind.
    pub fn header(self) -> Vec<u8> {
        let first_magic = match self {
            Kind::Inventory => None,
            Kind::Stats | Kind::IrmapCache => Some(SERVICE_MAGIC),
            _ => Some(COMMON_MAGIC),
        };
        first_magic
            .into_iter()
            .chain([self.magic()])
            .flat_map(u32::to_le_bytes)
            .collect()
    }

    /// Returns the kind with this magic.
    pub fn from_magic(magic: u32) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.magic() == magic)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn magics_and_names_are_unique() {
        let magics: HashSet<_> = Kind::ALL.iter().map(|kind| kind.magic()).collect();
        assert_eq!(magics.len(), Kind::ALL.len());
        let patterns: Vec<_> = Kind::ALL.iter().flat_map(|kind| kind.patterns()).collect();
        assert_eq!(patterns.iter().collect::<HashSet<_>>().len(), patterns.len());
        assert!(
            Kind::ALL
                .iter()
                .all(|kind| Kind::from_magic(kind.magic()) == Some(*kind))
        );
    }

    #[test]
    fn every_message_is_in_the_descriptors() {
        for kind in Kind::ALL {
            for index in [0, 1] {
                if let Some(message) = kind.message(index) {
                    let descriptor = crate::criu::descriptors().get_message_by_name(&format!("criu.{message}"));
                    assert!(descriptor.is_some(), "{kind}: {message}");
                }
            }
        }
    }

    #[test]
    fn headers_follow_the_framing_of_the_kind() {
        assert_eq!(Kind::Inventory.header(), [0x16, 0x31, 0x31, 0x58]);
        assert_eq!(Kind::Core.header(), [0x19, 0x43, 0x56, 0x54, 0x47, 0x38, 0x05, 0x55]);
        assert_eq!(Kind::Stats.header(), [0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09, 0x57]);
    }
}
