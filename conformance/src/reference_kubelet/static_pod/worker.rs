//! Keeps one static Pod in the state that its manifest describes.
//!
//! ```text
//!  runtime state -> running and exited runs    (ContainerStatus for new or changed containers)
//!                -> ready sandbox?             if not, create one with the next attempt
//!                -> init containers            in order, one at a time, each until it succeeds
//!                -> containers                 start; restart by restartPolicy after a back-off that doubles
//! ```
//!
//! A failed step is retried after a delay. Meanwhile the container status has the reason.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;

use super::super::Config;
use super::super::pod_store::{self, ContainerRun, PodRecord, PodStore, RunExit, RunState, label};
use super::super::runtime_connection::{CriError, RuntimeConnection};
use super::plan::{self, NextAction};
use super::runtime_state::RuntimeState;
use super::{container_start, manifest, translate};

/// The maximum back-off before a container restart.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// The back-off is reset when a container ran longer than this.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(600);
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct PodWorker {
    pub(super) config: Arc<Config>,
    pub(super) cri: Arc<RuntimeConnection>,
    pub(super) pods: Arc<PodStore>,
    pub(super) pod: Pod,
    pub(super) record: PodRecord,
    pub(super) runtime_name: String,
    /// The runs by container id. A changed state needs a new ContainerStatus call.
    known_runs: HashMap<String, ContainerRun>,
    waiting: BTreeMap<String, (String, String)>,
    backoff: HashMap<String, Backoff>,
    /// The time of the last change by this worker. Runtime states from before that time are ignored.
    last_change: Instant,
}

#[derive(Debug)]
struct Backoff {
    starts: u32,
    /// The start of the back-off: the last time at which the container ran or was started.
    stopped_at: Instant,
}

impl PodWorker {
    pub(super) fn new(
        config: Arc<Config>,
        cri: Arc<RuntimeConnection>,
        pods: Arc<PodStore>,
        pod: Pod,
        known: PodRecord,
        runtime_name: String,
    ) -> Self {
        let changed = Instant::now();
        let (known_runs, waiting, backoff) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Self {
            config,
            cri,
            pods,
            pod,
            record: known,
            runtime_name,
            known_runs,
            waiting,
            backoff,
            last_change: changed,
        }
    }

    /// Synchronizes the Pod with each runtime state until the sender is dropped.
    pub(super) async fn run(mut self, mut snapshots: watch::Receiver<Option<Arc<RuntimeState>>>) {
        while snapshots.changed().await.is_ok() {
            let Some(snapshot) = snapshots.borrow_and_update().clone() else {
                continue;
            };
            if snapshot.taken_at < self.last_change {
                continue;
            }
            if let Err(error) = self.sync(&snapshot).await {
                tracing::warn!(pod = self.record.full_name(), %error, "failed to sync the Pod");
                tokio::time::sleep(RETRY_INTERVAL).await;
                self.last_change = Instant::now();
            }
        }
    }

    async fn sync(&mut self, snapshot: &RuntimeState) -> Result<(), CriError> {
        let sandboxes = plan::sandboxes(snapshot, &self.record.uid);
        let ready = sandboxes
            .iter()
            .find(|sandbox| sandbox.state() == cri::PodSandboxState::SandboxReady);
        let (runs, attempts) = self.runs(snapshot, ready.map(|sandbox| sandbox.id.as_str())).await?;
        let step = plan::next_action(manifest::pod_spec(&self.pod), ready.is_some(), &runs);
        self.publish(&runs, step.phase());
        let attempt = |name: &str| attempts.get(name).map_or(0, |attempt| attempt + 1);
        match step {
            NextAction::Nothing(_) => {}
            NextAction::CreateSandbox => {
                for stale in &sandboxes {
                    let message = cri::StopPodSandboxRequest {
                        pod_sandbox_id: stale.id.clone(),
                    };
                    self.cri.call(self.cri.timeout(), message).await?;
                }
                let next = sandboxes
                    .iter()
                    .filter_map(|stale| Some(stale.metadata.as_ref()?.attempt + 1))
                    .max();
                self.run_sandbox(next.unwrap_or(0)).await?;
            }
            NextAction::StartContainers(names) => {
                let sandbox = ready.expect("StartContainers requires a ready sandbox");
                let sandbox_attempt = sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
                for name in names {
                    if self.may_start(&name, runs.get(&name)) {
                        self.start(&sandbox.id, sandbox_attempt, &name, attempt(&name)).await;
                    }
                }
                self.publish(&runs, "Pending");
            }
        }
        Ok(())
    }

