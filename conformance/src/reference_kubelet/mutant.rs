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
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$variant => $what,)*
                }
            }
        }
    };
}

mutants! {
    OkForUnknownPod, "pod-unknown-200", "returns 200 for an unknown Pod";
    UnknownContainer500, "container-unknown-500", "returns 500 for an unknown container";
    NamespaceIgnored, "namespace-ignored", "finds a Pod in any namespace";
    WrongContainer, "container-name-ignored", "checkpoints the first container of the Pod for any container name";
    GateIgnored, "feature-gate-ignored", "serves the route with the feature gate off";
    GateOff500, "feature-gate-disabled-500", "returns 500 with the feature gate off";
    NoAuth, "anonymous-accepted", "accepts requests without credentials";
    WrongCredentialsAccepted, "untrusted-credentials-accepted", "accepts credentials of any issuer";
    Unauthenticated403, "unauthenticated-403", "returns 403 for missing or invalid credentials";
    AuthorizationIgnored, "authorization-ignored", "authorizes every authenticated user";
    NameWithoutNamespace, "archive-name-without-namespace", "omits the namespace from the archive name";
    NameWithoutContainer, "archive-name-without-container", "omits the container from the archive name";
    TimestampWrong, "timestamp-unix-seconds", "writes the time in the archive name as seconds since 1970";
    TimestampStale, "timestamp-of-kubelet-start", "uses the start time of the kubelet in the archive name";
    TimestampOfAnotherZone, "timestamp-wrong-zone", "uses the next time zone in the archive name";
    PlaceOutsideCheckpoints, "archive-outside-checkpoints-dir", "writes the archive outside of `checkpoints`";
    CheckpointsDirWorldReadable, "checkpoints-dir-mode-0755", "creates `checkpoints` with mode 0755";
    ArchiveWorldReadable, "archive-mode-0644", "gives the archive mode 0644";
    ArchiveDeleted, "archive-deleted", "deletes the archive before the response";
    ErrorSwallowed, "runtime-error-200", "returns 200 for an error of the runtime";
    ErrorWithoutMessage, "runtime-error-without-message", "returns 500 without the message of the runtime";
    Error404, "runtime-error-404", "returns 404 for an error of the runtime";
    Unimplemented501, "unimplemented-501", "returns 501 when the runtime does not implement the call";
    TimeoutIgnored, "timeout-ignored", "does not pass on a timeout above the default";
    TimeoutZeroMeansNow, "timeout-zero-expires-at-once", "lets timeout=0 expire immediately";
    TimeoutShortened, "timeout-below-default-applied", "passes on a timeout below the default";
    TimeoutMalformedAccepted, "timeout-malformed-accepted", "treats a timeout that is not a number as absent";
    BodyWrong, "body-items-string", "returns `items` as a string";
    BodyEmpty, "body-empty", "returns 200 without a body";
    BodyOtherFile, "body-wrong-location", "returns the path of another file than the archive";
    ContentTypeWrong, "content-type-text-plain", "returns 200 with the content type text/plain";
    GetAllowed, "get-allowed", "checkpoints for a GET request";
    AnswersEarly, "responds-early", "returns 200 before the runtime has finished";
    CancelIgnored, "cancel-ignored", "does not cancel the runtime call when the client disconnects";
    ContainerStopped, "container-stopped", "stops the container after its checkpoint";
    OkForExited, "exited-200", "returns 200 for an exited container";
    LookupBeforeAuth, "lookup-before-authentication", "returns 404 for an unknown Pod before authentication";
    RoutingBeforeAuth, "routing-before-authentication", "rejects a wrong path or method before authentication";
    AnySchemeAccepted, "non-bearer-scheme-accepted", "accepts an Authorization header that is not a bearer token";
    ChallengeOn401, "www-authenticate-on-401", "returns 401 with a WWW-Authenticate header";
    TokensIgnored, "bearer-tokens-ignored", "ignores bearer tokens";
    ForbiddenWithoutUser, "forbidden-body-without-user", "omits user and resource from the body of 403";
    ProxyRightSuffices, "nodes-proxy-sufficient", "lets a user checkpoint who may only create nodes/proxy";
    LookupBeforeAuthorization, "lookup-before-authorization", "returns 404 for an unknown Pod before authorization";
    RoutingBeforeAuthorization, "routing-before-authorization", "rejects a wrong path or method before authorization";
    VerbAlwaysCreate, "verb-always-create", "authorizes every method with the verb create";
    UnknownNamespaceBody, "namespace-unknown-wrong-body", "returns another body for an unknown namespace";
    UnknownPodBody, "pod-unknown-wrong-body", "returns another body for an unknown Pod";
    UnknownContainerBody, "container-unknown-wrong-body", "omits the name from the body for an unknown container";
    StrangeNames400, "invalid-names-400", "returns 400 for a name that is invalid for objects";
    LongName414, "overlong-name-414", "returns 414 for a path of several thousand bytes";
    NodeSuffixOptional, "static-pod-short-name-found", "finds a static Pod also without the node name";
    InitUnknown, "init-container-404", "returns 404 for init containers";
    EphemeralUnknown, "ephemeral-container-404", "returns 404 for ephemeral containers";
    TimeoutFirst, "timeout-validated-before-lookup", "validates the timeout before it looks up the Pod";
    StateBeforeTimeout, "state-checked-before-timeout", "checks the container state before it validates the timeout";
    GateOffSaysSo, "feature-gate-disabled-wrong-body", "names the feature gate in the 404 body when the gate is off";
    GateOffAsksWho, "feature-gate-disabled-401", "returns 401 without credentials when the feature gate is off";
    GateDefaultOff, "feature-gate-off-by-default", "turns the feature gate off by default";
    DebuggingOffIgnored, "debugging-handlers-flag-ignored", "serves the route with the debugging handlers off";
    ReadOnlyPortServes, "read-only-port-checkpoints", "serves checkpoints on the read-only port";
    CheckpointsDirAlways, "checkpoints-dir-with-gate-disabled", "creates `checkpoints` with the feature gate off";
    CheckpointsDirLate, "checkpoints-dir-created-late", "creates `checkpoints` at the first checkpoint";
    CheckpointsDirEmptiedAtStart, "archives-deleted-at-start", "deletes the archives at start";
    OnlyLastKept, "earlier-archives-deleted", "deletes the earlier archives of the container";
    ArchiveChecked, "missing-archive-500", "returns 500 when the runtime succeeds without an archive";
    RefusedMethodCheckpoints, "method-405-checkpoints", "returns 405 and calls the runtime";
    AllowMissing, "allow-header-missing", "returns 405 without an Allow header";
    ContainerOptional, "container-name-optional", "checkpoints the first container for a path without container";
    TailIgnored, "extra-segments-ignored", "ignores path segments after the container";
    TrailingSlashRefused, "trailing-slash-404", "returns 404 for a trailing slash";
    AcceptIgnored, "accept-header-ignored", "ignores the Accept header";
    AcceptListRefused, "accept-list-406", "returns 406 for an Accept header with several types";
    NotAcceptableBare, "not-acceptable-without-body", "returns 406 without a body";
    RequestBodyParsed, "non-json-body-400", "returns 400 for a request body that is not JSON";
    UnknownParameterRefused, "unknown-parameter-400", "returns 400 for an unknown query parameter";
    PercentEncodingKept, "percent-encoding-not-decoded", "does not percent-decode names in the path";
    EncodedSlashKept, "encoded-slash-not-decoded", "does not split names at an encoded slash";
    DotSegmentsFollowed, "dot-segments-resolved", "resolves `..` in the path instead of redirecting";
    EmptySegmentsDropped, "empty-segments-dropped", "drops an empty path segment instead of redirecting";
    MalformedEscapeKept, "malformed-escape-accepted", "accepts malformed percent-encoding";
    Http2Unauthenticated, "http2-unauthenticated", "skips authentication over HTTP/2";
    ErrorsAsJson, "errors-as-json", "returns errors with the content type application/json";
    CallsTwice, "cri-called-twice", "calls the runtime twice for one request";
    OneAtATime, "one-at-a-time", "returns 429 during another checkpoint";
    UnknownWithoutMessage, "grpc-unknown-without-message", "omits the message of an error with code Unknown";
    ErrorUnwrapped, "runtime-error-unwrapped", "returns 500 with only the message of the runtime";
    UnavailableAs503, "unavailable-503", "returns 503 when the runtime returns Unavailable";
    Restarting404, "crash-loop-404", "returns 404 for a container that waits for its restart";
    CreatedCheckpointed, "created-checkpointed", "checkpoints a container that was never started";
    DeadlineAs504, "deadline-exceeded-504", "returns 504 when the deadline passes";
    GoneAs502, "runtime-unreachable-502", "returns 502 when the runtime is unreachable";
    LostRetried, "lost-call-retried", "retries a call whose connection broke";
    NoDeadline, "default-timeout-one-day", "calls the runtime with a timeout of one day by default";
    FieldMissing, "cri-timeout-field-missing", "sends timeout 0 in the CRI request";
    FirstTimeoutCounts, "first-timeout-wins", "uses the first of several timeouts";
    NegativeIsDefault, "negative-timeout-uses-default", "treats a negative timeout as absent";
    SignRefused, "plus-sign-404", "returns 404 for a timeout with a plus sign";
    OverflowCapped, "overflow-timeout-capped", "caps an overflowing timeout at one day";
    OperationsNotCounted, "operations-not-counted", "does not count checkpoints in the metrics";
    ErrorsNotCounted, "errors-not-counted", "does not count failed checkpoints as errors";
    LogInError, "container-log-in-error-body", "returns the container log in the body of 500";
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
            assert!(!mutant.what().is_empty());
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
