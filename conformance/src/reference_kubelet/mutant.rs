//! The ways in which the reference kubelet can be told to be wrong, each a single one.
//!
//! A mutant judges the harness: it must fail at least one case, and exactly those that name it.

macro_rules! mutants {
    ($($variant:ident, $name:literal, $what:literal;)*) => {
        /// One wrong thing.
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

            /// What is wrong with it, in a few words.
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
    OkForUnknownPod, "pod-unknown-200", "200 for a pod that does not exist";
    UnknownContainer500, "container-unknown-500", "500 for a container that is not in the pod";
    NamespaceIgnored, "namespace-ignored", "a pod is found whatever the namespace";
    WrongContainer, "container-name-ignored", "the pod's first container is checkpointed, whatever the name";
    GateIgnored, "feature-gate-ignored", "the route stays with the feature gate off";
    GateOff500, "feature-gate-disabled-500", "500 with the feature gate off";
    NoAuth, "anonymous-accepted", "requests without credentials are let in";
    WrongCredentialsAccepted, "untrusted-credentials-accepted", "credentials of any issuer are let in";
    Unauthenticated403, "unauthenticated-403", "403 for missing or wrong credentials";
    AuthorizationIgnored, "authorization-ignored", "every authenticated user is let in";
    NameWithoutNamespace, "archive-name-without-namespace", "the archive's name lacks the namespace";
    NameWithoutContainer, "archive-name-without-container", "the archive's name lacks the container";
    TimestampWrong, "timestamp-unix-seconds", "the archive's name ends in seconds since 1970";
    TimestampStale, "timestamp-of-kubelet-start", "the archive's name carries the time of the kubelet's start";
    TimestampOfAnotherZone, "timestamp-wrong-zone", "the time in the archive's name is that of the next zone";
    PlaceOutsideCheckpoints, "archive-outside-checkpoints-dir", "the archive is not below `checkpoints`";
    CheckpointsDirWorldReadable, "checkpoints-dir-mode-0755", "the folder `checkpoints` has mode 0755";
    ArchiveWorldReadable, "archive-mode-0644", "the archive has mode 0644";
    ArchiveDeleted, "archive-deleted", "the archive is gone when the answer comes";
    ErrorSwallowed, "runtime-error-200", "200 when the runtime answered an error";
    ErrorWithoutMessage, "runtime-error-without-message", "500 without the runtime's message";
    Error404, "runtime-error-404", "404 when the runtime answered an error";
    Unimplemented501, "unimplemented-501", "501 when the runtime lacks the call";
    TimeoutIgnored, "timeout-ignored", "a larger timeout is not passed on";
    TimeoutZeroMeansNow, "timeout-zero-expires-at-once", "timeout=0 has passed at once";
    TimeoutShortened, "timeout-below-default-applied", "a timeout below the default is passed on";
    TimeoutMalformedAccepted, "timeout-malformed-accepted", "a timeout that is not a number counts as absent";
    BodyWrong, "body-items-string", "`items` is a string";
    BodyEmpty, "body-empty", "200 without a body";
    BodyOtherFile, "body-wrong-location", "the body names another file than the archive";
    ContentTypeWrong, "content-type-text-plain", "the content type of 200 is text/plain";
    GetAllowed, "get-allowed", "GET checkpoints";
    AnswersEarly, "responds-early", "200 before the runtime is done";
    CancelIgnored, "cancel-ignored", "the runtime goes on after the client has gone";
    ContainerStopped, "container-stopped", "the container is stopped after its checkpoint";
    OkForExited, "exited-200", "200 for a container that has exited";
    LookupBeforeAuth, "lookup-before-authentication", "an unknown pod is 404 before anyone is asked who they are";
    RoutingBeforeAuth, "routing-before-authentication", "a wrong path or method is told before who asks";
    AnySchemeAccepted, "non-bearer-scheme-accepted", "an Authorization header that is no bearer token is let in";
    ChallengeOn401, "www-authenticate-on-401", "401 with a WWW-Authenticate header";
    TokensIgnored, "bearer-tokens-ignored", "bearer tokens are not looked at";
    ForbiddenWithoutUser, "forbidden-body-without-user", "403 names neither user nor resource";
    ProxyRightSuffices, "nodes-proxy-sufficient", "who may create nodes/proxy may checkpoint";
    LookupBeforeAuthorization, "lookup-before-authorization", "an unknown pod is 404 before rights are looked at";
    RoutingBeforeAuthorization, "routing-before-authorization", "a wrong path or method is told before rights";
    VerbAlwaysCreate, "verb-always-create", "403 says create whatever the method";
    UnknownNamespaceBody, "namespace-unknown-wrong-body", "the body for an unknown namespace is another one";
    UnknownPodBody, "pod-unknown-wrong-body", "the body for an unknown pod is another one";
    UnknownContainerBody, "container-unknown-wrong-body", "the body for an unknown container does not name it";
    StrangeNames400, "invalid-names-400", "400 for a name that no object can have";
    LongName414, "overlong-name-414", "414 for a path of some thousand bytes";
    NodeSuffixOptional, "static-pod-short-name-found", "a static pod is also found without the node's name";
    InitUnknown, "init-container-404", "404 for init containers";
    EphemeralUnknown, "ephemeral-container-404", "404 for ephemeral containers";
    TimeoutFirst, "timeout-validated-before-lookup", "a malformed timeout is told before an unknown pod";
    StateBeforeTimeout, "state-checked-before-timeout", "a container that does not run is told before a malformed timeout";
    GateOffSaysSo, "feature-gate-disabled-wrong-body", "404 with the gate off tells of the gate";
    GateOffAsksWho, "feature-gate-disabled-401", "401 with the gate off, without credentials";
    GateDefaultOff, "feature-gate-off-by-default", "the feature gate is off unless it is named";
    DebuggingOffIgnored, "debugging-handlers-flag-ignored", "the route stays with the debugging handlers off";
    ReadOnlyPortServes, "read-only-port-checkpoints", "the read-only port checkpoints, for everyone";
    CheckpointsDirAlways, "checkpoints-dir-with-gate-disabled", "the folder `checkpoints` is made with the gate off as well";
    CheckpointsDirLate, "checkpoints-dir-created-late", "the folder `checkpoints` is made with the first checkpoint";
    CheckpointsDirEmptiedAtStart, "archives-deleted-at-start", "archives are removed when the kubelet starts";
    OnlyLastKept, "earlier-archives-deleted", "a checkpoint removes the container's earlier archives";
    ArchiveChecked, "missing-archive-500", "500 when the runtime says ok and there is no archive";
    RefusedMethodCheckpoints, "method-405-checkpoints", "405, and the runtime is called all the same";
    AllowMissing, "allow-header-missing", "405 without an Allow header";
    ContainerOptional, "container-name-optional", "a path without a container checkpoints the pod's first one";
    TailIgnored, "extra-segments-ignored", "what follows the container in the path is not looked at";
    TrailingSlashRefused, "trailing-slash-404", "404 for a slash at the path's end";
    AcceptIgnored, "accept-header-ignored", "the Accept header is not looked at";
    AcceptListRefused, "accept-list-406", "406 for an Accept that lists several types";
    NotAcceptableBare, "not-acceptable-without-body", "406 without a body";
    RequestBodyParsed, "non-json-body-400", "400 for a request body that is not JSON";
    UnknownParameterRefused, "unknown-parameter-400", "400 for a query parameter that is not known";
    PercentEncodingKept, "percent-encoding-not-decoded", "names in the path are not percent-decoded";
    EncodedSlashKept, "encoded-slash-not-decoded", "an encoded slash in the path separates no names";
    DotSegmentsFollowed, "dot-segments-resolved", "`..` in the path is followed, not redirected";
    EmptySegmentsDropped, "empty-segments-dropped", "an empty segment of the path is dropped, not redirected";
    MalformedEscapeKept, "malformed-escape-accepted", "a malformed percent-encoding is taken as it is";
    Http2Unauthenticated, "http2-unauthenticated", "over HTTP/2 nobody is asked who they are";
    ErrorsAsJson, "errors-as-json", "the content type of errors is application/json";
    CallsTwice, "cri-called-twice", "the runtime is called twice for one request";
    OneAtATime, "one-at-a-time", "429 while another checkpoint is under way";
    UnknownWithoutMessage, "grpc-unknown-without-message", "of an error of code Unknown only the code is told";
    ErrorUnwrapped, "runtime-error-unwrapped", "500 with the runtime's message and nothing around it";
    UnavailableAs503, "unavailable-503", "503 when the runtime answers Unavailable";
    Restarting404, "crash-loop-404", "404 for a container that waits to be started again";
    CreatedCheckpointed, "created-checkpointed", "a container that was never started is checkpointed";
    DeadlineAs504, "deadline-exceeded-504", "504 when the deadline passes before the runtime answers";
    GoneAs502, "runtime-unreachable-502", "502 when the runtime cannot be reached";
    LostRetried, "lost-call-retried", "a call whose connection broke is made again";
    NoDeadline, "default-timeout-one-day", "without a timeout the runtime has a day";
    FieldMissing, "cri-timeout-field-missing", "the CRI request's timeout is 0";
    FirstTimeoutCounts, "first-timeout-wins", "of several timeouts the first one counts";
    NegativeIsDefault, "negative-timeout-uses-default", "a negative timeout counts as absent";
    SignRefused, "plus-sign-404", "404 for a timeout with a plus sign";
    OverflowCapped, "overflow-timeout-capped", "a timeout beyond the clock's range is cut to a day";
    OperationsNotCounted, "operations-not-counted", "checkpoints are not counted in the metrics";
    ErrorsNotCounted, "errors-not-counted", "failed checkpoints are not counted as errors";
    LogInError, "container-log-in-error-body", "500 carries what the container wrote";
}

impl Mutant {
    /// The mutant of that name.
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

/// No mutant has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no mutant is called `{0}`")]
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
        assert_eq!(
            "x".parse::<Mutant>().unwrap_err().to_string(),
            "no mutant is called `x`"
        );
    }
}
