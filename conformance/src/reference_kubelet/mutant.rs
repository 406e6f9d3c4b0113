//! The mutants of the reference kubelet: each injects one defect.
//!
//! Mutants test the harness: each must fail exactly the cases that its definition lists, and at least one.

macro_rules! mutants {
    ($($variant:ident, $name:literal, $what:literal;)*) => {
        /// A defect of the reference kubelet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $(#[doc = $what] $variant,)*
        }

        impl Mutant {
            /// Every mutant, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that `--mutant` takes.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// A summary of the defect.
            #[must_use]
            pub fn summary(self) -> &'static str {
                match self {
                    $(Self::$variant => $what,)*
                }
            }
        }
    };
}

mutants! {
    PodUnknown200, "pod-unknown-200", "returns 200 for an unknown Pod";
    ContainerUnknown500, "container-unknown-500", "returns 500 for an unknown container";
    NamespaceIgnored, "namespace-ignored", "finds a Pod in any namespace";
    ContainerNameIgnored, "container-name-ignored", "checkpoints the first container of the Pod for any container name";
    FeatureGateIgnored, "feature-gate-ignored", "serves the route with the feature gate off";
    FeatureGateDisabled500, "feature-gate-disabled-500", "returns 500 with the feature gate off";
    AnonymousAccepted, "anonymous-accepted", "accepts requests without credentials";
    UntrustedCredentialsAccepted, "untrusted-credentials-accepted", "accepts credentials of any issuer";
    Unauthenticated403, "unauthenticated-403", "returns 403 for missing or invalid credentials";
    AuthorizationIgnored, "authorization-ignored", "authorizes every authenticated user";
    ArchiveNameWithoutNamespace, "archive-name-without-namespace", "omits the namespace from the archive name";
    ArchiveNameWithoutContainer, "archive-name-without-container", "omits the container from the archive name";
    TimestampUnixSeconds, "timestamp-unix-seconds", "writes the time in the archive name as seconds since 1970";
    TimestampOfKubeletStart, "timestamp-of-kubelet-start", "uses the start time of the kubelet in the archive name";
    TimestampWrongZone, "timestamp-wrong-zone", "uses the next time zone in the archive name";
    ArchiveOutsideCheckpointsDir, "archive-outside-checkpoints-dir", "writes the archive outside of `checkpoints`";
    CheckpointsDirMode0755, "checkpoints-dir-mode-0755", "creates `checkpoints` with mode 0755";
    ArchiveMode0644, "archive-mode-0644", "gives the archive mode 0644";
    ArchiveDeleted, "archive-deleted", "deletes the archive before the response";
    RuntimeError200, "runtime-error-200", "returns 200 for an error of the runtime";
    RuntimeErrorWithoutMessage, "runtime-error-without-message", "returns 500 without the message of the runtime";
    RuntimeError404, "runtime-error-404", "returns 404 for an error of the runtime";
    Unimplemented501, "unimplemented-501", "returns 501 when the runtime does not implement the call";
    TimeoutIgnored, "timeout-ignored", "does not pass on a timeout above the default";
    TimeoutZeroExpiresAtOnce, "timeout-zero-expires-at-once", "lets timeout=0 expire immediately";
    TimeoutBelowDefaultApplied, "timeout-below-default-applied", "passes on a timeout below the default";
    TimeoutMalformedAccepted, "timeout-malformed-accepted", "treats a timeout that is not a number as absent";
    BodyItemsString, "body-items-string", "returns `items` as a string";
    BodyEmpty, "body-empty", "returns 200 without a body";
    BodyWrongLocation, "body-wrong-location", "returns the path of another file than the archive";
    ContentTypeTextPlain, "content-type-text-plain", "returns 200 with the content type text/plain";
    GetAllowed, "get-allowed", "checkpoints for a GET request";
    RespondsEarly, "responds-early", "returns 200 before the runtime has finished";
    CancelIgnored, "cancel-ignored", "does not cancel the runtime call when the client disconnects";
    ContainerStopped, "container-stopped", "stops the container after its checkpoint";
    Exited200, "exited-200", "returns 200 for an exited container";
    LookupBeforeAuthentication, "lookup-before-authentication", "returns 404 for an unknown Pod before authentication";
    RoutingBeforeAuthentication, "routing-before-authentication", "rejects a wrong path or method before authentication";
    NonBearerSchemeAccepted, "non-bearer-scheme-accepted", "accepts an Authorization header that is not a bearer token";
    WwwAuthenticateOn401, "www-authenticate-on-401", "returns 401 with a WWW-Authenticate header";
    BearerTokensIgnored, "bearer-tokens-ignored", "ignores bearer tokens";
    ForbiddenBodyWithoutUser, "forbidden-body-without-user", "omits user and resource from the body of 403";
    NodesProxySufficient, "nodes-proxy-sufficient", "lets a user checkpoint who may only create nodes/proxy";
    LookupBeforeAuthorization, "lookup-before-authorization", "returns 404 for an unknown Pod before authorization";
    RoutingBeforeAuthorization, "routing-before-authorization", "rejects a wrong path or method before authorization";
    VerbAlwaysCreate, "verb-always-create", "authorizes every method with the verb create";
    NamespaceUnknownWrongBody, "namespace-unknown-wrong-body", "returns another body for an unknown namespace";
    PodUnknownWrongBody, "pod-unknown-wrong-body", "returns another body for an unknown Pod";
    ContainerUnknownWrongBody, "container-unknown-wrong-body", "omits the name from the body for an unknown container";
    InvalidNames400, "invalid-names-400", "returns 400 for a name that is invalid for objects";
    OverlongName414, "overlong-name-414", "returns 414 for a path of several thousand bytes";
    StaticPodShortNameFound, "static-pod-short-name-found", "finds a static Pod also without the node name";
    InitContainer404, "init-container-404", "returns 404 for init containers";
    EphemeralContainer404, "ephemeral-container-404", "returns 404 for ephemeral containers";
    TimeoutValidatedBeforeLookup, "timeout-validated-before-lookup", "validates the timeout before it looks up the Pod";
    StateCheckedBeforeTimeout, "state-checked-before-timeout", "checks the container state before it validates the timeout";
    FeatureGateDisabledWrongBody, "feature-gate-disabled-wrong-body", "names the feature gate in the 404 body when the gate is off";
    FeatureGateDisabled401, "feature-gate-disabled-401", "returns 401 without credentials when the feature gate is off";
    FeatureGateOffByDefault, "feature-gate-off-by-default", "turns the feature gate off by default";
    DebuggingHandlersFlagIgnored, "debugging-handlers-flag-ignored", "serves the route with the debugging handlers off";
    ReadOnlyPortCheckpoints, "read-only-port-checkpoints", "serves checkpoints on the read-only port";
    CheckpointsDirWithGateDisabled, "checkpoints-dir-with-gate-disabled", "creates `checkpoints` with the feature gate off";
    CheckpointsDirCreatedLate, "checkpoints-dir-created-late", "creates `checkpoints` at the first checkpoint";
    ArchivesDeletedAtStart, "archives-deleted-at-start", "deletes the archives at start";
    EarlierArchivesDeleted, "earlier-archives-deleted", "deletes the earlier archives of the container";
    MissingArchive500, "missing-archive-500", "returns 500 when the runtime succeeds without an archive";
    Method405Checkpoints, "method-405-checkpoints", "returns 405 and calls the runtime";
    AllowHeaderMissing, "allow-header-missing", "returns 405 without an Allow header";
    ContainerNameOptional, "container-name-optional", "checkpoints the first container for a path without container";
    ExtraSegmentsIgnored, "extra-segments-ignored", "ignores path segments after the container";
    TrailingSlash404, "trailing-slash-404", "returns 404 for a trailing slash";
    AcceptHeaderIgnored, "accept-header-ignored", "ignores the Accept header";
    AcceptList406, "accept-list-406", "returns 406 for an Accept header with several types";
    NotAcceptableWithoutBody, "not-acceptable-without-body", "returns 406 without a body";
    NonJsonBody400, "non-json-body-400", "returns 400 for a request body that is not JSON";
    UnknownParameter400, "unknown-parameter-400", "returns 400 for an unknown query parameter";
    PercentEncodingNotDecoded, "percent-encoding-not-decoded", "does not percent-decode names in the path";
    EncodedSlashNotDecoded, "encoded-slash-not-decoded", "does not split names at an encoded slash";
    DotSegmentsResolved, "dot-segments-resolved", "resolves `..` in the path instead of redirecting";
    EmptySegmentsDropped, "empty-segments-dropped", "drops an empty path segment instead of redirecting";
    MalformedEscapeAccepted, "malformed-escape-accepted", "accepts malformed percent-encoding";
    Http2Unauthenticated, "http2-unauthenticated", "skips authentication over HTTP/2";
    ErrorsAsJson, "errors-as-json", "returns errors with the content type application/json";
    CriCalledTwice, "cri-called-twice", "calls the runtime twice for one request";
    OneAtATime, "one-at-a-time", "returns 429 during another checkpoint";
    GrpcUnknownWithoutMessage, "grpc-unknown-without-message", "omits the message of an error with code Unknown";
    RuntimeErrorUnwrapped, "runtime-error-unwrapped", "returns 500 with only the message of the runtime";
    Unavailable503, "unavailable-503", "returns 503 when the runtime returns Unavailable";
    CrashLoop404, "crash-loop-404", "returns 404 for a container that waits for its restart";
    CreatedCheckpointed, "created-checkpointed", "checkpoints a container that was never started";
    DeadlineExceeded504, "deadline-exceeded-504", "returns 504 when the deadline passes";
    RuntimeUnreachable502, "runtime-unreachable-502", "returns 502 when the runtime is unreachable";
    LostCallRetried, "lost-call-retried", "retries a call whose connection broke";
    DefaultTimeoutOneDay, "default-timeout-one-day", "calls the runtime with a timeout of one day by default";
    CriTimeoutFieldMissing, "cri-timeout-field-missing", "sends timeout 0 in the CRI request";
    FirstTimeoutWins, "first-timeout-wins", "uses the first of several timeouts";
    NegativeTimeoutUsesDefault, "negative-timeout-uses-default", "treats a negative timeout as absent";
    PlusSign404, "plus-sign-404", "returns 404 for a timeout with a plus sign";
    OverflowTimeoutCapped, "overflow-timeout-capped", "caps an overflowing timeout at one day";
    OperationsNotCounted, "operations-not-counted", "does not count checkpoints in the metrics";
    ErrorsNotCounted, "errors-not-counted", "does not count failed checkpoints as errors";
    ContainerLogInErrorBody, "container-log-in-error-body", "returns the container log in the body of 500";
}

impl Mutant {
    /// Returns the mutant with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

impl std::fmt::Display for Mutant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Mutant {
    type Err = UnknownMutant;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name).ok_or_else(|| UnknownMutant(name.to_owned()))
    }
}

/// No mutant has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown mutant `{0}`")]
pub struct UnknownMutant(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parse_back() {
        let mut names: Vec<_> = Mutant::ALL.iter().map(|m| m.name()).collect();
        for mutant in Mutant::ALL.iter().copied() {
            assert_eq!(mutant.name().parse::<Mutant>(), Ok(mutant));
            assert!(!mutant.summary().is_empty());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Mutant::ALL.len());
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert_eq!(Mutant::from_name("perfect"), None);
        assert_eq!("x".parse::<Mutant>().unwrap_err().to_string(), "unknown mutant `x`");
    }
}
