//! Archives that cannot be restored are rejected with a reason, and hostile archives have no effect.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use cri_proto::criu::{
    Kind, decode_entries, decode_single, encode,
    message::{
        CoreEntry, FdTypes, FileEntry, InetSkEntry, InventoryEntry, MmEntry, PstreeEntry, TaskKobjIdsEntry,
        TimensEntry, Timespec, core_entry::March,
    },
};
use fake_cri::checkpoint::{self, RestoreError};
use proptest::prelude::*;
use rstest::rstest;
use tonic::Code;

use crate::{
    cri::code,
    programs::{TestProgram, host_exec_cri, skip_reason, stdout_lines},
};

/// The members of an archive by name.
type Members = BTreeMap<String, Vec<u8>>;

fn read(archive: &Path) -> Members {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), content)
        })
        .filter(|(name, _)| !name.ends_with('/'))
        .collect()
}

fn write(members: &Members, archive: &Path) {
    let mut builder = tar::Builder::new(std::fs::File::create(archive).unwrap());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    builder.finish().unwrap();
}

/// The archive of a program in the middle of its steps, and the program.
async fn archive(dir: &Path) -> (Members, TestProgram) {
    archive_of("files.c", dir).await
}

async fn archive_of(source: &str, dir: &Path) -> (Members, TestProgram) {
    let program = TestProgram::build(source, &[], dir);
    let cri = host_exec_cri().await;
    let pod = cri.pod("archive").await;
    let id = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 5").await;
    program.checkpoint_and_stop(&pod, &id, "first").await;
    (read(&program.archive), program)
}

/// The name of the only image of a kind.
fn image_name_of(members: &Members, kind: Kind) -> String {
    let file_name = kind.file_name(Some(0));
    let prefix = format!(
        "checkpoint/{}",
        file_name.trim_end_matches("0.img").trim_end_matches(".img")
    );
    members.keys().find(|name| name.starts_with(&prefix)).unwrap().clone()
}

fn change_entries<M: prost::Message + Default>(members: &mut Members, kind: Kind, change: impl FnOnce(&mut Vec<M>)) {
    let name = image_name_of(members, kind);
    let mut entries = decode_entries(&name, kind, &members[&name]).unwrap();
    change(&mut entries);
    members.insert(name, encode(kind, &entries));
}

fn change_one<M: prost::Message + Default>(members: &mut Members, kind: Kind, change: impl FnOnce(&mut M)) {
    let name = image_name_of(members, kind);
    let mut entry = decode_single(&name, kind, &members[&name]).unwrap();
    change(&mut entry);
    members.insert(name, encode(kind, [&entry]));
}

fn file<'a>(files: &'a mut [FileEntry], ending: &str) -> &'a mut FileEntry {
    let named = |entry: &&mut FileEntry| entry.reg.as_ref().is_some_and(|file| file.name.ends_with(ending));
    files.iter_mut().find(named).unwrap()
}

fn replace_file_with_socket(members: &mut Members) {
    change_entries(members, Kind::Files, |files: &mut Vec<FileEntry>| {
        let entry = file(files, "/files/file");
        entry.reg = None;
        entry.set_type(FdTypes::Inetsk);
        entry.isk = Some(InetSkEntry {
            id: entry.id,
            state: 1,
            ..Default::default()
        });
    });
}

fn set_fown(members: &mut Members) {
    change_entries(members, Kind::Files, |files: &mut Vec<FileEntry>| {
        file(files, "/files/file").reg.as_mut().unwrap().fown.pid = 77;
    });
}

fn other_machine(members: &mut Members) {
    change_one(members, Kind::Core, |core: &mut CoreEntry| {
        core.set_mtype(March::Aarch64)
    });
}

fn other_version(members: &mut Members) {
    change_one(members, Kind::Inventory, |inventory: &mut InventoryEntry| {
        inventory.img_version = 99
    });
}

fn unknown_session(members: &mut Members) {
    change_entries(members, Kind::Pstree, |tree: &mut Vec<PstreeEntry>| tree[0].sid = 77);
}

fn pid_namespace_init(members: &mut Members) {
    change_entries(members, Kind::Pstree, |tree: &mut Vec<PstreeEntry>| tree[0].pid = 1);
}

fn overlapping_mappings(members: &mut Members) {
    change_one(members, Kind::Mm, |mm: &mut MmEntry| mm.vmas[1] = mm.vmas[0]);
}

fn unknown_file(members: &mut Members) {
    change_one(members, Kind::Mm, |mm: &mut MmEntry| mm.exe_file_id = 4711);
}

fn too_few_pages(members: &mut Members) {
    members.get_mut("checkpoint/pages-1.img").unwrap().truncate(4096);
}

fn no_pages(members: &mut Members) {
    members.remove("checkpoint/pages-1.img");
}

