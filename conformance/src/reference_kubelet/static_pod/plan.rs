//! Decides the next action for a Pod from its spec and the state of its containers. The worker executes the action.

use std::collections::BTreeMap;

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::super::pod_store::{self, RunState, label};
use super::runtime_state::RuntimeState;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NextAction {
    /// No action. The value is the phase of the Pod.
    Nothing(&'static str),
    CreateSandbox,
    StartContainers(Vec<String>),
}

impl NextAction {
    pub(super) fn phase(&self) -> &'static str {
        match self {
            Self::Nothing(phase) => phase,
            Self::CreateSandbox | Self::StartContainers(_) => "Pending",
        }
    }
}

/// The state of one container, with the restart policy applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContainerPhase {
    Running,
    /// Never started in this sandbox, or the start failed.
    Missing,
    /// Exited, and the restart policy requires a restart.
    RestartDue,
    /// Exited without a restart; true if it succeeded.
    Done(bool),
}

/// Returns the sandboxes of a Pod, newest first.
pub(super) fn sandboxes<'a>(snapshot: &'a RuntimeState, uid: &str) -> Vec<&'a cri::PodSandbox> {
    let belongs_to_pod =
        |sandbox: &&cri::PodSandbox| sandbox.labels.get(label::POD_UID).is_some_and(|value| value == uid);
    let mut sandboxes: Vec<_> = snapshot.sandboxes.iter().filter(belongs_to_pod).collect();
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
    sandboxes
}

pub(super) fn containers<'a>(snapshot: &'a RuntimeState, uid: &str) -> Vec<&'a cri::Container> {
    let belongs_to_pod =
        |container: &&cri::Container| container.labels.get(label::POD_UID).is_some_and(|known| known == uid);
    snapshot.containers.iter().filter(belongs_to_pod).collect()
}

/// Returns the next action. `ready` is true when the Pod has a ready sandbox.
pub(super) fn next_action(
    spec: &PodSpec,
    ready: bool,
    runs: &BTreeMap<String, pod_store::ContainerRuns>,
) -> NextAction {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let phase_of = |container: &Container, policy: &str| container_phase(runs.get(&container.name), policy);
    let mains: Vec<_> = spec
        .containers
        .iter()
        .map(|container| (container, phase_of(container, policy)))
        .collect();
    let all_done = mains.iter().all(|(_, stand)| matches!(stand, ContainerPhase::Done(_)));
    if all_done {
        let all_succeeded = mains.iter().all(|(_, stand)| *stand == ContainerPhase::Done(true));
        return NextAction::Nothing(if all_succeeded { "Succeeded" } else { "Failed" });
    }
    // An init container that succeeded is not restarted under any policy, except a sidecar (restartPolicy Always).
    let init_policy = if policy == "Never" { "Never" } else { "OnFailure" };
    let inits = spec.init_containers.iter().flatten();
    let sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let any_started = mains.iter().any(|(_, stand)| *stand != ContainerPhase::Missing);
    let mut starts = Vec::new();
    for container in inits {
        match phase_of(container, if sidecar(container) { "Always" } else { init_policy }) {
            ContainerPhase::Done(false) if !any_started => return NextAction::Nothing("Failed"),
            ContainerPhase::Done(_) => {}
            ContainerPhase::Running if sidecar(container) => {}
            ContainerPhase::Running => return NextAction::Nothing("Pending"),
            ContainerPhase::Missing | ContainerPhase::RestartDue if sidecar(container) => {
                starts.push(container.name.clone())
            }
            // A container has started, so the init containers succeeded, even if the runtime no longer lists them.
            ContainerPhase::Missing | ContainerPhase::RestartDue if any_started => {}
            ContainerPhase::Missing | ContainerPhase::RestartDue => {
                starts.push(container.name.clone());
                return if ready {
                    NextAction::StartContainers(starts)
                } else {
                    NextAction::CreateSandbox
                };
            }
        }
    }
    let due = mains
        .iter()
        .filter(|(_, stand)| matches!(stand, ContainerPhase::Missing | ContainerPhase::RestartDue));
    starts.extend(due.map(|(container, _)| container.name.clone()));
    match (ready, starts.is_empty()) {
        (false, _) => NextAction::CreateSandbox,
        (true, false) => NextAction::StartContainers(starts),
        (true, true) => NextAction::Nothing("Running"),
    }
}

