//! Mutants of CRIU's images: of a single image, and of references between images.

use cri_proto::criu::{
    self, Kind,
    message::{FdTypes, MemfdInodeEntry, PluginsEntry, StatsEntry, core_entry::March},
};
use serde_json::json;

use super::{ArchiveMutant, edit_content, edit_members, member_mut, remove_member};
use crate::archive::sample::{SHARED_MEMORY_ID, Sample, SampleMember, pagemap_entry};

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    // Single images.
    edit_members("images/wrong-magic", &["archive/images/decodable"], |members| {
        member_mut(members, "checkpoint/mm-1.img").content[4] ^= 1
    }),
    edit_members("images/wrong-length", &["archive/images/decodable"], |members| {
        member_mut(members, "checkpoint/mm-1.img").content[8] ^= 1
    }),
    edit_members("images/huge-length", &["archive/images/decodable"], |members| {
        member_mut(members, "checkpoint/mm-1.img").content[8..12].copy_from_slice(&[0xff; 4]);
    }),
    edit_members("images/trailing-bytes", &["archive/images/decodable"], |members| {
        member_mut(members, "checkpoint/fs-1.img").content.extend([0; 4])
    }),
    edit_members("images/swapped-content", &["archive/images/decodable"], |members| {
        member_mut(members, "checkpoint/fs-1.img").content =
            member_mut(members, "checkpoint/ids-1.img").content.clone();
    }),
    edit_members("images/no-entries", &["archive/images/not-empty"], |members| {
        member_mut(members, "checkpoint/ids-1.img").content.truncate(8)
    }),
    edit_members("images/missing-field", &["archive/images/required-fields"], |members| {
        // Only `cwd_id`.
        member_mut(members, "checkpoint/fs-1.img")
            .content
            .splice(8.., [2, 0, 0, 0, 0x08, 2]);
    }),
    edit_members(
        "images/unknown-field",
        &["archive/images/no-unknown-fields"],
        |members| {
            // Field 90, which no message of CRIU has.
            let fs = &mut member_mut(members, "checkpoint/fs-1.img").content;
            fs.extend([0xd0, 0x05, 1]);
            fs[8] += 3;
        },
    ),
    edit_content("images/wrong-version", &["archive/images/inventory-valid"], |sample| {
        sample.inventory.img_version = 1
    }),
    edit_content("images/no-root-ids", &["archive/images/inventory-root-ids"], |sample| {
        sample.inventory.root_ids = None
    }),
    edit_members("images/no-stats-dump", &["archive/images/stats-dump"], |members| {
        remove_member(members, "stats-dump")
    }),
    edit_content("images/empty-stats-dump", &["archive/images/stats-dump"], |sample| {
        sample.stats = StatsEntry::default()
    }),
    edit_content(
        "images/pages-written-mismatch",
        &["archive/images/stats-consistent"],
        |sample| {
            sample.stats.dump.iter_mut().for_each(|dump| dump.pages_written += 1);
        },
    ),
    edit_content(
        "images/zero-frozen-time",
        &["archive/images/stats-consistent"],
        |sample| {
            sample.stats.dump.iter_mut().for_each(|dump| dump.frozen_time = 0);
        },
    ),
    edit_content("images/many-plugins", &["archive/images/bounded-size"], |sample| {
        let plugins = vec![String::new(); 40_000];
        sample.inventory.plugins_entry = Some(PluginsEntry { plugins });
    }),
    edit_members(
        "images/no-images",
        &[
            "archive/images/decodable",
            "archive/layout/checkpoint-directory",
            "archive/layout/descriptors-json",
            "archive/layout/required-members",
            "archive/memory/expected-bytes",
        ],
        |members| members.retain(|member| !member.name.starts_with("checkpoint/")),
    ),
    // Processes.
    edit_members("processes/no-pstree", &["archive/processes/pstree"], |members| {
        remove_member(members, "checkpoint/pstree.img")
    }),
    edit_content("processes/two-roots", &["archive/processes/pstree"], |sample| {
        sample.pstree[1].ppid = 0
    }),
    edit_content(
        "processes/thread-in-two-processes",
        &["archive/processes/pstree"],
        |sample| sample.pstree[1].threads.push(2),
    ),
    edit_members(
        "processes/no-core-image",
        &["archive/processes/core-images"],
        |members| remove_member(members, "checkpoint/core-5.img"),
    ),
    edit_members(
        "processes/no-thread-core-image",
        &["archive/processes/core-images"],
        |members| remove_member(members, "checkpoint/core-2.img"),
    ),
    edit_members("processes/no-mm-image", &["archive/processes/mm-images"], |members| {
        remove_member(members, "checkpoint/mm-5.img")
    }),
    edit_members(
        "processes/no-pagemap-image",
        &["archive/processes/pagemap-images"],
        |members| remove_member(members, "checkpoint/pagemap-5.img"),
    ),
    edit_members("processes/no-ids-image", &["archive/processes/ids-images"], |members| {
        remove_member(members, "checkpoint/ids-5.img")
    }),
    edit_members("processes/no-fs-image", &["archive/processes/fs-images"], |members| {
        remove_member(members, "checkpoint/fs-5.img")
    }),
    edit_members(
        "processes/no-fdinfo-image",
        &["archive/processes/fdinfo-images"],
        |members| remove_member(members, "checkpoint/fdinfo-2.img"),
    ),
    edit_content(
        "processes/orphan-core-image",
        &["archive/processes/no-orphan-images"],
        |sample| {
            let core = sample.cores[&5].clone();
            sample.cores.insert(99, core);
        },
    ),
    edit_content(
        "processes/orphan-fdinfo-image",
        &["archive/processes/no-orphan-images"],
        |sample| {
            let table = sample.fdinfo[&2].clone();
            sample.fdinfo.insert(9, table);
        },
    ),
    edit_content(
        "processes/unknown-architecture",
        &["archive/processes/architecture"],
        |sample| core_mut(sample, 1).mtype = March::Unknown.into(),
    ),
    edit_content(
        "processes/mixed-architectures",
        &["archive/processes/architecture"],
        |sample| core_mut(sample, 5).mtype = March::Riscv64.into(),
    ),
    edit_content("processes/empty-comm", &["archive/processes/tc-in-leaders"], |sample| {
        core_mut(sample, 1).tc.iter_mut().for_each(|tc| tc.comm.clear());
    }),
    edit_content(
        "processes/tc-in-thread",
        &["archive/processes/tc-in-leaders"],
        |sample| core_mut(sample, 2).tc = core_mut(sample, 1).tc.clone(),
    ),
    edit_content(
        "processes/no-thread-creds",
        &["archive/processes/thread-creds"],
        |sample| {
            core_mut(sample, 2)
                .thread_core
                .iter_mut()
                .for_each(|thread| thread.creds = None);
        },
    ),
    edit_content("processes/no-sigactions", &["archive/processes/sigactions"], |sample| {
        core_mut(sample, 1).tc.iter_mut().for_each(|tc| tc.sigactions.clear());
    }),
    edit_content("processes/fifteen-rlimits", &["archive/processes/rlimits"], |sample| {
        let limits = core_mut(sample, 1).tc.as_mut().and_then(|tc| tc.rlimits.as_mut());
        limits.into_iter().for_each(|limits| limits.rlimits.truncate(15));
    }),
    edit_content("processes/no-itimers", &["archive/processes/itimers"], |sample| {
        core_mut(sample, 5).tc.iter_mut().for_each(|tc| tc.timers = None);
    }),
    edit_content(
        "processes/posix-timer-unknown-thread",
        &["archive/processes/posix-timer-targets"],
        |sample| {
            let timers = core_mut(sample, 1).tc.as_mut().and_then(|tc| tc.timers.as_mut());
            timers
                .into_iter()
                .flat_map(|timers| &mut timers.posix)
                .for_each(|timer| timer.notify_thread_id = Some(99));
        },
    ),
    edit_content(
        "processes/dead-leader",
        &["archive/processes/leaders-alive"],
        |sample| {
            core_mut(sample, 1).tc.iter_mut().for_each(|tc| tc.task_state = 2);
        },
    ),
    edit_content(
        "processes/zero-registers",
        &["archive/processes/registers-within-vmas"],
        |sample| {
            core_mut(sample, 1)
                .thread_info
                .iter_mut()
                .for_each(|info| info.gpregs.ip = 0);
        },
    ),
    edit_content(
        "processes/ip-in-heap",
        &["archive/processes/registers-within-vmas"],
        |sample| {
            core_mut(sample, 2)
                .thread_info
                .iter_mut()
                .for_each(|info| info.gpregs.ip = 0x60_0000);
        },
    ),
    edit_content(
        "processes/erestart-code",
        &["archive/processes/no-erestart-codes"],
        |sample| {
            let info = core_mut(sample, 2).thread_info.iter_mut();
            // nanosleep, as ptrace shows it in a thread that was stopped in the call.
            info.for_each(|info| {
                info.gpregs.orig_ax = 35;
                info.gpregs.ax = (-516_i64).cast_unsigned();
            });
        },
    ),
    // Memory.
    edit_content("memory/overlapping-vmas", &["archive/memory/vmas-ordered"], |sample| {
        mapping_mut(sample, 0).end += 0x20_0000
    }),
    edit_content("memory/unaligned-vma", &["archive/memory/vmas-ordered"], |sample| {
        mapping_mut(sample, 0).end -= 1
    }),
    edit_content(
        "memory/brk-below-start-brk",
        &["archive/memory/mm-fields-ordered"],
        |sample| {
            sample.mms.values_mut().for_each(|mm| mm.mm_brk = mm.mm_start_brk - 1);
        },
    ),
    edit_content("memory/long-auxv", &["archive/memory/auxv"], |sample| {
        sample.mms.values_mut().for_each(|mm| mm.mm_saved_auxv.resize(46, 0));
    }),
    edit_members(
        "memory/no-pages-image",
        &["archive/memory/pages-image-per-pagemap"],
        |members| remove_member(members, "checkpoint/pages-2.img"),
    ),
    edit_content(
        "memory/orphan-pages-image",
        &["archive/memory/pages-image-per-pagemap"],
        |sample| drop(sample.pages.insert(9, vec![0; 4096])),
    ),
    edit_content(
        "memory/page-too-few",
        &["archive/memory/pages-match-pagemap"],
        |sample| pages_file_mut(sample).truncate(5 * 4096),
    ),
    edit_content(
        "memory/half-a-page",
        &["archive/memory/pages-match-pagemap"],
        |sample| pages_file_mut(sample).truncate(6 * 4096 - 2048),
    ),
    edit_content(
        "memory/page-too-many",
        &["archive/memory/pages-match-pagemap"],
        |sample| pages_file_mut(sample).resize(8 * 4096, 0),
    ),
    edit_content(
        "memory/pagemap-out-of-order",
        &["archive/memory/pagemap-ordered"],
        |sample| pagemap_mut(sample).swap(1, 2),
    ),
    edit_content(
        "memory/entry-not-present",
        &["archive/memory/pagemap-entries-present"],
        |sample| {
            pagemap_mut(sample).insert(
                1,
                cri_proto::criu::message::PagemapEntry {
                    flags: Some(2),
                    ..pagemap_entry(0x40_2000, 1)
                },
            );
        },
    ),
    edit_content(
        "memory/entry-in-parent",
        &["archive/memory/pagemap-entries-present"],
        |sample| {
            pagemap_mut(sample).insert(
                1,
                cri_proto::criu::message::PagemapEntry {
                    flags: Some(1),
                    ..pagemap_entry(0x40_2000, 1)
                },
            );
        },
    ),
    edit_content(
        "memory/corrupt-block",
        &["archive/memory/compressed-blocks-valid"],
        |sample| {
            sample.pages.get_mut(&3).into_iter().for_each(|pages| pages[0] = 0xff);
        },
    ),
    edit_content(
        "memory/block-size-mismatch",
        &["archive/memory/compressed-blocks-valid"],
        |sample| {
            for (_, map) in sample.shared_pagemaps.values_mut() {
                map.iter_mut().for_each(|entry| entry.blocks = Some(vec![0x10, 7]));
            }
        },
    ),
    edit_content(
        "memory/compat-nr-pages-only",
        &["archive/memory/page-count-fields-agree"],
        |sample| {
            pagemap_mut(sample).iter_mut().for_each(|entry| entry.nr_pages = None);
        },
    ),
    edit_content(
        "memory/nr-pages-only",
        &["archive/memory/page-count-fields-agree"],
        |sample| {
            pagemap_mut(sample)
                .iter_mut()
                .for_each(|entry| entry.compat_nr_pages = 0);
        },
    ),
    edit_content(
        "memory/page-outside-vmas",
        &["archive/memory/pages-within-vmas"],
        |sample| pagemap_mut(sample)[0].vaddr = 0x50_0000,
    ),
    edit_content("memory/no-stack-pages", &["archive/memory/thread-stacks"], |sample| {
        pagemap_mut(sample)[2].vaddr = 0x60_3000
    }),
    edit_content("memory/no-argument-pages", &["archive/memory/arguments"], |sample| {
        pagemap_mut(sample)[3].vaddr -= 0x1000;
    }),
    edit_content("memory/no-vdso-pages", &["archive/memory/vdso"], |sample| {
        let (_, map) = sample.pagemaps.get_mut(&5).expect("the sample has a process 5");
        // Its page is recorded as a page of the stack.
        map.pop();
        map[3] = pagemap_entry(0x7fff_0001_e000, 3);
    }),
    edit_content("memory/two-vvars", &["archive/memory/single-vvar"], |sample| {
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
    }),
    edit_members(
        "memory/no-shared-pagemap",
        &["archive/memory/shared-memory"],
        |members| {
            let name = format!("checkpoint/pagemap-shmem-{SHARED_MEMORY_ID}.img");
            member_mut(members, &name).name = "checkpoint/pagemap-shmem-78.img".to_owned();
        },
    ),
    edit_members(
        "memory/no-memfd-pagemap",
        &["archive/memory/shared-memory"],
        |members| {
            let inode = MemfdInodeEntry {
                name: "queue".to_owned(),
                size: 8192,
                shmid: 79,
                inode_id: 1,
                ..MemfdInodeEntry::default()
            };
            let image = criu::encode(Kind::MemfdInode, [&inode]);
            members.push(SampleMember::file("checkpoint/memfd.img", image));
        },
    ),
    edit_content(
        "memory/no-expected-bytes",
        &["archive/memory/expected-bytes"],
        |sample| {
            let pages = sample.pages.get_mut(&1).expect("the sample has a file of pages 1");
            pages[2 * 4096 - 5..][..32].fill(0);
        },
    ),
    // Files.
    edit_members(
        "open-files/no-files-image",
        &["archive/open-files/files-image"],
        |members| remove_member(members, "checkpoint/files.img"),
    ),
    edit_content(
        "open-files/duplicate-id",
        &["archive/open-files/unique-ids"],
        |sample| {
            let duplicate = sample.files[2].clone();
            sample.files.push(duplicate);
        },
    ),
    edit_content(
        "open-files/wrong-entry-variant",
        &["archive/open-files/entry-variant"],
        |sample| sample.files[1].reg = None,
    ),
    edit_content(
        "open-files/unknown-file-id",
        &["archive/open-files/descriptors-resolve"],
        |sample| descriptors_mut(sample)[0].id = 77,
    ),
    edit_content(
        "open-files/wrong-fd-type",
        &["archive/open-files/descriptors-resolve"],
        |sample| descriptors_mut(sample)[0].r#type = FdTypes::Tty.into(),
    ),
    edit_content(
        "open-files/duplicate-fd",
        &["archive/open-files/unique-fd-numbers"],
        |sample| {
            let duplicate = descriptors_mut(sample)[2].clone();
            descriptors_mut(sample).push(duplicate);
        },
    ),
    edit_content(
        "open-files/unknown-root-id",
        &["archive/open-files/references-resolve"],
        |sample| {
            sample.fs.values_mut().for_each(|fs| fs.root_id = 77);
        },
    ),
    edit_content(
        "open-files/unknown-exe-id",
        &["archive/open-files/references-resolve"],
        |sample| {
            sample.mms.values_mut().for_each(|mm| mm.exe_file_id = 77);
        },
    ),
    edit_content(
        "open-files/epoll-target-closed",
        &["archive/open-files/epoll-targets-open"],
        |sample| first_epoll_target(sample).tfd = 9,
    ),
    edit_content(
        "open-files/epoll-target-changed",
        &["archive/open-files/epoll-targets-open"],
        |sample| first_epoll_target(sample).tfd = 2,
    ),
    edit_content(
        "open-files/append-only-with-size",
        &["archive/open-files/append-only-without-size"],
        |sample| {
            let log = sample.files.iter_mut().filter_map(|file| file.reg.as_mut()).last();
            log.into_iter().for_each(|log| log.size = Some(4096));
        },
    ),
    edit_content(
        "open-files/standard-streams-mismatch",
        &["archive/open-files/standard-streams"],
        |sample| {
            sample.descriptors = json!(["/dev/null", "pipe:[1]", "pipe:[2]"]);
        },
    ),
    // Secrets.
    edit_content(
        "secrets/in-dump-log",
        &["archive/secrets/memory-and-spec-only"],
        |sample| {
            sample.dump_log.push_str("TOKEN=s3cret-of-the-sample\n");
        },
    ),
    edit_content(
        "secrets/in-status",
        &["archive/secrets/memory-and-spec-only"],
        |sample| {
            sample.status["Message"] = json!("TOKEN=s3cret-of-the-sample");
        },
    ),
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