/// CRIU writes the clocks even without a time namespace. These clocks are those of a machine with a long uptime.
fn clocks_ahead(members: &mut Members) {
    let later = Timespec {
        tv_sec: u64::MAX >> 1,
        tv_nsec: 0,
    };
    let clocks = TimensEntry {
        monotonic: later,
        boottime: later,
    };
    members.insert("checkpoint/timens-0.img".to_owned(), encode(Kind::Timens, [&clocks]));
}

fn other_time_namespace(members: &mut Members) {
    change_one(members, Kind::Ids, |ids: &mut TaskKobjIdsEntry| {
        ids.time_ns_id = Some(4711)
    });
}

fn no_sigactions(members: &mut Members) {
    change_one(members, Kind::Core, |core: &mut CoreEntry| {
        core.tc.as_mut().unwrap().sigactions.clear();
    });
}

fn mounts(members: &mut Members) {
    members.insert("checkpoint/mountpoints-12.img".to_owned(), Vec::new());
}

#[rstest]
#[case::socket(replace_file_with_socket, "a network socket")]
#[case::owner(set_fown, "a file with a signal owner")]
#[case::machine(other_machine, "another machine")]
#[case::version(other_version, "inventory.img: version 99")]
#[case::session(unknown_session, "session 77")]
#[case::first(pid_namespace_init, "the first process of a pid namespace")]
#[case::mappings(overlapping_mappings, "overlaps")]
#[case::file(unknown_file, "file 4711 is not in files.img")]
#[case::pages(too_few_pages, "more pages than the pages file")]
#[case::without_pages(no_pages, "pages-1.img is missing")]
#[case::mounts(mounts, "a mount namespace of its own")]
#[case::clocks(clocks_ahead, "another boot")]
#[case::time(other_time_namespace, "a time namespace of its own")]
#[case::actions(no_sigactions, "0 signal actions")]
#[case::place(replace_file_with_socket, ", descriptor ")]
#[case::files(too_many_files, "more than 262144 entries")]
#[case::twice(duplicate_file, "duplicate file id")]
#[tokio::test]
async fn unsupported_archives_are_refused_with_a_reason(#[case] change: fn(&mut Members), #[case] reason: &str) {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut members, program) = archive(dir.path()).await;
    change(&mut members);
    write(&members, &program.archive);
    let cri = host_exec_cri().await;
    let pod = cri.pod("refused").await;
    for config in [
        program.restored_by_image("image"),
        program.restored_by_annotation("annotation"),
    ] {
        let status = pod.create(config).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(reason), "{status}");
    }
}

fn change_file(files: &Path) {
    std::fs::write(files.join("file"), "something else").unwrap();
}

fn replace_file_with_fifo(files: &Path) {
    std::fs::remove_file(files.join("file")).unwrap();
    nix::unistd::mkfifo(&files.join("file"), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn replace_file_with_link(files: &Path) {
    std::fs::rename(files.join("file"), files.join("moved")).unwrap();
    std::os::unix::fs::symlink("moved", files.join("file")).unwrap();
}

fn delete_file(files: &Path) {
    std::fs::remove_file(files.join("file")).unwrap();
}

#[rstest]
#[case::changed(change_file, "the size is 14 bytes, recorded")]
#[case::fifo(replace_file_with_fifo, "not a regular file")]
#[case::link(replace_file_with_link, "not a regular file")]
#[case::gone(delete_file, "No such file")]
#[tokio::test]
async fn changed_files_stop_the_restore(#[case] change: fn(&Path), #[case] reason: &str) {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_, program) = archive(dir.path()).await;
    change(&program.files);
    let cri = host_exec_cri().await;
    let pod = cri.pod("refused").await;
    let id = pod.create(program.restored_by_image("second")).await.unwrap();
    let status = cri.start_container(&id).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("files/file") && status.message().contains(reason),
        "{status}"
    );
    let status = cri.status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains(reason));
    assert!(stdout_lines(&pod, "second").is_empty());
    cri.remove(&id).await.unwrap();
}

/// The path of a FIFO leads to another file: the unread data must not be written to that file.
#[rstest]
#[case::file(None)]
#[case::memory(Some("/proc/self/mem"))]
#[case::trigger(Some("/proc/sysrq-trigger"))]
#[case::device(Some("/dev/null"))]
#[tokio::test]
async fn fifo_data_is_written_only_to_a_fifo(#[case] path: Option<&str>) {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    if let Some(path) = path.filter(|path| !Path::new(path).exists()) {
        eprintln!("skipped: {path} does not exist");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut members, program) = archive_of("fifos.c", dir.path()).await;
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "as it was").unwrap();
    let path = path.map_or(victim.clone(), PathBuf::from);
    change_entries(&mut members, Kind::Files, |files: &mut Vec<FileEntry>| {
        let fifos = files.iter_mut().filter_map(|entry| entry.reg.as_mut());
        for fifo in fifos.filter(|file| file.name.ends_with("/fifo")) {
            fifo.name = path.to_str().unwrap().to_owned();
            // The mode is optional. Omitting it must not bypass the check.
            fifo.mode = None;
        }
    });
    write(&members, &program.archive);
    let cri = host_exec_cri().await;
    let pod = cri.pod("victim").await;
    let id = pod.create(program.restored_by_image("second")).await.unwrap();
    let status = cri.start_container(&id).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("not a FIFO"), "{status}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "as it was");
}

