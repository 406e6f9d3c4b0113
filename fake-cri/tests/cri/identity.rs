//! User, groups and privileges of containers: as requested, as running, and as reported.

use crate::cri;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use cri::{Cri, Pod, builder, container_config};
use cri_proto::runtime::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::Code;

const NO_CONTEXT: v1::LinuxContainerSecurityContext = v1::LinuxContainerSecurityContext {
    capabilities: None,
    privileged: false,
    namespace_options: None,
    selinux_options: None,
    run_as_user: None,
    run_as_group: None,
    run_as_username: String::new(),
    readonly_rootfs: false,
    supplemental_groups: Vec::new(),
    supplemental_groups_policy: 0,
    no_new_privs: false,
    masked_paths: Vec::new(),
    readonly_paths: Vec::new(),
    seccomp: None,
    apparmor: None,
    #[allow(deprecated, reason = "the struct literal needs all fields")]
    apparmor_profile: String::new(),
    #[allow(deprecated, reason = "the struct literal needs all fields")]
    seccomp_profile_path: String::new(),
};

fn int64(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

/// A user and groups that do not exist on any host.
fn other_user() -> v1::LinuxContainerSecurityContext {
    v1::LinuxContainerSecurityContext {
        run_as_user: int64(51_001),
        run_as_group: int64(51_002),
        supplemental_groups: vec![51_003],
        no_new_privs: true,
        ..NO_CONTEXT
    }
}

fn config_with_context(name: &str, context: v1::LinuxContainerSecurityContext) -> v1::ContainerConfig {
    v1::ContainerConfig {
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(context),
            resources: None,
        }),
        ..container_config(name)
    }
}

fn is_root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: another user can only be had by root");
    }
    root
}

/// The words of a line of `/proc/PID/status`.
fn proc_status_field(pid: i32, name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is running");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a line of that name")
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Compares the reported user of a running container with the process.
async fn check_reported_user(cri: &Cri, id: &str) -> v1::LinuxContainerUser {
    let (reported, info) = cri.status_and_info(id).await.expect("the container exists");
    let user = reported.user.and_then(|user| user.linux).expect("a user is reported");
    let pid = cri.pid(id).await;
    let text = |value: i64| value.to_string();
    assert_eq!(proc_status_field(pid, "Uid"), vec![text(user.uid); 4]);
    assert_eq!(proc_status_field(pid, "Gid"), vec![text(user.gid); 4]);
    let mut groups: Vec<_> = user.supplemental_groups.iter().copied().map(text).collect();
    let mut real = proc_status_field(pid, "Groups");
    groups.sort();
    real.sort();
    assert_eq!(groups, real);
    let process = &info["runtimeSpec"]["process"];
    assert_eq!(
        (process["user"]["uid"].as_i64(), process["user"]["gid"].as_i64()),
        (Some(user.uid), Some(user.gid))
    );
    assert_eq!(
        proc_status_field(pid, "NoNewPrivs") == ["1"],
        process["noNewPrivileges"].as_bool() == Some(true)
    );
    user
}

async fn exec(pod: &Pod<'_>, id: &str, script: &str) -> String {
    let request = v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: 0,
    };
    let answer = pod
        .cri
        .runtime()
        .exec_sync(request)
        .await
        .expect("the process is running")
        .into_inner();
    String::from_utf8(answer.stdout).expect("text")
}

#[tokio::test]
async fn a_host_command_runs_as_the_requested_user() {
    if !is_root_or_skip() {
        return;
    }
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let mut config = config_with_context("app", other_user());
    // The process may reopen its standard streams, as many images do.
    config.command = ["sh", "-c", "id -u; echo again > /dev/stdout; exec sleep 1000"]
        .map(str::to_owned)
        .to_vec();
    let id = pod.run(config).await;
    pod.wait_logged("app", "again").await;
    let user = check_reported_user(&cri, &id).await;
    assert_eq!(
        (user.uid, user.gid, user.supplemental_groups),
        (51_001, 51_002, vec![51_002, 51_003])
    );
    assert_eq!(proc_status_field(cri.pid(&id).await, "NoNewPrivs"), ["1"]);
    assert_eq!(proc_status_field(cri.pid(&id).await, "CapEff"), ["0000000000000000"]);
    // A command of ExecSync has the same user.
    assert_eq!(
        exec(&pod, &id, "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status").await,
        "51001\n51002\n51002 51003\nNoNewPrivs:\t1\n"
    );
}

