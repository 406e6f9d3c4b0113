//! Creates Pods and containers.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use cri_proto::{
    document::BindMount,
    runtime::v1::{CreateContainerRequest, Mount, PodSandboxConfig, RunPodSandboxRequest, StartContainerRequest},
};
use k8s_openapi::{
    api::core::v1::{self as core, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    CALL_TIMEOUT, ContainerHandle, ContainerOptions, PodHandle, RUN_LABEL, Runtime, TrackedObject, WorkloadProgram,
    call, container::ContainerInner,
};
use crate::{
    evidence::{EvidenceKind, record},
    reference_kubelet::{LocalImage, PodRequests},
    targets::{TargetError, Workload},
};

pub(super) const NAMESPACE: &str = "checkpoint-conformance";
/// The namespace of Pods whose RunPodSandbox call is retried. A runtime mutant applies to this namespace only.
pub(super) const RETRY_NAMESPACE: &str = "checkpoint-conformance-retry";
/// The time limit for a workload's first output, with a few hundred MiB to fill on a busy machine.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(15);

impl Runtime {
    /// Creates and starts a container, and waits for its canary and first heartbeat.
    ///
    /// # Errors
    /// A CRI call fails, or the workload does not start in time.
    pub async fn run_container(&self, options: ContainerOptions) -> Result<ContainerHandle, TargetError> {
        self.run_program(self.program, options).await
    }

    /// Creates a container without starting it.
    ///
    /// # Errors
    /// A CRI call fails.
    pub async fn create_container(&self, options: ContainerOptions) -> Result<ContainerHandle, TargetError> {
        self.create_with(self.program, options).await
    }

    /// Creates a container that restores this archive, in a separate Pod, without starting it. The archive's path is
    /// the image name. The request contains the archive's bind mounts in addition to those of a kubelet: CRI-O refuses
    /// an archive with a mount that the request does not contain.
    ///
    /// # Errors
    /// A CRI call fails.
    pub async fn create_from_archive(
        &self,
        archive: &Path,
        mounts: &[BindMount],
    ) -> Result<ContainerHandle, TargetError> {
        let options = ContainerOptions::new().separate_pod().restored_from(archive, mounts);
        self.create_with(self.program, options).await
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// The call fails.
    pub async fn start_container(&self, container: &ContainerHandle) -> Result<(), TargetError> {
        let message = StartContainerRequest {
            container_id: container.id().to_owned(),
        };
        call(&self.cri, CALL_TIMEOUT, message).await?;
        Ok(())
    }

    pub(super) async fn run_program(
        &self,
        program: WorkloadProgram,
        options: ContainerOptions,
    ) -> Result<ContainerHandle, TargetError> {
        let container = self.create_with(program, options).await?;
        self.start_container(&container).await?;
        let is_ready = |workload: &Workload| workload.canary.is_some() && workload.heartbeat > 0;
        let started = self.workload_until(&container, STARTUP_TIMEOUT, is_ready).await?;
        let Some(started) = started else {
            return Err(self.startup_error(&container).await);
        };
        // No other handle exists yet, so this is the first `set`.
        let _ = container.0.initial_workload.set(started);
        record(EvidenceKind::Note, || {
            let pid = container.initial_workload().pid;
            let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
            format!("{container}: container {}, pid in its namespace: {pid}", container.id())
        });
        Ok(container)
    }

    async fn create_with(
        &self,
        program: WorkloadProgram,
        options: ContainerOptions,
    ) -> Result<ContainerHandle, TargetError> {
        let annotation = options.freeze_delay.map(|time| {
            let rule = format!("CheckpointContainer(nth=1):capture=delay({}ms)", time.as_millis());
            (fake_cri::fault::FAULT_ANNOTATION.to_owned(), rule)
        });
        let pod = match options.pod {
            Some(pod) => pod,
            None if options.separate_pod => self.run_pod(annotation.into_iter().collect()).await?,
            None => {
                let shared_pod = self.shared_pod.get_or_try_init(|| self.run_pod(HashMap::new()));
                Arc::clone(shared_pod.await?)
            }
        };
        let name = format!("c{}", self.serial());
        let image = match &options.archive {
            Some(archive) => LocalImage {
                reference: archive.to_string_lossy().into_owned(),
                ..LocalImage::default()
            },
            None => self.image.clone(),
        };
        let container = core::Container {
            name: name.clone(),
            image: Some(match &options.archive {
                Some(archive) => archive.to_string_lossy().into_owned(),
                None => self.image_name.clone(),
            }),
            command: Some(program.command(&options.workload_args)),
            env: Some(options.env.iter().map(env_var).collect()),
            ..core::Container::default()
        };
        let mut config = pod
            .requests
            .container(&container, &image)
            .map_err(TargetError::file(self.shared_dir()))?;
        for mount in &options.mounts {
            if !config
                .mounts
                .iter()
                .any(|mounted| mounted.container_path == mount.destination)
            {
                config.mounts.push(Mount {
                    container_path: mount.destination.clone(),
                    host_path: mount.source.clone(),
                    ..Mount::default()
                });
            }
        }
        config.labels.insert(RUN_LABEL.to_owned(), self.run_id.clone());
        if let Some(delay) = options.exec_delay {
            let delay = format!("{}ms", delay.as_millis());
            config.annotations.insert("fake-cri.dev/exec-delay".to_owned(), delay);
        }
        let message = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let created = call(&self.cri, CALL_TIMEOUT, message);
        let container = ContainerHandle(Arc::new(ContainerInner {
            id: created.await?.container_id,
            log_path: pod.requests.log(&name),
            name,
            pod,
            initial_workload: OnceLock::new(),
            active_checkpoints: 0.into(),
        }));
        self.track(&container);
        Ok(container)
    }

    async fn run_pod(&self, annotations: HashMap<String, String>) -> Result<Arc<PodHandle>, TargetError> {
        let (requests, config) = self.pod_config(NAMESPACE, annotations)?;
        let id = self.run_sandbox(&config, CALL_TIMEOUT).await?;
        let pod = Arc::new(PodHandle { id, config, requests });
        let mut tracked = self.tracked.lock().unwrap_or_else(PoisonError::into_inner);
        tracked.push(TrackedObject::Pod(pod.id.clone(), Arc::downgrade(&pod)));
        drop(tracked);
        Ok(pod)
    }

    /// The configuration of a Pod of this run with a unique name. Creates the directories that the Pod needs.
    pub(super) fn pod_config(
        &self,
        namespace: &str,
        annotations: HashMap<String, String>,
    ) -> Result<(PodRequests, PodSandboxConfig), TargetError> {
        let archives = self.shared_dir().join("archives");
        std::fs::create_dir_all(&archives).map_err(TargetError::file(&archives))?;
        let pod = core::Pod {
            metadata: ObjectMeta {
                name: Some(format!("conformance-{}-{}", self.run_id, self.serial())),
                namespace: Some(namespace.to_owned()),
                uid: Some(format!("{:032x}", rand::random::<u128>())),
                labels: Some(BTreeMap::from([(RUN_LABEL.to_owned(), self.run_id.clone())])),
                annotations: Some(annotations.into_iter().collect()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                // No CNI plugin is needed, and a checkpoint contains no network namespace.
                host_network: Some(true),
                ..PodSpec::default()
            }),
            status: None,
        };
        let requests = PodRequests::new(self.shared_dir(), pod);
        let config = requests.sandbox().map_err(TargetError::file(self.shared_dir()))?;
        Ok((requests, config))
    }

    pub(super) async fn run_sandbox(
        &self,
        config: &PodSandboxConfig,
        timeout: Duration,
    ) -> Result<String, TargetError> {
        let message = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: self.handler.clone(),
        };
        let created = call(&self.cri, timeout, message);
        Ok(created.await?.pod_sandbox_id)
    }

    fn track(&self, container: &ContainerHandle) {
        let mut tracked = self.tracked.lock().unwrap_or_else(PoisonError::into_inner);
        tracked.push(TrackedObject::Container(
            container.id().to_owned(),
            Arc::downgrade(&container.0),
        ));
    }

    /// The error for a workload without output: the container's state and the end of its log.
    async fn startup_error(&self, container: &ContainerHandle) -> TargetError {
        let state = match self.status(container).await {
            Ok(status) => format!(
                "{}, exit code {}, {} {}",
                status.state().as_str_name(),
                status.exit_code,
                status.reason,
                status.message
            ),
            Err(error) => error.to_string(),
        };
        let log = container.log_path();
        let log_tail = match std::fs::read_to_string(log) {
            Ok(text) => text.lines().last().unwrap_or("nothing").to_owned(),
            Err(error) => format!(
                "{error}; the runtime and the harness must see the same directory, see --work-dir: {}",
                log.display()
            ),
        };
        TargetError::NotReady(format!(
            "the workload of {container} did not come up within {} s: {}; its log: {log_tail}",
            STARTUP_TIMEOUT.as_secs(),
            state.trim_end()
        ))
    }
}

fn env_var((name, value): &(String, String)) -> core::EnvVar {
    core::EnvVar {
        name: name.clone(),
        value: Some(value.clone()),
        ..core::EnvVar::default()
    }
}
