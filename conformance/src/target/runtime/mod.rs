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
//! Ways to fail: the runtime does not answer; it has no image; its containers do not come up; the folder of logs and
//! archives is another one for it (in a container of its own): `--work-dir` names one that both see. A kubelet that runs
//! on the same node removes Pods that it does not know, ours too.

mod checkpoint;
mod clean;
mod container;
mod cri;
mod embedded;
mod image;
mod life;
mod removal;
mod sandbox;
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

use super::{Faults, TargetError, Workload, folder::Folder, freeze, parse_log};
use crate::{
    exhibit::{ExhibitKind, show},
    reference::LocalImage,
    report,
};

pub use super::freeze::Hold;
pub use checkpoint::{Checkpoint, CheckpointAnswer};
pub use clean::{Cleaned, clean};
pub use container::{Container, Pod};
pub use embedded::EmbeddedRuntime;
pub use sandbox::AskedAgain;
pub use workload::{ContainerOptions, Program, STAND_IN};

use cri::{ANSWER_WITHIN, Cri, call};

/// The label of everything that a run makes; its value is the run's id.
pub const RUN_LABEL: &str = "checkpoint-conformance.dev/run";
/// The image that `checkpoint-conformance image` writes unless told otherwise.
pub const IMAGE: &str = "checkpoint-conformance.dev/stand-in:1";

/// A runtime that runs already.
#[derive(Clone, Debug)]
pub struct RuntimeTarget {
    /// Its socket, `unix:///PATH`.
    pub endpoint: String,
    /// The image of the containers; [`IMAGE`] by default.
    pub image: Option<String>,
    /// The runtime handler (RuntimeClass) of the Pods; the runtime's default when empty.
    pub handler: String,
    /// The control socket of the fake-cri that this is.
    pub control: Option<PathBuf>,
    /// A folder that the runtime sees under the same path; a temporary one by default.
    pub work_dir: Option<PathBuf>,
    run: String,
    // Here, and not in the connection alone: it must outlive what the runtime still does in it when that is given up.
    folder: OnceLock<Arc<Folder>>,
}

/// A container runtime in the course of a run.
pub struct Runtime {
    /// What reports say of it.
    pub about: report::Target,
    /// What it says of itself.
    pub version: VersionResponse,
    /// What its containers run.
    pub program: Program,
    /// fake-cri's control, where that is the runtime.
    pub faults: Option<Faults>,
    cri: Cri,
    /// The image of the containers as the user names it.
    image_name: String,
    /// The same as the runtime has it.
    image: LocalImage,
    handler: String,
    run: String,
    folder: Arc<Folder>,
    cgroups: freeze::Cgroups,
    shared: OnceCell<Arc<Pod>>,
    made: Mutex<Vec<Made>>,
    numbers: AtomicU64,
    thawed: Mutex<Vec<String>>,
    canaries: Mutex<BTreeSet<String>>,
    embedded: tokio::sync::Mutex<Option<FakeCri>>,
}

/// Something that was made, and whether anyone still wants it.
#[derive(Clone, Debug)]
enum Made {
    Pod(String, Weak<Pod>),
    Container(String, Weak<container::Inner>),
}

