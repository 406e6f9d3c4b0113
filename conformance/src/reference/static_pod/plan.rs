//! The next step of a Pod, from its spec and what runs: decided here, taken by the worker.

use std::collections::BTreeMap;

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::super::pod::{self, RunState, label};
use super::relist::Snapshot;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing; with the Pod's phase.
    Nothing(&'static str),
    /// Make a sandbox.
    Sandbox,
    /// Start these containers.
    Start(Vec<String>),
}

impl Step {
    /// The phase of the Pod meanwhile.
    pub(super) fn phase(&self) -> &'static str {
        match self {
            Self::Nothing(phase) => phase,
            Self::Sandbox | Self::Start(_) => "Pending",
        }
    }
}

/// How one container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Running,
    /// Never started here, or its start failed.
    Missing,
    /// Ended, and wanted again.
    Again,
    /// Ended for good, well or not.
    Done(bool),
}

/// The sandboxes of a Pod, newest first.
pub(super) fn sandboxes<'a>(snapshot: &'a Snapshot, uid: &str) -> Vec<&'a cri::PodSandbox> {
    let ours = |sandbox: &&cri::PodSandbox| sandbox.labels.get(label::POD_UID).is_some_and(|known| known == uid);
    let mut found: Vec<_> = snapshot.sandboxes.iter().filter(ours).collect();
    found.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
    found
}

/// The containers of a Pod.
pub(super) fn containers<'a>(snapshot: &'a Snapshot, uid: &str) -> Vec<&'a cri::Container> {
    let ours = |container: &&cri::Container| container.labels.get(label::POD_UID).is_some_and(|known| known == uid);
    snapshot.containers.iter().filter(ours).collect()
}

/// Decides. `ready` says whether there is a sandbox to start containers in.
pub(super) fn next(spec: &PodSpec, ready: bool, runs: &BTreeMap<String, pod::Container>) -> Step {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let stand = |container: &Container, policy: &str| stand(runs.get(&container.name), policy);
    let mains: Vec<_> = spec
        .containers
        .iter()
        .map(|container| (container, stand(container, policy)))
        .collect();
    let done = mains.iter().all(|(_, stand)| matches!(stand, Stand::Done(_)));
    if done {
        let well = mains.iter().all(|(_, stand)| *stand == Stand::Done(true));
        return Step::Nothing(if well { "Succeeded" } else { "Failed" });
    }
    // An init container that ended well is done whatever the policy; one that is to stay up is a sidecar.
    let init_policy = if policy == "Never" { "Never" } else { "OnFailure" };
    let inits = spec.init_containers.iter().flatten();
    let sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let begun = mains.iter().any(|(_, stand)| *stand != Stand::Missing);
    let mut starts = Vec::new();
    for container in inits {
        match stand(container, if sidecar(container) { "Always" } else { init_policy }) {
            Stand::Done(false) if !begun => return Step::Nothing("Failed"),
            Stand::Done(_) => {}
            Stand::Running if sidecar(container) => {}
            Stand::Running => return Step::Nothing("Pending"),
            Stand::Missing | Stand::Again if sidecar(container) => starts.push(container.name.clone()),
            // The containers run, so the init containers have done their work, though the runtime has forgotten them.
            Stand::Missing | Stand::Again if begun => {}
            Stand::Missing | Stand::Again => {
                starts.push(container.name.clone());
                return if ready { Step::Start(starts) } else { Step::Sandbox };
            }
        }
    }
    let wanted = mains
        .iter()
        .filter(|(_, stand)| matches!(stand, Stand::Missing | Stand::Again));
    starts.extend(wanted.map(|(container, _)| container.name.clone()));
    match (ready, starts.is_empty()) {
        (false, _) => Step::Sandbox,
        (true, false) => Step::Start(starts),
        (true, true) => Step::Nothing("Running"),
    }
}

fn stand(container: Option<&pod::Container>, policy: &str) -> Stand {
    match container
        .and_then(|container| container.current.as_ref())
        .map(|run| &run.state)
    {
        None | Some(RunState::Created) => Stand::Missing,
        Some(RunState::Running(_)) => Stand::Running,
        Some(RunState::Exited(exit)) => match policy {
            "Never" => Stand::Done(exit.code == 0),
            "OnFailure" if exit.code == 0 => Stand::Done(true),
            _ => Stand::Again,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rstest::rstest;

    use super::super::super::pod::{Exit, Run};
    use super::*;

    fn spec(policy: &str, inits: &str) -> PodSpec {
        super::super::yaml(&format!(
            "{{restartPolicy: {policy}, initContainers: [{inits}], containers: [{{name: a}}, {{name: b}}]}}"
        ))
    }

    /// `a=run b=0 c=created`: how the containers stand.
    fn runs(text: &str) -> BTreeMap<String, pod::Container> {
        let state = |word: &str| match word {
            "run" => RunState::Running(1),
            "created" => RunState::Created,
            code => RunState::Exited(Exit {
                code: code.parse().unwrap(),
                ..Exit::default()
            }),
        };
        let run = |state| Run {
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
                let container = pod::Container {
                    current: Some(run(state(word))),
                    ..pod::Container::default()
                };
                (name.to_owned(), container)
            })
            .collect()
    }

    fn start(names: &[&str]) -> Step {
        Step::Start(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[rstest]
    #[case("Always", "", false, "", Step::Sandbox)]
    #[case("Always", "", true, "", start(&["a", "b"]))]
    #[case("Always", "", true, "a=run", start(&["b"]))]
    #[case("Always", "", true, "a=created b=run", start(&["a"]))]
    #[case("Always", "", true, "a=run b=run", Step::Nothing("Running"))]
    #[case("Always", "", true, "a=run b=0", start(&["b"]))]
    #[case("OnFailure", "", true, "a=run b=0", Step::Nothing("Running"))]
    #[case("OnFailure", "", true, "a=0 b=1", start(&["b"]))]
    #[case("OnFailure", "", true, "a=0 b=0", Step::Nothing("Succeeded"))]
    #[case("Never", "", true, "a=0 b=1", Step::Nothing("Failed"))]
    #[case("Never", "", false, "a=0 b=1", Step::Nothing("Failed"))]
    #[case("Always", "{name: i}, {name: j}", true, "", start(&["i"]))]
    #[case("Always", "{name: i}, {name: j}", true, "i=run", Step::Nothing("Pending"))]
    #[case("Always", "{name: i}, {name: j}", true, "i=0", start(&["j"]))]
    #[case("Always", "{name: i}, {name: j}", true, "i=1", start(&["i"]))]
    #[case("Never", "{name: i}, {name: j}", true, "i=1", Step::Nothing("Failed"))]
    #[case("Always", "{name: i}, {name: j}", true, "i=0 j=0", start(&["a", "b"]))]
    #[case("Always", "{name: i}, {name: j}", true, "a=run b=1", start(&["b"]))]
    #[case("Always", "{name: i, restartPolicy: Always}, {name: j}", true, "i=run", start(&["j"]))]
    #[case("Always", "{name: i, restartPolicy: Always}", true, "i=0 a=run b=run", start(&["i"]))]
    fn decides(
        #[case] policy: &str,
        #[case] inits: &str,
        #[case] ready: bool,
        #[case] stands: &str,
        #[case] expected: Step,
    ) {
        assert_eq!(next(&spec(policy, inits), ready, &runs(stands)), expected);
    }
}
