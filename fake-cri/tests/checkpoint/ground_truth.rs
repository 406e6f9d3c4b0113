//! Compares archives with ptrace and `/proc` at the freeze: registers, mappings, descriptors and all pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Mutex,
};

use cri_proto::criu::message::{CoreEntry, UserX86RegsEntry};
use fake_cri::checkpoint::{self, Freeze, Phase};
use nix::{
    sys::ptrace::{self, regset},
    unistd::Pid,
};
use rstest::rstest;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_dir_entries, assert_running_untraced, descendants, job, keep_archive, stat},
    layout::check_layout,
    random_shapes::check_extras,
    workload::{PAGE_BYTES, Shape, Workload},
};

/// The state of one frozen process.
#[derive(Debug, Default)]
pub(crate) struct ObservedProcess {
    parent: i32,
    zombie: bool,
    registers: BTreeMap<i32, (libc::user_regs_struct, libc::user_fpregs_struct)>,
    /// The addresses, access and name of each mapping.
    mappings: Vec<(Range<u64>, String, String)>,
    /// The target, offset and flags of each descriptor.
    pub(crate) descriptors: BTreeMap<i32, (PathBuf, u64, u32)>,
    /// The pagemap entry and the content of each present or swapped page of a private mapping.
    pages: BTreeMap<u64, (u64, Vec<u8>)>,
    /// The content of each page of a shared mapping without a file.
    shared: BTreeMap<u64, Vec<u8>>,
}

/// Records the frozen container; called in the thread of the tracer. With snapshots, private memory is recorded before
/// the parasite queries: to execute a remote syscall a thread is scheduled again, and the kernel then writes the CPU
/// number into its memory (rseq(2)). Shared memory is recorded last, because reading a page makes the page resident.
fn observe(init: i32, freeze: Freeze, phase: Phase, truth: &mut BTreeMap<i32, ObservedProcess>) {
    let private_phase = match freeze {
        Freeze::Snapshot => Phase::Capture,
        Freeze::Full => Phase::Write,
    };
    if phase == private_phase {
        let all = descendants(init).into_iter();
        truth.extend(all.map(|process| (process.pid.as_raw(), read_process(process.pid.as_raw()))));
    }
    if phase == Phase::Write {
        for (pid, process) in truth {
            process.read_shared_memory(*pid);
        }
    }
}

impl ObservedProcess {
    /// Reads the shared memory that no other program can reach: anonymous memory and memfds.
    fn read_shared_memory(&mut self, pid: i32) {
        if self.zombie {
            return;
        }
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        for (range, access, name) in &self.mappings {
            let unnamed = name == "/dev/zero (deleted)" || name.starts_with("/memfd:");
            if access.ends_with('s') && unnamed {
                for address in range.clone().step_by(PAGE_BYTES as usize) {
                    let mut page = vec![0; PAGE_BYTES as usize];
                    memory.read_exact_at(&mut page, address).unwrap();
                    self.shared.insert(address, page);
                }
            }
        }
    }
}

fn read_process(pid: i32) -> ObservedProcess {
    let (state, parent, _) = stat(pid).unwrap();
    let mut process = ObservedProcess {
        parent,
        zombie: state == 'Z',
        ..ObservedProcess::default()
    };
    if process.zombie {
        return process;
    }
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let tid: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        assert_eq!(stat(tid).unwrap().0, 't', "thread {tid} is not stopped");
        let general = ptrace::getregset::<regset::NT_PRSTATUS>(Pid::from_raw(tid)).unwrap();
        let floating = ptrace::getregset::<regset::NT_PRFPREG>(Pid::from_raw(tid)).unwrap();
        process.registers.insert(tid, (general, floating));
    }
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let columns: Vec<_> = line.splitn(6, ' ').collect();
        let (start, end) = columns[0].split_once('-').unwrap();
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        let range = hex(start)..hex(end);
        let name = columns[5]
            .split_once(columns[4])
            .map_or(columns[5], |(_, name)| name)
            .trim();
        let name = if columns[4].len() + 1 > columns[5].len() {
            ""
        } else {
            name
        };
        let name = name.to_owned();
        if columns[1].ends_with('p') && !name.starts_with("[v") {
            let mut entries = vec![0; ((range.end - range.start) / PAGE_BYTES * 8) as usize];
            pagemap
                .read_exact_at(&mut entries, range.start / PAGE_BYTES * 8)
                .unwrap();
            for (index, entry) in entries.chunks_exact(8).enumerate() {
                let entry = u64::from_ne_bytes(entry.try_into().unwrap());
                if entry >> 62 != 0 {
                    let address = range.start + index as u64 * PAGE_BYTES;
                    let mut page = vec![0; PAGE_BYTES as usize];
                    memory.read_exact_at(&mut page, address).unwrap();
                    process.pages.insert(address, (entry, page));
                }
            }
        }
        process.mappings.push((range, columns[1].to_owned(), name));
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let fd: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap();
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        process.descriptors.insert(
            fd,
            (
                fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap(),
                field("pos:").parse().unwrap(),
                u32::from_str_radix(&field("flags:"), 8).unwrap(),
            ),
        );
    }
    process
}

