//! A kubelet as the cases see it, wherever it comes from.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::Method;

use super::{
    Client, Credentials, FakeCriControl, HttpResponse, Identity, TargetError, Workload, unfreeze::FrozenWatch, workload,
};
use crate::report;

/// Names a container as the endpoint's path does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name; a static Pod's ends in the node's.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

impl ContainerRef {
    /// Another container of the same Pod.
    pub fn sibling(&self, container: &str) -> ContainerRef {
        ContainerRef {
            container: container.to_owned(),
            ..self.clone()
        }
    }
}

impl std::fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

/// Other containers of the same Pod, where the harness made the Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiblingContainers {
    /// One that runs as well.
    pub running: Option<ContainerRef>,
    /// One that has exited and is not started again.
    pub exited: Option<ContainerRef>,
    /// An init container that has finished.
    pub init: Option<ContainerRef>,
    /// An init container that runs beside the others.
    pub sidecar: Option<ContainerRef>,
    /// An ephemeral container, of any state.
    pub ephemeral: Option<ContainerRef>,
    /// One that fails again and again, and waits to be started.
    pub restarting: Option<ContainerRef>,
    /// One that the runtime has created and cannot start.
    pub created: Option<ContainerRef>,
}

/// How a kubelet that the harness starts is configured: as the most cases need it, or with one thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeletConfig {
    /// As it should be for all cases but those about the others.
    Default,
    /// The feature gate `ContainerCheckpoint` is off.
    GateOff,
    /// The feature gate `ContainerCheckpoint` is not named.
    GateDefault,
    /// `enableDebuggingHandlers` is false.
    DebuggingHandlersOff,
    /// `runtimeRequestTimeout` is [`SHORT_REQUEST_TIMEOUT`].
    ShortRequestTimeout,
}

impl KubeletConfig {
    /// Whether the endpoint is served, so that Pods are asked about.
    pub(super) fn serves_endpoint(self) -> bool {
        matches!(
            self,
            KubeletConfig::Default | KubeletConfig::GateDefault | KubeletConfig::ShortRequestTimeout
        )
    }
}

/// The runtime's time for a call in [`KubeletConfig::ShortRequestTimeout`]: short for a person, long for every call but a
/// checkpoint.
pub const SHORT_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// What can be done to a kubelet that the harness started itself.
pub trait Lifecycle: Send + Sync {
    /// Starts the kubelet again, configured so; returns a client for where it answers then. It returns when the kubelet
    /// serves, and where the endpoint is served when its Pods are known again.
    fn restart(&self, config: KubeletConfig) -> BoxFuture<'_, Result<Client, TargetError>>;

    /// Kills the runtime, whose containers live on; false when the runtime is not ours.
    fn kill_runtime(&self) -> BoxFuture<'_, bool>;

    /// Starts the runtime again that was killed; nothing is done to one that runs.
    fn restart_runtime(&self) -> BoxFuture<'_, Result<(), TargetError>>;

    /// Stops all that was started and removes all that was made.
    fn shutdown(&self) -> BoxFuture<'_, Result<(), TargetError>>;
}

/// A kubelet that is judged.
pub struct Kubelet {
    /// What reports say of it.
    pub target_info: report::TargetInfo,
    /// The container that is checkpointed.
    pub container_under_test: ContainerRef,
    /// Others beside it.
    pub siblings: SiblingContainers,
    /// Its `checkpoints` directory, where that can be read from here.
    pub checkpoints_dir: Option<PathBuf>,
    /// Whether the kubelet's paths are paths here.
    pub paths_are_local: bool,
    /// Who owns archives when the runtime is not root's.
    pub archive_owner_uid: u32,
    /// The CRI timeout it was configured with, where that is known.
    pub default_timeout: Option<Duration>,
    /// fake-cri's control, where that is the runtime.
    pub fake_cri: Option<FakeCriControl>,
    /// Restart and end, where the harness started it.
    pub lifecycle: Option<Box<dyn Lifecycle>>,
    /// Whether cases may load it on purpose: a kubelet that others use is loaded only where the user says so.
    pub allow_load: bool,
    /// The node's name, where its static Pods are ours.
    pub node_name: Option<String>,
    /// The kubelet's log, where that can be read from here.
    pub kubelet_log: Option<PathBuf>,
    /// Whether the API server's node proxy stands between: then it is the API server that authenticates and authorises.
    pub through_node_proxy: bool,
    client: tokio::sync::RwLock<Arc<Client>>,
    /// How it is configured now; none while it is restarted, and after a restart that failed or was cut short.
    config: Mutex<Option<KubeletConfig>>,
    runtime_down: AtomicBool,
    archives: Mutex<BTreeSet<String>>,
    last_checkpoints: Mutex<HashMap<String, Timestamp>>,
    canaries: Mutex<BTreeSet<String>>,
    /// Its containers' processes, to be let go when they are left frozen.
    pub(super) frozen_watch: FrozenWatch,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet")
            .field("about", &self.target_info)
            .finish_non_exhaustive()
    }
}