#[tokio::test]
async fn the_workload_runs_as_a_user_that_cannot_read_its_path() {
    if !is_root_or_skip() {
        return;
    }
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = config_with_context("app", other_user());
    config.annotations = cri::annotated(&[("children", "1")]);
    let id = pod.run(config).await;
    pod.wait_logged("app", "child heartbeat 1 ").await;
    let pid = cri.pid(&id).await;
    assert_eq!(check_reported_user(&cri, &id).await.uid, 51_001);
    assert_eq!(proc_status_field(pid, "Name"), ["test-workload"]);
    // The workload options were passed without a descriptor that stays open.
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(!environment.contains("TEST_WORKLOAD"), "{environment}");

    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    let request = v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location: location.to_string_lossy().into_owned(),
        timeout: 0,
    };
    cri.runtime()
        .checkpoint_container(request)
        .await
        .expect("the checkpoint succeeds");
    // A restored container has the user of the archive, not of the request.
    let mut restored = config_with_context(
        "again",
        v1::LinuxContainerSecurityContext {
            run_as_user: int64(0),
            ..NO_CONTEXT
        },
    );
    restored.image = Some(cri::image(&location.to_string_lossy()));
    cri.remove(&id).await.unwrap();
    let id = pod.create(restored).await.expect("the container is created");
    let user = cri.status(&id).await.unwrap().user.and_then(|user| user.linux);
    assert_eq!(
        user.map(|user| user.uid),
        Some(51_001),
        "as the archive's spec.dump says, before it runs"
    );
    cri.start_container(&id).await.expect("the container is restored");
    assert_eq!(check_reported_user(&cri, &id).await.uid, 51_001);
    assert!(
        cri.process
            .log()
            .contains("a restored container has those of its archive"),
        "{}",
        cri.process.log()
    );
}

#[tokio::test]
async fn exec_in_a_restored_container_runs_as_its_user() {
    if !is_root_or_skip() {
        return;
    }
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let mut config = config_with_context("app", other_user());
    config.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let id = pod.run(config).await;
    let dir = tempfile::tempdir().unwrap();
    let location = dir.path().join("a.tar");
    let request = v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location: location.to_string_lossy().into_owned(),
        timeout: 0,
    };
    cri.runtime()
        .checkpoint_container(request)
        .await
        .expect("the checkpoint succeeds");
    cri.remove(&id).await.unwrap();
    let mut config = container_config("again");
    config.image = Some(cri::image(&location.to_string_lossy()));
    let id = pod.run(config).await;
    assert_eq!(check_reported_user(&cri, &id).await.uid, 51_001);
    let output = exec(&pod, &id, "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status").await;
    assert_eq!(output, "51001\n51002\n51002 51003\nNoNewPrivs:\t1\n");
}