/// An open file is a file of the kernel, where a write would have an effect.
#[rstest]
#[case::memory("/proc/self/mem", "proc")]
#[case::trigger("/proc/sysrq-trigger", "proc")]
#[case::sys("/sys/kernel/uevent_seqnum", "sysfs")]
#[case::terminal("/dev/tty", "not a regular file, directory or memory device")]
#[tokio::test]
async fn kernel_files_are_not_opened(#[case] path: &str, #[case] reason: &str) {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    if !Path::new(path).exists() {
        eprintln!("skipped: {path} does not exist");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut members, program) = archive(dir.path()).await;
    change_entries(&mut members, Kind::Files, |files: &mut Vec<FileEntry>| {
        let file = file(files, "/files/file").reg.as_mut().unwrap();
        file.name = path.to_owned();
        (file.mode, file.size) = (None, None);
    });
    write(&members, &program.archive);
    let cri = host_exec_cri().await;
    let pod = cri.pod("kernel").await;
    let id = pod.create(program.restored_by_image("second")).await.unwrap();
    let status = cri.start_container(&id).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains(path) && status.message().contains(reason),
        "{status}"
    );
}

/// The archive is changed so that the restore fails late, when all processes and threads exist.
#[rstest]
#[case::children("family.c")]
#[case::threads("threads.c")]
#[tokio::test]
async fn failed_restore_leaves_no_process(#[case] source: &str) {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::build(source, &[], dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("late").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 5").await;
    program.checkpoint_and_stop(&pod, &first, "first").await;
    let mut members = read(&program.archive);
    // No kernel has this capability.
    change_one(&mut members, Kind::Core, |core: &mut CoreEntry| {
        core.thread_core.as_mut().unwrap().creds.as_mut().unwrap().cap_bnd[1] |= 1 << 31;
    });
    write(&members, &program.archive);
    let second = pod.create(program.restored_by_image("second")).await.unwrap();
    let status = cri.start_container(&second).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("cannot set a thread's capabilities"),
        "{status}"
    );
    // Every restored process has the id of its container in its environment.
    let id_variable = format!("FAKE_CRI_CONTAINER_ID={second}");
    let leftover_processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let environment = std::fs::read(entry.ok()?.path().join("environ")).ok()?;
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == id_variable.as_bytes())
            .then_some(())
    });
    assert_eq!(leftover_processes.count(), 0);
}

/// Far more open files than any container has. In memory each takes a multiple of its size in the archive.
fn too_many_files(members: &mut Members) {
    change_entries(members, Kind::Files, |files: &mut Vec<FileEntry>| {
        files.extend((1 << 20..(1 << 20) + (1 << 18)).map(|id| FileEntry {
            id,
            ..Default::default()
        }));
    });
}

fn duplicate_file(members: &mut Members) {
    change_entries(members, Kind::Files, |files: &mut Vec<FileEntry>| {
        let first = files[0].clone();
        files.push(first);
    });
}

/// CreateContainer reads archives on other threads, so the runtime handles other calls in the meantime.
#[tokio::test]
async fn archives_are_read_off_the_runtime_threads() {
    use std::{sync::Arc, task::Context, time::Duration};

    use cri_proto::runtime::v1::{CreateContainerRequest, runtime_service_server::RuntimeService as _};
    use fake_cri::{
        checkpoint::{Freeze, Layout},
        runtime::{CgroupDriver, Config, ExecMode, Runtime},
        service::{Conditions, RuntimeApi},
    };

    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("members.tar");
    write(
        &(0..20_000)
            .map(|index| (format!("checkpoint/none-{index}"), Vec::new()))
            .collect(),
        &archive,
    );
    let config = Config {
        state_dir: dir.path().join("state"),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_fake-cri")),
        exec: ExecMode::TestWorkload,
        images: None,
        strict_images: false,
        archive_layout: Layout::default(),
        fsync: false,
        strict_capture: false,
        freeze: Freeze::Snapshot,
        freeze_timeout: Duration::from_secs(1),
        delay: None,
        allow_unapplied_fields: false,
        cgroup_driver: CgroupDriver::default(),
    };
    let runtime = Runtime::open(config).await.unwrap();
    let pod_sandbox_id = runtime.run_pod(Some(crate::cri::pod_config("elsewhere")), "").unwrap();
    let api = RuntimeApi::new(runtime, Arc::new(Conditions::default()));
    let request = CreateContainerRequest {
        pod_sandbox_id,
        config: Some(TestProgram::from_archive(&archive).restored_by_image("none")),
        sandbox_config: None,
    };
    let mut create_call = api.create_container(tonic::Request::new(request));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(
        create_call.as_mut().poll(&mut context).is_pending(),
        "it was read in the call"
    );
    let status = create_call.await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("no CRIU images found"), "{status}");
}

