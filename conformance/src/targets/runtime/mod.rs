//! A container runtime under test, reached by its CRI socket without a kubelet.
//!
//! ```text
//!  embedded   a fake-cri, started by the harness     any   unix:///run/containerd/containerd.sock
//!        \                                           /
//!         Runtime --- run_container, create_container   a Pod and a container with its workload
//!                 --- checkpoint(..)                    any location, timeout, deadline; can be cancelled
//!                 --- freeze_cause, unfreeze            whether and how a container is frozen; thaws it
//!                 --- reset                             after a case: removes its objects, thaws frozen containers
//!                 --- shutdown                          removes everything with this run's label
//! ```
//!
//! Every Pod and container carries the label [`RUN_LABEL`]; [`clean()`] finds the objects of killed runs by this label.
//! Pods use the host network, so no CNI plugin is needed and a checkpoint contains no network namespace.
//!
//! Ways to fail: the runtime does not respond. It does not have the image. Its containers do not start. It runs in a
//! container of its own and does not see the directory of logs and archives: `--work-dir` names a directory that both
//! see. A kubelet on the same node removes Pods that it does not know, including the Pods of a run.

mod call;
mod checkpoint;
mod clean;
mod container;
mod embedded;
mod image;
mod lifecycle;
mod removal;
mod sandbox_retry;
mod workload;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cri_proto::runtime::v1::{ContainerStatus, ExecSyncRequest, VersionRequest, VersionResponse};
use fake_cri::FakeCri;
use tokio::sync::OnceCell;

use super::{FakeCriControl, TargetError, Workload, freeze, parse_log, run_dir::RunDir};
use crate::{
    cri_client::CriClient,
    engine::{Capabilities, Capability},
    evidence::{EvidenceKind, record},
    reference_kubelet::LocalImage,
    report,
};

pub use super::freeze::FreezeCause;
pub use checkpoint::{CheckpointCall, CheckpointOutcome};
pub use clean::{CleanReport, clean};
pub use container::{ContainerHandle, PodHandle};
pub use embedded::EmbeddedRuntime;
pub use sandbox_retry::SandboxRetry;
pub use workload::{ContainerOptions, WORKLOAD_PATH, WorkloadProgram};

pub(super) use call::{CALL_TIMEOUT, call, connect};
pub(super) use removal::remove_pod;

/// The label of all Pods and containers of a run. Its value is the run's id.
pub const RUN_LABEL: &str = "checkpoint-conformance.dev/run";
/// The default name of the image that `checkpoint-conformance image` writes.
pub const WORKLOAD_IMAGE: &str = "checkpoint-conformance.dev/test-workload:1";

/// A running runtime.
#[derive(Clone, Debug)]
pub struct RuntimeTarget {
    /// The socket, `unix:///PATH`.
    pub endpoint: String,
    /// The image of the containers. Default: [`WORKLOAD_IMAGE`].
    pub image: Option<String>,
    /// The runtime handler (RuntimeClass) of the Pods. Empty: the runtime's default.
    pub handler: String,
    /// The control socket, if the runtime is a fake-cri.
    pub control_socket: Option<PathBuf>,
    /// The parent of the shared directory, which the runtime must see under the same path. Default: the system's
    /// temporary directory.
    pub work_dir: Option<PathBuf>,
    run_id: String,
    // Kept here as well as in `Runtime`: if `connect` is cancelled, the runtime may still use the directory.
    shared_dir: OnceLock<Arc<RunDir>>,
}

/// A connected runtime.
pub struct Runtime {
    /// The description of the target in reports.
    pub target_info: report::TargetInfo,
    /// The runtime's response to `Version`.
    pub version: VersionResponse,
    /// The program that the containers run.
    pub program: WorkloadProgram,
    /// The control API, if the runtime is a fake-cri.
    pub fake_cri: Option<FakeCriControl>,
    cri: CriClient,
    /// The image's name as the user gave it.
    image_name: String,
    /// The same image as the runtime resolved it.
    image: LocalImage,
    handler: String,
    run_id: String,
    shared_dir: Arc<RunDir>,
    cgroups: freeze::CgroupMounts,
    shared_pod: OnceCell<Arc<PodHandle>>,
    tracked: Mutex<Vec<TrackedObject>>,
    next_serial: AtomicU64,
    unfreeze_notes: Mutex<Vec<String>>,
    canaries: Mutex<BTreeSet<String>>,
    embedded_fake_cri: tokio::sync::Mutex<Option<FakeCri>>,
}

