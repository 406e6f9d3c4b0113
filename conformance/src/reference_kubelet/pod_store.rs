//! The Pods of the kubelet and the states of their containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use cri_proto::runtime::v1::ContainerState as CriState;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The labels by which a kubelet identifies its sandboxes and containers.
pub(crate) mod label {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// The part of a Pod that request handlers need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodRecord {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) containers: Vec<String>,
    pub(crate) init_containers: Vec<String>,
    pub(crate) ephemeral_containers: Vec<String>,
}

impl PodRecord {
    pub(crate) fn has_container(&self, name: &str) -> bool {
        let [containers, init, ephemeral] = [&self.containers, &self.init_containers, &self.ephemeral_containers];
        [containers, init, ephemeral]
            .into_iter()
            .flatten()
            .any(|known| known == name)
    }

    /// Returns the full name, which is part of the archive name: `<pod>_<namespace>`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}_{}", self.name, self.namespace)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerRun {
    pub(super) id: String,
    pub(super) attempt: u32,
    pub(crate) log: PathBuf,
    pub(super) image: String,
    pub(super) image_ref: String,
    pub(crate) state: RunState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
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
pub(crate) struct RunExit {
    pub(super) code: i32,
    pub(super) started_at: i64,
    pub(super) finished_at: i64,
    pub(super) reason: String,
    pub(super) message: String,
}

/// The last two runs of a container, and the reason and message while it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerRuns {
    pub(crate) current: Option<ContainerRun>,
    pub(crate) previous: Option<ContainerRun>,
    pub(crate) waiting: Option<(String, String)>,
}

#[derive(Debug)]
struct PodEntry {
    pod: Pod,
    record: PodRecord,
    phase: &'static str,
    containers: BTreeMap<String, ContainerRuns>,
}

#[derive(Debug, Default)]
pub(crate) struct PodStore {
    entries: Mutex<BTreeMap<String, PodEntry>>,
}

impl PodStore {
    /// Adds a Pod, which must have a name and a uid. A Pod with the same uid is replaced.
    pub(super) fn add(&self, pod: Pod) -> PodRecord {
        fn names<'a>(containers: impl IntoIterator<Item = &'a Container>) -> Vec<String> {
            containers.into_iter().map(|container| container.name.clone()).collect()
        }
        let spec = pod.spec.clone().unwrap_or_default();
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let record = PodRecord {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            containers: names(&spec.containers),
            init_containers: names(spec.init_containers.iter().flatten()),
            ephemeral_containers: ephemeral.map(|container| container.name.clone()).collect(),
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

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<PodRecord> {
        self.find_where(|pod| pod.name == name && pod.namespace == namespace)
    }

    pub(crate) fn find_where(&self, matches: impl Fn(&PodRecord) -> bool) -> Option<PodRecord> {
        let entries = self.lock_entries();
        let mut records = entries.values().map(|entry| &entry.record);
        records.find(|pod| matches(pod)).cloned()
    }

    /// Returns the runs of a container; `None` when the spec of the Pod has no such container.
    pub(crate) fn container(&self, uid: &str, name: &str) -> Option<ContainerRuns> {
        let entries = self.lock_entries();
        let entry = entries.get(uid)?;
        entry
            .record
            .has_container(name)
            .then(|| entry.containers.get(name).cloned().unwrap_or_default())
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
        let statuses = |containers: &[Container]| -> Option<Vec<ContainerStatus>> {
            let status = |container: &Container| {
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
    pub(crate) fn is_running(&self) -> bool {
        matches!(&self.current, Some(run) if matches!(run.state, RunState::Running(_)))
    }

    fn restarts(&self) -> i32 {
        let attempt = self
            .current
            .as_ref()
            .or(self.previous.as_ref())
            .map_or(0, |run| run.attempt);
        i32::try_from(attempt).unwrap_or(i32::MAX)
    }

    fn status(&self, spec: &Container) -> ContainerStatus {
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
        assert_eq!(record.containers, ["app"]);
        assert_eq!(record.init_containers, ["first"]);
        assert_eq!(record.full_name(), "a_x");
        assert_eq!(pods.find("x", "a"), Some(record));
        assert_eq!(pods.find("y", "a"), None);
        pods.remove("1");
        assert_eq!(pods.find("x", "a"), None);
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