/// What a command in a container came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
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
            .field("about", &self.about)
            .field("run", &self.run)
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
            control: None,
            work_dir: None,
            run: run_id(),
            folder: OnceLock::new(),
        }
    }

    /// Removes what [`RuntimeTarget::connect`] has made so far, where that was given up in its midst.
    ///
    /// # Errors
    /// Something could not be removed; it is named.
    pub async fn abandon(&self) -> Result<(), TargetError> {
        clean::remove_run(&self.endpoint, &self.run).await
    }

    /// Connects, looks for the image (and pulls it when it is not there), and finds out what it can run.
    ///
    /// # Errors
    /// The runtime does not answer, or there is no image that can be used. Nothing is left behind.
    pub async fn connect(&self) -> Result<Runtime, TargetError> {
        let about = report::Target {
            suite: crate::case::Suite::Runtime,
            kind: "runtime".to_owned(),
            description: String::new(),
            endpoint: self.endpoint.clone(),
            container: String::new(),
            mutant: None,
            product: None,
            node: None,
        };
        let folder = Arc::new(Folder::make(self.work_dir.as_deref())?);
        // A second connection has a folder of its own, which goes with it.
        let _ = self.folder.set(Arc::clone(&folder));
        let mut runtime = Runtime::reach(&self.endpoint, folder, about).await?;
        runtime.handler.clone_from(&self.handler);
        runtime.run.clone_from(&self.run);
        if let Some(control) = &self.control {
            runtime.faults = Some(Faults::connect(control).await?);
        }
        let version = &runtime.version;
        runtime.about.description = format!("{} {}", version.runtime_name, version.runtime_version);
        let image = self.image.as_deref().unwrap_or(IMAGE);
        runtime.image_name = image.to_owned();
        runtime.image = runtime.ensure_image(image).await?;
        runtime.program = match runtime.find_program().await {
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
    async fn reach(endpoint: &str, folder: Arc<Folder>, about: report::Target) -> Result<Runtime, TargetError> {
        let cri = Cri::new(endpoint)?;
        let mut client = cri.runtime();
        let ask = VersionRequest {
            version: "0.1.0".to_owned(),
        };
        let version = call("Version", ANSWER_WITHIN, ask, |request| async move {
            client.version(request).await
        })
        .await
        .map_err(|error| TargetError::NotReady(format!("no runtime answers at {endpoint}: {error}")))?;
        let product = report::Product::new(&version.runtime_name, &version.runtime_version);
        Ok(Runtime {
            about: report::Target {
                product: Some(product),
                ..about
            },
            version,
            program: Program::StandIn,
            faults: None,
            cri,
            image_name: IMAGE.to_owned(),
            image: LocalImage::default(),
            handler: String::new(),
            run: run_id(),
            folder,
            cgroups: freeze::Cgroups::look(),
            shared: OnceCell::new(),
            made: Mutex::default(),
            numbers: AtomicU64::new(1),
            thawed: Mutex::default(),
            canaries: Mutex::default(),
            embedded: tokio::sync::Mutex::new(None),
        })
    }

    /// The id of this run, the value of [`RUN_LABEL`].
    pub fn run_id(&self) -> &str {
        &self.run
    }

    /// Whether it is a fake-cri, which reads its Pods' annotations.
    pub fn is_fake_cri(&self) -> bool {
        self.version.runtime_name == "fake-cri"
    }

    /// The folder that the harness and the runtime share; it goes with the run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the shared folder at which nothing is yet, for an archive.
    pub fn location(&self, name: &str) -> PathBuf {
        let number = self.number();
        self.folder().join("archives").join(format!("{name}-{number}.tar"))
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What the runtime says of a container.
    ///
    /// # Errors
    /// It does not answer, or does not know it.
    pub async fn status(&self, container: &Container) -> Result<ContainerStatus, TargetError> {
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
        container: &Container,
        command: &[String],
        within: Duration,
    ) -> Result<Executed, TargetError> {
        let ask = ExecSyncRequest {
            container_id: container.id().to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        };
        let mut client = self.cri.runtime();
        let answer = call("ExecSync", within, ask, |request| async move {
            client.exec_sync(request).await
        })
        .await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let executed = Executed {
            exit_code: answer.exit_code,
            stdout: text(&answer.stdout),
            stderr: text(&answer.stderr),
        };
        show(ExhibitKind::Cri, || {
            format!("ExecSync {}\n-> exit code {}", command.join(" "), executed.exit_code)
        });
        Ok(executed)
    }

    /// What a container's workload tells of itself by now.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub async fn workload(&self, container: &Container) -> Result<Workload, TargetError> {
        let workload = read_log(container.log()).await?;
        self.learn(&workload);
        Ok(workload)
    }

    /// Waits until what the workload tells is enough; `None` when it is not in time.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub async fn workload_until(
        &self,
        container: &Container,
        within: Duration,
        enough: impl Fn(&Workload) -> bool,
    ) -> Result<Option<Workload>, TargetError> {
        self.log_until(container.log(), within, enough).await
    }

    /// Waits until the counter has moved on by two ticks: of them one may have been under way before. `None` when it has
    /// not in time: the container stands still. A workload that was started anew is told as it is; see
    /// [`Workload::same_process`].
    ///
    /// # Errors
    /// Its log cannot be read.
    pub async fn moves(&self, container: &Container, within: Duration) -> Result<Option<Workload>, TargetError> {
        let now = self.workload(container).await?;
        let enough = |later: &Workload| !later.same_process(&now) || later.tick >= now.tick + 2;
        let later = self.workload_until(container, within, enough).await?;
        show(ExhibitKind::Note, || match &later {
            Some(later) => format!("{container}: tick {} then, {} later", now.tick, later.tick),
            None => format!("{container}: stands still at tick {} for {within:?}", now.tick),
        });
        Ok(later)
    }

    async fn log_until(
        &self,
        log: &Path,
        within: Duration,
        enough: impl Fn(&Workload) -> bool,
    ) -> Result<Option<Workload>, TargetError> {
        // A log has no event to wait for.
        const POLL: Duration = Duration::from_millis(20);
        let began = std::time::Instant::now();
        loop {
            let workload = read_log(log).await?;
            self.learn(&workload);
            if enough(&workload) {
                return Ok(Some(workload));
            }
            if began.elapsed() > within {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn learn(&self, workload: &Workload) {
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
    pub fn thawed(&self) -> Vec<String> {
        self.thawed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn run_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// Reads a container's log, which may not be there yet.
async fn read_log(path: &Path) -> Result<Workload, TargetError> {
    match tokio::fs::read(path).await {
        Ok(log) => Ok(parse_log(&String::from_utf8_lossy(&crate::reference::log_text(&log)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Workload::default()),
        Err(error) => Err(TargetError::file(path)(error)),
    }
}