#[tokio::test]
async fn start_fails_when_the_user_cannot_enter_or_execute() {
    if !is_root_or_skip() {
        return;
    }
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::copy("/bin/sh", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mut config = config_with_context("app", other_user());
    config.command = vec![program.to_string_lossy().into_owned()];
    let id = pod.create(config).await.unwrap();
    let error = cri.start_container(&id).await.unwrap_err();
    assert!(
        error.message().contains("permission denied") && error.message().contains("program"),
        "{error}"
    );
    assert_eq!(cri.status(&id).await.unwrap().reason, "StartError");
}

#[tokio::test]
async fn invalid_user_requests_are_refused() {
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let contexts = [
        (
            v1::LinuxContainerSecurityContext {
                run_as_group: int64(1),
                ..NO_CONTEXT
            },
            "without a runAsUser",
        ),
        (
            v1::LinuxContainerSecurityContext {
                run_as_username: "no-such-user".to_owned(),
                ..NO_CONTEXT
            },
            "unable to find user no-such-user",
        ),
        (
            v1::LinuxContainerSecurityContext {
                run_as_user: int64(1),
                run_as_username: "root".to_owned(),
                ..NO_CONTEXT
            },
            "both set",
        ),
    ];
    for (context, expected) in contexts {
        let error = pod.create(config_with_context("app", context)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(expected), "{error}");
    }
    let mut config = cri::pod_config("grouped");
    config.linux = Some(v1::LinuxPodSandboxConfig {
        security_context: Some(v1::LinuxSandboxSecurityContext {
            run_as_group: int64(1),
            ..Default::default()
        }),
        ..Default::default()
    });
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    let error = cri.runtime().run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn unapplied_fields_are_refused_or_logged_once() {
    let cri = Cri::start().await;
    let mut config = cri::pod_config("first");
    config.linux = Some(v1::LinuxPodSandboxConfig {
        sysctls: [("kernel.msgmax".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    });
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    let error = cri.runtime().run_pod_sandbox(request.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("PodSandboxConfig.linux.sysctls"), "{error}");
    let accepting = Cri::start_with(builder().arg("--allow-unapplied-fields")).await;
    accepting
        .runtime()
        .run_pod_sandbox(request)
        .await
        .expect("the request is accepted");

    let pod = accepting.pod("web").await;
    for name in ["one", "two"] {
        let mut config = config_with_context(
            name,
            v1::LinuxContainerSecurityContext {
                masked_paths: vec!["/proc/kcore".to_owned()],
                ..NO_CONTEXT
            },
        );
        config.mounts.push(v1::Mount {
            host_path: "/tmp".to_owned(),
            container_path: "/data".to_owned(),
            ..Default::default()
        });
        let id = pod.create(config).await.expect("the container is created");
        let (status, info) = accepting.status_and_info(&id).await.unwrap();
        assert!(status.mounts.is_empty());
        assert_eq!(
            info["runtimeSpec"]["linux"]["maskedPaths"]
                .as_array()
                .map_or(0, Vec::len),
            0
        );
        assert_eq!(info["runtimeSpec"]["mounts"].as_array().map_or(0, Vec::len), 0);
    }
    let log = accepting.process.log();
    for field in [
        "PodSandboxConfig.linux.sysctls",
        "ContainerConfig.mounts",
        "ContainerConfig.linux.security_context.masked_paths",
    ] {
        assert_eq!(log.matches(field).count(), 1, "{field}: {log}");
    }
    let mut config = container_config("three");
    config.mounts.push(v1::Mount {
        host_path: "/no/such/place".to_owned(),
        ..Default::default()
    });
    let error = pod.create(config).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("/no/such/place"), "{error}");
}

/// A fake-cri that runs as an unprivileged user, which only root can start. It exits at EOF of its standard input.
struct UnprivilegedFakeCri {
    process: Child,
    socket: std::path::PathBuf,
}

impl UnprivilegedFakeCri {
    const UID: u32 = 51_010;

    fn start(dir: &Path, more: &[&str]) -> UnprivilegedFakeCri {
        // Other users may not have access to the build directory.
        let program = dir.join("fake-cri");
        fs::copy(env!("CARGO_BIN_EXE_fake-cri"), &program).expect("the file can be copied");
        let socket = dir.join("cri.sock");
        let mut process = Command::new(program)
            .args(["serve", "--ephemeral", "--exit-on-stdin-eof", "--exec", "host"])
            .args(more)
            .arg("--listen")
            .arg(&socket)
            .arg("--state-dir")
            .arg(dir.join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .uid(Self::UID)
            .gid(Self::UID)
            .spawn()
            .expect("the command starts");
        let mut line = String::new();
        let ready = BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line);
        assert!(ready.is_ok_and(|read| read > 0), "it listens");
        UnprivilegedFakeCri { process, socket }
    }

    fn channel(&self) -> tonic::transport::Channel {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        tonic::transport::Endpoint::from_static("http://fake-cri.invalid").connect_with_connector_lazy(connect)
    }
}

impl Drop for UnprivilegedFakeCri {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

#[rstest::rstest]
#[tokio::test]
async fn an_unprivileged_runtime_refuses_or_reports_its_user(#[values(false, true)] accept: bool) {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(
        dir.path(),
        Some(UnprivilegedFakeCri::UID),
        Some(UnprivilegedFakeCri::UID),
    )
    .unwrap();
    let cri = UnprivilegedFakeCri::start(dir.path(), if accept { &["--allow-unapplied-fields"] } else { &[] });
    let mut runtime = RuntimeServiceClient::new(cri.channel());
    let pull = v1::PullImageRequest {
        image: Some(cri::image(cri::IMAGE)),
        ..Default::default()
    };
    ImageServiceClient::new(cri.channel()).pull_image(pull).await.unwrap();
    let request = v1::RunPodSandboxRequest {
        config: Some(cri::pod_config("web")),
        runtime_handler: String::new(),
    };
    let pod = runtime
        .run_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .pod_sandbox_id;
    let mut user_of = async |name: &str, context| -> Result<v1::LinuxContainerUser, tonic::Status> {
        let mut config = config_with_context(name, context);
        config.command = ["sleep", "1000"].map(str::to_owned).to_vec();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(config),
            sandbox_config: None,
        };
        let container_id = runtime.create_container(request).await?.into_inner().container_id;
        let request = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        runtime.start_container(request).await?;
        let request = v1::ContainerStatusRequest {
            container_id,
            verbose: true,
        };
        let answer = runtime.container_status(request).await?.into_inner();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        let pid = i32::try_from(info["pid"].as_i64().unwrap()).unwrap();
        let user = answer
            .status
            .and_then(|status| status.user?.linux)
            .expect("a user is reported");
        assert_eq!(proc_status_field(pid, "Uid")[1], user.uid.to_string());
        assert_eq!(proc_status_field(pid, "Gid")[1], user.gid.to_string());
        assert_eq!(
            proc_status_field(pid, "NoNewPrivs") == ["1"],
            info["runtimeSpec"]["process"]["noNewPrivileges"] == true
        );
        Ok(user)
    };
    // The user of fake-cri itself is accepted.
    let own = v1::LinuxContainerSecurityContext {
        run_as_user: int64(UnprivilegedFakeCri::UID.into()),
        no_new_privs: true,
        ..NO_CONTEXT
    };
    assert_eq!(
        user_of("own", own).await.unwrap().uid,
        i64::from(UnprivilegedFakeCri::UID)
    );
    match user_of("other", other_user()).await {
        Ok(user) => assert_eq!((accept, user.uid), (true, i64::from(UnprivilegedFakeCri::UID))),
        Err(error) => {
            assert_eq!((accept, error.code()), (false, Code::FailedPrecondition));
            assert!(
                error.message().contains("run_as_user 51001") && error.message().contains("--allow-unapplied-fields"),
                "{error}"
            );
        }
    }
}
