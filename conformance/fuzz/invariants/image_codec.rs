//! Invariants of the image codec for any input: the offset of an error is within the input, and a message that is
//! decoded, encoded and decoded again stays the same.

use std::fmt::Debug;

use cri_proto::criu::{Decoder, Encoder, ImageFile, Kind, Problem, message::*, walk};
use prost::Message;

/// Tests the bytes as an image, as the body of an image whose kind the first byte selects, and as a file name.
pub(crate) fn check(bytes: &[u8]) {
    read(bytes);
    if let [first, rest @ ..] = bytes {
        let kind = Kind::ALL[usize::from(*first) % Kind::ALL.len()];
        read(&[&kind.header(), rest].concat());
    }
    if let Ok(name) = str::from_utf8(bytes)
        && let Some(ImageFile::Image(kind, id)) = ImageFile::from_name(name)
        && kind != Kind::Stats
    {
        let again = ImageFile::from_name(&kind.file_name(id));
        assert!(
            matches!(again, Some(ImageFile::Image(same, _)) if same == kind),
            "{name}: {kind}, {again:?}"
        );
    }
}

fn read(image: &[u8]) {
    let decoder = match Decoder::open("any.img", image) {
        Ok(decoder) => decoder,
        Err(error) => return assert!(error.offset <= image.len() as u64, "{error}"),
    };
    let kind = decoder.kind();
    match walk(decoder, |_, _| {}) {
        Ok(walked) => assert_eq!(walked.bytes, image.len() as u64, "{kind}"),
        Err(error) => {
            assert!(error.offset <= image.len() as u64, "{error}");
            assert!(
                !matches!(error.problem, Problem::Io(_)),
                "{error}: reads from memory cannot fail"
            );
        }
    }
    let mut decoder = Decoder::open("any.img", image).expect("the magics were valid before");
    while let Ok(Some(entry)) = decoder.entry() {
        let entry = entry.to_vec();
        let index = decoder.entries() - 1;
        if let Some(name) = kind.message(index) {
            entry_round_trip(name, kind, &entry);
        }
    }
}

/// Decodes a message, encodes the message as an image and decodes the image.
fn round_trip<M: Message + Default + PartialEq + Debug>(kind: Kind, entry: &[u8]) {
    let Ok(message) = M::decode(entry) else { return };
    let mut encoder = Encoder::new(kind);
    encoder.entry(&message);
    let image = encoder.finish();
    let mut decoder = Decoder::open_as("again.img", kind, &*image).expect("valid magics");
    let again = decoder.message::<M>().expect("a valid message");
    assert_eq!(again.as_ref(), Some(&message), "{kind}");
}

