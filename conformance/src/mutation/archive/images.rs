//! Mutants of CRIU's images: of a single image, and of references between images.

use cri_proto::criu::{
    self, Kind,
    message::{FdTypes, MemfdInodeEntry, PluginsEntry, StatsEntry, core_entry::March},
};
use serde_json::json;

use super::{Mutant, edit_content, edit_members, member_mut, remove_member};
use crate::archive::sample::{SHARED_MEMORY_ID, Sample, SampleMember, pagemap_entry};

pub(super) const MUTANTS: &[Mutant] = &[
    // Single images.
    edit_members("images/wrong-magic", |members| {
        member_mut(members, "checkpoint/mm-1.img").content[4] ^= 1
    })
    .must_fail(&["archive/images/decodable"]),
    edit_members("images/wrong-length", |members| {
        member_mut(members, "checkpoint/mm-1.img").content[8] ^= 1
    })
    .must_fail(&["archive/images/decodable"]),
    edit_members("images/huge-length", |members| {
        member_mut(members, "checkpoint/mm-1.img").content[8..12].copy_from_slice(&[0xff; 4]);
    })
    .must_fail(&["archive/images/decodable"]),
    edit_members("images/trailing-bytes", |members| {
        member_mut(members, "checkpoint/fs-1.img").content.extend([0; 4])
    })
    .must_fail(&["archive/images/decodable"]),
    edit_members("images/swapped-content", |members| {
        member_mut(members, "checkpoint/fs-1.img").content =
            member_mut(members, "checkpoint/ids-1.img").content.clone();
    })
    .must_fail(&["archive/images/decodable"]),
    edit_members("images/no-entries", |members| {
        member_mut(members, "checkpoint/ids-1.img").content.truncate(8)
    })
    .must_fail(&["archive/images/not-empty"]),
    edit_members("images/missing-field", |members| {
        // Only `cwd_id`.
        member_mut(members, "checkpoint/fs-1.img")
            .content
            .splice(8.., [2, 0, 0, 0, 0x08, 2]);
    })
    .must_fail(&["archive/images/required-fields"]),
    edit_members("images/unknown-field", |members| {
        // Field 90, which no message of CRIU has.
        let fs = &mut member_mut(members, "checkpoint/fs-1.img").content;
        fs.extend([0xd0, 0x05, 1]);
        fs[8] += 3;
    })
    .must_fail(&["archive/images/no-unknown-fields"]),
    edit_content("images/wrong-version", |sample| sample.inventory.img_version = 1)
        .must_fail(&["archive/images/inventory-valid"]),
    edit_content("images/no-root-ids", |sample| sample.inventory.root_ids = None)
        .must_fail(&["archive/images/inventory-root-ids"]),
    edit_members("images/no-stats-dump", |members| remove_member(members, "stats-dump"))
        .must_fail(&["archive/images/stats-dump"]),
    edit_content("images/empty-stats-dump", |sample| sample.stats = StatsEntry::default())
        .must_fail(&["archive/images/stats-dump"]),
    edit_content("images/pages-written-mismatch", |sample| {
        sample.stats.dump.iter_mut().for_each(|dump| dump.pages_written += 1);
    })
    .must_fail(&["archive/images/stats-consistent"]),
    edit_content("images/zero-frozen-time", |sample| {
        sample.stats.dump.iter_mut().for_each(|dump| dump.frozen_time = 0);
    })
    .must_fail(&["archive/images/stats-consistent"]),
    edit_content("images/many-plugins", |sample| {
        let plugins = vec![String::new(); 40_000];
        sample.inventory.plugins_entry = Some(PluginsEntry { plugins });
    })
    .must_fail(&["archive/images/bounded-size"]),
    edit_members("images/no-images", |members| {
        members.retain(|member| !member.name.starts_with("checkpoint/"))
    })
    .must_fail(&[
        "archive/images/decodable",
        "archive/layout/checkpoint-directory",
        "archive/layout/descriptors-json",
        "archive/layout/required-members",
        "archive/memory/expected-bytes",
    ]),
    // Processes.
    edit_members("processes/no-pstree", |members| {
        remove_member(members, "checkpoint/pstree.img")
    })
    .must_fail(&["archive/processes/pstree"]),
    edit_content("processes/two-roots", |sample| sample.pstree[1].ppid = 0).must_fail(&["archive/processes/pstree"]),
    edit_content("processes/thread-in-two-processes", |sample| {
        sample.pstree[1].threads.push(2)
    })
    .must_fail(&["archive/processes/pstree"]),
    edit_members("processes/no-core-image", |members| {
        remove_member(members, "checkpoint/core-5.img")
    })
    .must_fail(&["archive/processes/core-images"]),
    edit_members("processes/no-thread-core-image", |members| {
        remove_member(members, "checkpoint/core-2.img")
    })
    .must_fail(&["archive/processes/core-images"]),
    edit_members("processes/no-mm-image", |members| {
        remove_member(members, "checkpoint/mm-5.img")
    })
    .must_fail(&["archive/processes/mm-images"]),
    edit_members("processes/no-pagemap-image", |members| {
        remove_member(members, "checkpoint/pagemap-5.img")
    })
    .must_fail(&["archive/processes/pagemap-images"]),
    edit_members("processes/no-ids-image", |members| {
        remove_member(members, "checkpoint/ids-5.img")
    })
    .must_fail(&["archive/processes/ids-images"]),
    edit_members("processes/no-fs-image", |members| {
        remove_member(members, "checkpoint/fs-5.img")
    })
    .must_fail(&["archive/processes/fs-images"]),
    edit_members("processes/no-fdinfo-image", |members| {
        remove_member(members, "checkpoint/fdinfo-2.img")
    })
    .must_fail(&["archive/processes/fdinfo-images"]),
    edit_content("processes/orphan-core-image", |sample| {
        let core = sample.cores[&5].clone();
        sample.cores.insert(99, core);
    })
    .must_fail(&["archive/processes/no-orphan-images"]),
    edit_content("processes/orphan-fdinfo-image", |sample| {
        let table = sample.fdinfo[&2].clone();
        sample.fdinfo.insert(9, table);
    })
    .must_fail(&["archive/processes/no-orphan-images"]),
    edit_content("processes/unknown-architecture", |sample| {
        core_mut(sample, 1).mtype = March::Unknown.into()
    })
    .must_fail(&["archive/processes/architecture"]),
    edit_content("processes/mixed-architectures", |sample| {
        core_mut(sample, 5).mtype = March::Riscv64.into()
    })
    .must_fail(&["archive/processes/architecture"]),
    edit_content("processes/empty-comm", |sample| {
        core_mut(sample, 1).tc.iter_mut().for_each(|tc| tc.comm.clear());
    })
    .must_fail(&["archive/processes/tc-in-leaders"]),
    edit_content("processes/tc-in-thread", |sample| {
        core_mut(sample, 2).tc = core_mut(sample, 1).tc.clone()
    })
    .must_fail(&["archive/processes/tc-in-leaders"]),
    edit_content("processes/no-thread-creds", |sample| {
        core_mut(sample, 2)
            .thread_core
            .iter_mut()
            .for_each(|thread| thread.creds = None);
    })
    .must_fail(&["archive/processes/thread-creds"]),
    edit_content("processes/no-sigactions", |sample| {
        core_mut(sample, 1).tc.iter_mut().for_each(|tc| tc.sigactions.clear());
    })
    .must_fail(&["archive/processes/sigactions"]),
    edit_content("processes/fifteen-rlimits", |sample| {
        let limits = core_mut(sample, 1).tc.as_mut().and_then(|tc| tc.rlimits.as_mut());
        limits.into_iter().for_each(|limits| limits.rlimits.truncate(15));
    })
    .must_fail(&["archive/processes/rlimits"]),
    edit_content("processes/no-itimers", |sample| {
        core_mut(sample, 5).tc.iter_mut().for_each(|tc| tc.timers = None);
    })
    .must_fail(&["archive/processes/itimers"]),
    edit_content("processes/posix-timer-unknown-thread", |sample| {
        let timers = core_mut(sample, 1).tc.as_mut().and_then(|tc| tc.timers.as_mut());
        timers
            .into_iter()
            .flat_map(|timers| &mut timers.posix)
            .for_each(|timer| timer.notify_thread_id = Some(99));
    })
    .must_fail(&["archive/processes/posix-timer-targets"]),
    edit_content("processes/dead-leader", |sample| {
        core_mut(sample, 1).tc.iter_mut().for_each(|tc| tc.task_state = 2);
    })
    .must_fail(&["archive/processes/leaders-alive"]),
    edit_content("processes/zero-registers", |sample| {
        core_mut(sample, 1)
            .thread_info
            .iter_mut()
            .for_each(|info| info.gpregs.ip = 0);
    })
    .must_fail(&["archive/processes/registers-within-vmas"]),
    edit_content("processes/ip-in-heap", |sample| {
        core_mut(sample, 2)
            .thread_info
            .iter_mut()
            .for_each(|info| info.gpregs.ip = 0x60_0000);
    })
    .must_fail(&["archive/processes/registers-within-vmas"]),
    edit_content("processes/erestart-code", |sample| {
        let info = core_mut(sample, 2).thread_info.iter_mut();
        // nanosleep, as ptrace shows it in a thread that was stopped in the call.
        info.for_each(|info| {
            info.gpregs.orig_ax = 35;
            info.gpregs.ax = (-516_i64).cast_unsigned();
        });
    })
    .must_fail(&["archive/processes/no-erestart-codes"]),
    // Memory.
    edit_content("memory/overlapping-vmas", |sample| {
        mapping_mut(sample, 0).end += 0x20_0000
    })
    .must_fail(&["archive/memory/vmas-ordered"]),
    edit_content("memory/unaligned-vma", |sample| mapping_mut(sample, 0).end -= 1)
        .must_fail(&["archive/memory/vmas-ordered"]),
    edit_content("memory/brk-below-start-brk", |sample| {
        sample.mms.values_mut().for_each(|mm| mm.mm_brk = mm.mm_start_brk - 1);
    })
    .must_fail(&["archive/memory/mm-fields-ordered"]),
    edit_content("memory/long-auxv", |sample| {
        sample.mms.values_mut().for_each(|mm| mm.mm_saved_auxv.resize(46, 0));
    })
    .must_fail(&["archive/memory/auxv"]),
    edit_members("memory/no-pages-image", |members| {
        remove_member(members, "checkpoint/pages-2.img")
    })
    .must_fail(&["archive/memory/pages-image-per-pagemap"]),
    edit_content("memory/orphan-pages-image", |sample| {
        drop(sample.pages.insert(9, vec![0; 4096]))
    })
    .must_fail(&["archive/memory/pages-image-per-pagemap"]),
    edit_content("memory/page-too-few", |sample| {
        pages_file_mut(sample).truncate(5 * 4096)
    })
    .must_fail(&["archive/memory/pages-match-pagemap"]),
    edit_content("memory/half-a-page", |sample| {
        pages_file_mut(sample).truncate(6 * 4096 - 2048)
    })
    .must_fail(&["archive/memory/pages-match-pagemap"]),
    edit_content("memory/page-too-many", |sample| {
        pages_file_mut(sample).resize(8 * 4096, 0)
    })
    .must_fail(&["archive/memory/pages-match-pagemap"]),
    edit_content("memory/pagemap-out-of-order", |sample| pagemap_mut(sample).swap(1, 2))
        .must_fail(&["archive/memory/pagemap-ordered"]),
    edit_content("memory/entry-not-present", |sample| {
        pagemap_mut(sample).insert(
            1,
            cri_proto::criu::message::PagemapEntry {
                flags: Some(2),
                ..pagemap_entry(0x40_2000, 1)
            },
        );
    })
    .must_fail(&["archive/memory/pagemap-entries-present"]),
    edit_content("memory/entry-in-parent", |sample| {
        pagemap_mut(sample).insert(
            1,
            cri_proto::criu::message::PagemapEntry {
                flags: Some(1),
                ..pagemap_entry(0x40_2000, 1)
            },
        );
    })
    .must_fail(&["archive/memory/pagemap-entries-present"]),
    edit_content("memory/corrupt-block", |sample| {
        sample.pages.get_mut(&3).into_iter().for_each(|pages| pages[0] = 0xff);
    })
    .must_fail(&["archive/memory/compressed-blocks-valid"]),
    edit_content("memory/block-size-mismatch", |sample| {
        for (_, map) in sample.shared_pagemaps.values_mut() {
            map.iter_mut().for_each(|entry| entry.blocks = Some(vec![0x10, 7]));
        }
    })
    .must_fail(&["archive/memory/compressed-blocks-valid"]),
    edit_content("memory/compat-nr-pages-only", |sample| {
        pagemap_mut(sample).iter_mut().for_each(|entry| entry.nr_pages = None);
    })
    .must_fail(&["archive/memory/page-count-fields-agree"]),
    edit_content("memory/nr-pages-only", |sample| {
        pagemap_mut(sample)
            .iter_mut()
            .for_each(|entry| entry.compat_nr_pages = 0);
    })
    .must_fail(&["archive/memory/page-count-fields-agree"]),
    edit_content("memory/page-outside-vmas", |sample| {
        pagemap_mut(sample)[0].vaddr = 0x50_0000
    })
    .must_fail(&["archive/memory/pages-within-vmas"]),
    edit_content("memory/no-stack-pages", |sample| {
        pagemap_mut(sample)[2].vaddr = 0x60_3000
    })
    .must_fail(&["archive/memory/thread-stacks"]),
    edit_content("memory/no-argument-pages", |sample| {
        pagemap_mut(sample)[3].vaddr -= 0x1000;
    })
    .must_fail(&["archive/memory/arguments"]),
    edit_content("memory/no-vdso-pages", |sample| {
        let (_, map) = sample.pagemaps.get_mut(&5).expect("the sample has a process 5");
        // Its page is recorded as a page of the stack.
        map.pop();
        map[3] = pagemap_entry(0x7fff_0001_e000, 3);
    })
    .must_fail(&["archive/memory/vdso"]),
    edit_content("memory/two-vvars", |sample| {
        let mms = sample.mms.values_mut();
        mms.filter_map(|mm| {
            let index = mm.vmas.iter().position(|vma| vma.status & 1 << 12 != 0)?;
            let mut vdso = mm.vmas[index];
            vdso.start = vdso.end - 0x1000;
            mm.vmas[index].end = vdso.start;
            mm.vmas.insert(index + 1, vdso);
            Some(())
        })
        .for_each(drop);
    })
    .must_fail(&["archive/memory/single-vvar"]),
    edit_members("memory/no-shared-pagemap", |members| {
        let name = format!("checkpoint/pagemap-shmem-{SHARED_MEMORY_ID}.img");
        member_mut(members, &name).name = "checkpoint/pagemap-shmem-78.img".to_owned();
    })
    .must_fail(&["archive/memory/shared-memory"]),
    edit_members("memory/no-memfd-pagemap", |members| {
        let inode = MemfdInodeEntry {
            name: "queue".to_owned(),
            size: 8192,
            shmid: 79,
            inode_id: 1,
            ..MemfdInodeEntry::default()
        };
        let image = criu::encode(Kind::MemfdInode, [&inode]);
        members.push(SampleMember::file("checkpoint/memfd.img", image));
    })
    .must_fail(&["archive/memory/shared-memory"]),
    edit_content("memory/no-expected-bytes", |sample| {
        let pages = sample.pages.get_mut(&1).expect("the sample has a file of pages 1");
        pages[2 * 4096 - 5..][..32].fill(0);
    })
    .must_fail(&["archive/memory/expected-bytes"]),
    // Files.
    edit_members("open-files/no-files-image", |members| {
        remove_member(members, "checkpoint/files.img")
    })
    .must_fail(&["archive/open-files/files-image"]),
    edit_content("open-files/duplicate-id", |sample| {
        let duplicate = sample.files[2].clone();
        sample.files.push(duplicate);
    })
    .must_fail(&["archive/open-files/unique-ids"]),
    edit_content("open-files/wrong-entry-variant", |sample| sample.files[1].reg = None)
        .must_fail(&["archive/open-files/entry-variant"]),
    edit_content("open-files/unknown-file-id", |sample| {
        descriptors_mut(sample)[0].id = 77
    })
    .must_fail(&["archive/open-files/descriptors-resolve"]),
    edit_content("open-files/wrong-fd-type", |sample| {
        descriptors_mut(sample)[0].r#type = FdTypes::Tty.into()
    })
    .must_fail(&["archive/open-files/descriptors-resolve"]),
    edit_content("open-files/duplicate-fd", |sample| {
        let duplicate = descriptors_mut(sample)[2].clone();
        descriptors_mut(sample).push(duplicate);
    })
    .must_fail(&["archive/open-files/unique-fd-numbers"]),
    edit_content("open-files/unknown-root-id", |sample| {
        sample.fs.values_mut().for_each(|fs| fs.root_id = 77);
    })
    .must_fail(&["archive/open-files/references-resolve"]),
    edit_content("open-files/unknown-exe-id", |sample| {
        sample.mms.values_mut().for_each(|mm| mm.exe_file_id = 77);
    })
    .must_fail(&["archive/open-files/references-resolve"]),
    edit_content("open-files/epoll-target-closed", |sample| {
        first_epoll_target(sample).tfd = 9
    })
    .must_fail(&["archive/open-files/epoll-targets-open"]),
    edit_content("open-files/epoll-target-changed", |sample| {
        first_epoll_target(sample).tfd = 2
    })
    .must_fail(&["archive/open-files/epoll-targets-open"]),
    edit_content("open-files/append-only-with-size", |sample| {
        let log = sample.files.iter_mut().filter_map(|file| file.reg.as_mut()).last();
        log.into_iter().for_each(|log| log.size = Some(4096));
    })
    .must_fail(&["archive/open-files/append-only-without-size"]),
    edit_content("open-files/standard-streams-mismatch", |sample| {
        sample.descriptors = json!(["/dev/null", "pipe:[1]", "pipe:[2]"]);
    })
    .must_fail(&["archive/open-files/standard-streams"]),
    // Secrets.
    edit_content("secrets/in-dump-log", |sample| {
        sample.dump_log.push_str("TOKEN=s3cret-of-the-sample\n");
    })
    .must_fail(&["archive/secrets/memory-and-spec-only"]),
    edit_content("secrets/in-status", |sample| {
        sample.status["Message"] = json!("TOKEN=s3cret-of-the-sample");
    })
    .must_fail(&["archive/secrets/memory-and-spec-only"]),
];

