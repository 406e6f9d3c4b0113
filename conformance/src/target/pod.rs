//! The Pod that targets started by the harness run, and how to tell that it is as the cases need it.

use std::time::{Duration, Instant};

use k8s_openapi::{
    List,
    api::core::v1::{ContainerStatus, Pod},
};
use reqwest::Method;
use serde::Deserialize as _;
use serde_json::Value;

use super::{Client, ContainerRef, Credentials, Kubelet, Neighbours, TargetError};

/// Its manifest.
pub(super) const MANIFEST: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/pods/stand-in.yaml"));
/// The name of the manifest's file among static Pods.
pub(super) const FILE: &str = "stand-in.yaml";

const NAMESPACE: &str = "conformance";
const NAME: &str = "stand-in";

/// The container that is checkpointed, on a node of that name.
pub(super) fn subject(node: &str) -> ContainerRef {
    ContainerRef {
        namespace: NAMESPACE.to_owned(),
        pod: format!("{NAME}-{node}"),
        container: "app".to_owned(),
    }
}

/// The others beside it.
pub(super) fn neighbours(subject: &ContainerRef) -> Neighbours {
    Neighbours {
        running: Some(subject.sibling("second")),
        exited: Some(subject.sibling("done")),
        init: Some(subject.sibling("prepare")),
        sidecar: Some(subject.sibling("sidecar")),
        ephemeral: None,
        restarting: Some(subject.sibling("failing")),
        created: Some(subject.sibling("unstarted")),
    }
}

/// The containers beside this one, as a running kubelet tells them; none where it does not.
pub(super) async fn discover(client: &Client, subject: &ContainerRef) -> Neighbours {
    let pod = ask(client, subject).await.ok().flatten();
    let status = pod.and_then(|pod| pod.status).unwrap_or_default();
    let find = |statuses: &Option<Vec<ContainerStatus>>, holds: fn(&ContainerStatus) -> bool| {
        let mut others = statuses
            .iter()
            .flatten()
            .filter(|status| status.name != subject.container);
        others
            .find(|status| holds(status))
            .map(|status| subject.sibling(&status.name))
    };
    Neighbours {
        running: find(&status.container_statuses, is_running),
        exited: find(&status.container_statuses, has_exited),
        init: find(&status.init_container_statuses, has_exited),
        sidecar: find(&status.init_container_statuses, is_running),
        ephemeral: find(&status.ephemeral_container_statuses, |_| true),
        restarting: find(&status.container_statuses, is_restarting),
        // Its status does not tell whether the runtime has it.
        created: None,
    }
}

/// Whether the container waits to be started again, as the kubelet tells it now; with how often it was started.
///
/// # Errors
/// No answer, or a body that is no list of Pods.
pub(super) async fn restarts(client: &Client, container: &ContainerRef) -> Result<Option<i32>, TargetError> {
    let pod = ask(client, container).await?;
    let statuses = pod.and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
    let status = statuses.iter().find(|status| status.name == container.container);
    Ok(status
        .filter(|status| is_restarting(status))
        .map(|status| status.restart_count))
}

