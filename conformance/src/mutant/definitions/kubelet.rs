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
        &[
            "kubelet/404/pod-unknown",
            "kubelet/404/namespace-unknown",
            "kubelet/404/static-pod-full-name",
            "kubelet/404/strange-names",
        ],
    ),
    caught(
        Kubelet(Mutant::UnknownContainer500),
        &[
            "kubelet/404/container-unknown",
            "kubelet/404/over-long-name",
            "kubelet/404/strange-names",
        ],
    ),
    caught(Kubelet(Mutant::NamespaceIgnored), &["kubelet/404/namespace-unknown"]),
    caught(
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
    caught(
        Kubelet(Mutant::OkForExited),
        &[
            "kubelet/500/created",
            "kubelet/500/exited",
            "kubelet/500/init-finished",
            "kubelet/500/restarting",
        ],
    ),
    // The gate.
    caught(
        Kubelet(Mutant::GateIgnored),
        &["kubelet/404/gate-off", "kubelet/folder/gate-off"],
    ),
    caught(Kubelet(Mutant::GateOff500), &["kubelet/404/gate-off"]),
    // Who may not.
    caught(
        Kubelet(Mutant::NoAuth),
        &["kubelet/401/no-credentials", "kubelet/401/other-scheme"],
    ),
    caught(
        Kubelet(Mutant::WrongCredentialsAccepted),
        &["kubelet/401/unknown-token", "kubelet/401/stranger-certificate"],
    ),
    caught(
        Kubelet(Mutant::Unauthenticated403),
        &[
            "kubelet/401/no-credentials",
            "kubelet/401/other-scheme",
            "kubelet/401/unknown-token",
            "kubelet/401/stranger-certificate",
        ],
    ),
    caught(Kubelet(Mutant::AuthorizationIgnored), &["kubelet/403/denied"]),
    // The archive's name and place.
    caught(Kubelet(Mutant::NameWithoutNamespace), &["kubelet/name/form"]),
    caught(Kubelet(Mutant::NameWithoutContainer), &["kubelet/name/form"]),
    caught(Kubelet(Mutant::TimestampWrong), &["kubelet/name/timestamp-format"]),
    caught(
        Kubelet(Mutant::TimestampStale),
        &["kubelet/name/timestamp", "kubelet/archive/untouched"],
    ),
    caught(
        Kubelet(Mutant::TimestampOfAnotherZone),
        &["kubelet/name/timestamp-zone"],
    ),
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
    caught(
        Kubelet(Mutant::CancelIgnored),
        &["kubelet/cancel/client-gone", "kubelet/500/connection-lost"],
    ),
    // The timeout.
    caught(
        Kubelet(Mutant::TimeoutIgnored),
        &["kubelet/timeout/large", "kubelet/timeout/overflow"],
    ),
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
    // Who asks, and what they may, in which order.
    caught(
        Kubelet(Mutant::LookupBeforeAuth),
        // Authorisation comes after authentication.
        &["kubelet/401/before-lookup", "kubelet/403/before-lookup"],
    ),
    caught(
        Kubelet(Mutant::RoutingBeforeAuth),
        &[
            "kubelet/401/before-routing",
            "kubelet/403/before-routing",
            "kubelet/403/verb",
        ],
    ),
    caught(Kubelet(Mutant::AnySchemeAccepted), &["kubelet/401/other-scheme"]),
    caught(Kubelet(Mutant::ChallengeOn401), &["kubelet/401/body"]),
    caught(Kubelet(Mutant::TokensIgnored), &["kubelet/200/bearer-token"]),
    caught(
        Kubelet(Mutant::ForbiddenWithoutUser),
        &["kubelet/403/verb", "kubelet/403/body"],
    ),
    caught(Kubelet(Mutant::ProxyRightSuffices), &["kubelet/403/proxy-right"]),
    caught(
        Kubelet(Mutant::LookupBeforeAuthorization),
        &["kubelet/403/before-lookup"],
    ),
    caught(
        Kubelet(Mutant::RoutingBeforeAuthorization),
        &["kubelet/403/verb", "kubelet/403/before-routing"],
    ),
    caught(Kubelet(Mutant::VerbAlwaysCreate), &["kubelet/403/verb"]),
    caught(Kubelet(Mutant::Http2Unauthenticated), &["kubelet/http2/same-answers"]),
    // What is not found, and how that is told.
    caught(
        Kubelet(Mutant::UnknownNamespaceBody),
        &["kubelet/404/namespace-unknown-body"],
    ),
    caught(Kubelet(Mutant::UnknownPodBody), &["kubelet/404/pod-unknown-body"]),
    caught(
        Kubelet(Mutant::UnknownContainerBody),
        &["kubelet/404/container-unknown-body"],
    ),
    caught(Kubelet(Mutant::StrangeNames400), &["kubelet/404/strange-names"]),
    caught(Kubelet(Mutant::LongName414), &["kubelet/404/over-long-name"]),
    caught(
        Kubelet(Mutant::NodeSuffixOptional),
        &["kubelet/404/static-pod-full-name"],
    ),
    caught(Kubelet(Mutant::TimeoutFirst), &["kubelet/404/pod-before-timeout"]),
    caught(
        Kubelet(Mutant::StateBeforeTimeout),
        &["kubelet/404/timeout-before-state"],
    ),
    caught(
        Kubelet(Mutant::InitUnknown),
        &["kubelet/500/init-finished", "kubelet/200/sidecar"],
    ),
    caught(Kubelet(Mutant::EphemeralUnknown), &["kubelet/500/ephemeral"]),
    caught(
        Kubelet(Mutant::Restarting404),
        &["kubelet/500/restarting", "kubelet/500/created"],
    ),
    caught(Kubelet(Mutant::CreatedCheckpointed), &["kubelet/500/created"]),
    // Where the endpoint is not served.
    caught(Kubelet(Mutant::GateOffSaysSo), &["kubelet/404/gate-off-body"]),
    caught(
        Kubelet(Mutant::GateOffAsksWho),
        &["kubelet/404/gate-off-without-credentials"],
    ),
    caught(Kubelet(Mutant::GateDefaultOff), &["kubelet/200/gate-default"]),
    caught(Kubelet(Mutant::DebuggingOffIgnored), &["kubelet/404/debugging-off"]),
    caught(Kubelet(Mutant::ReadOnlyPortServes), &["kubelet/404/read-only-port"]),
    // The folder and what lies in it.
    caught(Kubelet(Mutant::FolderAlways), &["kubelet/folder/gate-off"]),
    caught(Kubelet(Mutant::FolderLate), &["kubelet/folder/made"]),
    caught(
        Kubelet(Mutant::FolderEmptiedAtStart),
        &["kubelet/archive/kept-at-restart"],
    ),
    caught(Kubelet(Mutant::OnlyLastKept), &["kubelet/archive/untouched"]),
    caught(Kubelet(Mutant::ArchiveChecked), &["kubelet/200/unchecked"]),
    // What a request may look like.
    caught(
        Kubelet(Mutant::RefusedMethodCheckpoints),
        &["kubelet/405/other-methods"],
    ),
    caught(Kubelet(Mutant::AllowMissing), &["kubelet/405/allow"]),
    caught(Kubelet(Mutant::ContainerOptional), &["kubelet/404/path-too-short"]),
    caught(Kubelet(Mutant::TailIgnored), &["kubelet/404/path-too-long"]),
    caught(Kubelet(Mutant::TrailingSlashRefused), &["kubelet/200/trailing-slash"]),
    caught(
        Kubelet(Mutant::PercentEncodingKept),
        &["kubelet/200/percent-encoded", "kubelet/path/encoded-slash"],
    ),
    caught(Kubelet(Mutant::EncodedSlashKept), &["kubelet/path/encoded-slash"]),
    caught(Kubelet(Mutant::DotSegmentsFollowed), &["kubelet/path/dot-segments"]),
    caught(Kubelet(Mutant::EmptySegmentsDropped), &["kubelet/path/empty-segments"]),
    caught(Kubelet(Mutant::MalformedEscapeKept), &["kubelet/400/malformed-escape"]),
    caught(Kubelet(Mutant::AcceptIgnored), &["kubelet/406/accept"]),
    caught(Kubelet(Mutant::NotAcceptableBare), &["kubelet/406/body"]),
    caught(Kubelet(Mutant::AcceptListRefused), &["kubelet/200/accept-list"]),
    caught(Kubelet(Mutant::RequestBodyParsed), &["kubelet/200/request-body"]),
    caught(
        Kubelet(Mutant::UnknownParameterRefused),
        &["kubelet/200/unknown-parameter"],
    ),
    caught(Kubelet(Mutant::ErrorsAsJson), &["kubelet/error/content-type"]),
    // The timeout.
    caught(Kubelet(Mutant::NoDeadline), &["kubelet/timeout/absent"]),
    caught(Kubelet(Mutant::FieldMissing), &["kubelet/timeout/field"]),
    caught(Kubelet(Mutant::FirstTimeoutCounts), &["kubelet/timeout/last-value"]),
    caught(Kubelet(Mutant::NegativeIsDefault), &["kubelet/timeout/negative"]),
    caught(Kubelet(Mutant::SignRefused), &["kubelet/timeout/signed"]),
    caught(Kubelet(Mutant::OverflowCapped), &["kubelet/timeout/overflow"]),
    // The runtime: how it is asked, what is told of it.
    caught(
        Kubelet(Mutant::CallsTwice),
        &[
            "kubelet/cri/one-call",
            "kubelet/concurrent/many",
            "kubelet/metrics/operations",
        ],
    ),
    caught(Kubelet(Mutant::OneAtATime), &["kubelet/concurrent/many"]),
    caught(Kubelet(Mutant::ErrorUnwrapped), &["kubelet/500/runtime-error-body"]),
    caught(
        Kubelet(Mutant::UnknownWithoutMessage),
        &["kubelet/500/upstream-messages"],
    ),
    caught(Kubelet(Mutant::UnavailableAs503), &["kubelet/500/every-code"]),
    caught(
        Kubelet(Mutant::DeadlineAs504),
        &["kubelet/500/deadline", "kubelet/timeout/overflow"],
    ),
    caught(Kubelet(Mutant::GoneAs502), &["kubelet/500/runtime-gone"]),
    caught(Kubelet(Mutant::LostRetried), &["kubelet/500/connection-lost"]),
    caught(Kubelet(Mutant::OperationsNotCounted), &["kubelet/metrics/operations"]),
    caught(Kubelet(Mutant::ErrorsNotCounted), &["kubelet/metrics/errors"]),
    caught(
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
