//! Archives whose images are wrong, for themselves or against each other.

use cri_proto::criu::{
    self, Kind,
    message::{FdTypes, MemfdInodeEntry, PluginsEntry, StatsEntry, core_entry::March},
};
use serde_json::json;

use super::{ArchiveMutant, drop_part, members, part, said};
use crate::archive::sample::{Part, SHARED, Sample, run};

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    // The images, each for itself.
    members("images/magic", &["archive/images/decode"], |parts| {
        part(parts, "checkpoint/mm-1.img").content[4] ^= 1
    }),
    members("images/length", &["archive/images/decode"], |parts| {
        part(parts, "checkpoint/mm-1.img").content[8] ^= 1
    }),
    members("images/huge-length", &["archive/images/decode"], |parts| {
        part(parts, "checkpoint/mm-1.img").content[8..12].copy_from_slice(&[0xff; 4]);
    }),
    members("images/trailing", &["archive/images/decode"], |parts| {
        part(parts, "checkpoint/fs-1.img").content.extend([0; 4])
    }),
    members("images/swapped", &["archive/images/decode"], |parts| {
        part(parts, "checkpoint/fs-1.img").content = part(parts, "checkpoint/ids-1.img").content.clone();
    }),
    members("images/no-entry", &["archive/images/not-empty"], |parts| {
        part(parts, "checkpoint/ids-1.img").content.truncate(8)
    }),
    members("images/missing-field", &["archive/images/required-fields"], |parts| {
        // cwd_id alone.
        part(parts, "checkpoint/fs-1.img")
            .content
            .splice(8.., [2, 0, 0, 0, 0x08, 2]);
    }),
    members("images/unknown-field", &["archive/images/unknown-fields"], |parts| {
        // Field 90, which no message of CRIU has.
        let fs = &mut part(parts, "checkpoint/fs-1.img").content;
        fs.extend([0xd0, 0x05, 1]);
        fs[8] += 3;
    }),
    said("images/version", &["archive/images/inventory"], |sample| {
        sample.inventory.img_version = 1
    }),
    said("images/no-root-ids", &["archive/images/root-ids"], |sample| {
        sample.inventory.root_ids = None
    }),
    members("images/no-stats", &["archive/images/stats-dump"], |parts| {
        drop_part(parts, "stats-dump")
    }),
    said("images/empty-stats", &["archive/images/stats-dump"], |sample| {
        sample.stats = StatsEntry::default()
    }),
    said(
        "images/stats-of-another-dump",
        &["archive/images/stats-plausible"],
        |sample| {
            sample.stats.dump.iter_mut().for_each(|dump| dump.pages_written += 1);
        },
    ),
    said("images/never-frozen", &["archive/images/stats-plausible"], |sample| {
        sample.stats.dump.iter_mut().for_each(|dump| dump.frozen_time = 0);
    }),
    said("images/many-plugins", &["archive/images/bounded"], |sample| {
        let plugins = vec![String::new(); 40_000];
        sample.inventory.plugins_entry = Some(PluginsEntry { plugins });
    }),
    members(
        "images/none",
        &[
            "archive/images/decode",
            "archive/layout/checkpoint-directory",
            "archive/layout/descriptors",
            "archive/layout/upstream-names",
            "archive/memory/canary",
        ],
        |parts| parts.retain(|part| !part.name.starts_with("checkpoint/")),
    ),
    // Processes.
    members("process/no-tree", &["archive/process/tree"], |parts| {
        drop_part(parts, "checkpoint/pstree.img")
    }),
    said("process/two-roots", &["archive/process/tree"], |sample| {
        sample.pstree[1].ppid = 0
    }),
    said("process/thread-of-two", &["archive/process/tree"], |sample| {
        sample.pstree[1].threads.push(2)
    }),
    members("process/no-core", &["archive/process/cores"], |parts| {
        drop_part(parts, "checkpoint/core-5.img")
    }),
    members("process/no-core-of-a-thread", &["archive/process/cores"], |parts| {
        drop_part(parts, "checkpoint/core-2.img")
    }),
    members("process/no-mm", &["archive/process/mm"], |parts| {
        drop_part(parts, "checkpoint/mm-5.img")
    }),
    members("process/no-pagemap", &["archive/process/pagemap"], |parts| {
        drop_part(parts, "checkpoint/pagemap-5.img")
    }),
    members("process/no-ids", &["archive/process/ids"], |parts| {
        drop_part(parts, "checkpoint/ids-5.img")
    }),
    members("process/no-fs", &["archive/process/fs"], |parts| {
        drop_part(parts, "checkpoint/fs-5.img")
    }),
    members("process/no-fdinfo", &["archive/process/fdinfo"], |parts| {
        drop_part(parts, "checkpoint/fdinfo-2.img")
    }),
    said("process/stray", &["archive/process/no-stray"], |sample| {
        let core = sample.cores[&5].clone();
        sample.cores.insert(99, core);
    }),
    said("process/stray-table", &["archive/process/no-stray"], |sample| {
        let table = sample.fdinfo[&2].clone();
        sample.fdinfo.insert(9, table);
    }),
    said("process/unknown-machine", &["archive/process/machine"], |sample| {
        core(sample, 1).mtype = March::Unknown.into()
    }),
    said("process/two-machines", &["archive/process/machine"], |sample| {
        core(sample, 5).mtype = March::Riscv64.into()
    }),
    said("process/no-name", &["archive/process/leaders"], |sample| {
        core(sample, 1).tc.iter_mut().for_each(|tc| tc.comm.clear());
    }),
    said("process/task-in-thread", &["archive/process/leaders"], |sample| {
        core(sample, 2).tc = core(sample, 1).tc.clone()
    }),
    said("process/no-credentials", &["archive/process/threads"], |sample| {
        core(sample, 2)
            .thread_core
            .iter_mut()
            .for_each(|thread| thread.creds = None);
    }),
    said(
        "process/no-signal-actions",
        &["archive/process/signal-actions"],
        |sample| {
            core(sample, 1).tc.iter_mut().for_each(|tc| tc.sigactions.clear());
        },
    ),
    said("process/fifteen-limits", &["archive/process/limits"], |sample| {
        let limits = core(sample, 1).tc.as_mut().and_then(|tc| tc.rlimits.as_mut());
        limits.into_iter().for_each(|limits| limits.rlimits.truncate(15));
    }),
    said("process/no-timers", &["archive/process/timers"], |sample| {
        core(sample, 5).tc.iter_mut().for_each(|tc| tc.timers = None);
    }),
    said("process/timer-of-nobody", &["archive/process/posix-timers"], |sample| {
        let timers = core(sample, 1).tc.as_mut().and_then(|tc| tc.timers.as_mut());
        timers
            .into_iter()
            .flat_map(|timers| &mut timers.posix)
            .for_each(|timer| timer.notify_thread_id = Some(99));
    }),
    said("process/dead-leader", &["archive/process/living-leaders"], |sample| {
        core(sample, 1).tc.iter_mut().for_each(|tc| tc.task_state = 2);
    }),
    said("process/zero-registers", &["archive/process/registers"], |sample| {
        core(sample, 1)
            .thread_info
            .iter_mut()
            .for_each(|info| info.gpregs.ip = 0);
    }),
    said("process/runs-on-the-heap", &["archive/process/registers"], |sample| {
        core(sample, 2)
            .thread_info
            .iter_mut()
            .for_each(|info| info.gpregs.ip = 0x60_0000);
    }),
    said(
        "process/call-not-taken-back",
        &["archive/process/system-calls"],
        |sample| {
            let info = core(sample, 2).thread_info.iter_mut();
            // nanosleep, as ptrace shows it in a thread that was stopped in it.
            info.for_each(|info| {
                info.gpregs.orig_ax = 35;
                info.gpregs.ax = (-516_i64).cast_unsigned();
            });
        },
    ),
    // Memory.
    said("memory/overlap", &["archive/memory/mappings"], |sample| {
        mm(sample, 0).end += 0x20_0000
    }),
    said("memory/unaligned", &["archive/memory/mappings"], |sample| {
        mm(sample, 0).end -= 1
    }),
    said("memory/heap-backwards", &["archive/memory/layout"], |sample| {
        sample.mms.values_mut().for_each(|mm| mm.mm_brk = mm.mm_start_brk - 1);
    }),
    said("memory/long-auxv", &["archive/memory/auxv"], |sample| {
        sample.mms.values_mut().for_each(|mm| mm.mm_saved_auxv.resize(46, 0));
    }),
    members("memory/no-pages", &["archive/memory/page-files"], |parts| {
        drop_part(parts, "checkpoint/pages-2.img")
    }),
    said("memory/stray-pages", &["archive/memory/page-files"], |sample| {
        drop(sample.pages.insert(9, vec![0; 4096]))
    }),
    said("memory/page-too-few", &["archive/memory/page-counts"], |sample| {
        page_file(sample).truncate(5 * 4096)
    }),
    said("memory/half-a-page", &["archive/memory/page-counts"], |sample| {
        page_file(sample).truncate(6 * 4096 - 2048)
    }),
    said("memory/page-too-many", &["archive/memory/page-counts"], |sample| {
        page_file(sample).resize(8 * 4096, 0)
    }),
    said(
        "memory/entries-out-of-order",
        &["archive/memory/page-order"],
        |sample| page_map(sample).swap(1, 2),
    ),
    said("memory/not-present", &["archive/memory/page-present"], |sample| {
        page_map(sample).insert(
            1,
            cri_proto::criu::message::PagemapEntry {
                flags: Some(2),
                ..run(0x40_2000, 1)
            },
        );
    }),
    said("memory/in-parent", &["archive/memory/page-present"], |sample| {
        page_map(sample).insert(
            1,
            cri_proto::criu::message::PagemapEntry {
                flags: Some(1),
                ..run(0x40_2000, 1)
            },
        );
    }),
    said("memory/damaged-block", &["archive/memory/page-blocks"], |sample| {
        sample.pages.get_mut(&3).into_iter().for_each(|pages| pages[0] = 0xff);
    }),
    said(
        "memory/contradicting-blocks",
        &["archive/memory/page-blocks"],
        |sample| {
            for (_, map) in sample.shared_pagemaps.values_mut() {
                map.iter_mut().for_each(|entry| entry.blocks = Some(vec![0x10, 7]));
            }
        },
    ),
    said("memory/old-counts", &["archive/memory/page-both-counts"], |sample| {
        page_map(sample).iter_mut().for_each(|entry| entry.nr_pages = None);
    }),
    said("memory/new-counts", &["archive/memory/page-both-counts"], |sample| {
        page_map(sample).iter_mut().for_each(|entry| entry.compat_nr_pages = 0);
    }),
    said("memory/page-of-nothing", &["archive/memory/page-mapped"], |sample| {
        page_map(sample)[0].vaddr = 0x50_0000
    }),
    said("memory/no-stack", &["archive/memory/stacks"], |sample| {
        page_map(sample)[2].vaddr = 0x60_3000
    }),
    said("memory/no-arguments", &["archive/memory/arguments"], |sample| {
        page_map(sample)[3].vaddr -= 0x1000;
    }),
    said("memory/no-vdso", &["archive/memory/vdso"], |sample| {
        let (_, map) = sample.pagemaps.get_mut(&5).expect("the sample has a process 5");
        // Its page is said to be the stack's.
        map.pop();
        map[3] = run(0x7fff_0001_e000, 3);
    }),
    said("memory/two-vvars", &["archive/memory/vvar"], |sample| {
        let mms = sample.mms.values_mut();
        mms.filter_map(|mm| {
            let place = mm.vmas.iter().position(|vma| vma.status & 1 << 12 != 0)?;
            let mut clock = mm.vmas[place];
            clock.start = clock.end - 0x1000;
            mm.vmas[place].end = clock.start;
            mm.vmas.insert(place + 1, clock);
            Some(())
        })
        .for_each(drop);
    }),
    members("memory/no-shared", &["archive/memory/shared"], |parts| {
        let name = format!("checkpoint/pagemap-shmem-{SHARED}.img");
        part(parts, &name).name = "checkpoint/pagemap-shmem-78.img".to_owned();
    }),
    members("memory/no-memfd", &["archive/memory/shared"], |parts| {
        let inode = MemfdInodeEntry {
            name: "queue".to_owned(),
            size: 8192,
            shmid: 79,
            inode_id: 1,
            ..MemfdInodeEntry::default()
        };
        let image = criu::encode(Kind::MemfdInode, [&inode]);
        parts.push(Part::file("checkpoint/memfd.img", image));
    }),
    said("memory/no-canary", &["archive/memory/canary"], |sample| {
        let pages = sample.pages.get_mut(&1).expect("the sample has a file of pages 1");
        pages[2 * 4096 - 5..][..32].fill(0);
    }),
    // Files.
    members("files/no-table", &["archive/files/table"], |parts| {
        drop_part(parts, "checkpoint/files.img")
    }),
    said("files/same-id", &["archive/files/unique"], |sample| {
        let again = sample.files[2].clone();
        sample.files.push(again);
    }),
    said("files/wrong-part", &["archive/files/parts"], |sample| {
        sample.files[1].reg = None
    }),
    said("files/unknown-file", &["archive/files/descriptors"], |sample| {
        descriptors(sample)[0].id = 77
    }),
    said("files/wrong-kind", &["archive/files/descriptors"], |sample| {
        descriptors(sample)[0].r#type = FdTypes::Tty.into()
    }),
    said("files/number-twice", &["archive/files/numbers"], |sample| {
        let again = descriptors(sample)[2].clone();
        descriptors(sample).push(again);
    }),
    said("files/unknown-root", &["archive/files/references"], |sample| {
        sample.fs.values_mut().for_each(|fs| fs.root_id = 77);
    }),
    said("files/unknown-executable", &["archive/files/references"], |sample| {
        sample.mms.values_mut().for_each(|mm| mm.exe_file_id = 77);
    }),
    said("files/epoll-of-nothing", &["archive/files/epoll-targets"], |sample| {
        watched(sample).tfd = 9
    }),
    said(
        "files/epoll-of-another-file",
        &["archive/files/epoll-targets"],
        |sample| watched(sample).tfd = 2,
    ),
    said("files/size-of-a-log", &["archive/files/append-only"], |sample| {
        let log = sample.files.iter_mut().filter_map(|file| file.reg.as_mut()).last();
        log.into_iter().for_each(|log| log.size = Some(4096));
    }),
    said("files/other-pipes", &["archive/files/standard-streams"], |sample| {
        sample.descriptors = json!(["/dev/null", "pipe:[1]", "pipe:[2]"]);
    }),
    // Secrets.
    said(
        "secrets/in-log-of-the-dump",
        &["archive/secrets/environment"],
        |sample| {
            sample.dump_log.push_str("TOKEN=s3cret-of-the-sample\n");
        },
    ),
    said("secrets/in-status", &["archive/secrets/environment"], |sample| {
        sample.status["Message"] = json!("TOKEN=s3cret-of-the-sample");
    }),
];

