//! The Pod of the targets that the harness starts, and the Pod status of any kubelet.

use std::time::{Duration, Instant};

use k8s_openapi::{
    List,
    api::core::v1::{ContainerStatus, Pod},
};
use serde::Deserialize as _;
use serde_json::Value;

use super::{Client, ContainerRef, Kubelet, NamesakePods, SiblingContainers, TargetError};

pub(super) const MANIFEST: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../fixtures/pods/test-workload.yaml"
));
pub(super) const MANIFEST_FILE_NAME: &str = "test-workload.yaml";

const NAMESAKE_MANIFEST: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/pods/namesake.yaml"));

const NAMESPACE: &str = "conformance";
const OTHER_NAMESPACE: &str = "conformance-namesake";
const OTHER_POD_NAME: &str = "other-workload";
/// With a dot, and longer than a host name may be.
const LONG_POD_NAME: &str = "v1.2-test-workload-of-a-pod-whose-name-is-longer-than-63-characters-and-has-a-dot";
const POD_NAME: &str = "test-workload";

pub(super) fn workload_container(node: &str) -> ContainerRef {
    ContainerRef {
        namespace: NAMESPACE.to_owned(),
        pod: format!("{POD_NAME}-{node}"),
        container: "app".to_owned(),
    }
}

pub(super) fn workload_siblings(container: &ContainerRef) -> SiblingContainers {
    SiblingContainers {
        running: Some(container.sibling("second")),
        exited: Some(container.sibling("done")),
        init: Some(container.sibling("prepare")),
        sidecar: Some(container.sibling("sidecar")),
        ephemeral: None,
        restarting: Some(container.sibling("failing")),
        created: Some(container.sibling("unstarted")),
    }
}

/// The Pods beside the one with the container under test. Each has one container, with the name of that container.
pub(super) fn namesakes(node: &str) -> NamesakePods {
    let container = |namespace: &str, pod: &str| ContainerRef {
        namespace: namespace.to_owned(),
        pod: format!("{pod}-{node}"),
        container: "app".to_owned(),
    };
    NamesakePods {
        other_namespace: container(OTHER_NAMESPACE, POD_NAME),
        other_pod: container(NAMESPACE, OTHER_POD_NAME),
        long_name: container(NAMESPACE, LONG_POD_NAME),
    }
}

/// The manifests of the Pods of [`namesakes`], with their file names.
pub(super) fn namesake_manifests() -> impl Iterator<Item = (String, String)> {
    let pods = [
        (OTHER_NAMESPACE, POD_NAME),
        (NAMESPACE, OTHER_POD_NAME),
        (NAMESPACE, LONG_POD_NAME),
    ];
    pods.into_iter().enumerate().map(|(index, (namespace, name))| {
        let manifest = NAMESAKE_MANIFEST
            .replace("NAMESPACE", namespace)
            .replace("POD_NAME", name);
        (format!("namesake-{index}.yaml"), manifest)
    })
}

/// The other containers of the Pod by its status on a running kubelet. Empty if the status is not readable.
pub(super) async fn discover_siblings(client: &Client, container: &ContainerRef) -> SiblingContainers {
    let pod = get_pod(client, container).await.ok().flatten();
    let status = pod.and_then(|pod| pod.status).unwrap_or_default();
    let find = |statuses: &Option<Vec<ContainerStatus>>, predicate: fn(&ContainerStatus) -> bool| {
        let mut others = statuses
            .iter()
            .flatten()
            .filter(|status| status.name != container.container);
        others
            .find(|status| predicate(status))
            .map(|status| container.sibling(&status.name))
    };
    SiblingContainers {
        running: find(&status.container_statuses, is_running),
        exited: find(&status.container_statuses, has_exited),
        init: find(&status.init_container_statuses, has_exited),
        sidecar: find(&status.init_container_statuses, is_running),
        ephemeral: find(&status.ephemeral_container_statuses, |_| true),
        restarting: find(&status.container_statuses, is_restarting),
        // The Pod's status does not show whether the runtime has created a container.
        created: None,
    }
}

/// The restart count of a container in CrashLoopBackOff; `None` in any other state.
pub(super) async fn restart_count(client: &Client, container: &ContainerRef) -> Result<Option<i32>, TargetError> {
    let pod = get_pod(client, container).await?;
    let statuses = pod.and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
    let status = statuses.iter().find(|status| status.name == container.container);
    Ok(status
        .filter(|status| is_restarting(status))
        .map(|status| status.restart_count))
}

/// The Pod's uid and the container's id by the Pod's status. Empty if the status is not readable.
pub(super) async fn cgroup_names(client: &Client, container: &ContainerRef) -> Vec<String> {
    let pod = get_pod(client, container).await.ok().flatten();
    let Some(pod) = pod else { return Vec::new() };
    let statuses = pod
        .status
        .and_then(|status| status.container_statuses)
        .unwrap_or_default();
    let status = statuses.into_iter().find(|status| status.name == container.container);
    // The status contains `containerd://ID`.
    let id = status
        .and_then(|status| status.container_id)
        .and_then(|id| id.split_once("://").map(|(_, id)| id.to_owned()));
    pod.metadata.uid.into_iter().chain(id).collect()
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
}

