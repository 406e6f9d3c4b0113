//! The cases about a kubelet's checkpoint endpoint, one file a topic.
//!
//! What stands in the Kubelet Checkpoint API page is `documented`; what the Kubernetes kubelet does beyond it is
//! `reference`; what it does not and should is `robust`.

mod archive_file;
mod auth;
mod checkpoints_dir;
mod container_state;
mod effect;
mod feature_gate;
mod hardening;
mod http_format;
mod load;
mod not_found;
mod path;
mod runtime_error;
mod runtime_outage;
mod session;
mod success;
mod timeout;

use crate::{
    engine::{Case, Stage},
    targets::ContainerRef,
};

pub use session::{KubeletSession, OK_CASE};

/// Every case, in the order in which they run without a seed: what many build on comes first.
pub fn cases() -> Vec<Case<KubeletSession>> {
    let groups: [(Stage, TargetUse, &[Case<KubeletSession>]); 23] = [
        // They look at the first checkpoint, and make it if none of them has.
        (Stage::Early, TargetUse::Shared, success::CASES),
        (Stage::Early, TargetUse::Shared, effect::CASES),
        (Stage::Early, TargetUse::Shared, archive_file::CASES),
        // Whether a second one can be judged at all.
        (Stage::Early, TargetUse::Exclusive, success::EXCLUSIVE_CASES),
        // They ask for what is refused.
        (Stage::Main, TargetUse::Shared, auth::CASES),
        (Stage::Main, TargetUse::Shared, not_found::CASES),
        (Stage::Main, TargetUse::Exclusive, auth::EXCLUSIVE_CASES),
        (Stage::Main, TargetUse::Exclusive, path::CASES),
        (Stage::Main, TargetUse::Exclusive, http_format::CASES),
        (Stage::Main, TargetUse::Exclusive, timeout::CASES),
        (Stage::Main, TargetUse::Exclusive, container_state::CASES),
        (Stage::Main, TargetUse::Exclusive, runtime_error::CASES),
        (Stage::Main, TargetUse::Exclusive, load::CASES),
        (Stage::Main, TargetUse::Exclusive, hardening::CASES),
        (Stage::Main, TargetUse::Exclusive, archive_file::EXCLUSIVE_CASES),
        (Stage::Main, TargetUse::Exclusive, checkpoints_dir::CASES),
        (Stage::Main, TargetUse::Exclusive, runtime_outage::CASES),
        (Stage::Main, TargetUse::Exclusive, feature_gate::READ_ONLY_PORT_CASES),
        // They restart the runtime or the kubelet.
        (Stage::Late, TargetUse::Exclusive, runtime_outage::RUNTIME_RESTART_CASES),
        (
            Stage::Late,
            TargetUse::Exclusive,
            checkpoints_dir::KUBELET_RESTART_CASES,
        ),
        (Stage::Late, TargetUse::Restarting, checkpoints_dir::MISSING_DIR_CASES),
        (Stage::Late, TargetUse::Restarting, feature_gate::CASES),
        (Stage::Late, TargetUse::Restarting, runtime_outage::SHORT_DEADLINE_CASES),
    ];
    let staged = groups.into_iter().flat_map(|(stage, target_use, cases)| {
        cases.iter().map(move |case| match target_use {
            TargetUse::Shared => case.stage(stage).shared(),
            TargetUse::Exclusive => case.stage(stage),
            TargetUse::Restarting => case.stage(stage).restarts_target(),
        })
    });
    let with_archive_counts = staged.map(|case| {
        let listed = MAX_ARCHIVES.iter().find(|(id, _)| *id == case.info.id);
        listed.map_or(case, |(_, archives)| case.max_archives(*archives))
    });
    with_archive_counts.collect()
}

/// How many archives a case makes at most, beside the first one that most cases look at. A test compares the sum with the archives of
/// a whole run.
const MAX_ARCHIVES: &[(&str, u32)] = &[
    ("kubelet/request/accept-list-with-json", 1),
    ("kubelet/authentication/bearer-token-accepted", 1),
    ("kubelet/feature-gate/enabled-by-default", 1),
    ("kubelet/checkpoint/named-container-only", 1),
    ("kubelet/path/percent-decoded", 1),
    ("kubelet/request/body-ignored", 1),
    ("kubelet/container-state/sidecar-accepted", 1),
    ("kubelet/path/trailing-slash-accepted", 1),
    ("kubelet/checkpoint/trusts-runtime", 1),
    ("kubelet/request/unknown-parameter-ignored", 1),
    ("kubelet/checkpoint/waits-for-runtime", 1),
    ("kubelet/runtime-error/deadline-exceeded", 1),
    ("kubelet/lookup/ephemeral-container-found", 1),
    ("kubelet/archive/survives-restart", 1),
    ("kubelet/archive/earlier-archives-unchanged", 2),
    ("kubelet/cancellation/cancels-runtime-call", 1),
    ("kubelet/concurrency/all-served", 32),
    ("kubelet/checkpoint/single-cri-call", 1),
    ("kubelet/http2/same-responses", 2),
    ("kubelet/metrics/operations", 1),
    ("kubelet/archive-name/timestamp", 1),
    ("kubelet/path/encoded-slash-separates", 1),
    // Up to three pairs, until both of one are within a second.
    ("kubelet/archive-name/unique-within-a-second", 6),
    ("kubelet/recovery/after-late-response", 3),
    ("kubelet/confidentiality/no-memory-disclosure", 1),
    ("kubelet/archive/absent-after-error", 1),
    ("kubelet/recovery/after-runtime-restart", 1),
    ("kubelet/checkpoint/repeatable", 1),
    // Those about the timeout make one more where the kubelet's default is not known.
    ("kubelet/timeout/absent-uses-default", 2),
    ("kubelet/timeout/raised-to-default", 2),
    ("kubelet/timeout/cri-request-field", 2),
    ("kubelet/timeout/above-default-applied", 1),
    ("kubelet/timeout/last-value-wins", 2),
    ("kubelet/timeout/plus-sign-accepted", 2),
    ("kubelet/timeout/zero-uses-default", 2),
];

/// What a group's cases share with others that run at the same time.
#[derive(Clone, Copy)]
enum TargetUse {
    /// The target.
    Shared,
    /// Nothing: each needs the target alone, unless it says otherwise itself.
    Exclusive,
    /// Nothing, and each restarts the target as it needs it. Those that need the same configuration stand beside each other.
    Restarting,
}

/// A fault rule for the checkpoints of this container: what happens at this phase of them.
fn fault_rule(container: &ContainerRef, phase: &str, effect: &str) -> String {
    let ContainerRef {
        namespace,
        pod,
        container,
    } = container;
    format!("CheckpointContainer(namespace={namespace},pod={pod},container={container}):{phase}={effect}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_archives_names_existing_cases() {
        let cases = cases();
        for (id, archives) in MAX_ARCHIVES {
            let case = cases.iter().find(|case| case.info.id == *id);
            assert_eq!(case.map(|case| case.max_archives), Some(*archives), "{id}");
        }
    }
}