#[rstest]
#[case::one_thread(Shape::default())]
#[case::threads(Shape { spinning: 3, sleeping: 6, ..Shape::default() })]
#[case::sparse_memory(Shape { sparse_pages: 6000, zero_pages: 64, ..Shape::default() })]
#[case::large_memory(Shape { filled_pages: (32 << 20) / PAGE_BYTES + 3, unreadable_pages: (16 << 20) / PAGE_BYTES, children: 1, spinning: 1, ..Shape::default() })]
#[case::shared_memory(Shape { shared_pages: 100, sparse_pages: 8, ..Shape::default() })]
#[case::unforked_memory(Shape { not_forked_pages: 20, shared_pages: 9, sparse_pages: 8, spinning: 1, ..Shape::default() })]
#[case::children(Shape { children: 2, spinning: 1, sleeping: 1, sparse_pages: 40, shared_pages: 7, zombie: true, ..Shape::default() })]
#[case::denies_exec_memory(Shape { denies_exec_memory: true, children: 1, spinning: 1, sleeping: 1, shared_pages: 5, ..Shape::default() })]
#[case::files(Shape { files: Some(PathBuf::new()), children: 1, spinning: 1, ..Shape::default() })]
fn archive_matches_the_process(#[case] shape: Shape, #[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze) {
    check_shape(shape, freeze);
}

/// Checkpoints a workload of this shape and compares the archive with the frozen state.
pub(crate) fn check_shape(mut shape: Shape, freeze: Freeze) {
    let dir = tempfile::tempdir().unwrap();
    let files_dir = tempfile::tempdir().unwrap();
    shape.files = shape.files.map(|_| files_dir.path().to_owned());
    let workload = Workload::start(&shape);
    let before = workload.count();
    let truth = Mutex::new(BTreeMap::new());
    let host = TestHost::with_phase_hook(workload.pid(), |phase| {
        observe(workload.pid(), freeze, phase, &mut truth.lock().unwrap());
    });
    let mut job = job(workload.pid(), dir.path());
    job.freeze = freeze;
    let report = checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    keep_archive(&job.location);
    let copied = freeze == Freeze::Snapshot;
    let log = ArchiveContents::read(&job.location).log();
    assert_eq!(report.used_snapshot, copied, "{log}");
    // PROT_NONE memory is not spliced.
    let spliced = log.matches(": spliced 32 MiB of memory").count();
    let large = copied && shape.filled_pages * PAGE_BYTES >= 32 << 20;
    assert_eq!(spliced, usize::from(large) * (1 + shape.children), "{log}");
    assert_running_untraced(workload.pid());
    assert_dir_entries(dir.path(), &["checkpoint.tar"]);
    assert!(workload.count() > before, "the workload does not continue");

    let contents = ArchiveContents::read(&job.location);
    let truth = std::mem::take(&mut *truth.lock().unwrap());
    assert_eq!(report.processes, truth.len());
    assert_eq!(
        report.threads,
        truth.values().map(|process| process.registers.len()).sum::<usize>()
    );
    let pages = contents
        .members
        .iter()
        .filter(|(name, _)| name.starts_with("checkpoint/pages-"));
    assert_eq!(
        report.pages * PAGE_BYTES,
        pages.map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
    );
    check_pstree(&contents, &truth, workload.pid());
    for (pid, process) in &truth {
        if process.zombie {
            assert_eq!(contents.core(*pid).tc.unwrap().task_state, 2);
            continue;
        }
        for (tid, registers) in &process.registers {
            check_registers(&contents.core(*tid), registers);
            assert_eq!(contents.core(*tid).tc.is_some(), tid == pid);
        }
        check_mappings(&contents, *pid, process);
        check_pages(&contents, *pid, process);
        check_shared_pages(&contents, *pid, process);
        check_descriptors(&contents, *pid, process);
    }
    check_layout(&contents, &workload, &truth[&workload.pid()]);
    check_extras(
        &contents,
        workload.pid(),
        &shape,
        &workload.layout,
        &truth[&workload.pid()],
    );
}

