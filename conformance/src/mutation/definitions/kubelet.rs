//! The mutants of the kubelet suite: defects of the reference kubelet, and a correct kubelet over a faulty runtime.

use super::{
    MutantDefect::{Kubelet, KubeletWithRuntime},
    MutantDefinition, define,
};
use crate::reference_kubelet::Mutant;

pub(super) const MUTANTS: &[MutantDefinition] = &[
    // Lookup.
    define(
        Kubelet(Mutant::PodUnknown200),
        // A namespace that does not exist has no Pod either.
        &[
            "kubelet/lookup/pod-unknown",
            "kubelet/lookup/namespace-unknown",
            "kubelet/lookup/static-pod-full-name",
            "kubelet/lookup/invalid-names",
        ],
    ),
    define(
        Kubelet(Mutant::ContainerUnknown500),
        &[
            "kubelet/lookup/container-unknown",
            "kubelet/lookup/overlong-name",
            "kubelet/lookup/invalid-names",
        ],
    ),
    define(Kubelet(Mutant::NamespaceIgnored), &["kubelet/lookup/namespace-unknown"]),
    define(
        Kubelet(Mutant::ContainerNameIgnored),
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
        Kubelet(Mutant::Exited200),
        &[
            "kubelet/container-state/created-rejected",
            "kubelet/container-state/exited-rejected",
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/crash-loop-rejected",
        ],
    ),
    // Feature gate.
    define(
        Kubelet(Mutant::FeatureGateIgnored),
        &[
            "kubelet/feature-gate/disabled",
            "kubelet/checkpoints-dir/absent-with-gate-disabled",
        ],
    ),
    define(
        Kubelet(Mutant::FeatureGateDisabled500),
        &["kubelet/feature-gate/disabled"],
    ),
    // Authentication and authorization.
    define(
        Kubelet(Mutant::AnonymousAccepted),
        &[
            "kubelet/authentication/credentials-required",
            "kubelet/authentication/non-bearer-scheme-rejected",
        ],
    ),
    define(
        Kubelet(Mutant::UntrustedCredentialsAccepted),
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
    define(
        Kubelet(Mutant::ArchiveNameWithoutNamespace),
        &["kubelet/archive-name/format"],
    ),
    define(
        Kubelet(Mutant::ArchiveNameWithoutContainer),
        &["kubelet/archive-name/format"],
    ),
    define(
        Kubelet(Mutant::TimestampUnixSeconds),
        &["kubelet/archive-name/timestamp-rfc3339"],
    ),
    define(
        Kubelet(Mutant::TimestampOfKubeletStart),
        &[
            "kubelet/archive-name/timestamp",
            "kubelet/archive/earlier-archives-unchanged",
        ],
    ),
    define(
        Kubelet(Mutant::TimestampWrongZone),
        &["kubelet/archive-name/timestamp-local-zone"],
    ),
    define(
        Kubelet(Mutant::ArchiveOutsideCheckpointsDir),
        &["kubelet/archive/in-checkpoints-dir"],
    ),
    // Permissions of the archive.
    define(
        Kubelet(Mutant::CheckpointsDirMode0755),
        &["kubelet/checkpoints-dir/mode-0700"],
    ),
    define(Kubelet(Mutant::ArchiveMode0644), &["kubelet/archive/root-only"]),
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
        Kubelet(Mutant::RuntimeError200),
        &[
            "kubelet/runtime-error/status-code",
            "kubelet/runtime-error/unimplemented",
        ],
    ),
    define(
        Kubelet(Mutant::RuntimeErrorWithoutMessage),
        &[
            "kubelet/runtime-error/message",
            "kubelet/runtime-error/unimplemented-message",
        ],
    ),
    define(Kubelet(Mutant::RuntimeError404), &["kubelet/runtime-error/status-code"]),
    define(
        Kubelet(Mutant::Unimplemented501),
        &["kubelet/runtime-error/unimplemented"],
    ),
    define(
        Kubelet(Mutant::RespondsEarly),
        &["kubelet/checkpoint/waits-for-runtime"],
    ),
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
        Kubelet(Mutant::TimeoutZeroExpiresAtOnce),
        &["kubelet/timeout/zero-uses-default"],
    ),
    define(
        Kubelet(Mutant::TimeoutBelowDefaultApplied),
        &["kubelet/timeout/raised-to-default"],
    ),
    define(
        Kubelet(Mutant::TimeoutMalformedAccepted),
        &["kubelet/timeout/malformed-rejected"],
    ),
    // Format of the response.
    define(Kubelet(Mutant::BodyItemsString), &["kubelet/response/body"]),
    define(Kubelet(Mutant::BodyEmpty), &["kubelet/response/body"]),
    define(
        Kubelet(Mutant::BodyWrongLocation),
        &["kubelet/response/location-as-requested"],
    ),
    define(
        Kubelet(Mutant::ContentTypeTextPlain),
        &["kubelet/response/content-type"],
    ),
    define(Kubelet(Mutant::GetAllowed), &["kubelet/method/post-only"]),
    // Order of authentication, authorization, lookup and routing.
    define(
        Kubelet(Mutant::LookupBeforeAuthentication),
        // Authorization comes after authentication.
        &[
            "kubelet/authentication/before-lookup",
            "kubelet/authorization/before-lookup",
        ],
    ),
    define(
        Kubelet(Mutant::RoutingBeforeAuthentication),
        &[
            "kubelet/authentication/before-routing",
            "kubelet/authorization/before-routing",
            "kubelet/authorization/verb-follows-method",
        ],
    ),
    define(
        Kubelet(Mutant::NonBearerSchemeAccepted),
        &["kubelet/authentication/non-bearer-scheme-rejected"],
    ),
    define(
        Kubelet(Mutant::WwwAuthenticateOn401),
        &["kubelet/authentication/unauthorized-body"],
    ),
    define(
        Kubelet(Mutant::BearerTokensIgnored),
        &["kubelet/authentication/bearer-token-accepted"],
    ),
    define(
        Kubelet(Mutant::ForbiddenBodyWithoutUser),
        &[
            "kubelet/authorization/verb-follows-method",
            "kubelet/authorization/forbidden-body",
        ],
    ),
    define(
        Kubelet(Mutant::NodesProxySufficient),
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
        Kubelet(Mutant::NamespaceUnknownWrongBody),
        &["kubelet/lookup/namespace-unknown-body"],
    ),
    define(
        Kubelet(Mutant::PodUnknownWrongBody),
        &["kubelet/lookup/pod-unknown-body"],
    ),
    define(
        Kubelet(Mutant::ContainerUnknownWrongBody),
        &["kubelet/lookup/container-unknown-body"],
    ),
    define(Kubelet(Mutant::InvalidNames400), &["kubelet/lookup/invalid-names"]),
    define(Kubelet(Mutant::OverlongName414), &["kubelet/lookup/overlong-name"]),
    define(
        Kubelet(Mutant::StaticPodShortNameFound),
        &["kubelet/lookup/static-pod-full-name"],
    ),
    define(
        Kubelet(Mutant::TimeoutValidatedBeforeLookup),
        &["kubelet/lookup/before-timeout-validation"],
    ),
    define(
        Kubelet(Mutant::StateCheckedBeforeTimeout),
        &["kubelet/timeout/validated-before-state"],
    ),
    define(
        Kubelet(Mutant::InitContainer404),
        &[
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/sidecar-accepted",
        ],
    ),
    define(
        Kubelet(Mutant::EphemeralContainer404),
        &["kubelet/lookup/ephemeral-container-found"],
    ),
    define(
        Kubelet(Mutant::CrashLoop404),
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
    define(
        Kubelet(Mutant::FeatureGateDisabledWrongBody),
        &["kubelet/feature-gate/disabled-body"],
    ),
    define(
        Kubelet(Mutant::FeatureGateDisabled401),
        &["kubelet/feature-gate/disabled-before-authentication"],
    ),
    define(
        Kubelet(Mutant::FeatureGateOffByDefault),
        &["kubelet/feature-gate/enabled-by-default"],
    ),
    define(
        Kubelet(Mutant::DebuggingHandlersFlagIgnored),
        &["kubelet/endpoint/requires-debugging-handlers"],
    ),
    define(
        Kubelet(Mutant::ReadOnlyPortCheckpoints),
        &["kubelet/endpoint/absent-on-read-only-port"],
    ),
    // The directory `checkpoints` and its archives.
    define(
        Kubelet(Mutant::CheckpointsDirWithGateDisabled),
        &["kubelet/checkpoints-dir/absent-with-gate-disabled"],
    ),
    define(
        Kubelet(Mutant::CheckpointsDirCreatedLate),
        &["kubelet/checkpoints-dir/created-at-start"],
    ),
    define(
        Kubelet(Mutant::ArchivesDeletedAtStart),
        &["kubelet/archive/survives-restart"],
    ),
    define(
        Kubelet(Mutant::EarlierArchivesDeleted),
        &["kubelet/archive/earlier-archives-unchanged"],
    ),
    define(
        Kubelet(Mutant::MissingArchive500),
        &["kubelet/checkpoint/trusts-runtime"],
    ),
    // Format of the request.
    define(Kubelet(Mutant::Method405Checkpoints), &["kubelet/method/post-only"]),
    define(Kubelet(Mutant::AllowHeaderMissing), &["kubelet/method/allow-header"]),
    define(
        Kubelet(Mutant::ContainerNameOptional),
        &["kubelet/path/too-few-segments"],
    ),
    define(
        Kubelet(Mutant::ExtraSegmentsIgnored),
        &["kubelet/path/too-many-segments"],
    ),
    define(
        Kubelet(Mutant::TrailingSlash404),
        &["kubelet/path/trailing-slash-accepted"],
    ),
    define(
        Kubelet(Mutant::PercentEncodingNotDecoded),
        &["kubelet/path/percent-decoded", "kubelet/path/encoded-slash-separates"],
    ),
    define(
        Kubelet(Mutant::EncodedSlashNotDecoded),
        &["kubelet/path/encoded-slash-separates"],
    ),
    define(
        Kubelet(Mutant::DotSegmentsResolved),
        &["kubelet/path/dot-segments-redirected"],
    ),
    define(
        Kubelet(Mutant::EmptySegmentsDropped),
        &["kubelet/path/empty-segments-redirected"],
    ),
    define(
        Kubelet(Mutant::MalformedEscapeAccepted),
        &["kubelet/path/malformed-escape-rejected"],
    ),
    define(
        Kubelet(Mutant::AcceptHeaderIgnored),
        &["kubelet/request/accept-without-json-rejected"],
    ),
    define(
        Kubelet(Mutant::NotAcceptableWithoutBody),
        &["kubelet/request/not-acceptable-body"],
    ),
    define(
        Kubelet(Mutant::AcceptList406),
        &["kubelet/request/accept-list-with-json"],
    ),
    define(Kubelet(Mutant::NonJsonBody400), &["kubelet/request/body-ignored"]),
    define(
        Kubelet(Mutant::UnknownParameter400),
        &["kubelet/request/unknown-parameter-ignored"],
    ),
    define(Kubelet(Mutant::ErrorsAsJson), &["kubelet/response/error-content-type"]),
    // Timeout.
    define(
        Kubelet(Mutant::DefaultTimeoutOneDay),
        &["kubelet/timeout/absent-uses-default"],
    ),
    define(
        Kubelet(Mutant::CriTimeoutFieldMissing),
        &["kubelet/timeout/cri-request-field"],
    ),
    define(Kubelet(Mutant::FirstTimeoutWins), &["kubelet/timeout/last-value-wins"]),
    define(
        Kubelet(Mutant::NegativeTimeoutUsesDefault),
        &["kubelet/timeout/negative-rejected"],
    ),
    define(Kubelet(Mutant::PlusSign404), &["kubelet/timeout/plus-sign-accepted"]),
    define(
        Kubelet(Mutant::OverflowTimeoutCapped),
        &["kubelet/timeout/overflow-expires-at-once"],
    ),
    // Calls to the runtime, errors and metrics.
    define(
        Kubelet(Mutant::CriCalledTwice),
        &[
            "kubelet/checkpoint/single-cri-call",
            "kubelet/concurrency/all-served",
            "kubelet/metrics/operations",
        ],
    ),
    define(Kubelet(Mutant::OneAtATime), &["kubelet/concurrency/all-served"]),
    define(Kubelet(Mutant::RuntimeErrorUnwrapped), &["kubelet/runtime-error/body"]),
    define(
        Kubelet(Mutant::GrpcUnknownWithoutMessage),
        &["kubelet/runtime-error/known-runtime-messages"],
    ),
    define(
        Kubelet(Mutant::Unavailable503),
        &["kubelet/runtime-error/every-grpc-code"],
    ),
    define(
        Kubelet(Mutant::DeadlineExceeded504),
        &[
            "kubelet/runtime-error/deadline-exceeded",
            "kubelet/timeout/overflow-expires-at-once",
        ],
    ),
    define(
        Kubelet(Mutant::RuntimeUnreachable502),
        &["kubelet/runtime-error/runtime-unreachable"],
    ),
    define(
        Kubelet(Mutant::LostCallRetried),
        &["kubelet/runtime-error/connection-lost"],
    ),
    define(Kubelet(Mutant::OperationsNotCounted), &["kubelet/metrics/operations"]),
    define(Kubelet(Mutant::ErrorsNotCounted), &["kubelet/metrics/errors"]),
    define(
        Kubelet(Mutant::ContainerLogInErrorBody),
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