/// The Pod's uid and the runtime's id of a container, as the kubelet tells them; none where it does not.
pub(super) async fn names(client: &Client, container: &ContainerRef) -> Vec<String> {
    let pod = ask(client, container).await.ok().flatten();
    let Some(pod) = pod else { return Vec::new() };
    let statuses = pod
        .status
        .and_then(|status| status.container_statuses)
        .unwrap_or_default();
    let status = statuses.into_iter().find(|status| status.name == container.container);
    // `containerd://ID`.
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

/// One that never ran has ended never: its start is what fails.
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

/// The Pod of a container as the kubelet tells it now, if it knows it.
async fn ask(client: &Client, container: &ContainerRef) -> Result<Option<Pod>, TargetError> {
    let answer = client.send(Credentials::Good, Method::GET, client.url("/pods")).await?;
    pod_in(&answer.body, container)
        .map_err(|error| TargetError::NotReady(format!("the list of Pods cannot be read: {error}")))
}

/// The Pod in the body of GET /pods, if it is there.
fn pod_in(body: &str, subject: &ContainerRef) -> Result<Option<Pod>, serde_json::Error> {
    let list = List::<Pod>::deserialize(serde_json::from_str::<Value>(body)?)?;
    Ok(list.items.into_iter().find(|pod| {
        let metadata = &pod.metadata;
        metadata.name.as_deref() == Some(&subject.pod) && metadata.namespace.as_deref() == Some(&subject.namespace)
    }))
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Every container is as the manifest and its annotations make it on fake-cri.
    All,
    /// The one that is checkpointed runs: another runtime does not read the annotations.
    Subject,
}

/// Waits until the kubelet says that the Pod's containers run or have exited, as they should.
///
/// # Errors
/// They do not within this time; what was last seen of them is in the error.
pub(super) async fn wait_until_up(
    client: &Client,
    subject: &ContainerRef,
    wanted: Wanted,
    within: Duration,
) -> Result<(), TargetError> {
    // The kubelet has no event for it.
    const POLL: Duration = Duration::from_millis(20);
    let began = Instant::now();
    loop {
        let seen = match client.send(Credentials::Good, Method::GET, client.url("/pods")).await {
            Ok(answer) if answer.status == 200 => state_of(&answer.body, subject, wanted),
            Ok(answer) => Err(answer.brief()),
            Err(error) => Err(error.to_string()),
        };
        match seen {
            Ok(()) => return Ok(()),
            Err(seen) if began.elapsed() > within => {
                return Err(TargetError::NotReady(format!(
                    "the Pod {} did not come up within {} s: {seen}",
                    subject.pod,
                    within.as_secs()
                )));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Waits until the containers that run have told what the cases read.
///
/// # Errors
/// They do not within this time.
pub(super) async fn wait_until_told(kubelet: &Kubelet, within: Duration) -> Result<(), TargetError> {
    for container in [Some(&kubelet.subject), kubelet.neighbours.running.as_ref()]
        .into_iter()
        .flatten()
    {
        let told = |workload: &super::Workload| workload.canary.is_some() && workload.tick > 0;
        if kubelet.workload_until(container, within, told).await?.is_none() {
            return Err(TargetError::NotReady(format!("{container} tells nothing in its log")));
        }
    }
    Ok(())
}

fn state_of(body: &str, subject: &ContainerRef, wanted: Wanted) -> Result<(), String> {
    let pod = pod_in(body, subject)
        .map_err(|error| error.to_string())?
        .ok_or("it is not known")?;
    let status = pod.status.unwrap_or_default();
    let mut containers = status.container_statuses.unwrap_or_default();
    containers.extend(status.init_container_statuses.unwrap_or_default());
    let is = |name: &str, holds: fn(&ContainerStatus) -> bool| containers.iter().any(|c| c.name == name && holds(c));
    let others = || {
        let running = is("second", is_running) && is("sidecar", is_running);
        let ended = is("done", has_exited) && is("prepare", has_exited);
        running && ended && is("failing", is_restarting) && is("unstarted", is_waiting)
    };
    if is("app", is_running) && (wanted == Wanted::Subject || others()) {
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
    fn the_manifest_has_the_containers_that_the_cases_name() {
        let pod = Pod::deserialize(serde_yaml_ng::from_str::<Value>(MANIFEST).unwrap()).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some(NAME));
        assert_eq!(pod.metadata.namespace.as_deref(), Some(NAMESPACE));
        let spec = pod.spec.unwrap();
        let mut names: Vec<_> = spec.containers.iter().map(|container| container.name.clone()).collect();
        names.extend(
            spec.init_containers
                .unwrap()
                .iter()
                .map(|container| container.name.clone()),
        );
        let subject = subject("node");
        let others = neighbours(&subject);
        let more = [others.sidecar, others.restarting, others.created];
        for container in [Some(subject), others.running, others.exited, others.init]
            .into_iter()
            .chain(more)
            .flatten()
        {
            assert!(names.contains(&container.container), "{container}");
        }
    }
}
