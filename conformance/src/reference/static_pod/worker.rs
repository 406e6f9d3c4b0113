//! One static Pod, kept as its manifest wants it.
//!
//! ```text
//!  snapshot -> what runs, what ended        (statuses of what is new are asked for)
//!           -> sandbox there and ready?     no: a new one, with the next attempt
//!           -> init containers, in order    one at a time, until each has ended well
//!           -> containers                   started; again by restartPolicy, after a pause that doubles
//! ```
//!
//! Every step that fails is tried again after its pause; the status says why meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;

use super::super::Config;
use super::super::cri::{Cri, CriError};
use super::super::pod::{self, Exit, KnownPod, Pods, Run, RunState, label};
use super::plan::{self, Step};
use super::relist::Snapshot;
use super::{manifest, start, translate};

/// The longest pause before a container is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A container that ran this long has earned a restart without a pause.
const FORGIVEN: Duration = Duration::from_secs(600);
/// The pause after a call that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps one Pod.
pub(super) struct Worker {
    pub(super) config: Arc<Config>,
    pub(super) cri: Arc<Cri>,
    pub(super) pods: Arc<Pods>,
    pub(super) pod: Pod,
    pub(super) known: KnownPod,
    pub(super) runtime_name: String,
    /// The runs whose status was asked for: it is asked for again when their state changes.
    seen: HashMap<String, Run>,
    waiting: BTreeMap<String, (String, String)>,
    backoff: HashMap<String, Backoff>,
    /// Snapshots from before our last change are of no use.
    changed: Instant,
}

#[derive(Debug)]
struct Backoff {
    starts: u32,
    /// Since when the container is not running.
    since: Instant,
}

impl Worker {
    pub(super) fn new(
        config: Arc<Config>,
        cri: Arc<Cri>,
        pods: Arc<Pods>,
        pod: Pod,
        known: KnownPod,
        runtime_name: String,
    ) -> Self {
        let changed = Instant::now();
        let (seen, waiting, backoff) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Self {
            config,
            cri,
            pods,
            pod,
            known,
            runtime_name,
            seen,
            waiting,
            backoff,
            changed,
        }
    }

    /// Keeps the Pod until the snapshots end.
    pub(super) async fn run(mut self, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>) {
        while snapshots.changed().await.is_ok() {
            let Some(snapshot) = snapshots.borrow_and_update().clone() else {
                continue;
            };
            if snapshot.taken < self.changed {
                continue;
            }
            if let Err(error) = self.sync(&snapshot).await {
                tracing::warn!(pod = self.known.full_name(), %error, "failed to bring the Pod forward");
                tokio::time::sleep(RETRY).await;
                self.changed = Instant::now();
            }
        }
    }

    /// Takes the next step, if there is one.
    async fn sync(&mut self, snapshot: &Snapshot) -> Result<(), CriError> {
        let sandboxes = plan::sandboxes(snapshot, &self.known.uid);
        let ready = sandboxes
            .iter()
            .find(|sandbox| sandbox.state() == cri::PodSandboxState::SandboxReady);
        let (runs, attempts) = self.runs(snapshot, ready.map(|sandbox| sandbox.id.as_str())).await?;
        let step = plan::next(manifest::spec(&self.pod), ready.is_some(), &runs);
        self.publish(&runs, step.phase());
        let attempt = |name: &str| attempts.get(name).map_or(0, |attempt| attempt + 1);
        match step {
            Step::Nothing(_) => {}
            Step::Sandbox => {
                for old in &sandboxes {
                    let message = cri::StopPodSandboxRequest {
                        pod_sandbox_id: old.id.clone(),
                    };
                    self.cri.stop_pod_sandbox(self.cri.timeout(), message).await?;
                }
                let next = sandboxes
                    .iter()
                    .filter_map(|old| Some(old.metadata.as_ref()?.attempt + 1))
                    .max();
                self.run_sandbox(next.unwrap_or(0)).await?;
            }
            Step::Start(names) => {
                let sandbox = ready.expect("containers are started only in a sandbox that is ready");
                let number = sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
                for name in names {
                    if self.may_start(&name, runs.get(&name)) {
                        self.start(&sandbox.id, number, &name, attempt(&name)).await;
                    }
                }
                self.publish(&runs, "Pending");
            }
        }
        Ok(())
    }