impl Kubelet {
    /// A kubelet of which nothing more is known than where it answers and what to checkpoint.
    pub fn new(target_info: report::TargetInfo, client: Client, container_under_test: ContainerRef) -> Kubelet {
        Kubelet {
            target_info,
            container_under_test,
            siblings: SiblingContainers::default(),
            checkpoints_dir: None,
            paths_are_local: false,
            archive_owner_uid: 0,
            default_timeout: None,
            fake_cri: None,
            lifecycle: None,
            allow_load: true,
            node_name: None,
            kubelet_log: None,
            through_node_proxy: false,
            client: tokio::sync::RwLock::new(Arc::new(client)),
            config: Mutex::new(Some(KubeletConfig::Default)),
            runtime_down: AtomicBool::new(false),
            archives: Mutex::default(),
            last_checkpoints: Mutex::default(),
            canaries: Mutex::default(),
            frozen_watch: FrozenWatch::default(),
        }
    }

    /// The client for where it answers now.
    pub async fn client(&self) -> Arc<Client> {
        Arc::clone(&*self.client.read().await)
    }

    /// Asks for a checkpoint of a container, with good credentials. The archive that a success names is remembered.
    ///
    /// # Errors
    /// No answer.
    pub async fn checkpoint(&self, container: &ContainerRef, query: &str) -> Result<HttpResponse, TargetError> {
        self.checkpoint_as(Credentials::Authorized, container, query).await
    }

    /// Asks for a checkpoint with these credentials.
    ///
    /// # Errors
    /// No answer.
    pub async fn checkpoint_as(
        &self,
        credentials: Credentials,
        container: &ContainerRef,
        query: &str,
    ) -> Result<HttpResponse, TargetError> {
        let client = self.client().await;
        let url = client.checkpoint_url(&container.namespace, &container.pod, &container.container, query);
        let response = client.send(credentials, Method::POST, url).await;
        let mut last_checkpoints = self.last_checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        last_checkpoints.insert(container.to_string(), Timestamp::now());
        drop(last_checkpoints);
        let response = response?;
        self.remember_archives(&response);
        Ok(response)
    }

    /// When a checkpoint of this container was last answered.
    pub fn last_checkpoint(&self, container: &ContainerRef) -> Option<Timestamp> {
        let last_checkpoints = self.last_checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        last_checkpoints.get(&container.to_string()).copied()
    }

    /// Remembers the archives that an answer names, to be removed at the end.
    pub fn remember_archives(&self, response: &HttpResponse) {
        #[derive(serde::Deserialize)]
        struct Items {
            items: Vec<String>,
        }
        if let Ok(Items { items }) = serde_json::from_str(&response.body) {
            for item in items.into_iter().filter(|item| item.starts_with('/')) {
                self.remember_archive(item);
            }
        }
    }

    /// Remembers an archive that this run caused.
    pub fn remember_archive(&self, location: impl Into<String>) {
        self.lock_archives().insert(location.into());
    }

    /// Reads what the workload tells in its log.
    ///
    /// # Errors
    /// No answer, or another than 200.
    pub async fn workload(&self, container: &ContainerRef) -> Result<Workload, TargetError> {
        let client = self.client().await;
        let (namespace, pod) = (container.namespace.as_str(), container.pod.as_str());
        let url = client.url_from_segments(["containerLogs", namespace, pod, &container.container]);
        let response = client.send(Credentials::Authorized, Method::GET, url).await?;
        if response.status != 200 {
            return Err(TargetError::NotReady(format!(
                "the log of {container} cannot be read: {}",
                response.summary()
            )));
        }
        let workload = workload::parse(&response.body);
        if let Some(canary) = &workload.canary {
            self.canaries
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(canary.clone());
        }
        Ok(workload)
    }

    /// How often a container was started that waits to be started again; `None` when it does not wait.
    ///
    /// # Errors
    /// No answer, or a body that is no list of Pods.
    pub async fn restart_count(&self, container: &ContainerRef) -> Result<Option<i32>, TargetError> {
        super::pod::restart_count(&*self.client().await, container).await
    }

