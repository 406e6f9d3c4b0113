//! The cases about a kubelet's checkpoint endpoint, one file per topic.
//!
//! A case is `documented` if the Kubelet Checkpoint API page states its requirement, `reference` if the Kubernetes
//! kubelet behaves that way beyond the page, and `robust` if the kubelet should behave that way and does not promise
//! it.

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

/// Every case, in the order of a run without a seed: cases that others depend on come first.
pub fn cases() -> Vec<Case<KubeletSession>> {
    let groups: [(Stage, TargetUse, &[Case<KubeletSession>]); 23] = [
        // These cases check the first checkpoint. The first of them that runs makes it.
        (Stage::Early, TargetUse::Shared, success::CASES),
        (Stage::Early, TargetUse::Shared, effect::CASES),
        (Stage::Early, TargetUse::Shared, archive_file::CASES),
        // These cases decide whether a second checkpoint can be tested at all.
        (Stage::Early, TargetUse::Exclusive, success::EXCLUSIVE_CASES),
        // All other cases.
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
        // These cases restart the runtime or the kubelet.
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

/// The maximum number of archives that a case makes, not counting the first archive that most cases share. A test
/// compares the sum with the number of archives of a whole run.
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
    // Up to three pairs, until both checkpoints of a pair fall within one second.
    ("kubelet/archive-name/unique-within-a-second", 6),
    ("kubelet/recovery/after-late-response", 3),
    ("kubelet/confidentiality/no-memory-disclosure", 1),
    ("kubelet/archive/absent-after-error", 1),
    ("kubelet/recovery/after-runtime-restart", 1),
    ("kubelet/checkpoint/repeatable", 1),
    // The timeout cases make one more archive if the kubelet's default timeout is unknown.
    ("kubelet/timeout/absent-uses-default", 2),
    ("kubelet/timeout/raised-to-default", 2),
    ("kubelet/timeout/cri-request-field", 2),
    ("kubelet/timeout/above-default-applied", 1),
    ("kubelet/timeout/last-value-wins", 2),
    ("kubelet/timeout/plus-sign-accepted", 2),
    ("kubelet/timeout/zero-uses-default", 2),
];

/// What the cases of a group share with cases that run at the same time.
#[derive(Clone, Copy)]
enum TargetUse {
    /// The cases share the target.
    Shared,
    /// Each case needs the target alone, unless the case itself is marked as shared.
    Exclusive,
    /// Each case needs the target alone and restarts it if necessary. Cases that need the same configuration are
    /// adjacent.
    Restarting,
}

/// A fault rule that applies `effect` at `phase` of this container's checkpoints.
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