#[tokio::test]
async fn non_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cri = host_exec_cri().await;
    let pod = cri.pod("none").await;
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "no archive at all").unwrap();
    let empty = dir.path().join("empty.tar");
    write(&Members::new(), &empty);
    let nothing = dir.path().join("nothing");
    for path in [
        fifo,
        text,
        empty,
        nothing,
        PathBuf::from("/dev/zero"),
        dir.path().to_owned(),
    ] {
        let program = TestProgram::from_archive(&path);
        let status = pod.create(program.restored_by_image("none")).await;
        assert_eq!(code(status), Code::InvalidArgument, "{}", path.display());
    }
    let program = TestProgram::from_archive(Path::new("relative.tar"));
    assert_eq!(
        code(pod.create(program.restored_by_annotation("none")).await),
        Code::InvalidArgument
    );
}

/// Members that are links or devices, or whose names lead out of the archive, are ignored.
#[tokio::test]
async fn only_plain_image_members_are_read() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (members, program) = archive(dir.path()).await;
    let secret = dir.path().join("inventory");
    std::fs::write(&secret, &members["checkpoint/inventory.img"]).unwrap();
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        let mut builder = tar::Builder::new(std::fs::File::create(&program.archive).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder
            .append_link(&mut header, "checkpoint/inventory.img", &secret)
            .unwrap();
        for (name, content) in members.iter().filter(|(name, _)| !name.ends_with("inventory.img")) {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, &content[..]).unwrap();
        }
        builder.finish().unwrap();
        let error = checkpoint::check_restorable(&program.archive, dir.path()).unwrap_err();
        assert!(error.to_string().contains("inventory.img is missing"), "{error}");
    }
    let twice = Members::from([("./checkpoint/inventory.img".to_owned(), Vec::new())]);
    let mut doubled = members.clone();
    doubled.extend(twice);
    write(&doubled, &program.archive);
    let error = checkpoint::check_restorable(&program.archive, dir.path()).unwrap_err();
    assert!(matches!(error, RestoreError::Archive { .. }), "{error}");
    assert!(error.to_string().contains("duplicate member"), "{error}");
}

/// A small archive to damage: this test binary while it sleeps. Created once.
fn sample_members() -> &'static Members {
    use std::sync::LazyLock;
    static SAMPLE: LazyLock<Members> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (mut members, _) = runtime.block_on(archive(dir.path()));
        // Other members are not read by the restore; they only make the archive larger.
        members.retain(|name, _| name.starts_with("checkpoint/"));
        members
    });
    &SAMPLE
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A damaged image gives an error or a restore plan, without a panic and in short time.
    #[test]
    fn damaged_images_never_panic(
        image_index in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        if skip_reason().is_some() {
            return Ok(());
        }
        let mut members = sample_members().clone();
        let names: Vec<String> = members.keys().filter(|name| !name.contains("pages-")).cloned().collect();
        let image = members.get_mut(image_index.get(&names)).unwrap();
        for (position, byte) in edits {
            if !image.is_empty() {
                let offset = position.index(image.len());
                image[offset] = byte;
            }
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len() + 1));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive.tar");
        write(&members, &path);
        let before = std::fs::read(&path).unwrap();
        if let Err(error) = checkpoint::check_restorable(&path, dir.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
        prop_assert_eq!(std::fs::read(&path).unwrap(), before);
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Damages any bytes of the archive, including tar headers.
    #[test]
    fn damaged_archives_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        header in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        if skip_reason().is_some() {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive.tar");
        let mut members = sample_members().clone();
        members.retain(|name, _| !name.contains("pages-"));
        write(&members, &path);
        let mut bytes = std::fs::read(&path).unwrap();
        for (position, byte) in edits {
            // A position in the header of a member, or anywhere.
            let offset = position.index(bytes.len());
            let offset = if header { offset / 512 * 512 + offset % 160 } else { offset };
            if let Some(target) = bytes.get_mut(offset) {
                *target = byte;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(checkpoint::check_restorable(&path, dir.path()).is_err(), "the pages are missing");
    }
}