/// A Pod or container of this run, with a weak reference that shows whether a handle still exists.
#[derive(Clone, Debug)]
enum TrackedObject {
    Pod(String, Weak<PodHandle>),
    Container(String, Weak<container::ContainerInner>),
}

/// The result of a command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// The exit code.
    pub exit_code: i32,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("about", &self.target_info)
            .field("run", &self.run_id)
            .finish_non_exhaustive()
    }
}

impl RuntimeTarget {
    /// The runtime at this socket, with the default image and the default runtime handler.
    pub fn new(endpoint: impl Into<String>) -> RuntimeTarget {
        RuntimeTarget {
            endpoint: endpoint.into(),
            image: None,
            handler: String::new(),
            control_socket: None,
            work_dir: None,
            run_id: random_run_id(),
            shared_dir: OnceLock::new(),
        }
    }

    /// Removes the objects of a [`RuntimeTarget::connect`] that was cancelled.
    ///
    /// # Errors
    /// An object cannot be removed. The error names the object.
    pub async fn clean_up(&self) -> Result<(), TargetError> {
        clean::remove_run(&self.endpoint, &self.run_id).await
    }

    /// Connects, makes sure that the image is present (pulls it if needed), and detects the program that the image can
    /// run.
    ///
    /// # Errors
    /// The runtime does not respond, or there is no usable image. Created objects are removed.
    pub async fn connect(&self) -> Result<Runtime, TargetError> {
        let target_info = report::TargetInfo::new(crate::engine::Suite::Runtime, "runtime", "", self.endpoint.clone());
        let shared_dir = Arc::new(RunDir::create(self.work_dir.as_deref())?);
        // A second connection gets a directory of its own, which is removed with the connection.
        let _ = self.shared_dir.set(Arc::clone(&shared_dir));
        let mut runtime = Runtime::connect_to(&self.endpoint, shared_dir, target_info).await?;
        runtime.handler.clone_from(&self.handler);
        runtime.run_id.clone_from(&self.run_id);
        if let Some(control) = &self.control_socket {
            runtime.fake_cri = Some(FakeCriControl::connect(control).await?);
        }
        let version = &runtime.version;
        runtime.target_info.description = format!("{} {}", version.runtime_name, version.runtime_version);
        let image = self.image.as_deref().unwrap_or(WORKLOAD_IMAGE);
        runtime.image_name = image.to_owned();
        runtime.image = runtime.ensure_image(image).await?;
        runtime.program = match runtime.detect_program().await {
            Ok(program) => program,
            Err(error) => {
                // The error of the detection matters, not the error of the cleanup.
                let _ = runtime.shutdown().await;
                return Err(error);
            }
        };
        Ok(runtime)
    }
}

impl Runtime {
    async fn connect_to(
        endpoint: &str,
        shared_dir: Arc<RunDir>,
        target_info: report::TargetInfo,
    ) -> Result<Runtime, TargetError> {
        let cri = connect(endpoint)?;
        let message = VersionRequest {
            version: "0.1.0".to_owned(),
        };
        let version = call(&cri, CALL_TIMEOUT, message)
            .await
            .map_err(|error| TargetError::NotReady(format!("no runtime responds at {endpoint}: {error}")))?;
        let product = report::Product::new(&version.runtime_name, &version.runtime_version);
        Ok(Runtime {
            target_info: report::TargetInfo {
                product: Some(product),
                ..target_info
            },
            version,
            program: WorkloadProgram::TestWorkload,
            fake_cri: None,
            cri,
            image_name: WORKLOAD_IMAGE.to_owned(),
            image: LocalImage::default(),
            handler: String::new(),
            run_id: random_run_id(),
            shared_dir,
            cgroups: freeze::CgroupMounts::read(),
            shared_pod: OnceCell::new(),
            tracked: Mutex::default(),
            next_serial: AtomicU64::new(1),
            unfreeze_notes: Mutex::default(),
            canaries: Mutex::default(),
            embedded_fake_cri: tokio::sync::Mutex::new(None),
        })
    }