fn entry_round_trip(name: &str, kind: Kind, entry: &[u8]) {
    match name {
        "bpfmap_file_entry" => round_trip::<BpfmapFileEntry>(kind, entry),
        "cgroup_entry" => round_trip::<CgroupEntry>(kind, entry),
        "core_entry" => round_trip::<CoreEntry>(kind, entry),
        "cpuinfo_entry" => round_trip::<CpuinfoEntry>(kind, entry),
        "creds_entry" => round_trip::<CredsEntry>(kind, entry),
        "eventfd_file_entry" => round_trip::<EventfdFileEntry>(kind, entry),
        "eventpoll_file_entry" => round_trip::<EventpollFileEntry>(kind, entry),
        "eventpoll_tfd_entry" => round_trip::<EventpollTfdEntry>(kind, entry),
        "ext_file_entry" => round_trip::<ExtFileEntry>(kind, entry),
        "fanotify_file_entry" => round_trip::<FanotifyFileEntry>(kind, entry),
        "fanotify_mark_entry" => round_trip::<FanotifyMarkEntry>(kind, entry),
        "fdinfo_entry" => round_trip::<FdinfoEntry>(kind, entry),
        "fifo_entry" => round_trip::<FifoEntry>(kind, entry),
        "file_entry" => round_trip::<FileEntry>(kind, entry),
        "file_lock_entry" => round_trip::<FileLockEntry>(kind, entry),
        "fs_entry" => round_trip::<FsEntry>(kind, entry),
        "ghost_chunk_entry" => round_trip::<GhostChunkEntry>(kind, entry),
        "ghost_file_entry" => round_trip::<GhostFileEntry>(kind, entry),
        "inet_sk_entry" => round_trip::<InetSkEntry>(kind, entry),
        "inotify_file_entry" => round_trip::<InotifyFileEntry>(kind, entry),
        "inotify_wd_entry" => round_trip::<InotifyWdEntry>(kind, entry),
        "inventory_entry" => round_trip::<InventoryEntry>(kind, entry),
        "ipc_msg_entry" => round_trip::<IpcMsgEntry>(kind, entry),
        "ipc_sem_entry" => round_trip::<IpcSemEntry>(kind, entry),
        "ipc_shm_entry" => round_trip::<IpcShmEntry>(kind, entry),
        "ipc_var_entry" => round_trip::<IpcVarEntry>(kind, entry),
        "irmap_cache_entry" => round_trip::<IrmapCacheEntry>(kind, entry),
        "itimer_entry" => round_trip::<ItimerEntry>(kind, entry),
        "memfd_inode_entry" => round_trip::<MemfdInodeEntry>(kind, entry),
        "mm_entry" => round_trip::<MmEntry>(kind, entry),
        "mnt_entry" => round_trip::<MntEntry>(kind, entry),
        "net_device_entry" => round_trip::<NetDeviceEntry>(kind, entry),
        "netlink_sk_entry" => round_trip::<NetlinkSkEntry>(kind, entry),
        "netns_entry" => round_trip::<NetnsEntry>(kind, entry),
        "ns_file_entry" => round_trip::<NsFileEntry>(kind, entry),
        "packet_sock_entry" => round_trip::<PacketSockEntry>(kind, entry),
        "pagemap_entry" => round_trip::<PagemapEntry>(kind, entry),
        "pagemap_head" => round_trip::<PagemapHead>(kind, entry),
        "pidfd_entry" => round_trip::<PidfdEntry>(kind, entry),
        "pidns_entry" => round_trip::<PidnsEntry>(kind, entry),
        "pipe_data_entry" => round_trip::<PipeDataEntry>(kind, entry),
        "pipe_entry" => round_trip::<PipeEntry>(kind, entry),
        "posix_timer_entry" => round_trip::<PosixTimerEntry>(kind, entry),
        "pstree_entry" => round_trip::<PstreeEntry>(kind, entry),
        "reg_file_entry" => round_trip::<RegFileEntry>(kind, entry),
        "remap_file_path_entry" => round_trip::<RemapFilePathEntry>(kind, entry),
        "rlimit_entry" => round_trip::<RlimitEntry>(kind, entry),
        "sa_entry" => round_trip::<SaEntry>(kind, entry),
        "seccomp_entry" => round_trip::<SeccompEntry>(kind, entry),
        "siginfo_entry" => round_trip::<SiginfoEntry>(kind, entry),
        "signalfd_entry" => round_trip::<SignalfdEntry>(kind, entry),
        "sk_packet_entry" => round_trip::<SkPacketEntry>(kind, entry),
        "stats_entry" => round_trip::<StatsEntry>(kind, entry),
        "task_kobj_ids_entry" => round_trip::<TaskKobjIdsEntry>(kind, entry),
        "tcp_stream_entry" => round_trip::<TcpStreamEntry>(kind, entry),
        "timens_entry" => round_trip::<TimensEntry>(kind, entry),
        "timerfd_entry" => round_trip::<TimerfdEntry>(kind, entry),
        "tty_data_entry" => round_trip::<TtyDataEntry>(kind, entry),
        "tty_file_entry" => round_trip::<TtyFileEntry>(kind, entry),
        "tty_info_entry" => round_trip::<TtyInfoEntry>(kind, entry),
        "tunfile_entry" => round_trip::<TunfileEntry>(kind, entry),
        "unix_sk_entry" => round_trip::<UnixSkEntry>(kind, entry),
        "userns_entry" => round_trip::<UsernsEntry>(kind, entry),
        "utsns_entry" => round_trip::<UtsnsEntry>(kind, entry),
        "vma_entry" => round_trip::<VmaEntry>(kind, entry),
        _ => panic!("unknown message {name}"),
    }
}
