//! The cases about a kubelet's checkpoint endpoint, one file a topic.
//!
//! What stands in the Kubelet Checkpoint API page is `documented`; what the Kubernetes kubelet does beyond it is
//! `reference`; what it does not and should is `robust`.

mod archive_file;
mod auth;
mod copy;
mod folder;
mod gate;
mod load;
mod not_found;
mod outage;
mod path;
mod robust;
mod runtime_error;
mod session;
mod shape;
mod state;
mod success;
mod timeout;

use crate::{
    case::{Case, Stage},
    target::ContainerRef,
};

pub use session::{OK, Session};

/// Every case, in the order in which they run without a seed: what many build on comes first.
pub fn cases() -> Vec<Case<Session>> {
    let parts: [(Stage, Share, &[Case<Session>]); 23] = [
        // They look at the first checkpoint, and make it if none of them has.
        (Stage::Early, Share::Target, success::CASES),
        (Stage::Early, Share::Target, copy::CASES),
        (Stage::Early, Share::Target, archive_file::CASES),
        // Whether a second one can be judged at all.
        (Stage::Early, Share::Nothing, success::FURTHER),
        // They ask for what is refused.
        (Stage::Main, Share::Target, auth::CASES),
        (Stage::Main, Share::Target, not_found::CASES),
        (Stage::Main, Share::Nothing, auth::FURTHER),
        (Stage::Main, Share::Nothing, path::CASES),
        (Stage::Main, Share::Nothing, shape::CASES),
        (Stage::Main, Share::Nothing, timeout::CASES),
        (Stage::Main, Share::Nothing, state::CASES),
        (Stage::Main, Share::Nothing, runtime_error::CASES),
        (Stage::Main, Share::Nothing, load::CASES),
        (Stage::Main, Share::Nothing, robust::CASES),
        (Stage::Main, Share::Nothing, archive_file::FURTHER),
        (Stage::Main, Share::Nothing, folder::CASES),
        (Stage::Main, Share::Nothing, outage::CASES),
        (Stage::Main, Share::Nothing, gate::READ_ONLY),
        // They restart the runtime or the kubelet.
        (Stage::Late, Share::Nothing, outage::RUNTIME),
        (Stage::Late, Share::Nothing, folder::KEPT),
        (Stage::Late, Share::Restarts, folder::RESTARTING),
        (Stage::Late, Share::Restarts, gate::CASES),
        (Stage::Late, Share::Restarts, outage::DEADLINES),
    ];
    let staged = parts.into_iter().flat_map(|(stage, share, cases)| {
        cases.iter().map(move |case| match share {
            Share::Target => case.stage(stage).shared(),
            Share::Nothing => case.stage(stage),
            Share::Restarts => case.stage(stage).restarts(),
        })
    });
    let counted = staged.map(|case| {
        let known = ARCHIVES.iter().find(|(id, _)| *id == case.clause.id);
        known.map_or(case, |(_, archives)| case.archives(*archives))
    });
    counted.collect()
}

/// How many archives a case makes at most, beside the first one that most cases look at. A test compares the sum with the archives of
/// a whole run.
const ARCHIVES: &[(&str, u32)] = &[
    ("kubelet/200/accept-list", 1),
    ("kubelet/200/bearer-token", 1),
    ("kubelet/200/gate-default", 1),
    ("kubelet/200/named-container", 1),
    ("kubelet/200/percent-encoded", 1),
    ("kubelet/200/request-body", 1),
    ("kubelet/200/sidecar", 1),
    ("kubelet/200/trailing-slash", 1),
    ("kubelet/200/unchecked", 1),
    ("kubelet/200/unknown-parameter", 1),
    ("kubelet/200/when-done", 1),
    ("kubelet/500/deadline", 1),
    ("kubelet/500/ephemeral", 1),
    ("kubelet/archive/kept-at-restart", 1),
    ("kubelet/archive/untouched", 2),
    ("kubelet/cancel/client-gone", 1),
    ("kubelet/concurrent/many", 32),
    ("kubelet/cri/one-call", 1),
    ("kubelet/http2/same-answers", 2),
    ("kubelet/metrics/operations", 1),
    ("kubelet/name/timestamp", 1),
    ("kubelet/path/encoded-slash", 1),
    // Up to three pairs, until both of one are within a second.
    ("kubelet/robust/names-differ", 6),
    ("kubelet/robust/late-answer", 3),
    ("kubelet/robust/no-memory-told", 1),
    ("kubelet/robust/no-partial-archive", 1),
    ("kubelet/robust/runtime-restarted", 1),
    ("kubelet/robust/second-checkpoint", 1),
    // Those about the timeout make one more where the kubelet's default is not known.
    ("kubelet/timeout/absent", 2),
    ("kubelet/timeout/below-default", 2),
    ("kubelet/timeout/field", 2),
    ("kubelet/timeout/large", 1),
    ("kubelet/timeout/last-value", 2),
    ("kubelet/timeout/signed", 2),
    ("kubelet/timeout/zero", 2),
];

/// What a group's cases share with others that run at the same time.
#[derive(Clone, Copy)]
enum Share {
    /// The target.
    Target,
    /// Nothing: each needs the target alone, unless it says otherwise itself.
    Nothing,
    /// Nothing, and each restarts the target as it needs it. Those that need the same configuration stand beside each other.
    Restarts,
}

/// A fault rule for the checkpoints of this container: what happens at this phase of them.
fn rule(container: &ContainerRef, phase: &str, effect: &str) -> String {
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
    fn the_archives_are_counted_of_cases_that_exist() {
        let cases = cases();
        for (id, archives) in ARCHIVES {
            let case = cases.iter().find(|case| case.clause.id == *id);
            assert_eq!(case.map(|case| case.archives), Some(*archives), "{id}");
        }
    }
}
