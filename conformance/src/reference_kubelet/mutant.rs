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
    OkForUnknownPod, "ok-for-unknown-pod", "200 for a pod that does not exist";
    UnknownContainer500, "unknown-container-500", "500 for a container that is not in the pod";
    NamespaceIgnored, "namespace-ignored", "a pod is found whatever the namespace";
    WrongContainer, "wrong-container", "the pod's first container is checkpointed, whatever the name";
    GateIgnored, "gate-ignored", "the route stays with the feature gate off";
    GateOff500, "gate-off-500", "500 with the feature gate off";
    NoAuth, "no-auth", "requests without credentials are let in";
    WrongCredentialsAccepted, "wrong-credentials-accepted", "credentials of any issuer are let in";
    Unauthenticated403, "unauthenticated-403", "403 for missing or wrong credentials";
    AuthorizationIgnored, "authorization-ignored", "every authenticated user is let in";
    NameWithoutNamespace, "name-without-namespace", "the archive's name lacks the namespace";
    NameWithoutContainer, "name-without-container", "the archive's name lacks the container";
    TimestampWrong, "timestamp-wrong", "the archive's name ends in seconds since 1970";
    TimestampStale, "timestamp-stale", "the archive's name carries the time of the kubelet's start";
    TimestampOfAnotherZone, "timestamp-of-another-zone", "the time in the archive's name is that of the next zone";
    PlaceOutsideCheckpoints, "place-outside-checkpoints", "the archive is not below `checkpoints`";
    CheckpointsDirWorldReadable, "folder-world-readable", "the folder `checkpoints` has mode 0755";
    ArchiveWorldReadable, "archive-world-readable", "the archive has mode 0644";
    ArchiveDeleted, "archive-deleted", "the archive is gone when the answer comes";
    ErrorSwallowed, "error-swallowed", "200 when the runtime answered an error";
    ErrorWithoutMessage, "error-without-message", "500 without the runtime's message";
    Error404, "error-404", "404 when the runtime answered an error";
    Unimplemented501, "unimplemented-as-501", "501 when the runtime lacks the call";
    TimeoutIgnored, "timeout-ignored", "a larger timeout is not passed on";
    TimeoutZeroMeansNow, "timeout-zero-means-now", "timeout=0 has passed at once";
    TimeoutShortened, "timeout-shortened", "a timeout below the default is passed on";
    TimeoutMalformedAccepted, "timeout-malformed-accepted", "a timeout that is not a number counts as absent";
    BodyWrong, "body-wrong", "`items` is a string";
    BodyEmpty, "body-empty", "200 without a body";
    BodyOtherFile, "body-other-file", "the body names another file than the archive";
    ContentTypeWrong, "content-type-wrong", "the content type of 200 is text/plain";
    GetAllowed, "get-allowed", "GET checkpoints";
    AnswersEarly, "answers-early", "200 before the runtime is done";
    CancelIgnored, "cancel-ignored", "the runtime goes on after the client has gone";
    ContainerStopped, "container-stopped", "the container is stopped after its checkpoint";
    OkForExited, "ok-for-exited", "200 for a container that has exited";
    LookupBeforeAuth, "lookup-before-auth", "an unknown pod is 404 before anyone is asked who they are";
    RoutingBeforeAuth, "routing-before-auth", "a wrong path or method is told before who asks";
    AnySchemeAccepted, "any-scheme-accepted", "an Authorization header that is no bearer token is let in";
    ChallengeOn401, "challenge-on-401", "401 with a WWW-Authenticate header";
    TokensIgnored, "tokens-ignored", "bearer tokens are not looked at";
    ForbiddenWithoutUser, "forbidden-without-user", "403 names neither user nor resource";
    ProxyRightSuffices, "proxy-right-suffices", "who may create nodes/proxy may checkpoint";
    LookupBeforeAuthorization, "lookup-before-authorization", "an unknown pod is 404 before rights are looked at";
    RoutingBeforeAuthorization, "routing-before-authorization", "a wrong path or method is told before rights";
    VerbAlwaysCreate, "verb-always-create", "403 says create whatever the method";
    UnknownNamespaceBody, "unknown-namespace-body", "the body for an unknown namespace is another one";
    UnknownPodBody, "unknown-pod-body", "the body for an unknown pod is another one";
    UnknownContainerBody, "unknown-container-body", "the body for an unknown container does not name it";
    StrangeNames400, "strange-names-400", "400 for a name that no object can have";
    LongName414, "long-name-414", "414 for a path of some thousand bytes";
    NodeSuffixOptional, "node-suffix-optional", "a static pod is also found without the node's name";
    InitUnknown, "init-unknown", "404 for init containers";
    EphemeralUnknown, "ephemeral-unknown", "404 for ephemeral containers";
    TimeoutFirst, "timeout-first", "a malformed timeout is told before an unknown pod";
    StateBeforeTimeout, "state-before-timeout", "a container that does not run is told before a malformed timeout";
    GateOffSaysSo, "gate-off-says-so", "404 with the gate off tells of the gate";
    GateOffAsksWho, "gate-off-asks-who", "401 with the gate off, without credentials";
    GateDefaultOff, "gate-default-off", "the feature gate is off unless it is named";
    DebuggingOffIgnored, "debugging-off-ignored", "the route stays with the debugging handlers off";
    ReadOnlyPortServes, "read-only-port-serves", "the read-only port checkpoints, for everyone";
    CheckpointsDirAlways, "folder-always", "the folder `checkpoints` is made with the gate off as well";
    CheckpointsDirLate, "folder-late", "the folder `checkpoints` is made with the first checkpoint";
    CheckpointsDirEmptiedAtStart, "folder-emptied-at-start", "archives are removed when the kubelet starts";
    OnlyLastKept, "only-last-kept", "a checkpoint removes the container's earlier archives";
    ArchiveChecked, "archive-checked", "500 when the runtime says ok and there is no archive";
    RefusedMethodCheckpoints, "refused-method-checkpoints", "405, and the runtime is called all the same";
    AllowMissing, "allow-missing", "405 without an Allow header";
    ContainerOptional, "container-optional", "a path without a container checkpoints the pod's first one";
    TailIgnored, "tail-ignored", "what follows the container in the path is not looked at";
    TrailingSlashRefused, "trailing-slash-refused", "404 for a slash at the path's end";
    AcceptIgnored, "accept-ignored", "the Accept header is not looked at";
    AcceptListRefused, "accept-list-refused", "406 for an Accept that lists several types";
    NotAcceptableBare, "not-acceptable-bare", "406 without a body";
    RequestBodyParsed, "request-body-parsed", "400 for a request body that is not JSON";
    UnknownParameterRefused, "unknown-parameter-refused", "400 for a query parameter that is not known";
    PercentEncodingKept, "percent-encoding-kept", "names in the path are not percent-decoded";
    EncodedSlashKept, "encoded-slash-kept", "an encoded slash in the path separates no names";
    DotSegmentsFollowed, "dot-segments-followed", "`..` in the path is followed, not redirected";
    EmptySegmentsDropped, "empty-segments-dropped", "an empty segment of the path is dropped, not redirected";
    MalformedEscapeKept, "malformed-escape-kept", "a malformed percent-encoding is taken as it is";
    Http2Unauthenticated, "http2-unauthenticated", "over HTTP/2 nobody is asked who they are";
    ErrorsAsJson, "errors-as-json", "the content type of errors is application/json";
    CallsTwice, "calls-twice", "the runtime is called twice for one request";
    OneAtATime, "one-at-a-time", "429 while another checkpoint is under way";
    UnknownWithoutMessage, "unknown-without-message", "of an error of code Unknown only the code is told";
    ErrorUnwrapped, "error-unwrapped", "500 with the runtime's message and nothing around it";
    UnavailableAs503, "unavailable-as-503", "503 when the runtime answers Unavailable";
    Restarting404, "restarting-404", "404 for a container that waits to be started again";
    CreatedCheckpointed, "created-checkpointed", "a container that was never started is checkpointed";
    DeadlineAs504, "deadline-as-504", "504 when the deadline passes before the runtime answers";
    GoneAs502, "gone-as-502", "502 when the runtime cannot be reached";
    LostRetried, "lost-retried", "a call whose connection broke is made again";
    NoDeadline, "no-deadline", "without a timeout the runtime has a day";
    FieldMissing, "field-missing", "the CRI request's timeout is 0";
    FirstTimeoutCounts, "first-timeout-counts", "of several timeouts the first one counts";
    NegativeIsDefault, "negative-is-default", "a negative timeout counts as absent";
    SignRefused, "sign-refused", "404 for a timeout with a plus sign";
    OverflowCapped, "overflow-capped", "a timeout beyond the clock's range is cut to a day";
    OperationsNotCounted, "operations-not-counted", "checkpoints are not counted in the metrics";
    ErrorsNotCounted, "errors-not-counted", "failed checkpoints are not counted as errors";
    LogInError, "log-in-error", "500 carries what the container wrote";
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