    /// The id of this run: the value of [`RUN_LABEL`].
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// What the harness can do with this runtime.
    pub fn capabilities(&self) -> Capabilities {
        let test_workload = self.program == WorkloadProgram::TestWorkload;
        Capabilities::default()
            .with(Capability::FakeCriControl, self.fake_cri.is_some())
            .with(Capability::TestWorkload, test_workload)
            .with(Capability::SlowCheckpoint, test_workload || self.is_fake_cri())
            .with(Capability::Root, nix::unistd::geteuid().is_root())
    }

    /// Whether the runtime is a fake-cri, which reads annotations of Pods.
    pub fn is_fake_cri(&self) -> bool {
        self.version.runtime_name == "fake-cri"
    }

    /// The directory that the harness and the runtime share. It is removed after the run.
    pub fn shared_dir(&self) -> &Path {
        self.shared_dir.path()
    }

    /// An unused path in the shared directory, for an archive.
    pub fn location(&self, name: &str) -> PathBuf {
        let serial = self.serial();
        self.shared_dir().join("archives").join(format!("{name}-{serial}.tar"))
    }

    fn serial(&self) -> u64 {
        self.next_serial.fetch_add(1, Ordering::Relaxed)
    }

    /// The CRI status of a container.
    ///
    /// # Errors
    /// The runtime does not respond, or does not know the container.
    pub async fn status(&self, container: &ContainerHandle) -> Result<ContainerStatus, TargetError> {
        let response = self.container_status(container.id(), false).await?;
        response.status.ok_or_else(|| TargetError::Runtime {
            call: "ContainerStatus",
            code: tonic::Code::Ok,
            message: "the response has no status".to_owned(),
        })
    }

    /// Executes a command in a container and waits until the command exits.
    ///
    /// # Errors
    /// The runtime does not respond, or cannot execute the command.
    pub async fn exec_sync(
        &self,
        container: &ContainerHandle,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, TargetError> {
        let message = ExecSyncRequest {
            container_id: container.id().to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let response = call(&self.cri, timeout, message).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let executed = ExecOutput {
            exit_code: response.exit_code,
            stdout: text(&response.stdout),
            stderr: text(&response.stderr),
        };
        record(EvidenceKind::Cri, || {
            format!("ExecSync {}\n-> exit code {}", command.join(" "), executed.exit_code)
        });
        Ok(executed)
    }

    /// Reads and parses the log of a container's workload.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn workload(&self, container: &ContainerHandle) -> Result<Workload, TargetError> {
        let workload = read_log(container.log_path()).await?;
        if let Some(canary) = &workload.canary {
            self.canaries
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(canary.clone());
        }
        Ok(workload)
    }

    /// Waits until `condition` holds for the workload; `None` if it does not within `timeout`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn workload_until(
        &self,
        container: &ContainerHandle,
        timeout: Duration,
        condition: impl Fn(&Workload) -> bool,
    ) -> Result<Option<Workload>, TargetError> {
        // A log file has no event to wait for.
        const POLL_INTERVAL: Duration = Duration::from_millis(20);
        let started_at = std::time::Instant::now();
        loop {
            let workload = self.workload(container).await?;
            if condition(&workload) {
                return Ok(Some(workload));
            }
            if started_at.elapsed() > timeout {
                return Ok(None);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The canaries that were read from logs. Reports must not contain them.
    pub fn canaries(&self) -> Vec<String> {
        let canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        canaries.iter().cloned().collect()
    }

    /// The containers that the runtime left frozen in this run, and how each was thawed.
    pub fn unfreeze_notes(&self) -> Vec<String> {
        self.unfreeze_notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn random_run_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

async fn read_log(path: &Path) -> Result<Workload, TargetError> {
    match tokio::fs::read(path).await {
        Ok(log) => Ok(parse_log(&String::from_utf8_lossy(
            &crate::reference_kubelet::log_text(&log),
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Workload::default()),
        Err(error) => Err(TargetError::file(path)(error)),
    }
}