    async fn run_sandbox(&mut self, attempt: u32) -> Result<(), CriError> {
        let config = translate::sandbox(&self.config, &self.pod, attempt);
        // The log directory must exist before the sandbox runs.
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            tracing::warn!(pod = self.record.full_name(), %error, "failed to create the log directory of the Pod");
        }
        let message = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        self.cri.call(self.cri.timeout() * 2, message).await?;
        self.last_change = Instant::now();
        Ok(())
    }

    /// Starts one run. An error becomes the waiting reason of the container.
    async fn start(&mut self, sandbox: &str, sandbox_attempt: u32, name: &str, attempt: u32) {
        let Some(spec) = container(&self.pod, name) else { return };
        let now = Instant::now();
        let backoff = self.backoff.entry(name.to_owned()).or_insert(Backoff {
            starts: 0,
            stopped_at: now,
        });
        backoff.starts += 1;
        backoff.stopped_at = now;
        let started = container_start::start_container(
            &self.cri,
            &self.config,
            &self.pod,
            spec,
            sandbox,
            sandbox_attempt,
            attempt,
        );
        match started.await {
            Ok(()) => {
                self.waiting.remove(name);
            }
            Err(error) => {
                tracing::warn!(pod = self.record.full_name(), container = name, %error, "failed to start");
                self.waiting
                    .insert(name.to_owned(), (error.reason().to_owned(), error.to_string()));
            }
        }
        self.last_change = Instant::now();
    }

    /// Whether the back-off before the next start is over. The first restart has no back-off.
    fn may_start(&mut self, name: &str, container: Option<&pod_store::ContainerRuns>) -> bool {
        let Some(backoff) = self.backoff.get_mut(name) else {
            // An earlier kubelet started the existing runs. They count as one start.
            if container.is_some_and(|container| container.current.is_some()) {
                self.backoff.insert(
                    name.to_owned(),
                    Backoff {
                        starts: 1,
                        stopped_at: Instant::now(),
                    },
                );
            }
            return true;
        };
        let exit = container.and_then(|container| match &container.current.as_ref()?.state {
            RunState::Exited(exit) => Some(exit.clone()),
            _ => None,
        });
        let run_nanoseconds = exit.map_or(0, |exit| exit.finished_at.saturating_sub(exit.started_at));
        if Duration::from_nanos(run_nanoseconds.max(0).unsigned_abs()) > BACKOFF_RESET_AFTER {
            backoff.starts = 0;
        }
        let pause = match backoff.starts {
            0 | 1 => Duration::ZERO,
            starts => MAX_BACKOFF.min(self.config.restart_backoff.saturating_mul(1 << (starts - 2).min(16))),
        };
        if backoff.stopped_at.elapsed() >= pause {
            return true;
        }
        let message = format!(
            "back-off {pause:?} restarting failed container={name} pod={}",
            self.record.full_name()
        );
        self.waiting
            .entry(name.to_owned())
            .or_insert_with(|| ("CrashLoopBackOff".to_owned(), message));
        false
    }

    /// Returns the last two runs and the highest attempt of each container. A run in another sandbox than `sandbox` can
    /// only be the previous run.
    async fn runs(
        &mut self,
        snapshot: &RuntimeState,
        sandbox: Option<&str>,
    ) -> Result<(BTreeMap<String, pod_store::ContainerRuns>, HashMap<String, u32>), CriError> {
        let mut listed_containers = plan::containers(snapshot, &self.record.uid);
        let attempt = |container: &cri::Container| container.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        listed_containers.sort_by_key(|container| {
            (
                std::cmp::Reverse(attempt(container)),
                std::cmp::Reverse(container.created_at),
            )
        });
        let mut runs: BTreeMap<String, pod_store::ContainerRuns> = BTreeMap::new();
        let mut attempts = HashMap::new();
        for listed in listed_containers {
            let Some(name) = listed.labels.get(label::CONTAINER_NAME) else {
                continue;
            };
            attempts.entry(name.clone()).or_insert_with(|| attempt(listed));
            let in_sandbox = sandbox.is_none_or(|sandbox| sandbox == listed.pod_sandbox_id);
            let slot = runs.entry(name.clone()).or_default();
            if slot.current.is_some() && slot.previous.is_some() {
                self.remove_run(listed).await?;
                continue;
            }
            let Some(run) = self.run_of(listed, name).await? else {
                continue;
            };
            if slot.current.is_none() && in_sandbox {
                slot.current = Some(run);
            } else if slot.previous.is_none() {
                slot.previous = Some(run);
            }
        }
        for (name, slot) in &mut runs {
            // A running container waits for nothing.
            if slot
                .current
                .as_ref()
                .is_some_and(|run| matches!(run.state, RunState::Running(_)))
            {
                self.waiting.remove(name);
                self.backoff
                    .entry(name.clone())
                    .and_modify(|backoff| backoff.stopped_at = Instant::now());
            }
        }
        Ok((runs, attempts))
    }

    /// Removes an exited run beyond the two that the kubelet keeps: the current and the previous one.
    async fn remove_run(&mut self, listed: &cri::Container) -> Result<(), CriError> {
        if listed.state() == cri::ContainerState::ContainerExited {
            let message = cri::RemoveContainerRequest {
                container_id: listed.id.clone(),
            };
            self.cri.call(self.cri.timeout(), message).await?;
            self.known_runs.remove(&listed.id);
        }
        Ok(())
    }

    /// Returns a run with its status; `None` when the container no longer exists.
    async fn run_of(&mut self, listed: &cri::Container, name: &str) -> Result<Option<ContainerRun>, CriError> {
        if let Some(run) = self
            .known_runs
            .get(&listed.id)
            .filter(|run| run.state.matches(listed.state()))
        {
            return Ok(Some(run.clone()));
        }
        let message = cri::ContainerStatusRequest {
            container_id: listed.id.clone(),
            verbose: false,
        };
        let status = match self.cri.call(self.cri.timeout(), message).await {
            Ok(response) => response.status.unwrap_or_default(),
            Err(error) if error.code == tonic::Code::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let attempt = listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let log = translate::log_directory(&self.config, &self.pod).join(translate::log_path(name, attempt));
        let state = match status.state() {
            cri::ContainerState::ContainerCreated => RunState::Created,
            cri::ContainerState::ContainerRunning => RunState::Running(status.started_at),
            cri::ContainerState::ContainerExited | cri::ContainerState::ContainerUnknown => RunState::Exited(RunExit {
                code: status.exit_code,
                started_at: status.started_at,
                finished_at: status.finished_at,
                reason: status.reason,
                message: status.message,
            }),
        };
        let image = status.image.unwrap_or_default();
        let image_name = if image.user_specified_image.is_empty() {
            image.image
        } else {
            image.user_specified_image
        };
        let id = format!("{}://{}", self.runtime_name, listed.id);
        let run = ContainerRun {
            id,
            attempt,
            log,
            image: image_name,
            image_ref: status.image_ref,
            state,
        };
        self.known_runs.insert(listed.id.clone(), run.clone());
        Ok(Some(run))
    }

    fn publish(&self, runs: &BTreeMap<String, pod_store::ContainerRuns>, phase: &'static str) {
        let mut containers = runs.clone();
        for (name, waiting) in &self.waiting {
            containers.entry(name.clone()).or_default().waiting = Some(waiting.clone());
        }
        self.pods.update(&self.record.uid, phase, containers);
    }
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = manifest::pod_spec(pod);
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
}
