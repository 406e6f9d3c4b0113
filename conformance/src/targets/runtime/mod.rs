//! A container runtime that is judged by its CRI socket, with no kubelet between.
//!
//! ```text
//!  embedded   a fake-cri, started here          any   unix:///run/containerd/containerd.sock
//!        \                                      /
//!         Runtime --- container(options)   a Pod, a container, its workload's counter and canary
//!                 --- checkpoint(..)       any location, timeout, deadline; can be cancelled
//!                 --- hold, thaw           whether a container stands still, by what, and how it runs again
//!                 --- restore              after a case: what it made is removed, what is frozen is thawed
//!                 --- shutdown             all that carries this run's label is removed
//! ```
//!
//! Everything made carries the label [`RUN_LABEL`], by which [`clean()`] finds what a killed run has left. Pods are in the
//! host's network: no CNI plugin is needed, and a checkpoint meets no network namespace.
//!
//! Ways to fail: the runtime does not answer; it has no image; its containers do not come up; the directory of logs and
//! archives is another one for it (in a container of its own): `--work-dir` names one that both see. A kubelet that runs
//! on the same node removes Pods that it does not know, ours too.

mod checkpoint;
mod clean;
mod container;
mod cri_client;
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

use cri_client::{CALL_TIMEOUT, CriClient, call};

/// The label of everything that a run makes; its value is the run's id.
pub const RUN_LABEL: &str = "checkpoint-conformance.dev/run";
/// The image that `checkpoint-conformance image` writes unless told otherwise.
pub const WORKLOAD_IMAGE: &str = "checkpoint-conformance.dev/test-workload:1";

/// A runtime that runs already.
#[derive(Clone, Debug)]
pub struct RuntimeTarget {
    /// Its socket, `unix:///PATH`.
    pub endpoint: String,
    /// The image of the containers; [`WORKLOAD_IMAGE`] by default.
    pub image: Option<String>,
    /// The runtime handler (RuntimeClass) of the Pods; the runtime's default when empty.
    pub handler: String,
    /// The control socket of the fake-cri that this is.
    pub control_socket: Option<PathBuf>,
    /// A directory that the runtime sees under the same path; a temporary one by default.
    pub work_dir: Option<PathBuf>,
    run_id: String,
    // Here, and not in the connection alone: it must outlive what the runtime still does in it when that is given up.
    shared_dir: OnceLock<Arc<RunDir>>,
}

/// A container runtime in the course of a run.
pub struct Runtime {
    /// What reports say of it.
    pub target_info: report::TargetInfo,
    /// What it says of itself.
    pub version: VersionResponse,
    /// What its containers run.
    pub program: WorkloadProgram,
    /// fake-cri's control, where that is the runtime.
    pub fake_cri: Option<FakeCriControl>,
    cri: CriClient,
    /// The image of the containers as the user names it.
    image_name: String,
    /// The same as the runtime has it.
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

/// Something that was made, and whether anyone still wants it.
#[derive(Clone, Debug)]
enum TrackedObject {
    Pod(String, Weak<PodHandle>),
    Container(String, Weak<container::ContainerInner>),
}

/// What a command in a container came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub exit_code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
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
    /// The runtime at this socket, with the harness's own image and the runtime's default handler.
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

    /// Removes what [`RuntimeTarget::connect`] has made so far, where that was given up in its midst.
    ///
    /// # Errors
    /// Something could not be removed; it is named.
    pub async fn clean_up(&self) -> Result<(), TargetError> {
        clean::remove_run(&self.endpoint, &self.run_id).await
    }

