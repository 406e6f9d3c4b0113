//! Unsupported state: reported, and rejected if the program depends on it.

use cri_proto::runtime::v1;
use tonic::Code;

use crate::{
    cri::{Cri, annotated},
    programs::{TestProgram, host_exec_cri, skip_reason, stdout_lines},
};

/// Holds a lock, and prints steps until it may continue.
const LOCK_HOLDER: &str = r#"
import fcntl, os, sys, time
lock = open(os.path.join(sys.argv[1], "lock"), "w")
fcntl.flock(lock, fcntl.LOCK_EX)
step = 0
while not os.path.exists(os.path.join(sys.argv[1], "go")):
    step += 1
    os.write(1, b"step %d\n" % step)
    time.sleep(0.002)
os.write(1, b"done\n")
"#;

/// The verbose information of ContainerStatus.
async fn verbose_info(cri: &Cri, id: &str) -> serde_json::Value {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let status = cri.runtime().container_status(request).await.unwrap().into_inner();
    serde_json::from_str(&status.info["info"]).unwrap()
}

#[tokio::test]
async fn file_locks_are_dropped_only_on_request() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::python(LOCK_HOLDER, dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("locks").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 5").await;
    program.checkpoint_and_stop(&pod, &first, "first").await;

    for config in [
        program.restored_by_image("refused"),
        program.restored_by_annotation("refused"),
    ] {
        let status = pod.create(config).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        for part in [
            "the file locks of descriptor",
            "fake-cri.dev/restore-without-file-locks",
        ] {
            assert!(status.message().contains(part), "{status}");
        }
    }
    let with_annotation = |value: &str| v1::ContainerConfig {
        annotations: annotated(&[("restore-without-file-locks", value)]),
        ..program.restored_by_image("second")
    };
    let status = pod.create(with_annotation("perhaps")).await.unwrap_err();
    assert!(status.message().contains("\"perhaps\""), "{status}");
    program.release();
    let second = pod.create(with_annotation("true")).await.unwrap();
    let unsupported_state = verbose_info(&cri, &second).await["unsupportedState"].clone();
    let lines = unsupported_state.as_array().expect("a list");
    let locks = |line: &serde_json::Value| line.as_str().unwrap().contains("the file locks of descriptor");
    assert!(lines.iter().any(locks), "{unsupported_state}");
    cri.start_container(&second).await.unwrap();
    cri.wait_exited(&second).await;
    assert_eq!(stdout_lines(&pod, "second").last().map(String::as_str), Some("done"));
}

/// The main thread exits, and another thread continues.
const LEADER_EXITS: &str = r#"
import ctypes, os, sys, threading, time
def work():
    main = "/proc/self/task/%d/stat" % os.getpid()
    while open(main).read().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.002)
    step = 0
    while True:
        step += 1
        os.write(1, b"step %d\n" % step)
        time.sleep(0.002)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(60, 0)
"#;

#[tokio::test]
async fn process_without_its_leader_is_not_restored() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::python(LEADER_EXITS, dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("leaderless").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 5").await;
    let status = cri.status(&first).await.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    let request = v1::ContainerStatsRequest {
        container_id: first.clone(),
    };
    let stats = cri.runtime().container_stats(request).await.unwrap().into_inner();
    assert!(stats.stats.unwrap().memory.unwrap().rss_bytes.unwrap().value > 0);
    // The checkpoint leaves the container frozen, and the stop kills it.
    program.checkpoint_and_stop(&pod, &first, "first").await;
    let status = pod.create(program.restored_by_image("second")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("whose first thread has ended"), "{status}");
}

#[tokio::test]
async fn spec_dump_survives_repeated_restores() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut program = TestProgram::build("counter.c", &[], dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("generations").await;
    let config = v1::ContainerConfig {
        working_dir: "/usr".to_owned(),
        envs: vec![v1::KeyValue {
            key: "FOO".to_owned(),
            value: "bar".into(),
        }],
        mounts: vec![v1::Mount {
            container_path: "/data".to_owned(),
            host_path: "/usr".to_owned(),
            ..Default::default()
        }],
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                masked_paths: vec!["/proc/kcore".to_owned()],
                readonly_paths: vec!["/proc/sys".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..program.config("first")
    };
    let first = pod.run(config).await;
    pod.wait_logged("first", "step 5").await;
    program.checkpoint_and_stop(&pod, &first, "first").await;
    let spec = |program: &TestProgram| -> serde_json::Value {
        let mut archive = tar::Archive::new(std::fs::File::open(&program.archive).unwrap());
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let spec = entries
            .into_iter()
            .find(|entry| *entry.path_bytes() == b"spec.dump"[..])
            .expect("spec.dump exists");
        let mut spec: serde_json::Value = serde_json::from_reader(spec).unwrap();
        // Annotations differ: they have the id of the container.
        spec.as_object_mut().unwrap().remove("annotations");
        spec
    };
    let of_first = spec(&program);
    assert_eq!(of_first["process"]["cwd"], "/usr");
    for name in ["second", "third"] {
        let restored = pod.run(program.restored_by_image(name)).await;
        pod.wait_logged(name, "step ").await;
        program.archive = dir.path().join(format!("{name}.tar"));
        program.checkpoint_and_stop(&pod, &restored, name).await;
        assert_eq!(spec(&program), of_first, "{name}");
    }
}