fn check_pstree(contents: &ArchiveContents, truth: &BTreeMap<i32, ObservedProcess>, init: i32) {
    let tree = contents.pstree();
    assert_eq!(tree[0].pid, init as u32);
    assert_eq!(tree[0].ppid, 0);
    let mut listed_pids = BTreeSet::from([0]);
    for entry in &tree {
        let process = &truth[&(entry.pid as i32)];
        assert!(listed_pids.contains(&entry.ppid), "a child is listed before its parent");
        listed_pids.insert(entry.pid);
        if entry.ppid != 0 {
            assert_eq!(entry.ppid as i32, process.parent);
        }
        let threads: BTreeSet<_> = entry.threads.iter().map(|tid| *tid as i32).collect();
        let expected: BTreeSet<_> = process.registers.keys().copied().chain([entry.pid as i32]).collect();
        assert_eq!(threads, expected);
        assert_eq!(entry.threads[0], entry.pid);
    }
    assert_eq!(tree.len(), truth.len());
}

fn check_registers(core: &CoreEntry, (general, floating): &(libc::user_regs_struct, libc::user_fpregs_struct)) {
    let info = core.thread_info.as_ref().expect("x86 registers");
    let mut expected = *general;
    // An interrupted system call is restarted: rax and rip are set back to before the call, as in CRIU.
    if (expected.orig_rax as i64) >= 0 {
        match expected.rax as i64 {
            -514..=-512 => {
                expected.rax = expected.orig_rax;
                expected.rip -= 2;
            }
            -516 => expected.rax = -4_i64 as u64,
            _ => {}
        }
    }
    assert_eq!(
        info.gpregs,
        UserX86RegsEntry {
            r15: expected.r15,
            r14: expected.r14,
            r13: expected.r13,
            r12: expected.r12,
            bp: expected.rbp,
            bx: expected.rbx,
            r11: expected.r11,
            r10: expected.r10,
            r9: expected.r9,
            r8: expected.r8,
            ax: expected.rax,
            cx: expected.rcx,
            dx: expected.rdx,
            si: expected.rsi,
            di: expected.rdi,
            orig_ax: expected.orig_rax,
            ip: expected.rip,
            cs: expected.cs,
            flags: expected.eflags,
            sp: expected.rsp,
            ss: expected.ss,
            fs_base: expected.fs_base,
            gs_base: expected.gs_base,
            ds: expected.ds,
            es: expected.es,
            fs: expected.fs,
            gs: expected.gs,
            mode: Some(1),
        }
    );
    let fpregs = &info.fpregs;
    assert_eq!(
        (fpregs.cwd, fpregs.swd),
        (u32::from(floating.cwd), u32::from(floating.swd))
    );
    assert_eq!((fpregs.mxcsr, fpregs.mxcsr_mask), (floating.mxcsr, floating.mxcr_mask));
    assert_eq!(fpregs.st_space, floating.st_space);
    assert_eq!(fpregs.xmm_space, floating.xmm_space);
    let xsave = fpregs.xsave.as_ref().expect("xsave state");
    if is_x86_feature_detected!("avx") {
        assert_eq!(xsave.ymmh_space.len(), 64);
    }
    if is_x86_feature_detected!("avx512f") {
        assert_eq!(
            (xsave.opmask_reg.len(), xsave.zmm_upper.len(), xsave.hi16_zmm.len()),
            (8, 64, 128)
        );
    }
}

fn check_mappings(contents: &ArchiveContents, pid: i32, process: &ObservedProcess) {
    let mm = contents.mm(pid);
    let mut expected: Vec<(Range<u64>, String)> = Vec::new();
    for (range, access, name) in &process.mappings {
        match expected.last_mut() {
            Some(last) if name.starts_with("[vvar") && last.0.end == range.start && last.1 == "r--p[vvar" => {
                last.0.end = range.end;
            }
            _ if name.starts_with("[vvar") => expected.push((range.clone(), format!("{access}[vvar"))),
            _ => expected.push((range.clone(), access.clone())),
        }
    }
    let dumped: Vec<_> = mm
        .vmas
        .iter()
        .map(|vma| {
            let bit = |bit: u32, letter| if vma.prot & bit != 0 { letter } else { '-' };
            let sharing = if vma.flags & 1 != 0 { 's' } else { 'p' };
            let mut access = String::from_iter([bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), sharing]);
            if vma.status & (1 << 12) != 0 {
                access.push_str("[vvar");
            }
            (vma.start..vma.end, access)
        })
        .collect();
    assert_eq!(dumped, expected);
    let exe = contents
        .file(mm.exe_file_id)
        .reg
        .expect("the executable is a regular file");
    assert_eq!(
        exe.name,
        fs::read_link(format!("/proc/{pid}/exe")).unwrap().to_str().unwrap()
    );
    for vma in mm.vmas.iter().filter(|vma| vma.status & (1 << 6 | 1 << 7) != 0) {
        let name = &process
            .mappings
            .iter()
            .find(|(range, ..)| range.start == vma.start)
            .unwrap()
            .2;
        let file = contents.file(vma.shmid as u32);
        match (file.reg, file.memfd) {
            (Some(file), _) => assert_eq!(&file.name, name),
            (None, Some(_)) => assert!(name.starts_with("/memfd:"), "{name}"),
            (None, None) => panic!("the mapping {name} has no regular file"),
        }
    }
}

