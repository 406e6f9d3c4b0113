//! The entries of the sample's images.

use cri_proto::criu::{
    self, Encoder, Kind,
    message::{
        CoreEntry, CredsEntry, EventpollFileEntry, EventpollTfdEntry, FdTypes, FdinfoEntry, FileEntry, FownEntry,
        FsEntry, ItimerEntry, MmEntry, PagemapBlocks, PagemapEntry, PagemapHead, PipeEntry, PosixTimerEntry,
        PstreeEntry, RegFileEntry, RlimitEntry, SaEntry, TaskCoreEntry, TaskKobjIdsEntry, TaskRlimitsEntry,
        TaskTimersEntry, ThreadCoreEntry, ThreadInfoX86, UserX86FpregsEntry, UserX86RegsEntry, VmaEntry,
        core_entry::March,
    },
};

use prost::Message as _;

use super::SHARED_MEMORY_ID;

const PAGE_BYTES: usize = 4096;

pub(super) const STACK_ADDRESS: u64 = 0x7fff_0000_0000;
pub(super) const VDSO_ADDRESS: u64 = STACK_ADDRESS + 0x10_0000;
const SEGMENT_ADDRESS: u64 = 0x7ffe_0000_0000;

pub(super) fn process(pid: u32, ppid: u32, threads: &[u32]) -> PstreeEntry {
    PstreeEntry {
        pid,
        ppid,
        pgid: 1,
        sid: 1,
        threads: threads.to_vec(),
    }
}

pub(super) fn core(tid: u32, comm: Option<&str>, sp: u64) -> CoreEntry {
    let timer = ItimerEntry::default();
    // The first process has a timer that signals its second thread: SIGEV_THREAD_ID, SIGRTMIN.
    let thread_timer = PosixTimerEntry {
        it_sigev_notify: 4,
        si_signo: 34,
        notify_thread_id: Some(2),
        ..PosixTimerEntry::default()
    };
    let tc = comm.map(|comm| TaskCoreEntry {
        task_state: 1,
        comm: comm.to_owned(),
        timers: Some(TaskTimersEntry {
            real: timer,
            virt: timer,
            prof: timer,
            posix: if tid == 1 { vec![thread_timer] } else { vec![] },
        }),
        rlimits: Some(TaskRlimitsEntry {
            rlimits: vec![
                RlimitEntry {
                    cur: 1024,
                    max: u64::MAX
                };
                16
            ],
        }),
        sigactions: vec![SaEntry::default(); 62],
        ..TaskCoreEntry::default()
    });
    let gpregs = UserX86RegsEntry {
        ip: 0x40_1000 + u64::from(tid),
        sp,
        cs: 0x33,
        ss: 0x2b,
        ..UserX86RegsEntry::default()
    };
    let info = ThreadInfoX86 {
        clear_tid_addr: 0x60_0040,
        gpregs,
        fpregs: UserX86FpregsEntry::default(),
        tls: vec![],
    };
    let creds = CredsEntry {
        cap_eff: vec![0, 0],
        ..CredsEntry::default()
    };
    CoreEntry {
        mtype: March::X8664.into(),
        thread_info: Some(info),
        tc,
        thread_core: Some(ThreadCoreEntry {
            creds: Some(creds),
            ..ThreadCoreEntry::default()
        }),
        ..CoreEntry::default()
    }
}

pub(super) fn zombie() -> CoreEntry {
    let tc = TaskCoreEntry {
        task_state: 2,
        comm: "gone".to_owned(),
        ..TaskCoreEntry::default()
    };
    CoreEntry {
        mtype: March::X8664.into(),
        tc: Some(tc),
        ..CoreEntry::default()
    }
}

pub(super) fn ids(table: u32) -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        vm_id: table,
        files_id: table,
        fs_id: table,
        sighand_id: table,
        pid_ns_id: Some(1),
        ..TaskKobjIdsEntry::default()
    }
}

pub(super) fn fs() -> FsEntry {
    FsEntry {
        cwd_id: 2,
        root_id: 2,
        umask: Some(0o22),
    }
}

pub(super) fn mm() -> MmEntry {
    let vma = |start, end, prot, status, shmid| VmaEntry {
        start,
        end,
        prot,
        flags: 2,
        status,
        shmid,
        fd: -1,
        ..VmaEntry::default()
    };
    MmEntry {
        mm_start_code: 0x40_0000,
        mm_end_code: 0x40_2000,
        mm_start_data: 0x40_2000,
        mm_end_data: 0x40_2800,
        mm_start_stack: STACK_ADDRESS + 0x20000,
        mm_start_brk: 0x60_0000,
        mm_brk: 0x60_2000,
        mm_arg_start: STACK_ADDRESS + 0x20010,
        mm_arg_end: STACK_ADDRESS + 0x20014,
        mm_env_start: STACK_ADDRESS + 0x20040,
        mm_env_end: STACK_ADDRESS + 0x20080,
        exe_file_id: 1,
        mm_saved_auxv: vec![6, 4096, 0, 0],
        vmas: vec![
            vma(0x40_0000, 0x40_3000, 5, 1 | 1 << 6, 1),
            vma(0x60_0000, 0x60_4000, 3, 1 | 1 << 5 | 1 << 9, 0),
            vma(0x70_0000, 0x71_0000, 3, 1 | 1 << 9, 0),
            vma(
                SEGMENT_ADDRESS,
                SEGMENT_ADDRESS + 0x2000,
                3,
                1 | 1 << 8,
                SHARED_MEMORY_ID.into(),
            ),
            vma(STACK_ADDRESS, STACK_ADDRESS + 0x21000, 3, 1 | 1 << 1 | 1 << 9, 0),
            vma(VDSO_ADDRESS - 0x4000, VDSO_ADDRESS, 1, 1 | 1 << 12, 0),
            vma(VDSO_ADDRESS, VDSO_ADDRESS + 0x1000, 5, 1 | 1 << 3, 0),
        ],
        ..MmEntry::default()
    }
}

