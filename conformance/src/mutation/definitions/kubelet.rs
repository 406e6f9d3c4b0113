//! The mutants of the kubelet suite: the reference kubelet's own, and what a kubelet does over a faulty runtime.

use super::{
    MutantDefect::{Kubelet, KubeletWithRuntime},
    MutantDefinition, define,
};
use crate::reference_kubelet::Mutant;

/// Every one.
pub(super) const MUTANTS: &[MutantDefinition] = &[
    // Who is not there.
    define(
        Kubelet(Mutant::OkForUnknownPod),
        // A namespace that is not there has no Pod either.
        &[
            "kubelet/404/pod-unknown",
            "kubelet/404/namespace-unknown",
            "kubelet/404/static-pod-full-name",
            "kubelet/404/strange-names",
        ],
    ),
    define(
        Kubelet(Mutant::UnknownContainer500),
        &[
            "kubelet/404/container-unknown",
            "kubelet/404/over-long-name",
            "kubelet/404/strange-names",
        ],
    ),
    define(Kubelet(Mutant::NamespaceIgnored), &["kubelet/404/namespace-unknown"]),
    define(
        Kubelet(Mutant::WrongContainer),
        &[
            "kubelet/200/named-container",
            "kubelet/404/container-unknown",
            "kubelet/404/over-long-name",
            "kubelet/404/strange-names",
            "kubelet/500/created",
            "kubelet/500/exited",
            "kubelet/500/init-finished",
            "kubelet/500/restarting",
        ],
    ),
    define(
        Kubelet(Mutant::OkForExited),
        &[
            "kubelet/500/created",
            "kubelet/500/exited",
            "kubelet/500/init-finished",
            "kubelet/500/restarting",
        ],
    ),
    // The gate.
    define(
        Kubelet(Mutant::GateIgnored),
        &["kubelet/404/gate-off", "kubelet/folder/gate-off"],
    ),
    define(Kubelet(Mutant::GateOff500), &["kubelet/404/gate-off"]),
    // Who may not.
    define(
        Kubelet(Mutant::NoAuth),
        &["kubelet/401/no-credentials", "kubelet/401/other-scheme"],
    ),
    define(
        Kubelet(Mutant::WrongCredentialsAccepted),
        &["kubelet/401/unknown-token", "kubelet/401/stranger-certificate"],
    ),
    define(
        Kubelet(Mutant::Unauthenticated403),
        &[
            "kubelet/401/no-credentials",
            "kubelet/401/other-scheme",
            "kubelet/401/unknown-token",
            "kubelet/401/stranger-certificate",
        ],
    ),
    define(Kubelet(Mutant::AuthorizationIgnored), &["kubelet/403/denied"]),
    // The archive's name and place.
    define(Kubelet(Mutant::NameWithoutNamespace), &["kubelet/name/form"]),
    define(Kubelet(Mutant::NameWithoutContainer), &["kubelet/name/form"]),
    define(Kubelet(Mutant::TimestampWrong), &["kubelet/name/timestamp-format"]),
    define(
        Kubelet(Mutant::TimestampStale),
        &["kubelet/name/timestamp", "kubelet/archive/untouched"],
    ),
    define(
        Kubelet(Mutant::TimestampOfAnotherZone),
        &["kubelet/name/timestamp-zone"],
    ),
    define(Kubelet(Mutant::PlaceOutsideCheckpoints), &["kubelet/name/place"]),
    // Who may read it.
    define(Kubelet(Mutant::CheckpointsDirWorldReadable), &["kubelet/access/folder"]),
    define(Kubelet(Mutant::ArchiveWorldReadable), &["kubelet/access/file"]),
    define(KubeletWithRuntime("world-readable-archive"), &["kubelet/access/file"]),
    // Whether it is there, and what it is.
    define(Kubelet(Mutant::ArchiveDeleted), &["kubelet/200/archive"]),
    define(KubeletWithRuntime("no-archive"), &["kubelet/200/archive"]),
    define(KubeletWithRuntime("empty-archive"), &["kubelet/archive/tar"]),
    define(KubeletWithRuntime("truncated-archive"), &["kubelet/archive/tar"]),
    define(KubeletWithRuntime("corrupt-archive"), &["kubelet/archive/tar"]),
    define(
        KubeletWithRuntime("partial-archive"),
        &["kubelet/200/ok", "kubelet/robust/no-partial-archive"],
    ),
    define(
        KubeletWithRuntime("missing-inventory"),
        &["kubelet/archive/upstream-members"],
    ),
    define(
        KubeletWithRuntime("missing-spec-dump"),
        &["kubelet/archive/upstream-members"],
    ),
    define(
        KubeletWithRuntime("missing-config-dump"),
        &["kubelet/archive/upstream-members"],
    ),
    define(KubeletWithRuntime("missing-pages"), &["kubelet/copy/canary"]),
    // What it does to the container.
    define(Kubelet(Mutant::ContainerStopped), &["kubelet/copy/runs-on"]),
    define(KubeletWithRuntime("container-killed"), &["kubelet/copy/runs-on"]),
    define(KubeletWithRuntime("left-frozen"), &["kubelet/copy/runs-on"]),
    // What the runtime answers.
    define(
        Kubelet(Mutant::ErrorSwallowed),
        &["kubelet/500/runtime-error", "kubelet/500/unimplemented"],
    ),
    define(
        Kubelet(Mutant::ErrorWithoutMessage),
        &["kubelet/500/runtime-error-message", "kubelet/500/unimplemented-message"],
    ),
    define(Kubelet(Mutant::Error404), &["kubelet/500/runtime-error"]),
    define(Kubelet(Mutant::Unimplemented501), &["kubelet/500/unimplemented"]),
    define(Kubelet(Mutant::AnswersEarly), &["kubelet/200/when-done"]),
    define(
        Kubelet(Mutant::CancelIgnored),
        &["kubelet/cancel/client-gone", "kubelet/500/connection-lost"],
    ),
    // The timeout.
    define(
        Kubelet(Mutant::TimeoutIgnored),
        &["kubelet/timeout/large", "kubelet/timeout/overflow"],
    ),
    define(Kubelet(Mutant::TimeoutZeroMeansNow), &["kubelet/timeout/zero"]),
    define(Kubelet(Mutant::TimeoutShortened), &["kubelet/timeout/below-default"]),
    define(
        Kubelet(Mutant::TimeoutMalformedAccepted),
        &["kubelet/timeout/malformed"],
    ),
    // The answer's form.
    define(Kubelet(Mutant::BodyWrong), &["kubelet/200/body"]),
    define(Kubelet(Mutant::BodyEmpty), &["kubelet/200/body"]),
    define(Kubelet(Mutant::BodyOtherFile), &["kubelet/200/body-location"]),
    define(Kubelet(Mutant::ContentTypeWrong), &["kubelet/200/content-type"]),
    define(Kubelet(Mutant::GetAllowed), &["kubelet/405/other-methods"]),
    // Who asks, and what they may, in which order.
    define(
        Kubelet(Mutant::LookupBeforeAuth),
        // Authorisation comes after authentication.
        &["kubelet/401/before-lookup", "kubelet/403/before-lookup"],
    ),
    define(
        Kubelet(Mutant::RoutingBeforeAuth),
        &[
            "kubelet/401/before-routing",
            "kubelet/403/before-routing",
            "kubelet/403/verb",
        ],
    ),
    define(Kubelet(Mutant::AnySchemeAccepted), &["kubelet/401/other-scheme"]),
    define(Kubelet(Mutant::ChallengeOn401), &["kubelet/401/body"]),
    define(Kubelet(Mutant::TokensIgnored), &["kubelet/200/bearer-token"]),
    define(
        Kubelet(Mutant::ForbiddenWithoutUser),
        &["kubelet/403/verb", "kubelet/403/body"],
    ),
    define(Kubelet(Mutant::ProxyRightSuffices), &["kubelet/403/proxy-right"]),
    define(
        Kubelet(Mutant::LookupBeforeAuthorization),
        &["kubelet/403/before-lookup"],
    ),
    define(
        Kubelet(Mutant::RoutingBeforeAuthorization),
        &["kubelet/403/verb", "kubelet/403/before-routing"],
    ),
    define(Kubelet(Mutant::VerbAlwaysCreate), &["kubelet/403/verb"]),
    define(Kubelet(Mutant::Http2Unauthenticated), &["kubelet/http2/same-answers"]),
    // What is not found, and how that is told.
    define(
        Kubelet(Mutant::UnknownNamespaceBody),
        &["kubelet/404/namespace-unknown-body"],
    ),
    define(Kubelet(Mutant::UnknownPodBody), &["kubelet/404/pod-unknown-body"]),
    define(
        Kubelet(Mutant::UnknownContainerBody),
        &["kubelet/404/container-unknown-body"],
    ),
    define(Kubelet(Mutant::StrangeNames400), &["kubelet/404/strange-names"]),
    define(Kubelet(Mutant::LongName414), &["kubelet/404/over-long-name"]),
    define(
        Kubelet(Mutant::NodeSuffixOptional),
        &["kubelet/404/static-pod-full-name"],
    ),
    define(Kubelet(Mutant::TimeoutFirst), &["kubelet/404/pod-before-timeout"]),
    define(
        Kubelet(Mutant::StateBeforeTimeout),
        &["kubelet/404/timeout-before-state"],
    ),
    define(
        Kubelet(Mutant::InitUnknown),
        &["kubelet/500/init-finished", "kubelet/200/sidecar"],
    ),
    define(Kubelet(Mutant::EphemeralUnknown), &["kubelet/500/ephemeral"]),
    define(
        Kubelet(Mutant::Restarting404),
        &["kubelet/500/restarting", "kubelet/500/created"],
    ),
    define(Kubelet(Mutant::CreatedCheckpointed), &["kubelet/500/created"]),
    // Where the endpoint is not served.
    define(Kubelet(Mutant::GateOffSaysSo), &["kubelet/404/gate-off-body"]),
    define(
        Kubelet(Mutant::GateOffAsksWho),
        &["kubelet/404/gate-off-without-credentials"],
    ),
    define(Kubelet(Mutant::GateDefaultOff), &["kubelet/200/gate-default"]),
    define(Kubelet(Mutant::DebuggingOffIgnored), &["kubelet/404/debugging-off"]),
    define(Kubelet(Mutant::ReadOnlyPortServes), &["kubelet/404/read-only-port"]),
    // The folder and what lies in it.
    define(Kubelet(Mutant::CheckpointsDirAlways), &["kubelet/folder/gate-off"]),
    define(Kubelet(Mutant::CheckpointsDirLate), &["kubelet/folder/made"]),
    define(
        Kubelet(Mutant::CheckpointsDirEmptiedAtStart),
        &["kubelet/archive/kept-at-restart"],
    ),
    define(Kubelet(Mutant::OnlyLastKept), &["kubelet/archive/untouched"]),
    define(Kubelet(Mutant::ArchiveChecked), &["kubelet/200/unchecked"]),
    // What a request may look like.
    define(
        Kubelet(Mutant::RefusedMethodCheckpoints),
        &["kubelet/405/other-methods"],
    ),
    define(Kubelet(Mutant::AllowMissing), &["kubelet/405/allow"]),
    define(Kubelet(Mutant::ContainerOptional), &["kubelet/404/path-too-short"]),
    define(Kubelet(Mutant::TailIgnored), &["kubelet/404/path-too-long"]),
    define(Kubelet(Mutant::TrailingSlashRefused), &["kubelet/200/trailing-slash"]),
    define(
        Kubelet(Mutant::PercentEncodingKept),
        &["kubelet/200/percent-encoded", "kubelet/path/encoded-slash"],
    ),
    define(Kubelet(Mutant::EncodedSlashKept), &["kubelet/path/encoded-slash"]),
    define(Kubelet(Mutant::DotSegmentsFollowed), &["kubelet/path/dot-segments"]),
    define(Kubelet(Mutant::EmptySegmentsDropped), &["kubelet/path/empty-segments"]),
    define(Kubelet(Mutant::MalformedEscapeKept), &["kubelet/400/malformed-escape"]),
    define(Kubelet(Mutant::AcceptIgnored), &["kubelet/406/accept"]),
    define(Kubelet(Mutant::NotAcceptableBare), &["kubelet/406/body"]),
    define(Kubelet(Mutant::AcceptListRefused), &["kubelet/200/accept-list"]),
    define(Kubelet(Mutant::RequestBodyParsed), &["kubelet/200/request-body"]),
    define(
        Kubelet(Mutant::UnknownParameterRefused),
        &["kubelet/200/unknown-parameter"],
    ),
    define(Kubelet(Mutant::ErrorsAsJson), &["kubelet/error/content-type"]),
    // The timeout.
    define(Kubelet(Mutant::NoDeadline), &["kubelet/timeout/absent"]),
    define(Kubelet(Mutant::FieldMissing), &["kubelet/timeout/field"]),
    define(Kubelet(Mutant::FirstTimeoutCounts), &["kubelet/timeout/last-value"]),
    define(Kubelet(Mutant::NegativeIsDefault), &["kubelet/timeout/negative"]),
    define(Kubelet(Mutant::SignRefused), &["kubelet/timeout/signed"]),
    define(Kubelet(Mutant::OverflowCapped), &["kubelet/timeout/overflow"]),
    // The runtime: how it is asked, what is told of it.
    define(
        Kubelet(Mutant::CallsTwice),
        &[
            "kubelet/cri/one-call",
            "kubelet/concurrent/many",
            "kubelet/metrics/operations",
        ],
    ),
    define(Kubelet(Mutant::OneAtATime), &["kubelet/concurrent/many"]),
    define(Kubelet(Mutant::ErrorUnwrapped), &["kubelet/500/runtime-error-body"]),
    define(
        Kubelet(Mutant::UnknownWithoutMessage),
        &["kubelet/500/upstream-messages"],
    ),
    define(Kubelet(Mutant::UnavailableAs503), &["kubelet/500/every-code"]),
    define(
        Kubelet(Mutant::DeadlineAs504),
        &["kubelet/500/deadline", "kubelet/timeout/overflow"],
    ),
    define(Kubelet(Mutant::GoneAs502), &["kubelet/500/runtime-gone"]),
    define(Kubelet(Mutant::LostRetried), &["kubelet/500/connection-lost"]),
    define(Kubelet(Mutant::OperationsNotCounted), &["kubelet/metrics/operations"]),
    define(Kubelet(Mutant::ErrorsNotCounted), &["kubelet/metrics/errors"]),
    define(
        Kubelet(Mutant::LogInError),
        &[
            "kubelet/500/connection-lost",
            "kubelet/500/created",
            "kubelet/500/deadline",
            "kubelet/500/ephemeral",
            "kubelet/500/exited",
            "kubelet/500/init-finished",
            "kubelet/500/restarting",
            "kubelet/500/runtime-error-message",
            "kubelet/500/runtime-gone",
            "kubelet/500/unimplemented-message",
            "kubelet/robust/no-memory-told",
            "kubelet/timeout/negative",
            "kubelet/timeout/overflow",
        ],
    ),
];
