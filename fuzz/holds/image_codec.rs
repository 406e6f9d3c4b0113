//! Invariants of the image codec for any input: the offset of an error is within the input, and a message that is
//! decoded, encoded and decoded again stays the same.

use std::fmt::Debug;

use cri_proto::criu::{Decoder, Encoder, ImageFile, Kind, Problem, message::*, walk};
use prost::Message;

/// Tests the bytes as an image, as the body of an image whose kind the first byte selects, and as a file name.
pub(crate) fn of(bytes: &[u8]) {
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
            entry_comes_back(name, kind, &entry);
        }
    }
}

/// Decodes a message, encodes the message as an image and decodes the image.
fn comes_back<M: Message + Default + PartialEq + Debug>(kind: Kind, entry: &[u8]) {
    let Ok(message) = M::decode(entry) else { return };
    let mut encoder = Encoder::new(kind, Vec::new()).expect("a write to a Vec succeeds");
    encoder.entry(&message).expect("a write to a Vec succeeds");
    let image = encoder.finish();
    let mut decoder = Decoder::open_as("again.img", kind, &*image).expect("valid magics");
    let again = decoder.message::<M>().expect("a valid message");
    assert_eq!(again.as_ref(), Some(&message), "{kind}");
}

fn entry_comes_back(name: &str, kind: Kind, entry: &[u8]) {
    match name {
        "bpfmap_file_entry" => comes_back::<BpfmapFileEntry>(kind, entry),
        "cgroup_entry" => comes_back::<CgroupEntry>(kind, entry),
        "core_entry" => comes_back::<CoreEntry>(kind, entry),
        "cpuinfo_entry" => comes_back::<CpuinfoEntry>(kind, entry),
        "creds_entry" => comes_back::<CredsEntry>(kind, entry),
        "eventfd_file_entry" => comes_back::<EventfdFileEntry>(kind, entry),
        "eventpoll_file_entry" => comes_back::<EventpollFileEntry>(kind, entry),
        "eventpoll_tfd_entry" => comes_back::<EventpollTfdEntry>(kind, entry),
        "ext_file_entry" => comes_back::<ExtFileEntry>(kind, entry),
        "fanotify_file_entry" => comes_back::<FanotifyFileEntry>(kind, entry),
        "fanotify_mark_entry" => comes_back::<FanotifyMarkEntry>(kind, entry),
        "fdinfo_entry" => comes_back::<FdinfoEntry>(kind, entry),
        "fifo_entry" => comes_back::<FifoEntry>(kind, entry),
        "file_entry" => comes_back::<FileEntry>(kind, entry),
        "file_lock_entry" => comes_back::<FileLockEntry>(kind, entry),
        "fs_entry" => comes_back::<FsEntry>(kind, entry),
        "ghost_chunk_entry" => comes_back::<GhostChunkEntry>(kind, entry),
        "ghost_file_entry" => comes_back::<GhostFileEntry>(kind, entry),
        "inet_sk_entry" => comes_back::<InetSkEntry>(kind, entry),
        "inotify_file_entry" => comes_back::<InotifyFileEntry>(kind, entry),
        "inotify_wd_entry" => comes_back::<InotifyWdEntry>(kind, entry),
        "inventory_entry" => comes_back::<InventoryEntry>(kind, entry),
        "ipc_msg_entry" => comes_back::<IpcMsgEntry>(kind, entry),
        "ipc_sem_entry" => comes_back::<IpcSemEntry>(kind, entry),
        "ipc_shm_entry" => comes_back::<IpcShmEntry>(kind, entry),
        "ipc_var_entry" => comes_back::<IpcVarEntry>(kind, entry),
        "irmap_cache_entry" => comes_back::<IrmapCacheEntry>(kind, entry),
        "itimer_entry" => comes_back::<ItimerEntry>(kind, entry),
        "memfd_inode_entry" => comes_back::<MemfdInodeEntry>(kind, entry),
        "mm_entry" => comes_back::<MmEntry>(kind, entry),
        "mnt_entry" => comes_back::<MntEntry>(kind, entry),
        "net_device_entry" => comes_back::<NetDeviceEntry>(kind, entry),
        "netlink_sk_entry" => comes_back::<NetlinkSkEntry>(kind, entry),
        "netns_entry" => comes_back::<NetnsEntry>(kind, entry),
        "ns_file_entry" => comes_back::<NsFileEntry>(kind, entry),
        "packet_sock_entry" => comes_back::<PacketSockEntry>(kind, entry),
        "pagemap_entry" => comes_back::<PagemapEntry>(kind, entry),
        "pagemap_head" => comes_back::<PagemapHead>(kind, entry),
        "pidfd_entry" => comes_back::<PidfdEntry>(kind, entry),
        "pidns_entry" => comes_back::<PidnsEntry>(kind, entry),
        "pipe_data_entry" => comes_back::<PipeDataEntry>(kind, entry),
        "pipe_entry" => comes_back::<PipeEntry>(kind, entry),
        "posix_timer_entry" => comes_back::<PosixTimerEntry>(kind, entry),
        "pstree_entry" => comes_back::<PstreeEntry>(kind, entry),
        "reg_file_entry" => comes_back::<RegFileEntry>(kind, entry),
        "remap_file_path_entry" => comes_back::<RemapFilePathEntry>(kind, entry),
        "rlimit_entry" => comes_back::<RlimitEntry>(kind, entry),
        "sa_entry" => comes_back::<SaEntry>(kind, entry),
        "seccomp_entry" => comes_back::<SeccompEntry>(kind, entry),
        "siginfo_entry" => comes_back::<SiginfoEntry>(kind, entry),
        "signalfd_entry" => comes_back::<SignalfdEntry>(kind, entry),
        "sk_packet_entry" => comes_back::<SkPacketEntry>(kind, entry),
        "stats_entry" => comes_back::<StatsEntry>(kind, entry),
        "task_kobj_ids_entry" => comes_back::<TaskKobjIdsEntry>(kind, entry),
        "tcp_stream_entry" => comes_back::<TcpStreamEntry>(kind, entry),
        "timens_entry" => comes_back::<TimensEntry>(kind, entry),
        "timerfd_entry" => comes_back::<TimerfdEntry>(kind, entry),
        "tty_data_entry" => comes_back::<TtyDataEntry>(kind, entry),
        "tty_file_entry" => comes_back::<TtyFileEntry>(kind, entry),
        "tty_info_entry" => comes_back::<TtyInfoEntry>(kind, entry),
        "tunfile_entry" => comes_back::<TunfileEntry>(kind, entry),
        "unix_sk_entry" => comes_back::<UnixSkEntry>(kind, entry),
        "userns_entry" => comes_back::<UsernsEntry>(kind, entry),
        "utsns_entry" => comes_back::<UtsnsEntry>(kind, entry),
        "vma_entry" => comes_back::<VmaEntry>(kind, entry),
        _ => panic!("unknown message {name}"),
    }
}