fn container_phase(container: Option<&pod_store::ContainerRuns>, policy: &str) -> ContainerPhase {
    match container
        .and_then(|container| container.current.as_ref())
        .map(|run| &run.state)
    {
        None | Some(RunState::Created) => ContainerPhase::Missing,
        Some(RunState::Running(_)) => ContainerPhase::Running,
        Some(RunState::Exited(exit)) => match policy {
            "Never" => ContainerPhase::Done(exit.code == 0),
            "OnFailure" if exit.code == 0 => ContainerPhase::Done(true),
            _ => ContainerPhase::RestartDue,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rstest::rstest;

    use super::super::super::pod_store::{ContainerRun, RunExit};
    use super::*;

    fn spec(policy: &str, inits: &str) -> PodSpec {
        super::super::yaml(&format!(
            "{{restartPolicy: {policy}, initContainers: [{inits}], containers: [{{name: a}}, {{name: b}}]}}"
        ))
    }

    /// Parses the states of containers, such as `a=run b=0 c=created`; a number is an exit code.
    fn runs(text: &str) -> BTreeMap<String, pod_store::ContainerRuns> {
        let state = |word: &str| match word {
            "run" => RunState::Running(1),
            "created" => RunState::Created,
            code => RunState::Exited(RunExit {
                code: code.parse().unwrap(),
                ..RunExit::default()
            }),
        };
        let run = |state| ContainerRun {
            id: String::new(),
            attempt: 0,
            log: PathBuf::new(),
            image: String::new(),
            image_ref: String::new(),
            state,
        };
        text.split_whitespace()
            .map(|pair| {
                let (name, word) = pair.split_once('=').unwrap();
                let container = pod_store::ContainerRuns {
                    current: Some(run(state(word))),
                    ..pod_store::ContainerRuns::default()
                };
                (name.to_owned(), container)
            })
            .collect()
    }

    fn start(names: &[&str]) -> NextAction {
        NextAction::StartContainers(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[rstest]
    #[case("Always", "", false, "", NextAction::CreateSandbox)]
    #[case("Always", "", true, "", start(&["a", "b"]))]
    #[case("Always", "", true, "a=run", start(&["b"]))]
    #[case("Always", "", true, "a=created b=run", start(&["a"]))]
    #[case("Always", "", true, "a=run b=run", NextAction::Nothing("Running"))]
    #[case("Always", "", true, "a=run b=0", start(&["b"]))]
    #[case("OnFailure", "", true, "a=run b=0", NextAction::Nothing("Running"))]
    #[case("OnFailure", "", true, "a=0 b=1", start(&["b"]))]
    #[case("OnFailure", "", true, "a=0 b=0", NextAction::Nothing("Succeeded"))]
    #[case("Never", "", true, "a=0 b=1", NextAction::Nothing("Failed"))]
    #[case("Never", "", false, "a=0 b=1", NextAction::Nothing("Failed"))]
    #[case("Always", "{name: i}, {name: j}", true, "", start(&["i"]))]
    #[case("Always", "{name: i}, {name: j}", true, "i=run", NextAction::Nothing("Pending"))]
    #[case("Always", "{name: i}, {name: j}", true, "i=0", start(&["j"]))]
    #[case("Always", "{name: i}, {name: j}", true, "i=1", start(&["i"]))]
    #[case("Never", "{name: i}, {name: j}", true, "i=1", NextAction::Nothing("Failed"))]
    #[case("Always", "{name: i}, {name: j}", true, "i=0 j=0", start(&["a", "b"]))]
    #[case("Always", "{name: i}, {name: j}", true, "a=run b=1", start(&["b"]))]
    #[case("Always", "{name: i, restartPolicy: Always}, {name: j}", true, "i=run", start(&["j"]))]
    #[case("Always", "{name: i, restartPolicy: Always}", true, "i=0 a=run b=run", start(&["i"]))]
    fn decides_the_next_action(
        #[case] policy: &str,
        #[case] inits: &str,
        #[case] ready: bool,
        #[case] stands: &str,
        #[case] expected: NextAction,
    ) {
        assert_eq!(next_action(&spec(policy, inits), ready, &runs(stands)), expected);
    }
}
