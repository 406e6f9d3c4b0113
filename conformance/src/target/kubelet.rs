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

use super::{Answer, Client, Credentials, Faults, Identity, TargetError, Workload, thaw::Watched, workload};
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
pub struct Neighbours {
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
pub enum Variation {
    /// As it should be for all cases but those about the others.
    Usual,
    /// The feature gate `ContainerCheckpoint` is off.
    GateOff,
    /// The feature gate `ContainerCheckpoint` is not named.
    GateDefault,
    /// `enableDebuggingHandlers` is false.
    DebuggingOff,
    /// `runtimeRequestTimeout` is [`SHORT_DEADLINE`].
    ShortDeadline,
}

impl Variation {
    /// Whether the endpoint is served, so that Pods are asked about.
    pub(super) fn serves(self) -> bool {
        matches!(
            self,
            Variation::Usual | Variation::GateDefault | Variation::ShortDeadline
        )
    }
}

/// The runtime's time for a call in [`Variation::ShortDeadline`]: short for a person, long for every call but a
/// checkpoint.
pub const SHORT_DEADLINE: Duration = Duration::from_secs(1);

/// What can be done to a kubelet that the harness started itself.
pub trait Steering: Send + Sync {
    /// Starts the kubelet again, configured so; returns a client for where it answers then. It returns when the kubelet
    /// serves, and where the endpoint is served when its Pods are known again.
    fn restart(&self, variation: Variation) -> BoxFuture<'_, Result<Client, TargetError>>;

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
    pub about: report::Target,
    /// The container that is checkpointed.
    pub subject: ContainerRef,
    /// Others beside it.
    pub neighbours: Neighbours,
    /// Its `checkpoints` folder, where that can be read from here.
    pub checkpoints: Option<PathBuf>,
    /// Whether the kubelet's paths are paths here.
    pub local: bool,
    /// Who owns archives when the runtime is not root's.
    pub owner: u32,
    /// The CRI timeout it was configured with, where that is known.
    pub default_timeout: Option<Duration>,
    /// fake-cri's control, where that is the runtime.
    pub faults: Option<Faults>,
    /// Restart and end, where the harness started it.
    pub steering: Option<Box<dyn Steering>>,
    /// Whether cases may load it on purpose: a kubelet that others use is loaded only where the user says so.
    pub load: bool,
    /// The node's name, where its static Pods are ours.
    pub node: Option<String>,
    /// The kubelet's log, where that can be read from here.
    pub log: Option<PathBuf>,
    /// Whether the API server's node proxy stands between: then it is the API server that authenticates and authorises.
    pub proxied: bool,
    client: tokio::sync::RwLock<Arc<Client>>,
    /// How it is configured now; none while it is restarted, and after a restart that failed or was cut short.
    variation: Mutex<Option<Variation>>,
    runtime_down: AtomicBool,
    archives: Mutex<BTreeSet<String>>,
    last: Mutex<HashMap<String, Timestamp>>,
    canaries: Mutex<BTreeSet<String>>,
    /// Its containers' processes, to be let go when they are left frozen.
    pub(super) watched: Watched,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

impl Kubelet {
    /// A kubelet of which nothing more is known than where it answers and what to checkpoint.
    pub fn new(about: report::Target, client: Client, subject: ContainerRef) -> Kubelet {
        Kubelet {
            about,
            subject,
            neighbours: Neighbours::default(),
            checkpoints: None,
            local: false,
            owner: 0,
            default_timeout: None,
            faults: None,
            steering: None,
            load: true,
            node: None,
            log: None,
            proxied: false,
            client: tokio::sync::RwLock::new(Arc::new(client)),
            variation: Mutex::new(Some(Variation::Usual)),
            runtime_down: AtomicBool::new(false),
            archives: Mutex::default(),
            last: Mutex::default(),
            canaries: Mutex::default(),
            watched: Watched::default(),
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
    pub async fn checkpoint(&self, container: &ContainerRef, query: &str) -> Result<Answer, TargetError> {
        self.checkpoint_as(Credentials::Good, container, query).await
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
    ) -> Result<Answer, TargetError> {
        let client = self.client().await;
        let url = client.checkpoint_url(&container.namespace, &container.pod, &container.container, query);
        let answer = client.send(credentials, Method::POST, url).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(container.to_string(), Timestamp::now());
        drop(last);
        let answer = answer?;
        self.remember_items(&answer);
        Ok(answer)
    }

    /// When a checkpoint of this container was last answered.
    pub fn last_checkpoint(&self, container: &ContainerRef) -> Option<Timestamp> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(&container.to_string()).copied()
    }

    /// Remembers the archives that an answer names, to be removed at the end.
    pub fn remember_items(&self, answer: &Answer) {
        #[derive(serde::Deserialize)]
        struct Items {
            items: Vec<String>,
        }
        if let Ok(Items { items }) = serde_json::from_str(&answer.body) {
            for item in items.into_iter().filter(|item| item.starts_with('/')) {
                self.remember(item);
            }
        }
    }

    /// Remembers an archive that this run caused.
    pub fn remember(&self, location: impl Into<String>) {
        self.lock_archives().insert(location.into());
    }

    /// Reads what the workload tells in its log.
    ///
    /// # Errors
    /// No answer, or another than 200.
    pub async fn workload(&self, container: &ContainerRef) -> Result<Workload, TargetError> {
        let client = self.client().await;
        let (namespace, pod) = (container.namespace.as_str(), container.pod.as_str());
        let url = client.url_of(["containerLogs", namespace, pod, &container.container]);
        let answer = client.send(Credentials::Good, Method::GET, url).await?;
        if answer.status != 200 {
            return Err(TargetError::NotReady(format!(
                "the log of {container} cannot be read: {}",
                answer.brief()
            )));
        }
        let workload = workload::parse(&answer.body);
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
    pub async fn restarts(&self, container: &ContainerRef) -> Result<Option<i32>, TargetError> {
        super::pod::restarts(&*self.client().await, container).await
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
        for identity in client.access().identities() {
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
        within: Duration,
        enough: impl Fn(&Workload) -> bool + Send,
    ) -> Result<Option<Workload>, TargetError> {
        // The kubelet's API has no event for a log line that a bounded wait could await; its own follow mode polls too.
        const POLL: Duration = Duration::from_millis(20);
        let began = Instant::now();
        loop {
            let workload = self.workload(container).await?;
            if enough(&workload) {
                return Ok(Some(workload));
            }
            if began.elapsed() > within {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Restarts the kubelet, configured so; `None` when it cannot be restarted from here.
    ///
    /// # Errors
    /// It does not come up again.
    pub async fn restart(&self, variation: Variation) -> Option<Result<(), TargetError>> {
        let steering = self.steering.as_deref()?;
        let note = |now| *self.variation.lock().unwrap_or_else(PoisonError::into_inner) = now;
        note(None);
        let mut client = self.client.write().await;
        let restarted = steering.restart(variation).await;
        Some(restarted.map(|restarted| {
            note(Some(variation));
            *client = Arc::new(restarted);
        }))
    }

    /// Sees to it that the kubelet runs with this configuration: restarts it where it does not; `None` where that cannot be done from
    /// here.
    ///
    /// # Errors
    /// It does not come up again.
    pub async fn configure(&self, variation: Variation) -> Option<Result<(), TargetError>> {
        self.steering.as_ref()?;
        let now = *self.variation.lock().unwrap_or_else(PoisonError::into_inner);
        if now == Some(variation) {
            return Some(Ok(()));
        }
        self.restart(variation).await
    }

    /// Kills the runtime; false when it is not ours.
    pub async fn kill_runtime(&self) -> bool {
        let Some(steering) = self.steering.as_deref() else {
            return false;
        };
        self.runtime_down.store(true, Ordering::SeqCst);
        steering.kill_runtime().await
    }

    /// Starts the runtime again that [`Self::kill_runtime`] killed.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart_runtime(&self) -> Result<(), TargetError> {
        if let Some(steering) = &self.steering {
            steering.restart_runtime().await?;
        }
        if let Some(faults) = &self.faults {
            // The rules went with the process that held them.
            faults.forget().await;
        }
        self.runtime_down.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Puts back what a case may have changed without a restart of the kubelet: the runtime, rules in force, containers that were left
    /// frozen.
    ///
    /// # Errors
    /// It cannot be put back.
    pub async fn restore(&self) -> Result<(), TargetError> {
        if self.runtime_down.load(Ordering::SeqCst) {
            self.restart_runtime().await?;
        }
        if let Some(faults) = &self.faults {
            faults.clear().await?;
        }
        self.thaw().await;
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
        // Only below the folder the user named as the kubelet's, and only by the names it gives: a kubelet that answers
        // with another file's path must not make us delete that.
        let Some(folder) = &self.checkpoints else { return false };
        let Some(name) = Path::new(location).file_name() else {
            return false;
        };
        let ours = name.to_string_lossy().starts_with("checkpoint-") && location.ends_with(".tar");
        ours && match std::fs::remove_file(folder.join(name)) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn lock_archives(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.archives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