fn core_mut(sample: &mut Sample, tid: u32) -> &mut cri_proto::criu::message::CoreEntry {
    sample
        .cores
        .get_mut(&tid)
        .expect("the sample has every thread that a mutant changes")
}

fn mapping_mut(sample: &mut Sample, mapping: usize) -> &mut cri_proto::criu::message::VmaEntry {
    let mm = sample.mms.get_mut(&1).expect("the sample has a process 1");
    &mut mm.vmas[mapping]
}

fn pages_file_mut(sample: &mut Sample) -> &mut Vec<u8> {
    sample.pages.get_mut(&2).expect("the sample has two files of pages")
}

fn pagemap_mut(sample: &mut Sample) -> &mut Vec<cri_proto::criu::message::PagemapEntry> {
    let (_, map) = sample.pagemaps.get_mut(&1).expect("the sample has a process 1");
    map
}

fn first_epoll_target(sample: &mut Sample) -> &mut cri_proto::criu::message::EventpollTfdEntry {
    let mut instances = sample.files.iter_mut().filter_map(|file| file.epfd.as_mut());
    let target = instances.next().and_then(|epoll| epoll.tfd.first_mut());
    target.expect("the sample has an epoll instance")
}

fn descriptors_mut(sample: &mut Sample) -> &mut Vec<cri_proto::criu::message::FdinfoEntry> {
    sample.fdinfo.get_mut(&1).expect("the sample has a table 1")
}
