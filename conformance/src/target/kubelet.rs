//! A kubelet as the cases see it, wherever it comes from.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use reqwest::Method;

use super::{Answer, Client, Credentials, Faults, TargetError, Workload, workload};
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
}

/// The feature gate `ContainerCheckpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// As it should be for all cases but those about it.
    On,
    /// The endpoint is not served.
    Off,
}

/// What can be done to a kubelet that the harness started itself.
pub trait Steering: Send + Sync {
    /// Starts the kubelet again with the gate so; returns a client for where it answers then. It returns when the kubelet
    /// serves, and with the gate on when its Pods are known again.
    fn restart(&self, gate: Gate) -> BoxFuture<'_, Result<Client, TargetError>>;

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
    client: tokio::sync::RwLock<Arc<Client>>,
    gate: Mutex<Gate>,
    archives: Mutex<BTreeSet<String>>,
    canaries: Mutex<BTreeSet<String>>,
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
            client: tokio::sync::RwLock::new(Arc::new(client)),
            gate: Mutex::new(Gate::On),
            archives: Mutex::default(),
            canaries: Mutex::default(),
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
        let answer = client.send(credentials, Method::POST, url).await?;
        self.remember_items(&answer);
        Ok(answer)
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
        let mut url = client.url("");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend([
                "containerLogs",
                &container.namespace,
                &container.pod,
                &container.container,
            ]);
        }
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

    /// What was read of workloads' memory, for the reports to leave out.
    pub fn canaries(&self) -> Vec<String> {
        self.canaries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
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

    /// Switches the feature gate by a restart; `None` when this kubelet cannot be restarted from here.
    ///
    /// # Errors
    /// It does not come up again.
    pub async fn switch(&self, gate: Gate) -> Option<Result<(), TargetError>> {
        let steering = self.steering.as_deref()?;
        // Noted first: a restart that is cut short is made good by `restore`.
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = gate;
        let mut client = self.client.write().await;
        Some(
            steering
                .restart(gate)
                .await
                .map(|restarted| *client = Arc::new(restarted)),
        )
    }

    /// Puts back what a case may have changed: rules in force, the gate.
    ///
    /// # Errors
    /// It cannot be put back.
    pub async fn restore(&self) -> Result<(), TargetError> {
        if let Some(faults) = &self.faults {
            faults.clear().await?;
        }
        let gate = *self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if gate == Gate::Off
            && let Some(restarted) = self.switch(Gate::On).await
        {
            restarted?;
        }
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