    /// Connects, looks for the image (and pulls it when it is not there), and finds out what it can run.
    ///
    /// # Errors
    /// The runtime does not answer, or there is no image that can be used. Nothing is left behind.
    pub async fn connect(&self) -> Result<Runtime, TargetError> {
        let target_info = report::TargetInfo {
            suite: crate::engine::Suite::Runtime,
            kind: "runtime".to_owned(),
            description: String::new(),
            endpoint: self.endpoint.clone(),
            container: String::new(),
            mutant: None,
            product: None,
            node: None,
        };
        let shared_dir = Arc::new(RunDir::create(self.work_dir.as_deref())?);
        // A second connection has a directory of its own, which goes with it.
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
                // What was tried is removed; why it was tried in vain is what counts.
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
        let cri = CriClient::new(endpoint)?;
        let mut client = cri.runtime();
        let message = VersionRequest {
            version: "0.1.0".to_owned(),
        };
        let version = call("Version", CALL_TIMEOUT, message, |request| async move {
            client.version(request).await
        })
        .await
        .map_err(|error| TargetError::NotReady(format!("no runtime answers at {endpoint}: {error}")))?;
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

    /// The id of this run, the value of [`RUN_LABEL`].
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Whether it is a fake-cri, which reads its Pods' annotations.
    pub fn is_fake_cri(&self) -> bool {
        self.version.runtime_name == "fake-cri"
    }

    /// The directory that the harness and the runtime share; it goes with the run.
    pub fn shared_dir(&self) -> &Path {
        self.shared_dir.path()
    }

    /// A path in the shared directory at which nothing is yet, for an archive.
    pub fn location(&self, name: &str) -> PathBuf {
        let serial = self.serial();
        self.shared_dir().join("archives").join(format!("{name}-{serial}.tar"))
    }

    fn serial(&self) -> u64 {
        self.next_serial.fetch_add(1, Ordering::Relaxed)
    }

    /// What the runtime says of a container.
    ///
    /// # Errors
    /// It does not answer, or does not know it.
    pub async fn status(&self, container: &ContainerHandle) -> Result<ContainerStatus, TargetError> {
        let response = self.container_status(container.id(), false).await?;
        response.status.ok_or_else(|| TargetError::Runtime {
            call: "ContainerStatus",
            code: tonic::Code::Ok,
            message: "the answer has no status".to_owned(),
        })
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// The runtime does not answer, or does not run it.
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
        let mut client = self.cri.runtime();
        let answer = call("ExecSync", timeout, message, |request| async move {
            client.exec_sync(request).await
        })
        .await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let executed = ExecOutput {
            exit_code: answer.exit_code,
            stdout: text(&answer.stdout),
            stderr: text(&answer.stderr),
        };
        record(EvidenceKind::Cri, || {
            format!("ExecSync {}\n-> exit code {}", command.join(" "), executed.exit_code)
        });
        Ok(executed)
    }

    /// What a container's workload tells of itself by now.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub async fn workload(&self, container: &ContainerHandle) -> Result<Workload, TargetError> {
        let workload = read_log(container.log_path()).await?;
        self.remember_canary(&workload);
        Ok(workload)
    }

    /// Waits until what the workload tells is enough; `None` when it is not in time.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub async fn workload_until(
        &self,
        container: &ContainerHandle,
        timeout: Duration,
        condition: impl Fn(&Workload) -> bool,
    ) -> Result<Option<Workload>, TargetError> {
        self.log_until(container.log_path(), timeout, condition).await
    }

    /// Waits until the counter has moved on by two heartbeats: of them one may have been under way before. `None` when it has
    /// not in time: the container stands still. A workload that was started anew is told as it is; see
    /// [`Workload::same_process`].
    ///
    /// # Errors
    /// Its log cannot be read.
    pub async fn wait_until_progress(
        &self,
        container: &ContainerHandle,
        timeout: Duration,
    ) -> Result<Option<Workload>, TargetError> {
        let before = self.workload(container).await?;
        let progressed = |later: &Workload| !later.same_process(&before) || later.heartbeat >= before.heartbeat + 2;
        let later = self.workload_until(container, timeout, progressed).await?;
        record(EvidenceKind::Note, || match &later {
            Some(later) => format!(
                "{container}: heartbeat {} then, {} later",
                before.heartbeat, later.heartbeat
            ),
            None => format!(
                "{container}: stands still at heartbeat {} for {timeout:?}",
                before.heartbeat
            ),
        });
        Ok(later)
    }

    async fn log_until(
        &self,
        log: &Path,
        timeout: Duration,
        condition: impl Fn(&Workload) -> bool,
    ) -> Result<Option<Workload>, TargetError> {
        // A log has no event to wait for.
        const POLL_INTERVAL: Duration = Duration::from_millis(20);
        let started_at = std::time::Instant::now();
        loop {
            let workload = read_log(log).await?;
            self.remember_canary(&workload);
            if condition(&workload) {
                return Ok(Some(workload));
            }
            if started_at.elapsed() > timeout {
                return Ok(None);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn remember_canary(&self, workload: &Workload) {
        if let Some(canary) = &workload.canary {
            let mut canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
            if !canaries.contains(canary) {
                canaries.insert(canary.clone());
            }
        }
    }

    /// The canaries that were seen: no report may say them.
    pub fn canaries(&self) -> Vec<String> {
        let canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        canaries.iter().cloned().collect()
    }

    /// The containers that the runtime left frozen in this run, and how each was let go.
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

/// Reads a container's log, which may not be there yet.
async fn read_log(path: &Path) -> Result<Workload, TargetError> {
    match tokio::fs::read(path).await {
        Ok(log) => Ok(parse_log(&String::from_utf8_lossy(
            &crate::reference_kubelet::log_text(&log),
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Workload::default()),
        Err(error) => Err(TargetError::file(path)(error)),
    }
}