    async fn run_sandbox(&mut self, attempt: u32) -> Result<(), CriError> {
        let config = translate::sandbox(&self.config, &self.pod, attempt);
        if let Err(error) = start::folders(&self.config, &self.pod) {
            tracing::warn!(pod = self.known.full_name(), %error, "failed to make the Pod's folders");
        }
        let runtime_handler = manifest::spec(&self.pod).runtime_class_name.clone().unwrap_or_default();
        let message = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler,
        };
        self.cri.run_pod_sandbox(self.cri.timeout() * 2, message).await?;
        self.changed = Instant::now();
        Ok(())
    }

    /// Starts one run; what goes wrong becomes what the container waits for.
    async fn start(&mut self, sandbox: &str, sandbox_attempt: u32, name: &str, attempt: u32) {
        let Some(spec) = container(&self.pod, name) else { return };
        let now = Instant::now();
        let backoff = self
            .backoff
            .entry(name.to_owned())
            .or_insert(Backoff { starts: 0, since: now });
        backoff.starts += 1;
        backoff.since = now;
        let started = start::container(
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
                tracing::warn!(pod = self.known.full_name(), container = name, %error, "failed to start");
                self.waiting
                    .insert(name.to_owned(), (error.reason().to_owned(), error.to_string()));
            }
        }
        self.changed = Instant::now();
    }

    /// Whether the pause before the next start is over; the first restart needs none.
    fn may_start(&mut self, name: &str, container: Option<&pod::Container>) -> bool {
        let Some(backoff) = self.backoff.get_mut(name) else {
            // Its earlier runs are another kubelet's: they count as one.
            if container.is_some_and(|container| container.current.is_some()) {
                self.backoff.insert(
                    name.to_owned(),
                    Backoff {
                        starts: 1,
                        since: Instant::now(),
                    },
                );
            }
            return true;
        };
        let exit = container.and_then(|container| match &container.current.as_ref()?.state {
            RunState::Exited(exit) => Some(exit.clone()),
            _ => None,
        });
        let ran = exit.map_or(0, |exit| exit.finished_at.saturating_sub(exit.started_at));
        if Duration::from_nanos(ran.max(0).unsigned_abs()) > FORGIVEN {
            backoff.starts = 0;
        }
        let pause = match backoff.starts {
            0 | 1 => Duration::ZERO,
            starts => LONGEST_PAUSE.min(self.config.restart_backoff.saturating_mul(1 << (starts - 2).min(16))),
        };
        if backoff.since.elapsed() >= pause {
            return true;
        }
        let message = format!(
            "back-off {pause:?} restarting failed container={name} pod={}",
            self.known.full_name()
        );
        self.waiting
            .entry(name.to_owned())
            .or_insert_with(|| ("CrashLoopBackOff".to_owned(), message));
        false
    }

    /// The last two runs of each container, and the highest attempt of each. Of a container in a sandbox that is gone only
    /// the attempt counts.
    async fn runs(
        &mut self,
        snapshot: &Snapshot,
        sandbox: Option<&str>,
    ) -> Result<(BTreeMap<String, pod::Container>, HashMap<String, u32>), CriError> {
        let mut found = plan::containers(snapshot, &self.known.uid);
        let attempt = |container: &cri::Container| container.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        found.sort_by_key(|container| {
            (
                std::cmp::Reverse(attempt(container)),
                std::cmp::Reverse(container.created_at),
            )
        });
        let mut runs: BTreeMap<String, pod::Container> = BTreeMap::new();
        let mut attempts = HashMap::new();
        for listed in found {
            let Some(name) = listed.labels.get(label::CONTAINER_NAME) else {
                continue;
            };
            attempts.entry(name.clone()).or_insert_with(|| attempt(listed));
            let here = sandbox.is_none_or(|sandbox| sandbox == listed.pod_sandbox_id);
            let slot = runs.entry(name.clone()).or_default();
            if slot.current.is_some() && slot.previous.is_some() {
                self.forget(listed).await?;
                continue;
            }
            let Some(run) = self.run_of(listed, name).await? else {
                continue;
            };
            if slot.current.is_none() && here {
                slot.current = Some(run);
            } else if slot.previous.is_none() {
                slot.previous = Some(run);
            }
        }
        for (name, slot) in &mut runs {
            // A run that lives is what the container is; it waits for nothing.
            if slot
                .current
                .as_ref()
                .is_some_and(|run| matches!(run.state, RunState::Running(_)))
            {
                self.waiting.remove(name);
                self.backoff
                    .entry(name.clone())
                    .and_modify(|backoff| backoff.since = Instant::now());
            }
        }
        Ok((runs, attempts))
    }

    /// Removes a run of which nobody will ask any more: the kubelet keeps one that has ended beside the current one.
    async fn forget(&mut self, listed: &cri::Container) -> Result<(), CriError> {
        if listed.state() == cri::ContainerState::ContainerExited {
            let message = cri::RemoveContainerRequest {
                container_id: listed.id.clone(),
            };
            self.cri.remove_container(self.cri.timeout(), message).await?;
            self.seen.remove(&listed.id);
        }
        Ok(())
    }

    /// One run with its status; none when it has gone meanwhile.
    async fn run_of(&mut self, listed: &cri::Container, name: &str) -> Result<Option<Run>, CriError> {
        if let Some(run) = self.seen.get(&listed.id).filter(|run| run.state.is(listed.state())) {
            return Ok(Some(run.clone()));
        }
        let message = cri::ContainerStatusRequest {
            container_id: listed.id.clone(),
            verbose: false,
        };
        let status = match self.cri.container_status(self.cri.timeout(), message).await {
            Ok(response) => response.status.unwrap_or_default(),
            Err(error) if error.code == tonic::Code::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let attempt = listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let log = translate::log_directory(&self.config, &self.pod).join(translate::log_path(name, attempt));
        let state = match status.state() {
            cri::ContainerState::ContainerCreated => RunState::Created,
            cri::ContainerState::ContainerRunning => RunState::Running(status.started_at),
            cri::ContainerState::ContainerExited | cri::ContainerState::ContainerUnknown => RunState::Exited(Exit {
                code: status.exit_code,
                started_at: status.started_at,
                finished_at: status.finished_at,
                reason: status.reason,
                message: status.message,
            }),
        };
        let image = status.image.unwrap_or_default();
        let spoken = if image.user_specified_image.is_empty() {
            image.image
        } else {
            image.user_specified_image
        };
        let id = format!("{}://{}", self.runtime_name, listed.id);
        let run = Run {
            id,
            attempt,
            log,
            image: spoken,
            image_ref: status.image_ref,
            state,
        };
        self.seen.insert(listed.id.clone(), run.clone());
        Ok(Some(run))
    }

    fn publish(&self, runs: &BTreeMap<String, pod::Container>, phase: &'static str) {
        let mut containers = runs.clone();
        for (name, waiting) in &self.waiting {
            containers.entry(name.clone()).or_default().waiting = Some(waiting.clone());
        }
        self.pods.update(&self.known.uid, phase, containers);
    }
}

/// A container or init container of that name.
fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = manifest::spec(pod);
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
}
