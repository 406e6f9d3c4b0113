//! The mutants of the kubelet suite: the reference kubelet's own, and what a kubelet does over a faulty runtime.

use super::{
    Definition,
    Wrong::{Kubelet, Preset},
    caught,
};
use crate::reference::Mutant;

/// Every one.
pub(super) const ALL: &[Definition] = &[
    // Who is not there.
    caught(
        Kubelet(Mutant::OkForUnknownPod),
        // A namespace that is not there has no Pod either.
        &["kubelet/404/pod-unknown", "kubelet/404/namespace-unknown"],
    ),
    caught(Kubelet(Mutant::UnknownContainer500), &["kubelet/404/container-unknown"]),
    caught(Kubelet(Mutant::NamespaceIgnored), &["kubelet/404/namespace-unknown"]),
    caught(
        Kubelet(Mutant::WrongContainer),
        &[
            "kubelet/200/named-container",
            "kubelet/404/container-unknown",
            "kubelet/500/exited",
            "kubelet/500/init-finished",
        ],
    ),
    caught(
        Kubelet(Mutant::OkForExited),
        &["kubelet/500/exited", "kubelet/500/init-finished"],
    ),
    // The gate.
    caught(Kubelet(Mutant::GateIgnored), &["kubelet/404/gate-off"]),
    caught(Kubelet(Mutant::GateOff500), &["kubelet/404/gate-off"]),
    // Who may not.
    caught(Kubelet(Mutant::NoAuth), &["kubelet/401/no-credentials"]),
    caught(
        Kubelet(Mutant::WrongCredentialsAccepted),
        &["kubelet/401/unknown-token", "kubelet/401/stranger-certificate"],
    ),
    caught(
        Kubelet(Mutant::Unauthenticated403),
        &[
            "kubelet/401/no-credentials",
            "kubelet/401/unknown-token",
            "kubelet/401/stranger-certificate",
        ],
    ),
    caught(Kubelet(Mutant::AuthorizationIgnored), &["kubelet/403/denied"]),
    // The archive's name and place.
    caught(Kubelet(Mutant::NameWithoutNamespace), &["kubelet/name/form"]),
    caught(Kubelet(Mutant::NameWithoutContainer), &["kubelet/name/form"]),
    caught(Kubelet(Mutant::TimestampWrong), &["kubelet/name/timestamp-format"]),
    caught(Kubelet(Mutant::TimestampStale), &["kubelet/name/timestamp"]),
    caught(Kubelet(Mutant::PlaceOutsideCheckpoints), &["kubelet/name/place"]),
    // Who may read it.
    caught(Kubelet(Mutant::FolderWorldReadable), &["kubelet/access/folder"]),
    caught(Kubelet(Mutant::ArchiveWorldReadable), &["kubelet/access/file"]),
    caught(Preset("world-readable-archive"), &["kubelet/access/file"]),
    // Whether it is there, and what it is.
    caught(Kubelet(Mutant::ArchiveDeleted), &["kubelet/200/archive"]),
    caught(Preset("no-archive"), &["kubelet/200/archive"]),
    caught(Preset("empty-archive"), &["kubelet/archive/tar"]),
    caught(Preset("truncated-archive"), &["kubelet/archive/tar"]),
    caught(Preset("corrupt-archive"), &["kubelet/archive/tar"]),
    caught(
        Preset("partial-archive"),
        &["kubelet/200/ok", "kubelet/robust/no-partial-archive"],
    ),
    caught(Preset("missing-inventory"), &["kubelet/archive/upstream-members"]),
    caught(Preset("missing-spec-dump"), &["kubelet/archive/upstream-members"]),
    caught(Preset("missing-config-dump"), &["kubelet/archive/upstream-members"]),
    caught(Preset("missing-pages"), &["kubelet/copy/canary"]),
    // What it does to the container.
    caught(Kubelet(Mutant::ContainerStopped), &["kubelet/copy/runs-on"]),
    caught(Preset("container-killed"), &["kubelet/copy/runs-on"]),
    caught(Preset("left-frozen"), &["kubelet/copy/runs-on"]),
    // What the runtime answers.
    caught(
        Kubelet(Mutant::ErrorSwallowed),
        &["kubelet/500/runtime-error", "kubelet/500/unimplemented"],
    ),
    caught(
        Kubelet(Mutant::ErrorWithoutMessage),
        &["kubelet/500/runtime-error-message", "kubelet/500/unimplemented-message"],
    ),
    caught(Kubelet(Mutant::Error404), &["kubelet/500/runtime-error"]),
    caught(Kubelet(Mutant::Unimplemented501), &["kubelet/500/unimplemented"]),
    caught(Kubelet(Mutant::AnswersEarly), &["kubelet/200/when-done"]),
    caught(Kubelet(Mutant::CancelIgnored), &["kubelet/cancel/client-gone"]),
    // The timeout.
    caught(Kubelet(Mutant::TimeoutIgnored), &["kubelet/timeout/large"]),
    caught(Kubelet(Mutant::TimeoutZeroMeansNow), &["kubelet/timeout/zero"]),
    caught(Kubelet(Mutant::TimeoutShortened), &["kubelet/timeout/below-default"]),
    caught(
        Kubelet(Mutant::TimeoutMalformedAccepted),
        &["kubelet/timeout/malformed"],
    ),
    // The answer's form.
    caught(Kubelet(Mutant::BodyWrong), &["kubelet/200/body"]),
    caught(Kubelet(Mutant::BodyEmpty), &["kubelet/200/body"]),
    caught(Kubelet(Mutant::BodyOtherFile), &["kubelet/200/body-location"]),
    caught(Kubelet(Mutant::ContentTypeWrong), &["kubelet/200/content-type"]),
    caught(Kubelet(Mutant::GetAllowed), &["kubelet/405/other-methods"]),
];
