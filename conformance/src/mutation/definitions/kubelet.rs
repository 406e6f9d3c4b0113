//! The mutants of the kubelet suite: defects of the reference kubelet, and a correct kubelet over a faulty runtime.

use super::{
    MutantDefect::{Kubelet, KubeletWithRuntime},
    MutantDefinition, define,
};
use crate::reference_kubelet::Mutant;

pub(super) const MUTANTS: &[MutantDefinition] = &[
    // Lookup.
    define(
        Kubelet(Mutant::OkForUnknownPod),
        // A namespace that does not exist has no Pod either.
        &[
            "kubelet/lookup/pod-unknown",
            "kubelet/lookup/namespace-unknown",
            "kubelet/lookup/static-pod-full-name",
            "kubelet/lookup/invalid-names",
        ],
    ),
    define(
        Kubelet(Mutant::UnknownContainer500),
        &[
            "kubelet/lookup/container-unknown",
            "kubelet/lookup/overlong-name",
            "kubelet/lookup/invalid-names",
        ],
    ),
    define(Kubelet(Mutant::NamespaceIgnored), &["kubelet/lookup/namespace-unknown"]),
    define(
        Kubelet(Mutant::WrongContainer),
        &[
            "kubelet/checkpoint/named-container-only",
            "kubelet/lookup/container-unknown",
            "kubelet/lookup/overlong-name",
            "kubelet/lookup/invalid-names",
            "kubelet/container-state/created-rejected",
            "kubelet/container-state/exited-rejected",
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/crash-loop-rejected",
        ],
    ),
    define(
        Kubelet(Mutant::OkForExited),
        &[
            "kubelet/container-state/created-rejected",
            "kubelet/container-state/exited-rejected",
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/crash-loop-rejected",
        ],
    ),
    // Feature gate.
    define(
        Kubelet(Mutant::GateIgnored),
        &[
            "kubelet/feature-gate/disabled",
            "kubelet/checkpoints-dir/absent-with-gate-disabled",
        ],
    ),
    define(Kubelet(Mutant::GateOff500), &["kubelet/feature-gate/disabled"]),
    // Authentication and authorization.
    define(
        Kubelet(Mutant::NoAuth),
        &[
            "kubelet/authentication/credentials-required",
            "kubelet/authentication/non-bearer-scheme-rejected",
        ],
    ),
    define(
        Kubelet(Mutant::WrongCredentialsAccepted),
        &[
            "kubelet/authentication/unknown-token-rejected",
            "kubelet/authentication/untrusted-certificate-rejected",
        ],
    ),
    define(
        Kubelet(Mutant::Unauthenticated403),
        &[
            "kubelet/authentication/credentials-required",
            "kubelet/authentication/non-bearer-scheme-rejected",
            "kubelet/authentication/unknown-token-rejected",
            "kubelet/authentication/untrusted-certificate-rejected",
        ],
    ),
    define(
        Kubelet(Mutant::AuthorizationIgnored),
        &["kubelet/authorization/permission-required"],
    ),
    // Name and location of the archive.
    define(Kubelet(Mutant::NameWithoutNamespace), &["kubelet/archive-name/format"]),
    define(Kubelet(Mutant::NameWithoutContainer), &["kubelet/archive-name/format"]),
    define(
        Kubelet(Mutant::TimestampWrong),
        &["kubelet/archive-name/timestamp-rfc3339"],
    ),
    define(
        Kubelet(Mutant::TimestampStale),
        &[
            "kubelet/archive-name/timestamp",
            "kubelet/archive/earlier-archives-unchanged",
        ],
    ),
    define(
        Kubelet(Mutant::TimestampOfAnotherZone),
        &["kubelet/archive-name/timestamp-local-zone"],
    ),
    define(
        Kubelet(Mutant::PlaceOutsideCheckpoints),
        &["kubelet/archive/in-checkpoints-dir"],
    ),
    // Permissions of the archive.
    define(
        Kubelet(Mutant::CheckpointsDirWorldReadable),
        &["kubelet/checkpoints-dir/mode-0700"],
    ),
    define(Kubelet(Mutant::ArchiveWorldReadable), &["kubelet/archive/root-only"]),
    define(
        KubeletWithRuntime("world-readable-archive"),
        &["kubelet/archive/root-only"],
    ),
    // Existence and content of the archive.
    define(Kubelet(Mutant::ArchiveDeleted), &["kubelet/archive/at-location"]),
    define(KubeletWithRuntime("no-archive"), &["kubelet/archive/at-location"]),
    define(KubeletWithRuntime("empty-archive"), &["kubelet/archive/tar"]),
    define(KubeletWithRuntime("truncated-archive"), &["kubelet/archive/tar"]),
    define(KubeletWithRuntime("corrupt-archive"), &["kubelet/archive/tar"]),
    define(
        KubeletWithRuntime("partial-archive"),
        &["kubelet/checkpoint/succeeds", "kubelet/archive/absent-after-error"],
    ),
    define(
        KubeletWithRuntime("missing-inventory"),
        &["kubelet/archive/required-members"],
    ),
    define(
        KubeletWithRuntime("missing-spec-dump"),
        &["kubelet/archive/required-members"],
    ),
    define(
        KubeletWithRuntime("missing-config-dump"),
        &["kubelet/archive/required-members"],
    ),
    define(
        KubeletWithRuntime("missing-pages"),
        &["kubelet/archive/contains-memory"],
    ),
    // Effect on the container.
    define(Kubelet(Mutant::ContainerStopped), &["kubelet/container/keeps-running"]),
    define(
        KubeletWithRuntime("container-killed"),
        &["kubelet/container/keeps-running"],
    ),
    define(KubeletWithRuntime("left-frozen"), &["kubelet/container/keeps-running"]),
    // Errors of the runtime.
    define(
        Kubelet(Mutant::ErrorSwallowed),
        &[
            "kubelet/runtime-error/status-code",
            "kubelet/runtime-error/unimplemented",
        ],
    ),
    define(
        Kubelet(Mutant::ErrorWithoutMessage),
        &[
            "kubelet/runtime-error/message",
            "kubelet/runtime-error/unimplemented-message",
        ],
    ),
    define(Kubelet(Mutant::Error404), &["kubelet/runtime-error/status-code"]),
    define(
        Kubelet(Mutant::Unimplemented501),
        &["kubelet/runtime-error/unimplemented"],
    ),
    define(Kubelet(Mutant::AnswersEarly), &["kubelet/checkpoint/waits-for-runtime"]),
    define(
        Kubelet(Mutant::CancelIgnored),
        &[
            "kubelet/cancellation/cancels-runtime-call",
            "kubelet/runtime-error/connection-lost",
        ],
    ),
    // Timeout.
    define(
        Kubelet(Mutant::TimeoutIgnored),
        &[
            "kubelet/timeout/above-default-applied",
            "kubelet/timeout/overflow-expires-at-once",
        ],
    ),
    define(
        Kubelet(Mutant::TimeoutZeroMeansNow),
        &["kubelet/timeout/zero-uses-default"],
    ),
    define(
        Kubelet(Mutant::TimeoutShortened),
        &["kubelet/timeout/raised-to-default"],
    ),
    define(
        Kubelet(Mutant::TimeoutMalformedAccepted),
        &["kubelet/timeout/malformed-rejected"],
    ),
    // Format of the response.
    define(Kubelet(Mutant::BodyWrong), &["kubelet/response/body"]),
    define(Kubelet(Mutant::BodyEmpty), &["kubelet/response/body"]),
    define(
        Kubelet(Mutant::BodyOtherFile),
        &["kubelet/response/location-as-requested"],
    ),
    define(Kubelet(Mutant::ContentTypeWrong), &["kubelet/response/content-type"]),
    define(Kubelet(Mutant::GetAllowed), &["kubelet/method/post-only"]),
    // Order of authentication, authorization, lookup and routing.
    define(
        Kubelet(Mutant::LookupBeforeAuth),
        // Authorization comes after authentication.
        &[
            "kubelet/authentication/before-lookup",
            "kubelet/authorization/before-lookup",
        ],
    ),
    define(
        Kubelet(Mutant::RoutingBeforeAuth),
        &[
            "kubelet/authentication/before-routing",
            "kubelet/authorization/before-routing",
            "kubelet/authorization/verb-follows-method",
        ],
    ),
    define(
        Kubelet(Mutant::AnySchemeAccepted),
        &["kubelet/authentication/non-bearer-scheme-rejected"],
    ),
    define(
        Kubelet(Mutant::ChallengeOn401),
        &["kubelet/authentication/unauthorized-body"],
    ),
    define(
        Kubelet(Mutant::TokensIgnored),
        &["kubelet/authentication/bearer-token-accepted"],
    ),
    define(
        Kubelet(Mutant::ForbiddenWithoutUser),
        &[
            "kubelet/authorization/verb-follows-method",
            "kubelet/authorization/forbidden-body",
        ],
    ),
    define(
        Kubelet(Mutant::ProxyRightSuffices),
        &["kubelet/authorization/nodes-proxy-insufficient"],
    ),
    define(
        Kubelet(Mutant::LookupBeforeAuthorization),
        &["kubelet/authorization/before-lookup"],
    ),
    define(
        Kubelet(Mutant::RoutingBeforeAuthorization),
        &[
            "kubelet/authorization/verb-follows-method",
            "kubelet/authorization/before-routing",
        ],
    ),
    define(
        Kubelet(Mutant::VerbAlwaysCreate),
        &["kubelet/authorization/verb-follows-method"],
    ),
    define(Kubelet(Mutant::Http2Unauthenticated), &["kubelet/http2/same-responses"]),
    // Bodies of 404 responses, and container states.
    define(
        Kubelet(Mutant::UnknownNamespaceBody),
        &["kubelet/lookup/namespace-unknown-body"],
    ),
    define(Kubelet(Mutant::UnknownPodBody), &["kubelet/lookup/pod-unknown-body"]),
    define(
        Kubelet(Mutant::UnknownContainerBody),
        &["kubelet/lookup/container-unknown-body"],
    ),
    define(Kubelet(Mutant::StrangeNames400), &["kubelet/lookup/invalid-names"]),
    define(Kubelet(Mutant::LongName414), &["kubelet/lookup/overlong-name"]),
    define(
        Kubelet(Mutant::NodeSuffixOptional),
        &["kubelet/lookup/static-pod-full-name"],
    ),
    define(
        Kubelet(Mutant::TimeoutFirst),
        &["kubelet/lookup/before-timeout-validation"],
    ),
    define(
        Kubelet(Mutant::StateBeforeTimeout),
        &["kubelet/timeout/validated-before-state"],
    ),
    define(
        Kubelet(Mutant::InitUnknown),
        &[
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/sidecar-accepted",
        ],
    ),
    define(
        Kubelet(Mutant::EphemeralUnknown),
        &["kubelet/lookup/ephemeral-container-found"],
    ),
    define(
        Kubelet(Mutant::Restarting404),
        &[
            "kubelet/container-state/crash-loop-rejected",
            "kubelet/container-state/created-rejected",
        ],
    ),
    define(
        Kubelet(Mutant::CreatedCheckpointed),
        &["kubelet/container-state/created-rejected"],
    ),
    // Conditions under which the endpoint does not exist.
    define(Kubelet(Mutant::GateOffSaysSo), &["kubelet/feature-gate/disabled-body"]),
    define(
        Kubelet(Mutant::GateOffAsksWho),
        &["kubelet/feature-gate/disabled-before-authentication"],
    ),
    define(
        Kubelet(Mutant::GateDefaultOff),
        &["kubelet/feature-gate/enabled-by-default"],
    ),
    define(
        Kubelet(Mutant::DebuggingOffIgnored),
        &["kubelet/endpoint/requires-debugging-handlers"],
    ),
    define(
        Kubelet(Mutant::ReadOnlyPortServes),
        &["kubelet/endpoint/absent-on-read-only-port"],
    ),
    // The directory `checkpoints` and its archives.
    define(
        Kubelet(Mutant::CheckpointsDirAlways),
        &["kubelet/checkpoints-dir/absent-with-gate-disabled"],
    ),
    define(
        Kubelet(Mutant::CheckpointsDirLate),
        &["kubelet/checkpoints-dir/created-at-start"],
    ),
    define(
        Kubelet(Mutant::CheckpointsDirEmptiedAtStart),
        &["kubelet/archive/survives-restart"],
    ),
    define(
        Kubelet(Mutant::OnlyLastKept),
        &["kubelet/archive/earlier-archives-unchanged"],
    ),
    define(Kubelet(Mutant::ArchiveChecked), &["kubelet/checkpoint/trusts-runtime"]),
    // Format of the request.
    define(Kubelet(Mutant::RefusedMethodCheckpoints), &["kubelet/method/post-only"]),
    define(Kubelet(Mutant::AllowMissing), &["kubelet/method/allow-header"]),
    define(Kubelet(Mutant::ContainerOptional), &["kubelet/path/too-few-segments"]),
    define(Kubelet(Mutant::TailIgnored), &["kubelet/path/too-many-segments"]),
    define(
        Kubelet(Mutant::TrailingSlashRefused),
        &["kubelet/path/trailing-slash-accepted"],
    ),
    define(
        Kubelet(Mutant::PercentEncodingKept),
        &["kubelet/path/percent-decoded", "kubelet/path/encoded-slash-separates"],
    ),
    define(
        Kubelet(Mutant::EncodedSlashKept),
        &["kubelet/path/encoded-slash-separates"],
    ),
    define(
        Kubelet(Mutant::DotSegmentsFollowed),
        &["kubelet/path/dot-segments-redirected"],
    ),
    define(
        Kubelet(Mutant::EmptySegmentsDropped),
        &["kubelet/path/empty-segments-redirected"],
    ),
    define(
        Kubelet(Mutant::MalformedEscapeKept),
        &["kubelet/path/malformed-escape-rejected"],
    ),
    define(
        Kubelet(Mutant::AcceptIgnored),
        &["kubelet/request/accept-without-json-rejected"],
    ),
    define(
        Kubelet(Mutant::NotAcceptableBare),
        &["kubelet/request/not-acceptable-body"],
    ),
    define(
        Kubelet(Mutant::AcceptListRefused),
        &["kubelet/request/accept-list-with-json"],
    ),
    define(Kubelet(Mutant::RequestBodyParsed), &["kubelet/request/body-ignored"]),
    define(
        Kubelet(Mutant::UnknownParameterRefused),
        &["kubelet/request/unknown-parameter-ignored"],
    ),
    define(Kubelet(Mutant::ErrorsAsJson), &["kubelet/response/error-content-type"]),
    // Timeout.
    define(Kubelet(Mutant::NoDeadline), &["kubelet/timeout/absent-uses-default"]),
    define(Kubelet(Mutant::FieldMissing), &["kubelet/timeout/cri-request-field"]),
    define(
        Kubelet(Mutant::FirstTimeoutCounts),
        &["kubelet/timeout/last-value-wins"],
    ),
    define(
        Kubelet(Mutant::NegativeIsDefault),
        &["kubelet/timeout/negative-rejected"],
    ),
    define(Kubelet(Mutant::SignRefused), &["kubelet/timeout/plus-sign-accepted"]),
    define(
        Kubelet(Mutant::OverflowCapped),
        &["kubelet/timeout/overflow-expires-at-once"],
    ),
    // Calls to the runtime, errors and metrics.
    define(
        Kubelet(Mutant::CallsTwice),
        &[
            "kubelet/checkpoint/single-cri-call",
            "kubelet/concurrency/all-served",
            "kubelet/metrics/operations",
        ],
    ),
    define(Kubelet(Mutant::OneAtATime), &["kubelet/concurrency/all-served"]),
    define(Kubelet(Mutant::ErrorUnwrapped), &["kubelet/runtime-error/body"]),
    define(
        Kubelet(Mutant::UnknownWithoutMessage),
        &["kubelet/runtime-error/known-runtime-messages"],
    ),
    define(
        Kubelet(Mutant::UnavailableAs503),
        &["kubelet/runtime-error/every-grpc-code"],
    ),
    define(
        Kubelet(Mutant::DeadlineAs504),
        &[
            "kubelet/runtime-error/deadline-exceeded",
            "kubelet/timeout/overflow-expires-at-once",
        ],
    ),
    define(
        Kubelet(Mutant::GoneAs502),
        &["kubelet/runtime-error/runtime-unreachable"],
    ),
    define(Kubelet(Mutant::LostRetried), &["kubelet/runtime-error/connection-lost"]),
    define(Kubelet(Mutant::OperationsNotCounted), &["kubelet/metrics/operations"]),
    define(Kubelet(Mutant::ErrorsNotCounted), &["kubelet/metrics/errors"]),
    define(
        Kubelet(Mutant::LogInError),
        &[
            "kubelet/runtime-error/connection-lost",
            "kubelet/container-state/created-rejected",
            "kubelet/runtime-error/deadline-exceeded",
            "kubelet/lookup/ephemeral-container-found",
            "kubelet/container-state/exited-rejected",
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/crash-loop-rejected",
            "kubelet/runtime-error/message",
            "kubelet/runtime-error/runtime-unreachable",
            "kubelet/runtime-error/unimplemented-message",
            "kubelet/confidentiality/no-memory-disclosure",
            "kubelet/timeout/negative-rejected",
            "kubelet/timeout/overflow-expires-at-once",
        ],
    ),
];