fn core(sample: &mut Sample, tid: u32) -> &mut cri_proto::criu::message::CoreEntry {
    sample
        .cores
        .get_mut(&tid)
        .expect("the sample has every thread that a mutant changes")
}

fn mm(sample: &mut Sample, mapping: usize) -> &mut cri_proto::criu::message::VmaEntry {
    let mm = sample.mms.get_mut(&1).expect("the sample has a process 1");
    &mut mm.vmas[mapping]
}

fn page_file(sample: &mut Sample) -> &mut Vec<u8> {
    sample.pages.get_mut(&2).expect("the sample has two files of pages")
}

fn page_map(sample: &mut Sample) -> &mut Vec<cri_proto::criu::message::PagemapEntry> {
    let (_, map) = sample.pagemaps.get_mut(&1).expect("the sample has a process 1");
    map
}

fn watched(sample: &mut Sample) -> &mut cri_proto::criu::message::EventpollTfdEntry {
    let mut instances = sample.files.iter_mut().filter_map(|file| file.epfd.as_mut());
    let target = instances.next().and_then(|epoll| epoll.tfd.first_mut());
    target.expect("the sample has an epoll instance")
}

fn descriptors(sample: &mut Sample) -> &mut Vec<cri_proto::criu::message::FdinfoEntry> {
    sample.fdinfo.get_mut(&1).expect("the sample has a table 1")
}
