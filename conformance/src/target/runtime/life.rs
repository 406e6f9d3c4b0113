//! Makes Pods and containers.

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
    ANSWER_WITHIN, Container, ContainerOptions, Made, Pod, Program, RUN_LABEL, Runtime, call, container::Inner,
};
use crate::{
    exhibit::{ExhibitKind, show},
    reference::{LocalImage, PodRequests},
    target::{TargetError, Workload},
};

/// The namespace of the Pods of all runs.
pub(super) const NAMESPACE: &str = "checkpoint-conformance";
/// The namespace of Pods whose sandbox is asked for again: a mutant is about these.
pub(super) const RETRY_NAMESPACE: &str = "checkpoint-conformance-retry";
/// How long a workload may take to say that it is up, with a few hundred MiB to fill on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(15);

impl Runtime {
    /// Makes a container with its workload and waits until that has told its canary and its first tick.
    ///
    /// # Errors
    /// The runtime does not do it, or the workload does not come up.
    pub async fn container(&self, options: ContainerOptions) -> Result<Container, TargetError> {
        self.start(self.program, options).await
    }

    /// Makes a container and does not start it.
    ///
    /// # Errors
    /// The runtime does not do it.
    pub async fn created(&self, options: ContainerOptions) -> Result<Container, TargetError> {
        self.create(self.program, options).await
    }

    /// Makes a container that is to go on from this archive, by its path as the image, in a Pod of its own, and does not start
    /// it. The request has the bind mounts of the archive, beside those that a kubelet sends: CRI-O refuses an archive with a mount
    /// that the request does not have.
    ///
    /// # Errors
    /// The runtime does not do it.
    pub async fn created_from(&self, archive: &Path, mounts: &[BindMount]) -> Result<Container, TargetError> {
        let options = ContainerOptions::new().own_pod().archive(archive, mounts);
        self.create(self.program, options).await
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    /// The runtime does not do it.
    pub async fn start_created(&self, container: &Container) -> Result<(), TargetError> {
        let mut client = self.cri.runtime();
        let ask = StartContainerRequest {
            container_id: container.id().to_owned(),
        };
        call("StartContainer", ANSWER_WITHIN, ask, |request| async move {
            client.start_container(request).await
        })
        .await?;
        Ok(())
    }

    pub(super) async fn start(&self, program: Program, options: ContainerOptions) -> Result<Container, TargetError> {
        let container = self.create(program, options).await?;
        self.start_created(&container).await?;
        let told = |workload: &Workload| workload.canary.is_some() && workload.tick > 0;
        let started = self.log_until(container.log(), UP_WITHIN, told).await?;
        let Some(started) = started else {
            return Err(self.silent(&container).await);
        };
        // Nobody else has seen it yet: this is the first that is put in.
        let _ = container.0.started.set(started);
        show(ExhibitKind::Note, || {
            let (id, workload) = (container.id(), container.started());
            format!("{container}: container {id}, pid {:?} as itself sees it", workload.pid)
        });
        Ok(container)
    }

    async fn create(&self, program: Program, options: ContainerOptions) -> Result<Container, TargetError> {
        let slow = options.slow_on_fake.map(|time| {
            let rule = format!("CheckpointContainer(nth=1):capture=delay({}ms)", time.as_millis());
            (fake_cri::fault::ANNOTATION.to_owned(), rule)
        });
        let pod = match options.beside {
            Some(pod) => pod,
            None if options.own_pod => self.run_pod(slow.into_iter().collect()).await?,
            None => {
                let shared = self.shared.get_or_try_init(|| self.run_pod(HashMap::new()));
                Arc::clone(shared.await?)
            }
        };
        let name = format!("c{}", self.number());
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
            // As a manifest would have to write it: the kubelet takes `$$` for one `$`.
            command: Some(
                program
                    .command(&options.stand_in)
                    .iter()
                    .map(|word| word.replace('$', "$$"))
                    .collect(),
            ),
            env: Some(options.env.iter().map(variable).collect()),
            ..core::Container::default()
        };
        let mut config = pod
            .requests
            .container(&container, &image)
            .map_err(TargetError::file(self.folder()))?;
        for mount in &options.mounts {
            if !config
                .mounts
                .iter()
                .any(|known| known.container_path == mount.destination)
            {
                config.mounts.push(Mount {
                    container_path: mount.destination.clone(),
                    host_path: mount.source.clone(),
                    ..Mount::default()
                });
            }
        }
        config.labels.insert(RUN_LABEL.to_owned(), self.run.clone());
        if let Some(delay) = options.exec_delay {
            let delay = format!("{}ms", delay.as_millis());
            config.annotations.insert("fake-cri.dev/exec-delay".to_owned(), delay);
        }
        let mut client = self.cri.runtime();
        let ask = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let made = call("CreateContainer", ANSWER_WITHIN, ask, |request| async move {
            client.create_container(request).await
        });
        let container = Container(Arc::new(Inner {
            id: made.await?.container_id,
            log: pod.requests.log(&name),
            name,
            pod,
            started: OnceLock::new(),
            busy: 0.into(),
        }));
        self.note(&container);
        Ok(container)
    }