pub(super) fn descriptors() -> Vec<FdinfoEntry> {
    let descriptor = |fd, id, kind: FdTypes| FdinfoEntry {
        id,
        flags: 0,
        r#type: kind.into(),
        fd,
        xattr_security_selinux: None,
    };
    vec![
        descriptor(0, 3, FdTypes::Reg),
        descriptor(1, 4, FdTypes::Pipe),
        descriptor(2, 5, FdTypes::Pipe),
        descriptor(3, 7, FdTypes::Eventpoll),
    ]
}

pub(super) fn regular(id: u32, name: &str) -> FileEntry {
    let reg = RegFileEntry {
        id,
        name: name.to_owned(),
        fown: FownEntry::default(),
        ..RegFileEntry::default()
    };
    FileEntry {
        r#type: FdTypes::Reg.into(),
        id,
        reg: Some(reg),
        ..FileEntry::default()
    }
}

/// A file that was opened to append. CRIU records no size for it.
pub(super) fn append_only(id: u32, name: &str) -> FileEntry {
    let mut file = regular(id, name);
    // O_WRONLY | O_APPEND.
    file.reg.iter_mut().for_each(|reg| reg.flags = 0o2001);
    file
}

pub(super) fn pipe(id: u32, pipe_id: u32) -> FileEntry {
    let pipe = PipeEntry {
        id,
        pipe_id,
        flags: 1,
        fown: FownEntry::default(),
    };
    FileEntry {
        r#type: FdTypes::Pipe.into(),
        id,
        pipe: Some(pipe),
        ..FileEntry::default()
    }
}

/// An epoll instance that watches these descriptors. Each has the inode number of its file.
pub(super) fn epoll(id: u32, watched: &[(u32, u64)]) -> FileEntry {
    let target = |(fd, inode): &(u32, u64)| EventpollTfdEntry {
        id,
        tfd: *fd,
        events: 1,
        inode: Some(*inode),
        ..EventpollTfdEntry::default()
    };
    let epfd = EventpollFileEntry {
        id,
        tfd: watched.iter().map(target).collect(),
        ..EventpollFileEntry::default()
    };
    FileEntry {
        r#type: FdTypes::Eventpoll.into(),
        id,
        epfd: Some(epfd),
        ..FileEntry::default()
    }
}

/// An entry of a page map that old and new versions of CRIU can read.
pub fn pagemap_entry(vaddr: u64, pages: u32) -> PagemapEntry {
    PagemapEntry {
        vaddr,
        compat_nr_pages: pages,
        in_parent: None,
        flags: Some(criu::PE_PRESENT),
        nr_pages: Some(pages.into()),
        ..PagemapEntry::default()
    }
}

pub(super) fn pagemap(pages_id: u32, map: &[PagemapEntry]) -> Vec<u8> {
    let mut encoder = Encoder::new(Kind::Pagemap);
    encoder.entry(&PagemapHead { pages_id });
    for entry in map {
        encoder.entry(entry);
    }
    encoder.finish()
}

/// The encoding of the block sizes in a page map entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSizesEncoding {
    /// Fields of the entry.
    Fields,
    /// A separate message.
    Message,
}

/// A page map entry for `memory`, compressed as CRIU 4.3 does, and the bytes in the pages file.
pub fn compressed_entry(
    memory: &[u8],
    vaddr: u64,
    pages_per_block: u32,
    form: BlockSizesEncoding,
) -> (PagemapEntry, Vec<u8>) {
    let mut stored = Vec::new();
    let mut sizes = Vec::new();
    for block in memory.chunks(PAGE_BYTES * pages_per_block as usize) {
        let compressed = lz4_flex::block::compress(block);
        let bytes = match block.iter().all(|byte| *byte == 0) {
            true => &[][..],
            false if compressed.len() < block.len() => &compressed,
            false => block,
        };
        sizes.push(bytes.len() as u32);
        stored.extend_from_slice(bytes);
    }
    let total = stored.len() as u64;
    let entry = pagemap_entry(vaddr, (memory.len() / PAGE_BYTES) as u32);
    let entry = match form {
        BlockSizesEncoding::Fields => {
            let mut blocks = Vec::new();
            sizes
                .iter()
                .for_each(|size| prost::encoding::encode_varint(u64::from(*size), &mut blocks));
            PagemapEntry {
                blocks: Some(blocks),
                total_compressed_size: Some(total),
                region_pages: (pages_per_block > 1).then_some(pages_per_block),
                ..entry
            }
        }
        BlockSizesEncoding::Message => {
            let blocks = PagemapBlocks {
                pages_per_block: Some(pages_per_block),
                size: sizes,
                total_size: Some(total),
            };
            PagemapEntry {
                blocks: Some(blocks.encode_to_vec()),
                ..entry
            }
        }
    };
    (entry, stored)
}