fn is_restarting(status: &ContainerStatus) -> bool {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff")) && has_ended_before(status)
}

/// False for a container that never ran, because it fails to start.
fn has_ended_before(status: &ContainerStatus) -> bool {
    let last = status.last_state.as_ref();
    last.is_some_and(|state| state.terminated.is_some())
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn has_exited(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.terminated.is_some())
}

/// The Pod of a container from `GET /pods`; `None` if the kubelet does not know the Pod.
async fn get_pod(client: &Client, container: &ContainerRef) -> Result<Option<Pod>, TargetError> {
    let response = client.get("/pods").await?;
    find_pod(&response.body, container)
        .map_err(|error| TargetError::NotReady(format!("failed to parse the list of Pods: {error}")))
}

fn find_pod(body: &str, container: &ContainerRef) -> Result<Option<Pod>, serde_json::Error> {
    let list = List::<Pod>::deserialize(serde_json::from_str::<Value>(body)?)?;
    Ok(list.items.into_iter().find(|pod| {
        let metadata = &pod.metadata;
        metadata.name.as_deref() == Some(&container.pod) && metadata.namespace.as_deref() == Some(&container.namespace)
    }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PodReadiness {
    /// All containers have the state that the manifest and its annotations cause on fake-cri.
    AllContainers,
    /// The container under test runs. Other runtimes ignore the annotations.
    ContainerUnderTest,
}

/// Waits until the Pod has this readiness.
pub(super) async fn wait_until_running(
    client: &Client,
    container: &ContainerRef,
    readiness: PodReadiness,
    timeout: Duration,
) -> Result<(), TargetError> {
    // The kubelet's API has no event for it.
    const POLL_INTERVAL: Duration = Duration::from_millis(20);
    let started_at = Instant::now();
    loop {
        let readiness_now = match client.get("/pods").await {
            Ok(response) if response.status == 200 => check_readiness(&response.body, container, readiness),
            Ok(response) => Err(response.summary()),
            Err(error) => Err(error.to_string()),
        };
        match readiness_now {
            Ok(()) => return Ok(()),
            Err(reason) if started_at.elapsed() > timeout => {
                return Err(TargetError::NotReady(format!(
                    "the Pod {} did not come up within {} s: {reason}",
                    container.pod,
                    timeout.as_secs()
                )));
            }
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// Waits for the canary and the first heartbeat of the running containers.
pub(super) async fn wait_until_workload_ready(kubelet: &Kubelet, timeout: Duration) -> Result<(), TargetError> {
    let namesakes = kubelet.namesakes.iter().flat_map(NamesakePods::iter);
    for container in [Some(&kubelet.container_under_test), kubelet.siblings.running.as_ref()]
        .into_iter()
        .flatten()
        .chain(namesakes)
    {
        let is_ready = |workload: &super::Workload| workload.canary.is_some() && workload.heartbeat > 0;
        if kubelet.workload_until(container, timeout, is_ready).await?.is_none() {
            return Err(TargetError::NotReady(format!(
                "the workload of {container} logged no canary or heartbeat"
            )));
        }
    }
    Ok(())
}

fn check_readiness(body: &str, container: &ContainerRef, readiness: PodReadiness) -> Result<(), String> {
    let pod = find_pod(body, container)
        .map_err(|error| error.to_string())?
        .ok_or("the kubelet does not list the Pod")?;
    let status = pod.status.unwrap_or_default();
    let mut containers = status.container_statuses.unwrap_or_default();
    containers.extend(status.init_container_statuses.unwrap_or_default());
    let any_container =
        |name: &str, predicate: fn(&ContainerStatus) -> bool| containers.iter().any(|c| c.name == name && predicate(c));
    let siblings_ready = || {
        let running = any_container("second", is_running) && any_container("sidecar", is_running);
        let exited = any_container("done", has_exited) && any_container("prepare", has_exited);
        running && exited && any_container("failing", is_restarting) && any_container("unstarted", is_waiting)
    };
    if any_container("app", is_running) && (readiness == PodReadiness::ContainerUnderTest || siblings_ready()) {
        return Ok(());
    }
    let states: Vec<_> = containers
        .iter()
        .map(|status| {
            format!(
                "{} {}",
                status.name,
                serde_json::to_string(&status.state).unwrap_or_default()
            )
        })
        .collect();
    Err(states.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_contains_every_named_container() {
        let pod = Pod::deserialize(serde_yaml_ng::from_str::<Value>(MANIFEST).unwrap()).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some(POD_NAME));
        assert_eq!(pod.metadata.namespace.as_deref(), Some(NAMESPACE));
        let spec = pod.spec.unwrap();
        let mut names: Vec<_> = spec.containers.iter().map(|container| container.name.clone()).collect();
        names.extend(
            spec.init_containers
                .unwrap()
                .iter()
                .map(|container| container.name.clone()),
        );
        let container = workload_container("node");
        let siblings = workload_siblings(&container);
        let further = [siblings.sidecar, siblings.restarting, siblings.created];
        for container in [Some(container), siblings.running, siblings.exited, siblings.init]
            .into_iter()
            .chain(further)
            .flatten()
        {
            assert!(names.contains(&container.container), "{container}");
        }
    }
}
