//! CheckpointContainer over a real socket: rejected requests, and the results of successful ones. The content of
//! archives is tested elsewhere.

use crate::cri;

use std::{
    collections::BTreeMap,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use cri::{Cri, Pod, WAIT_TIMEOUT, annotated, builder, code, container_config};
use cri_proto::runtime::v1;
use rstest::rstest;
use tonic::{Code, Status};

async fn checkpoint(cri: &Cri, id: &str, location: &Path, timeout: i64) -> Result<(), Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.to_string_lossy().into_owned(),
        timeout,
    };
    cri.runtime().checkpoint_container(request).await.map(drop)
}

/// The file names in a directory.
fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Asserts that a container runs: the log gets another heartbeat.
async fn wait_next_heartbeat(pod: &Pod<'_>, name: &str) {
    let log = std::fs::read_to_string(pod.logs.path().join(name).join("0.log")).unwrap();
    let next = 1 + log.lines().filter(|line| line.contains(" heartbeat ")).count();
    pod.wait_logged(name, &format!(" heartbeat {} ", next + 1)).await;
}

/// The small members of an archive.
fn members(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.insert(entry.path().unwrap().to_string_lossy().into_owned(), content);
    }
    members
}

#[tokio::test]
async fn archive_is_complete_and_private_and_the_container_keeps_running() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let pid = cri.pid(&id).await;
    pod.wait_logged("app", "ready").await;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("checkpoint.tar");
    checkpoint(&cri, &id[..16], &location, 0).await.unwrap();

    assert_eq!(file_names(dir.path()), ["checkpoint.tar"]);
    let metadata = std::fs::metadata(&location).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
    wait_next_heartbeat(&pod, "app").await;
    assert_eq!(cri.pid(&id).await, pid);

    let members = members(&location);
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&members[name]).unwrap() };
    assert_eq!(json("config.dump")["id"], *id);
    let annotations = &json("spec.dump")["annotations"];
    assert_eq!(annotations["io.kubernetes.cri.container-name"], "app");
    assert_eq!(annotations["io.kubernetes.cri.sandbox-name"], "web");
    assert_eq!(annotations["io.kubernetes.cri.sandbox-namespace"], "default");
    assert_eq!(json("status.dump")["id"], *id);
    assert_eq!(json("status")["Pid"], pid);
    assert!(members.contains_key("checkpoint/inventory.img"));
    let log = String::from_utf8(members["container.log"].clone()).unwrap();
    assert!(log.contains("ready"), "{log}");
}

#[rstest]
#[case("", Code::InvalidArgument, "is empty")]
#[case("a.tar", Code::InvalidArgument, "is relative")]
#[case("/tmp/", Code::InvalidArgument, "names a directory")]
#[case("/no/such/directory/a.tar", Code::NotFound, "/no/such/directory")]
#[case("/proc/version/a.tar", Code::InvalidArgument, "is not a directory")]
#[case("/proc", Code::InvalidArgument, "is a directory")]
#[tokio::test]
async fn a_bad_location_is_refused(#[case] location: &str, #[case] expected: Code, #[case] expected_text: &str) {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let error = checkpoint(&cri, &id, Path::new(location), 0).await.unwrap_err();
    assert_eq!(error.code(), expected);
    assert!(error.message().contains(expected_text), "{error}");
    wait_next_heartbeat(&pod, "app").await;
}

#[tokio::test]
async fn only_regular_files_are_replaced() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    pod.wait_logged("app", "ready").await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    nix::unistd::mkfifo(&at("fifo"), mode).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::fs::write(at("target"), "kept").unwrap();
    std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
    std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();
    let mut kinds = vec![
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("link", "a symlink"),
        ("dangling", "a symlink"),
    ];
    // The device number of /dev/null, in a directory of this test.
    match mknod(&at("device"), SFlag::S_IFCHR, mode, makedev(1, 3)) {
        Ok(()) => kinds.push(("device", "a character device")),
        Err(errno) => eprintln!("skipped for devices: {errno}"),
    }
    let before = file_names(dir.path());
    for (name, kind) in kinds {
        let node = std::fs::symlink_metadata(at(name)).unwrap();
        let error = checkpoint(&cri, &id, &at(name), 0).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(
            error.message().contains(kind) && error.message().contains(name),
            "{error}"
        );
        let now = std::fs::symlink_metadata(at(name)).unwrap();
        assert_eq!(
            (node.ino(), node.mode(), node.rdev()),
            (now.ino(), now.mode(), now.rdev())
        );
    }
    for name in [
        "n".repeat(256),
        format!("{}/a.tar", "d".repeat(256)),
        "d/".repeat(2100) + "a.tar",
    ] {
        let error = checkpoint(&cri, &id, &at(&name), 0).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    assert_eq!(std::fs::read_to_string(at("target")).unwrap(), "kept");
    assert_eq!(file_names(dir.path()), before);
    wait_next_heartbeat(&pod, "app").await;
}

