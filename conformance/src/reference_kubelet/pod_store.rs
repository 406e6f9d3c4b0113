//! The Pods of the kubelet and the states of their containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use cri_proto::runtime::v1::ContainerState as CriState;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
    PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The labels by which a kubelet identifies its sandboxes and containers.
pub(super) mod label {
    pub(in super::super) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(in super::super) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(in super::super) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(in super::super) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// The part of a Pod that request handlers need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodRecord {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    /// The names of the containers, then of the init containers, then of the ephemeral containers.
    pub(super) containers: Vec<String>,
    /// The number of containers, and the number of containers and init containers together.
    pub(super) container_counts: (usize, usize),
}

impl PodRecord {
    /// Returns the full name, which is part of the archive name: `<pod>_<namespace>`.
    pub(super) fn full_name(&self) -> String {
        format!("{}_{}", self.name, self.namespace)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerRun {
    pub(super) id: String,
    pub(super) attempt: u32,
    pub(super) log: PathBuf,
    pub(super) image: String,
    pub(super) image_ref: String,
    pub(super) state: RunState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    Created,
    /// The start time in nanoseconds since 1970.
    Running(i64),
    Exited(RunExit),
}

impl RunState {
    /// Whether this is the CRI state `state`.
    pub(super) fn matches(&self, state: CriState) -> bool {
        match self {
            Self::Created => state == CriState::ContainerCreated,
            Self::Running(_) => state == CriState::ContainerRunning,
            Self::Exited(_) => state == CriState::ContainerExited,
        }
    }
}

/// The end of a run; times in nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunExit {
    pub(super) code: i32,
    pub(super) started_at: i64,
    pub(super) finished_at: i64,
    pub(super) reason: String,
    pub(super) message: String,
}

/// The last two runs of a container, and the reason and message while it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ContainerRuns {
    pub(super) current: Option<ContainerRun>,
    pub(super) previous: Option<ContainerRun>,
    pub(super) waiting: Option<(String, String)>,
}

#[derive(Debug)]
struct PodEntry {
    pod: Pod,
    record: PodRecord,
    phase: &'static str,
    containers: BTreeMap<String, ContainerRuns>,
}

#[derive(Debug, Default)]
pub(super) struct PodStore {
    entries: Mutex<BTreeMap<String, PodEntry>>,
}

impl PodStore {
    /// Adds a Pod, which must have a name and a uid. A Pod with the same uid is replaced.
    pub(super) fn add(&self, pod: Pod) -> PodRecord {
        let spec = pod.spec.as_ref();
        let container_count = spec.map_or(0, |spec| spec.containers.len());
        let init_count = spec.map_or(0, |spec| spec.init_containers.iter().flatten().count());
        let names = spec.into_iter().flat_map(|spec| {
            let containers = spec.containers.iter().map(|container| container.name.clone());
            let init = spec
                .init_containers
                .iter()
                .flatten()
                .map(|container| container.name.clone());
            let ephemeral = spec
                .ephemeral_containers
                .iter()
                .flatten()
                .map(|container| container.name.clone());
            containers.chain(init).chain(ephemeral)
        });
        let record = PodRecord {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            containers: names.collect(),
            container_counts: (container_count, container_count + init_count),
        };
        let entry = PodEntry {
            pod,
            record: record.clone(),
            phase: "Pending",
            containers: BTreeMap::new(),
        };
        self.lock_entries().insert(record.uid.clone(), entry);
        record
    }

    pub(super) fn remove(&self, uid: &str) {
        self.lock_entries().remove(uid);
    }

    /// Finds a Pod by namespace and name. Only a mutant sets `any_namespace`.
    pub(super) fn find(&self, namespace: &str, name: &str, any_namespace: bool) -> Option<PodRecord> {
        let entries = self.lock_entries();
        let mut records = entries.values().map(|entry| &entry.record);
        records
            .find(|pod| pod.name == name && (any_namespace || pod.namespace == namespace))
            .cloned()
    }

    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.lock_entries()
            .values()
            .any(|entry| entry.record.namespace == namespace)
    }

    /// Returns the runs of a container; `None` when the spec of the Pod has no such container.
    pub(super) fn container(&self, uid: &str, name: &str) -> Option<ContainerRuns> {
        let entries = self.lock_entries();
        let entry = entries.get(uid)?;
        let in_spec = entry.record.containers.iter().any(|existing| existing == name);
        in_spec.then(|| entry.containers.get(name).cloned().unwrap_or_default())
    }

    pub(super) fn update(&self, uid: &str, phase: &'static str, containers: BTreeMap<String, ContainerRuns>) {
        if let Some(entry) = self.lock_entries().get_mut(uid) {
            entry.phase = phase;
            entry.containers = containers;
        }
    }

    pub(super) fn list(&self) -> Value {
        let entries = self.lock_entries();
        let items: Vec<Pod> = entries.values().map(PodEntry::with_status).collect();
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
    }

    fn lock_entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, PodEntry>> {
        self.entries.lock().expect("no code panics while it holds this lock")
    }
}

