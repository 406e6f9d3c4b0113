//! Runs the static Pods of a manifest directory through the CRI.
//!
//! ```text
//!  directory --rescan--> one worker per Pod <--state-- relist <-- runtime
//!                        |
//!                        '--> RunPodSandbox, PullImage, CreateContainer, StartContainer
//! ```
//!
//! A manifest that cannot be read is skipped with a warning. When a manifest is removed or changed, its Pod is stopped
//! and removed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::pod_store::PodStore;
use super::runtime_connection::{CriError, RuntimeConnection};
use worker::PodWorker;

mod container_start;
mod dns;
mod files;
mod manifest;
mod plan;
mod resources;
mod runtime_state;
pub(super) mod translate;
mod worker;

/// Runs one worker per manifest.
pub(super) struct Supervisor {
    config: Arc<Config>,
    cri: Arc<RuntimeConnection>,
    pods: Arc<PodStore>,
    path: PathBuf,
    runtime_name: String,
    states: watch::Receiver<Option<Arc<runtime_state::RuntimeState>>>,
    workers: BTreeMap<String, (Pod, CancellationToken)>,
    tasks: TaskTracker,
    manifest_errors: Vec<String>,
}

impl Supervisor {
    /// Reads the manifests once, so that their Pods are known before [`run`](Self::run) starts.
    pub(super) fn new(
        config: Arc<Config>,
        cri: Arc<RuntimeConnection>,
        pods: Arc<PodStore>,
        path: PathBuf,
        runtime_name: String,
        tasks: TaskTracker,
    ) -> Self {
        let (sender, snapshots) = watch::channel(None);
        tasks.spawn(runtime_state::poll(Arc::clone(&cri), config.relist_period, sender));
        let (workers, errors) = (BTreeMap::new(), Vec::new());
        let mut supervisor = Self {
            config,
            cri,
            pods,
            path,
            runtime_name,
            states: snapshots,
            workers,
            tasks,
            manifest_errors: errors,
        };
        supervisor.rescan();
        supervisor
    }

    /// Reads the manifests periodically until `stop`, then ends the workers and, if configured, removes the Pods.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let frequency = self.config.file_check_frequency;
        while !stop.is_cancelled() {
            if frequency.is_zero() {
                stop.cancelled().await;
            } else if stop.run_until_cancelled(tokio::time::sleep(frequency)).await.is_some() {
                self.rescan();
            }
        }
        let workers = std::mem::take(&mut self.workers);
        for (_, stopped) in workers.values() {
            stopped.cancel();
        }
        if self.config.remove_pods_at_shutdown {
            let removals = workers.into_values().map(|(pod, _)| {
                let (cri, config) = (Arc::clone(&self.cri), Arc::clone(&self.config));
                async move { remove_pod(&cri, &config, &pod, false).await }
            });
            futures_util::future::join_all(removals).await;
        }
    }

    fn rescan(&mut self) {
        let (manifests, errors) = manifest::load(&self.path, &self.config.node_name);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        if errors != self.manifest_errors {
            errors
                .iter()
                .for_each(|error| tracing::warn!(error, "skipped a manifest"));
            self.manifest_errors = errors;
        }
        let manifests: BTreeMap<_, _> = manifests
            .into_iter()
            .map(|pod| (pod.metadata.uid.clone().unwrap_or_default(), pod))
            .collect();
        let removed_uids: Vec<_> = self
            .workers
            .keys()
            .filter(|uid| !manifests.contains_key(*uid))
            .cloned()
            .collect();
        for uid in removed_uids {
            if let Some((pod, stopped)) = self.workers.remove(&uid) {
                stopped.cancel();
                self.pods.remove(&uid);
                let (cri, config) = (Arc::clone(&self.cri), Arc::clone(&self.config));
                self.tasks
                    .spawn(async move { remove_pod(&cri, &config, &pod, true).await });
            }
        }
        for (uid, pod) in manifests {
            if !self.workers.contains_key(&uid) {
                self.add(uid, pod);
            }
        }
    }

    fn add(&mut self, uid: String, pod: Pod) {
        let record = self.pods.add(pod.clone());
        let worker = PodWorker::new(
            Arc::clone(&self.config),
            Arc::clone(&self.cri),
            Arc::clone(&self.pods),
            pod.clone(),
            record,
            self.runtime_name.clone(),
        );
        let stopped = CancellationToken::new();
        let run = worker.run(self.states.clone());
        self.tasks.spawn(stopped.clone().run_until_cancelled_owned(run));
        self.workers.insert(uid, (pod, stopped));
    }
}

/// Removes the sandboxes and files of a Pod. Retries a few times when the runtime fails.
async fn remove_pod(cri: &RuntimeConnection, config: &Config, pod: &Pod, gracefully: bool) {
    for pause in [0, 200, 1000, 3000] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match try_remove_pod(cri, pod, gracefully).await {
            Ok(()) => {
                // Errors are ignored: only logs and mounted files can remain, the Pod itself is removed.
                let _ = std::fs::remove_dir_all(translate::log_directory(config, pod));
                let _ = std::fs::remove_dir_all(files::pod_dir(config, pod));
                return;
            }
            Err(error) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(pod = name, %error, "failed to remove the Pod");
            }
        }
    }
}

async fn try_remove_pod(cri: &RuntimeConnection, pod: &Pod, gracefully: bool) -> Result<(), CriError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let snapshot = runtime_state::list_all(cri).await?;
    if gracefully {
        let grace = translate::grace_period(manifest::pod_spec(pod));
        let deadline = cri.timeout() + Duration::from_secs(grace.unsigned_abs());
        let running = plan::containers(&snapshot, uid).into_iter();
        let running = running.filter(|container| container.state() == cri::ContainerState::ContainerRunning);
        let stops = running.map(|container| {
            let message = cri::StopContainerRequest {
                container_id: container.id.clone(),
                timeout: grace,
            };
            cri.call(deadline, message)
        });
        futures_util::future::try_join_all(stops).await?;
    }
    for sandbox in plan::sandboxes(&snapshot, uid) {
        let pod_sandbox_id = sandbox.id.clone();
        let message = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        cri.call(cri.timeout(), message).await?;
        cri.call(cri.timeout(), cri::RemovePodSandboxRequest { pod_sandbox_id })
            .await?;
    }
    Ok(())
}

/// Parses the YAML of a test.
#[cfg(test)]
pub(super) fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    let value: serde_json::Value = serde_yaml_ng::from_str(text).expect("valid YAML");
    serde_json::from_value(value).expect("YAML of the requested type")
}
