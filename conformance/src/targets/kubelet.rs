//! The kubelet under test as the cases use it, independent of how the harness reaches it.

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
use crate::{
    engine::{Capabilities, Capability},
    report,
};

/// A container as the checkpoint endpoint's path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name. A static Pod's name ends in the node's name.
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

    /// A fault rule that applies `effect` at `phase` of this container's checkpoints.
    pub fn fault_rule(&self, phase: &str, effect: &str) -> String {
        let ContainerRef {
            namespace,
            pod,
            container,
        } = self;
        format!("CheckpointContainer(namespace={namespace},pod={pod},container={container}):{phase}={effect}")
    }
}

impl std::fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

/// Other containers of the same Pod, as far as the harness knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiblingContainers {
    /// A running container.
    pub running: Option<ContainerRef>,
    /// A container that has exited and is not restarted.
    pub exited: Option<ContainerRef>,
    /// An init container that has completed.
    pub init: Option<ContainerRef>,
    /// A sidecar: an init container that keeps running.
    pub sidecar: Option<ContainerRef>,
    /// An ephemeral container, in any state.
    pub ephemeral: Option<ContainerRef>,
    /// A container in CrashLoopBackOff.
    pub restarting: Option<ContainerRef>,
    /// A container that the runtime has created and cannot start.
    pub created: Option<ContainerRef>,
}

/// Containers of other Pods with the name of the container under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesakePods {
    /// In another namespace, in a Pod of the same name.
    pub other_namespace: ContainerRef,
    /// In the same namespace, in a Pod of another name.
    pub other_pod: ContainerRef,
    /// In a Pod whose name has a dot and more than 63 characters.
    pub long_name: ContainerRef,
}

impl NamesakePods {
    /// All containers.
    pub fn iter(&self) -> impl Iterator<Item = &ContainerRef> {
        [&self.other_namespace, &self.other_pod, &self.long_name].into_iter()
    }
}

/// The configurations of a kubelet that the harness starts. All but [`KubeletConfig::Default`] change one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeletConfig {
    /// The configuration that most cases need.
    Default,
    /// The feature gate `ContainerCheckpoint` is off.
    GateOff,
    /// The feature gate `ContainerCheckpoint` is not in the configuration.
    GateDefault,
    /// `enableDebuggingHandlers` is false.
    DebuggingHandlersOff,
    /// `runtimeRequestTimeout` is [`SHORT_REQUEST_TIMEOUT`].
    ShortRequestTimeout,
    /// The kubelet's time zone has this offset from UTC, in seconds.
    TimeZone(i32),
}

impl KubeletConfig {
    /// Whether the kubelet serves the checkpoint endpoint, and so `/pods`.
    pub(super) fn serves_endpoint(self) -> bool {
        matches!(
            self,
            KubeletConfig::Default
                | KubeletConfig::GateDefault
                | KubeletConfig::ShortRequestTimeout
                | KubeletConfig::TimeZone(_)
        )
    }
}

/// The `runtimeRequestTimeout` of [`KubeletConfig::ShortRequestTimeout`]. All calls but a checkpoint finish well within
/// this time.
pub const SHORT_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Control of a kubelet that the harness started.
pub trait Lifecycle: Send + Sync {
    /// Restarts the kubelet with `config` and returns a client for its new address. Returns once the kubelet serves
    /// and, if `config` serves the checkpoint endpoint, once the container under test is running again.
    fn restart(&self, config: KubeletConfig) -> BoxFuture<'_, Result<Client, TargetError>>;

    /// Whether the harness started the runtime.
    fn owns_runtime(&self) -> BoxFuture<'_, bool>;

    /// Kills the runtime. Its containers keep running. Returns false if the harness did not start the runtime.
    fn kill_runtime(&self) -> BoxFuture<'_, bool>;

    /// Starts the runtime again after [`Self::kill_runtime`]. Does nothing if the runtime is running.
    fn restart_runtime(&self) -> BoxFuture<'_, Result<(), TargetError>>;