    /// What was read of workloads' memory, for the reports to leave out.
    pub fn canaries(&self) -> Vec<String> {
        self.canaries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// What no report may say: what proves who asks, and what was made in the container's memory.
    pub async fn secrets(&self) -> report::Secrets {
        let mut secrets = report::Secrets::default();
        let client = self.client().await;
        for identity in client.endpoint().identities() {
            match identity {
                Identity::Certificate { key, .. } => secrets.add(key),
                Identity::Token(token) => secrets.add(token),
            }
        }
        for canary in self.canaries() {
            secrets.add(&canary);
        }
        secrets
    }

    /// Waits until the workload's log fulfils this, and returns it as it then is; `None` when it does not in time.
    ///
    /// # Errors
    /// As [`Self::workload`].
    pub async fn workload_until(
        &self,
        container: &ContainerRef,
        timeout: Duration,
        condition: impl Fn(&Workload) -> bool + Send,
    ) -> Result<Option<Workload>, TargetError> {
        // The kubelet's API has no event for a log line that a bounded wait could await; its own follow mode polls too.
        const POLL_INTERVAL: Duration = Duration::from_millis(20);
        let started_at = Instant::now();
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

    /// Restarts the kubelet, configured so; `None` when it cannot be restarted from here.
    ///
    /// # Errors
    /// It does not come up again.
    pub async fn restart(&self, config: KubeletConfig) -> Option<Result<(), TargetError>> {
        let lifecycle = self.lifecycle.as_deref()?;
        let set_config = |now| *self.config.lock().unwrap_or_else(PoisonError::into_inner) = now;
        set_config(None);
        let mut client = self.client.write().await;
        let restarted = lifecycle.restart(config).await;
        Some(restarted.map(|restarted| {
            set_config(Some(config));
            *client = Arc::new(restarted);
        }))
    }

    /// Sees to it that the kubelet runs with this configuration: restarts it where it does not; `None` where that cannot be done from
    /// here.
    ///
    /// # Errors
    /// It does not come up again.
    pub async fn configure(&self, config: KubeletConfig) -> Option<Result<(), TargetError>> {
        self.lifecycle.as_ref()?;
        let current = *self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if current == Some(config) {
            return Some(Ok(()));
        }
        self.restart(config).await
    }

    /// Kills the runtime; false when it is not ours.
    pub async fn kill_runtime(&self) -> bool {
        let Some(lifecycle) = self.lifecycle.as_deref() else {
            return false;
        };
        self.runtime_down.store(true, Ordering::SeqCst);
        lifecycle.kill_runtime().await
    }

    /// Starts the runtime again that [`Self::kill_runtime`] killed.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart_runtime(&self) -> Result<(), TargetError> {
        if let Some(lifecycle) = &self.lifecycle {
            lifecycle.restart_runtime().await?;
        }
        if let Some(fake_cri) = &self.fake_cri {
            // The rules went with the process that held them.
            fake_cri.forget_rules().await;
        }
        self.runtime_down.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Puts back what a case may have changed without a restart of the kubelet: the runtime, rules in force, containers that were left
    /// frozen.
    ///
    /// # Errors
    /// It cannot be put back.
    pub async fn reset(&self) -> Result<(), TargetError> {
        if self.runtime_down.load(Ordering::SeqCst) {
            self.restart_runtime().await?;
        }
        if let Some(fake_cri) = &self.fake_cri {
            fake_cri.clear_rules().await?;
        }
        self.unfreeze_all().await;
        Ok(())
    }

    /// Removes the archives that this run caused, where they can be reached; returns those that are left.
    pub fn remove_archives(&self) -> Vec<String> {
        let archives = std::mem::take(&mut *self.lock_archives());
        archives
            .into_iter()
            .filter(|location| !self.remove_archive(location))
            .collect()
    }

    fn remove_archive(&self, location: &str) -> bool {
        // Only below the directory the user named as the kubelet's, and only by the names it gives: a kubelet that answers
        // with another file's path must not make us delete that.
        let Some(checkpoints_dir) = &self.checkpoints_dir else {
            return false;
        };
        let Some(name) = Path::new(location).file_name() else {
            return false;
        };
        let is_checkpoint_archive = name.to_string_lossy().starts_with("checkpoint-") && location.ends_with(".tar");
        is_checkpoint_archive
            && match std::fs::remove_file(checkpoints_dir.join(name)) {
                Ok(()) => true,
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            }
    }

    fn lock_archives(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.archives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