#[tokio::test]
async fn the_container_must_exist_and_run() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    let created = pod.create(container_config("created")).await.unwrap();
    let exited = pod.run(container_config("exited")).await;
    cri.stop(&exited, 0).await.unwrap();
    assert_eq!(
        code(checkpoint(&cri, &"f".repeat(64), &location, 0).await),
        Code::NotFound
    );
    for (id, state) in [(&created, "CONTAINER_CREATED"), (&exited, "CONTAINER_EXITED")] {
        let error = checkpoint(&cri, id, &location, 0).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message().contains(state), "{error}");
    }
    assert_eq!(file_names(dir.path()).len(), 0);
}

#[tokio::test]
async fn a_negative_timeout_is_refused() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let dir = tempfile::tempdir().unwrap();
    let error = checkpoint(&cri, &id, &dir.path().join("a.tar"), -1).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("-1"), "{error}");
}

/// A fake-cri whose checkpoints take longer than any of these tests waits.
async fn start_with_long_delay(within: &str) -> Cri {
    Cri::start_with(builder().args(["--checkpoint-base", "1h", "--checkpoint-delay-phase", within])).await
}

#[rstest]
#[tokio::test]
async fn timeout_field_and_call_deadline_end_the_checkpoint(
    #[values("freeze", "write")] within: &str,
    #[values(true, false)] field: bool,
) {
    let cri = start_with_long_delay(within).await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    pod.wait_logged("app", "ready").await;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    let start = Instant::now();
    let request = v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location: location.to_string_lossy().into_owned(),
        timeout: if field { 1 } else { 1000 },
    };
    let mut request = tonic::Request::new(request);
    if !field {
        request.metadata_mut().insert("grpc-timeout", "1S".parse().unwrap());
    }
    let error = cri.runtime().checkpoint_container(request).await.unwrap_err();
    match error.code() {
        Code::DeadlineExceeded => {}
        // tonic's client also applies the timeout of the header and may cancel first.
        Code::Cancelled if !field => assert_eq!(error.message(), "Timeout expired"),
        _ => panic!("{error}"),
    }
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&start.elapsed()));
    wait_has_files(dir.path(), false).await;
    wait_next_heartbeat(&pod, "app").await;
}

/// Waits until a directory has files, which means that a checkpoint writes, or until the directory is empty.
async fn wait_has_files(dir: &Path, expected: bool) {
    let change = async {
        while file_names(dir).is_empty() == expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, change)
        .await
        .expect("the directory changes");
}

#[tokio::test]
async fn client_cancellation_frees_the_container() {
    let cri = start_with_long_delay("write").await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    {
        let call = checkpoint(&cri, &id, &location, 0);
        tokio::select! {
            result = call => panic!("the checkpoint must take an hour: {result:?}"),
            () = wait_has_files(dir.path(), true) => {}
        }
    }
    wait_has_files(dir.path(), false).await;
    wait_next_heartbeat(&pod, "app").await;
    // The next checkpoint can start; the container is not busy any more.
    let error = checkpoint(&cri, &id, &location, 1).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert_eq!(file_names(dir.path()).len(), 0);
}

#[tokio::test]
async fn a_second_checkpoint_waits_until_its_deadline() {
    let cri = Cri::start_with(builder().args(["--checkpoint-base", "1500ms"])).await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let dir = tempfile::tempdir().unwrap();
    let (first, second, third) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("3"));
    let start = Instant::now();
    let (one, two, late) = tokio::join!(
        checkpoint(&cri, &id, &first, 0),
        checkpoint(&cri, &id, &second, 0),
        checkpoint(&cri, &id, &third, 1),
    );
    one.unwrap();
    two.unwrap();
    assert_eq!(code(late), Code::DeadlineExceeded);
    assert!(start.elapsed() >= Duration::from_secs(3));
    assert_eq!(file_names(dir.path()), ["1", "2"]);
}