    /// Stops every process that the harness started and removes every file that it created.
    fn shutdown(&self) -> BoxFuture<'_, Result<(), TargetError>>;
}

/// The kubelet under test.
pub struct Kubelet {
    /// The description of the target in reports.
    pub target_info: report::TargetInfo,
    /// The container that most cases checkpoint.
    pub container_under_test: ContainerRef,
    /// Other containers of the same Pod.
    pub siblings: SiblingContainers,
    /// Containers of other Pods, if the harness has started them.
    pub namesakes: Option<NamesakePods>,
    /// The kubelet's `checkpoints` directory as a local path, if it is readable locally.
    pub checkpoints_dir: Option<PathBuf>,
    /// Whether paths that the kubelet returns are valid on this machine.
    pub paths_are_local: bool,
    /// The uid of the runtime, which may own the archives instead of root.
    pub archive_owner_uid: u32,
    /// The kubelet's configured `runtimeRequestTimeout`, if known.
    pub default_timeout: Option<Duration>,
    /// The control API, if the runtime is a fake-cri.
    pub fake_cri: Option<FakeCriControl>,
    /// Restart and shutdown, if the harness started the kubelet.
    pub lifecycle: Option<Box<dyn Lifecycle>>,
    /// Whether cases may put the kubelet under load. A kubelet that others use is loaded only if the user allows it.
    pub allow_load: bool,
    /// The node's name, if the harness owns the node's static Pods.
    pub node_name: Option<String>,
    /// The kubelet's log, if it is readable locally.
    pub kubelet_log: Option<PathBuf>,
    /// Whether requests go through the API server's node proxy. The API server then authenticates and authorises them.
    pub through_node_proxy: bool,
    client: tokio::sync::RwLock<Arc<Client>>,
    /// `None` during a restart, and after a restart that failed or was cancelled.
    config: Mutex<Option<KubeletConfig>>,
    runtime_down: AtomicBool,
    archives: Mutex<BTreeSet<String>>,
    last_checkpoints: Mutex<HashMap<String, Timestamp>>,
    canaries: Mutex<BTreeSet<String>>,
    /// The first processes of the containers, which the harness thaws if they are left frozen.
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
    /// A kubelet without optional capabilities.
    pub fn new(target_info: report::TargetInfo, client: Client, container_under_test: ContainerRef) -> Kubelet {
        Kubelet {
            target_info,
            container_under_test,
            siblings: SiblingContainers::default(),
            namesakes: None,
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

    /// The client for the kubelet's current address.
    pub async fn client(&self) -> Arc<Client> {
        Arc::clone(&*self.client.read().await)
    }

    /// Requests a checkpoint as [`Credentials::Authorized`].
    ///
    /// # Errors
    /// As [`Self::checkpoint_as`].
    pub async fn checkpoint(&self, container: &ContainerRef, query: &str) -> Result<HttpResponse, TargetError> {
        self.checkpoint_as(Credentials::Authorized, container, query).await
    }

    /// Requests a checkpoint and remembers the archives that the response names.
    ///
    /// # Errors
    /// The kubelet does not respond.
    pub async fn checkpoint_as(
        &self,
        credentials: Credentials,
        container: &ContainerRef,
        query: &str,
    ) -> Result<HttpResponse, TargetError> {
        let client = self.client().await;
        let url = client.checkpoint_url(container, query);
        let response = client.send(credentials, Method::POST, url).await;
        let mut last_checkpoints = self.last_checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        last_checkpoints.insert(container.to_string(), Timestamp::now());
        drop(last_checkpoints);
        let response = response?;
        self.remember_archives(&response);
        Ok(response)
    }

    /// When the last checkpoint request for this container ended.
    pub fn last_checkpoint(&self, container: &ContainerRef) -> Option<Timestamp> {
        let last_checkpoints = self.last_checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        last_checkpoints.get(&container.to_string()).copied()
    }

    /// Remembers the archives that a response names, for [`Self::remove_archives`].
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

    /// Remembers an archive that this run created, for [`Self::remove_archives`].
    pub fn remember_archive(&self, location: impl Into<String>) {
        self.lock_archives().insert(location.into());
    }

    /// The locations of the archives that this run created, as far as they are known.
    pub fn remembered_archives(&self) -> BTreeSet<String> {
        self.lock_archives().clone()
    }

    /// Reads and parses the workload's log.
    ///
    /// # Errors
    /// The kubelet does not respond, or responds with a status other than 200.
    pub async fn workload(&self, container: &ContainerRef) -> Result<Workload, TargetError> {
        let client = self.client().await;
        let (namespace, pod) = (container.namespace.as_str(), container.pod.as_str());
        let url = client.url_from_segments(["containerLogs", namespace, pod, &container.container]);
        let response = client.send(Credentials::Authorized, Method::GET, url).await?;
        if response.status != 200 {
            return Err(TargetError::NotReady(format!(
                "failed to read the log of {container}: {}",
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

    /// The restart count of a container in CrashLoopBackOff; `None` in any other state.
    ///
    /// # Errors
    /// The kubelet does not respond, or the body is not a list of Pods.
    pub async fn restart_count(&self, container: &ContainerRef) -> Result<Option<i32>, TargetError> {
        super::pod::restart_count(&*self.client().await, container).await
    }

    /// The canaries that were read from logs. Reports must not contain them.
    pub fn canaries(&self) -> Vec<String> {
        self.canaries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// The values that reports must not contain: private keys, tokens and canaries.
    pub async fn secrets(&self) -> report::Secrets {
        let mut secrets = report::Secrets::default();
        let client = self.client().await;
        for identity in client.endpoint().identities() {
            match identity {
                Identity::Certificate(pair) => secrets.add(&pair.key),
                Identity::Token(token) => secrets.add(token),
            }
        }
        for canary in self.canaries() {
            secrets.add(&canary);
        }
        secrets
    }

    /// Waits until `condition` holds for the workload; `None` if it does not within `timeout`.
    ///
    /// # Errors
    /// As [`Self::workload`].
    pub async fn workload_until(
        &self,
        container: &ContainerRef,
        timeout: Duration,
        condition: impl Fn(&Workload) -> bool + Send,
    ) -> Result<Option<Workload>, TargetError> {
        // The kubelet's API has no event for a new log line, and its follow mode polls as well.
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

    /// What the harness can do with this kubelet.
    pub async fn capabilities(&self) -> Capabilities {
        let client = self.client().await;
        let endpoint = client.endpoint();
        let identities = &endpoint.extra_identities;
        let owns_runtime = match &self.lifecycle {
            Some(lifecycle) => lifecycle.owns_runtime().await,
            None => false,
        };
        let sibling_capabilities = Capability::ALL
            .iter()
            .copied()
            .filter(|capability| self.sibling(*capability).is_some());
        sibling_capabilities
            .collect::<Capabilities>()
            .with(Capability::FakeCriControl, self.fake_cri.is_some())
            .with(Capability::ReadArchives, self.checkpoints_dir.is_some())
            .with(Capability::RestartKubelet, self.lifecycle.is_some())
            .with(Capability::RestartRuntime, owns_runtime)
            .with(Capability::DirectConnection, !self.through_node_proxy)
            .with(Capability::Load, self.allow_load)
            .with(
                Capability::BearerToken,
                identities.token_user.is_some() || matches!(endpoint.identity, Identity::Token(_)),
            )
            .with(Capability::DeniedUser, identities.denied_user.is_some())
            .with(Capability::NodeProxyUser, identities.node_proxy_user.is_some())
            .with(Capability::ClientAuthority, !identities.invalid_certificates.is_empty())
            .with(Capability::ReadOnlyPort, endpoint.read_only.is_some())
            .with(Capability::NamesakePods, self.namesakes.is_some())
            .with(Capability::StaticPod, self.static_pod_name().is_some())
    }

    /// The other container of the Pod that this capability is about, if there is one.
    pub fn sibling(&self, capability: Capability) -> Option<&ContainerRef> {
        let siblings = &self.siblings;
        match capability {
            Capability::SiblingContainer => siblings.running.as_ref(),
            Capability::ExitedContainer => siblings.exited.as_ref(),
            Capability::FinishedInitContainer => siblings.init.as_ref(),
            Capability::CreatedContainer => siblings.created.as_ref(),
            Capability::CrashLoopContainer => siblings.restarting.as_ref(),
            Capability::SidecarContainer => siblings.sidecar.as_ref(),
            Capability::EphemeralContainer => siblings.ephemeral.as_ref(),
            _ => None,
        }
    }

    /// The name in the manifest of the static Pod of the container under test: its full name without the node's name.
    pub fn static_pod_name(&self) -> Option<&str> {
        let short = self
            .container_under_test
            .pod
            .strip_suffix(self.node_name.as_ref()?.as_str())?;
        short.strip_suffix('-')
    }

    /// Restarts the kubelet with `config`; `None` if the harness did not start the kubelet.
    ///
    /// # Errors
    /// The kubelet does not start.
    pub async fn restart(&self, config: KubeletConfig) -> Option<Result<(), TargetError>> {
        let lifecycle = self.lifecycle.as_deref()?;
        let set_config = |now| *self.config.lock().unwrap_or_else(PoisonError::into_inner) = now;
        set_config(None);
        let mut client = self.client.write().await;
        let restarted = lifecycle.restart(config).await;
        Some(restarted.map(|restarted| {
            set_config(Some(config));
            *client = Arc::new(restarted.with_requests(client.requests().clone()));
        }))
    }

    /// Restarts the kubelet unless it already runs with `config`; `None` if the harness did not start the kubelet.
    ///
    /// # Errors
    /// The kubelet does not start.
    pub async fn configure(&self, config: KubeletConfig) -> Option<Result<(), TargetError>> {
        self.lifecycle.as_ref()?;
        let current = *self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if current == Some(config) {
            return Some(Ok(()));
        }
        self.restart(config).await
    }

    /// Kills the runtime. Returns false if the harness did not start the runtime.
    pub async fn kill_runtime(&self) -> bool {
        let Some(lifecycle) = self.lifecycle.as_deref() else {
            return false;
        };
        self.runtime_down.store(true, Ordering::SeqCst);
        lifecycle.kill_runtime().await
    }

    /// Starts the runtime again after [`Self::kill_runtime`].
    ///
    /// # Errors
    /// The runtime does not start.
    pub async fn restart_runtime(&self) -> Result<(), TargetError> {
        if let Some(lifecycle) = &self.lifecycle {
            lifecycle.restart_runtime().await?;
        }
        if let Some(fake_cri) = &self.fake_cri {
            // fake-cri holds fault rules in memory only: the killed process took them along.
            fake_cri.forget_rules().await;
        }
        self.runtime_down.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Resets the target after a case without a restart of the kubelet: restarts a killed runtime, removes fault rules,
    /// thaws frozen containers.
    ///
    /// # Errors
    /// The runtime does not start, or its control API fails.
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

    /// Removes the archives of this run as far as they are reachable, and returns the others.
    pub fn remove_archives(&self) -> Vec<String> {
        let archives = std::mem::take(&mut *self.lock_archives());
        archives
            .into_iter()
            .filter(|location| !self.remove_archive(location))
            .collect()
    }

    fn remove_archive(&self, location: &str) -> bool {
        // A kubelet that returns the path of another file must not make the harness delete that file. So only the file
        // name is used, in the directory that the user named, and only if the name has the form of a checkpoint
        // archive.
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