    async fn run_pod(&self, annotations: HashMap<String, String>) -> Result<Arc<Pod>, TargetError> {
        let (requests, config) = self.pod_config(NAMESPACE, annotations)?;
        let id = self.run_sandbox(&config, ANSWER_WITHIN).await?;
        let pod = Arc::new(Pod { id, config, requests });
        let mut list = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(Made::Pod(pod.id.clone(), Arc::downgrade(&pod)));
        drop(list);
        Ok(pod)
    }

    /// A Pod of this run under a name of its own, and the directories that it needs.
    pub(super) fn pod_config(
        &self,
        namespace: &str,
        annotations: HashMap<String, String>,
    ) -> Result<(PodRequests, PodSandboxConfig), TargetError> {
        let archives = self.folder().join("archives");
        std::fs::create_dir_all(&archives).map_err(TargetError::file(&archives))?;
        let pod = core::Pod {
            metadata: ObjectMeta {
                name: Some(format!("conformance-{}-{}", self.run, self.number())),
                namespace: Some(namespace.to_owned()),
                uid: Some(format!("{:032x}", rand::random::<u128>())),
                labels: Some(BTreeMap::from([(RUN_LABEL.to_owned(), self.run.clone())])),
                annotations: Some(annotations.into_iter().collect()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                // Neither a CNI plugin nor a network namespace is in the way.
                host_network: Some(true),
                ..PodSpec::default()
            }),
            status: None,
        };
        let requests = PodRequests::new(self.folder(), pod);
        let config = requests.sandbox().map_err(TargetError::file(self.folder()))?;
        Ok((requests, config))
    }

    /// Asks for a sandbox, and answers its id.
    pub(super) async fn run_sandbox(&self, config: &PodSandboxConfig, within: Duration) -> Result<String, TargetError> {
        let mut client = self.cri.runtime();
        let ask = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: self.handler.clone(),
        };
        let made = call("RunPodSandbox", within, ask, |request| async move {
            client.run_pod_sandbox(request).await
        });
        Ok(made.await?.pod_sandbox_id)
    }

    fn note(&self, container: &Container) {
        let mut list = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(Made::Container(container.id().to_owned(), Arc::downgrade(&container.0)));
    }

    /// Why a container tells nothing.
    async fn silent(&self, container: &Container) -> TargetError {
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
        let log = container.log();
        let seen = match std::fs::read_to_string(log) {
            Ok(text) => text.lines().last().unwrap_or("nothing").to_owned(),
            Err(error) => format!(
                "{error}; the runtime and the harness must see the same folder, see --work-dir: {}",
                log.display()
            ),
        };
        TargetError::NotReady(format!(
            "the workload of {container} did not come up within {} s: {}; its log: {seen}",
            UP_WITHIN.as_secs(),
            state.trim_end()
        ))
    }
}

fn variable((name, value): &(String, String)) -> core::EnvVar {
    core::EnvVar {
        name: name.clone(),
        value: Some(value.clone()),
        ..core::EnvVar::default()
    }
}