#[tokio::test]
async fn a_killed_runtime_leaves_no_file_and_the_container_keeps_running() {
    let mut cri = start_with_long_delay("write").await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let pid = cri.pid(&id).await;
    let logs_dir = pod.logs;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    let mut client = cri.runtime();
    let request = v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location: location.to_string_lossy().into_owned(),
        timeout: 0,
    };
    let call = tokio::spawn(async move { client.checkpoint_container(request).await });
    wait_has_files(dir.path(), true).await;
    cri.process.kill().await;
    assert!(call.await.unwrap().is_err());
    cri.process.restart().await.unwrap();
    assert_eq!(file_names(dir.path()).len(), 0);
    assert_eq!(cri.pid(&id).await, pid);
    drop(logs_dir);
}

#[tokio::test]
async fn annotated_memory_sets_the_delay() {
    let args = ["--checkpoint-rate", "1GiB/s", "--checkpoint-memory", "annotation"];
    let cri = Cri::start_with(builder().args(args)).await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("checkpoint-memory", "2Gi")]);
    let id = pod.run(config).await;
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    checkpoint(&cri, &id, &dir.path().join("a.tar"), 0).await.unwrap();
    assert!((Duration::from_secs(2)..Duration::from_secs(12)).contains(&start.elapsed()));
}

#[tokio::test]
async fn strict_capture_fails_on_unsupported_state() {
    let cri = Cri::start_with(builder().arg("--strict-capture").exec_host()).await;
    let pod = cri.pod("web").await;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    let mut config = container_config("app");
    config.command = ["sleep", "1000"].map(str::to_owned).into();
    let id = pod.run(config).await;
    checkpoint(&cri, &id, &location, 0).await.expect("no entry is lost");
    let log = String::from_utf8(members(&location).remove("dump.log").unwrap()).unwrap();
    assert!(!log.contains("unsupported"), "{log}");
    std::fs::remove_file(&location).unwrap();

    let mut config = container_config("locked");
    let lock = dir.path().join("lock");
    config.command = ["flock", lock.to_str().unwrap(), "sleep", "1000"]
        .map(str::to_owned)
        .into();
    let id = pod.run(config).await;
    let pid = cri.pid(&id).await;
    let has_lock = || std::fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).is_ok_and(|info| info.contains("lock:"));
    while !has_lock() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let error = checkpoint(&cri, &id, &location, 0).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("file locks of descriptor 3"), "{error}");
    assert_eq!(file_names(dir.path()), ["lock"]);
}

#[tokio::test]
async fn the_requested_archive_layout_is_written() {
    let cri = Cri::start_with(builder().arg("--archive-layout=cri-o")).await;
    let pod = cri.pod("web").await;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    let id = pod.run(container_config("app")).await;
    pod.wait_logged("app", " heartbeat 1 ").await;
    checkpoint(&cri, &id, &location, 0)
        .await
        .expect("the checkpoint succeeds");
    let members = members(&location);
    let beside: Vec<_> = members.keys().filter(|name| !name.starts_with("checkpoint/")).collect();
    let expected = [
        "config.dump",
        "dump.log",
        "io.kubernetes.cri-o.LogPath",
        "spec.dump",
        "stats-dump",
    ];
    assert_eq!(beside, expected);
    let log = String::from_utf8_lossy(&members["io.kubernetes.cri-o.LogPath"]);
    assert!(log.contains(" heartbeat 1 "), "{log}");
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&members[name]).unwrap();
    let annotations = &json("spec.dump")["annotations"];
    assert_eq!(annotations["io.container.manager"], "cri-o");
    assert_eq!(annotations["io.kubernetes.cri-o.Metadata"], r#"{"name":"app"}"#);
    assert_eq!(annotations["io.kubernetes.pod.name"], "web");
    assert_eq!(annotations["io.kubernetes.cri-o.ContainerID"], *id);
    assert_eq!(annotations.get("io.kubernetes.cri.container-name"), None);
    assert_eq!(json("config.dump")["name"], annotations["io.kubernetes.cri-o.Name"]);
}