impl PodEntry {
    fn with_status(&self) -> Pod {
        let mut pod = self.pod.clone();
        let spec = pod.spec.as_ref();
        let statuses = |containers: &[k8s_openapi::api::core::v1::Container]| -> Option<Vec<ContainerStatus>> {
            let status = |container: &k8s_openapi::api::core::v1::Container| {
                self.containers
                    .get(&container.name)
                    .cloned()
                    .unwrap_or_default()
                    .status(container)
            };
            (!containers.is_empty()).then(|| containers.iter().map(status).collect())
        };
        let container_statuses = spec.and_then(|spec| statuses(&spec.containers));
        let init_container_statuses = spec.and_then(|spec| statuses(spec.init_containers.as_deref().unwrap_or(&[])));
        pod.status = Some(PodStatus {
            phase: Some(self.phase.to_owned()),
            container_statuses,
            init_container_statuses,
            ..PodStatus::default()
        });
        pod
    }
}

impl ContainerRuns {
    fn restarts(&self) -> i32 {
        let attempt = self
            .current
            .as_ref()
            .or(self.previous.as_ref())
            .map_or(0, |run| run.attempt);
        i32::try_from(attempt).unwrap_or(i32::MAX)
    }

    fn status(&self, spec: &k8s_openapi::api::core::v1::Container) -> ContainerStatus {
        let state = match (&self.current, &self.waiting) {
            (Some(run), None) => run.state(),
            (_, waiting) => {
                let (reason, message) = waiting
                    .clone()
                    .unwrap_or_else(|| ("ContainerCreating".into(), String::new()));
                let message = (!message.is_empty()).then_some(message);
                let waiting = ContainerStateWaiting {
                    reason: Some(reason),
                    message,
                };
                ContainerState {
                    waiting: Some(waiting),
                    ..ContainerState::default()
                }
            }
        };
        let running = state.running.is_some();
        let run = self.current.as_ref();
        // While a container waits for its restart, its last run is the `lastState`.
        let last = if self.waiting.is_some() {
            run.or(self.previous.as_ref())
        } else {
            self.previous.as_ref()
        };
        ContainerStatus {
            name: spec.name.clone(),
            container_id: run.map(|run| run.id.clone()),
            image: run.map_or_else(|| spec.image.clone().unwrap_or_default(), |run| run.image.clone()),
            image_id: run.map(|run| run.image_ref.clone()).unwrap_or_default(),
            ready: running,
            started: Some(running),
            restart_count: self.restarts(),
            state: Some(state),
            last_state: last.map(ContainerRun::state),
            ..ContainerStatus::default()
        }
    }
}

impl ContainerRun {
    fn state(&self) -> ContainerState {
        let time = |ns: i64| {
            Timestamp::from_nanosecond(i128::from(ns))
                .ok()
                .filter(|_| ns > 0)
                .map(Time)
        };
        let mut state = ContainerState::default();
        match &self.state {
            RunState::Created => {
                let reason = Some("ContainerCreating".to_owned());
                state.waiting = Some(ContainerStateWaiting { reason, message: None });
            }
            RunState::Running(started) => {
                state.running = Some(ContainerStateRunning {
                    started_at: time(*started),
                });
            }
            RunState::Exited(exit) => {
                state.terminated = Some(ContainerStateTerminated {
                    container_id: Some(self.id.clone()),
                    exit_code: exit.code,
                    started_at: time(exit.started_at),
                    finished_at: time(exit.finished_at),
                    reason: Some(exit.reason.clone()),
                    message: (!exit.message.is_empty()).then(|| exit.message.clone()),
                    signal: None,
                });
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, namespace: &str, uid: &str) -> Pod {
        super::super::static_pod::yaml(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, uid: '{uid}'}}, \
             spec: {{containers: [{{name: app}}], initContainers: [{{name: first}}]}}}}"
        ))
    }

    #[test]
    fn finds_pods_by_namespace_and_name() {
        let pods = PodStore::default();
        let record = pods.add(pod("a", "x", "1"));
        assert_eq!(record.containers, ["app", "first"]);
        assert_eq!(record.full_name(), "a_x");
        assert_eq!(pods.find("x", "a", false), Some(record.clone()));
        assert_eq!(pods.find("y", "a", false), None);
        assert_eq!(pods.find("y", "a", true), Some(record));
        pods.remove("1");
        assert_eq!(pods.find("x", "a", false), None);
    }

    #[test]
    fn lists_container_states() {
        let pods = PodStore::default();
        pods.add(pod("a", "x", "1"));
        let run = |attempt, state| ContainerRun {
            id: format!("run://{attempt}"),
            attempt,
            log: PathBuf::new(),
            image: "i".into(),
            image_ref: "r".into(),
            state,
        };
        let exit = RunExit {
            code: 3,
            finished_at: 1_700_000_000_000_000_000,
            reason: "Error".into(),
            ..RunExit::default()
        };
        let app = ContainerRuns {
            current: Some(run(1, RunState::Running(1_700_000_000_000_000_000))),
            previous: Some(run(0, RunState::Exited(exit))),
            waiting: None,
        };
        pods.update("1", "Running", BTreeMap::from([("app".to_owned(), app)]));
        let list = pods.list();
        let status = &list["items"][0]["status"];
        assert_eq!(status["phase"], "Running");
        let app = &status["containerStatuses"][0];
        assert_eq!(app["state"]["running"]["startedAt"], "2023-11-14T22:13:20Z");
        assert_eq!(app["lastState"]["terminated"]["exitCode"], 3);
        assert_eq!((&app["restartCount"], &app["ready"]), (&json!(1), &json!(true)));
        assert_eq!(
            status["initContainerStatuses"][0]["state"]["waiting"]["reason"],
            "ContainerCreating"
        );
    }
}