fn check_pages(contents: &ArchiveContents, pid: i32, process: &ObservedProcess) {
    let dumped = contents.pages(&format!("pagemap-{pid}.img"));
    let mapping_of = |address: u64| {
        process
            .mappings
            .iter()
            .find(|(range, ..)| range.contains(&address))
            .expect("mapped")
    };
    for (address, page) in &dumped {
        if mapping_of(*address).2 == "[vdso]" {
            continue;
        }
        let (_, truth) = process
            .pages
            .get(address)
            .unwrap_or_else(|| panic!("the page at {address:x} is not present"));
        assert!(page == truth, "the page at {address:x} differs");
    }
    for (address, (entry, page)) in &process.pages {
        let of_file = entry >> 61 & 1 != 0 && !mapping_of(*address).2.is_empty();
        let zero = page.iter().all(|byte| *byte == 0);
        // A missing page has the content of its file, or is zero.
        if !dumped.contains_key(address) {
            assert!(of_file || zero, "the page at {address:x} is missing");
        }
    }
    assert!(
        process
            .mappings
            .iter()
            .filter(|mapping| mapping.2 == "[vdso]")
            .all(|(range, ..)| {
                range
                    .clone()
                    .step_by(PAGE_BYTES as usize)
                    .all(|address| dumped.contains_key(&address))
            })
    );
}

/// Pages that are not in the archive must be zero.
fn check_shared_pages(contents: &ArchiveContents, pid: i32, process: &ObservedProcess) {
    for vma in contents.mm(pid).vmas {
        let mut pages = None;
        for (address, truth) in process.shared.range(vma.start..vma.end) {
            let pages = pages.get_or_insert_with(|| contents.shared_pages(&vma));
            match pages.get(&(address - vma.start + vma.pgoff)) {
                Some(dumped) => assert!(dumped == truth, "the shared page at {address:x} differs"),
                None => assert!(
                    truth.iter().all(|byte| *byte == 0),
                    "the shared page at {address:x} is missing"
                ),
            }
        }
    }
}

fn check_descriptors(contents: &ArchiveContents, pid: i32, process: &ObservedProcess) {
    let table = contents.descriptors(pid);
    assert_eq!(
        table.keys().copied().collect::<Vec<_>>(),
        process.descriptors.keys().copied().collect::<Vec<_>>()
    );
    for (fd, (target, position, flags)) in &process.descriptors {
        let entry = &table[fd];
        assert_eq!(
            entry.flags == 1,
            flags & libc::O_CLOEXEC as u32 != 0,
            "close-on-exec of {fd}"
        );
        let file = contents.file(entry.id);
        assert_eq!(file.r#type, entry.r#type);
        let plain_flags = flags & !(libc::O_CLOEXEC as u32);
        let target = target.to_str().unwrap();
        if let Some(file) = file.reg {
            assert_eq!(file.name, target.strip_suffix(" (deleted)").unwrap_or(target));
            assert_eq!(file.flags, plain_flags);
            // Other tests write to the same standard output, which moves its offset.
            assert!(*fd <= 2 || file.pos == *position, "{fd} is at {position}: {file:?}");
        } else if let Some(pipe) = file.pipe {
            assert_eq!(format!("pipe:[{}]", pipe.pipe_id), target);
            assert_eq!(pipe.flags, plain_flags);
        } else if let Some(socket) = file.usk {
            assert_eq!(format!("socket:[{}]", socket.ino), target);
        } else if let Some(memory) = file.memfd {
            assert!(target.starts_with("/memfd:"), "{target}");
            assert_eq!((memory.pos, memory.flags), (*position, plain_flags));
        } else if let Some(socket) = file.isk {
            assert_eq!(format!("socket:[{}]", socket.ino), target);
        } else {
            assert!(target.starts_with("anon_inode:"), "{target}: {file:?}");
        }
    }
}
