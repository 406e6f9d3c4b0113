//! The ways in which the reference kubelet can be told to be wrong, each a single one.
//!
//! A mutant judges the harness: it must fail at least one case, and exactly those that name it.

/// One wrong thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// 200 with a location for a pod that does not exist; the runtime is not called.
    OkForUnknownPod,
    /// 500 instead of 404 for a container that is not in the pod.
    UnknownContainer500,
    /// The namespace of the path is not looked at: a pod is found by its name alone.
    NamespaceIgnored,
    /// The name of the container is not looked at: the pod's first container is checkpointed.
    WrongContainer,
    /// The route stays with the feature gate off.
    GateIgnored,
    /// 500 instead of 404 with the feature gate off.
    GateOff500,
    /// Requests without credentials are let in.
    NoAuth,
    /// Requests with credentials are let in, whoever issued them.
    WrongCredentialsAccepted,
    /// 403 instead of 401 for missing or wrong credentials.
    Unauthenticated403,
    /// The rules of authorisation are not looked at: every user may.
    AuthorizationIgnored,
    /// The archive's name lacks the namespace.
    NameWithoutNamespace,
    /// The archive's name lacks the container.
    NameWithoutContainer,
    /// The archive's name ends in seconds since 1970, not in RFC 3339.
    TimestampWrong,
    /// The archive's name carries the time of the kubelet's start, not that of the request.
    TimestampStale,
    /// The runtime is asked to write into the root directory, not into `checkpoints` below it.
    PlaceOutsideCheckpoints,
    /// The folder `checkpoints` has mode 0755.
    FolderWorldReadable,
    /// The archive is made readable by everyone after the runtime wrote it.
    ArchiveWorldReadable,
    /// The archive is deleted before the answer.
    ArchiveDeleted,
    /// 200 when the runtime answered an error.
    ErrorSwallowed,
    /// 500 without the runtime's message.
    ErrorWithoutMessage,
    /// 404 instead of 500 when the runtime answered an error other than Unimplemented.
    Error404,
    /// 501 instead of 500 when the runtime does not implement the call.
    Unimplemented501,
    /// The query's `timeout` is not looked at: the runtime is always sent the default.
    TimeoutIgnored,
    /// `timeout=0` is a deadline that has passed, not the default.
    TimeoutZeroMeansNow,
    /// A `timeout` below the default is sent as it is.
    TimeoutShortened,
    /// A `timeout` that is not a number counts as absent.
    TimeoutMalformedAccepted,
    /// 200 with `items` a string, not an array.
    BodyWrong,
    /// 200 without a body.
    BodyEmpty,
    /// 200 whose body names another file than the one that the runtime was asked to write.
    BodyOtherFile,
    /// 200 with `Content-Type: text/plain`.
    ContentTypeWrong,
    /// GET checkpoints as POST does.
    GetAllowed,
    /// 200 at once, while the runtime is still at work.
    AnswersEarly,
    /// A client that goes away does not end the call to the runtime.
    CancelIgnored,
    /// The container is stopped after its checkpoint (and started again by its restart policy).
    ContainerStopped,
    /// 200 for a container that has exited; the runtime is not called.
    OkForExited,
}

/// Every mutant with its name and what is wrong with it.
const TABLE: &[(Mutant, &str, &str)] = &[
    (
        Mutant::OkForUnknownPod,
        "ok-for-unknown-pod",
        "200 for a pod that does not exist",
    ),
    (
        Mutant::UnknownContainer500,
        "unknown-container-500",
        "500 for a container that is not in the pod",
    ),
    (
        Mutant::NamespaceIgnored,
        "namespace-ignored",
        "a pod is found whatever the namespace",
    ),
    (
        Mutant::WrongContainer,
        "wrong-container",
        "the pod's first container is checkpointed, whatever the name",
    ),
    (
        Mutant::GateIgnored,
        "gate-ignored",
        "the route stays with the feature gate off",
    ),
    (Mutant::GateOff500, "gate-off-500", "500 with the feature gate off"),
    (Mutant::NoAuth, "no-auth", "requests without credentials are let in"),
    (
        Mutant::WrongCredentialsAccepted,
        "wrong-credentials-accepted",
        "credentials of any issuer are let in",
    ),
    (
        Mutant::Unauthenticated403,
        "unauthenticated-403",
        "403 for missing or wrong credentials",
    ),
    (
        Mutant::AuthorizationIgnored,
        "authorization-ignored",
        "every authenticated user is let in",
    ),
    (
        Mutant::NameWithoutNamespace,
        "name-without-namespace",
        "the archive's name lacks the namespace",
    ),
    (
        Mutant::NameWithoutContainer,
        "name-without-container",
        "the archive's name lacks the container",
    ),
    (
        Mutant::TimestampWrong,
        "timestamp-wrong",
        "the archive's name ends in seconds since 1970",
    ),
    (
        Mutant::TimestampStale,
        "timestamp-stale",
        "the archive's name carries the time of the kubelet's start",
    ),
    (
        Mutant::PlaceOutsideCheckpoints,
        "place-outside-checkpoints",
        "the archive is not below `checkpoints`",
    ),
    (
        Mutant::FolderWorldReadable,
        "folder-world-readable",
        "the folder `checkpoints` has mode 0755",
    ),
    (
        Mutant::ArchiveWorldReadable,
        "archive-world-readable",
        "the archive has mode 0644",
    ),
    (
        Mutant::ArchiveDeleted,
        "archive-deleted",
        "the archive is gone when the answer comes",
    ),
    (
        Mutant::ErrorSwallowed,
        "error-swallowed",
        "200 when the runtime answered an error",
    ),
    (
        Mutant::ErrorWithoutMessage,
        "error-without-message",
        "500 without the runtime's message",
    ),
    (Mutant::Error404, "error-404", "404 when the runtime answered an error"),
    (
        Mutant::Unimplemented501,
        "unimplemented-as-501",
        "501 when the runtime lacks the call",
    ),
    (
        Mutant::TimeoutIgnored,
        "timeout-ignored",
        "a larger timeout is not passed on",
    ),
    (
        Mutant::TimeoutZeroMeansNow,
        "timeout-zero-means-now",
        "timeout=0 has passed at once",
    ),
    (
        Mutant::TimeoutShortened,
        "timeout-shortened",
        "a timeout below the default is passed on",
    ),
    (
        Mutant::TimeoutMalformedAccepted,
        "timeout-malformed-accepted",
        "a timeout that is not a number counts as absent",
    ),
    (Mutant::BodyWrong, "body-wrong", "`items` is a string"),
    (Mutant::BodyEmpty, "body-empty", "200 without a body"),
    (
        Mutant::BodyOtherFile,
        "body-other-file",
        "the body names another file than the archive",
    ),
    (
        Mutant::ContentTypeWrong,
        "content-type-wrong",
        "the content type of 200 is text/plain",
    ),
    (Mutant::GetAllowed, "get-allowed", "GET checkpoints"),
    (Mutant::AnswersEarly, "answers-early", "200 before the runtime is done"),
    (
        Mutant::CancelIgnored,
        "cancel-ignored",
        "the runtime goes on after the client has gone",
    ),
    (
        Mutant::ContainerStopped,
        "container-stopped",
        "the container is stopped after its checkpoint",
    ),
    (
        Mutant::OkForExited,
        "ok-for-exited",
        "200 for a container that has exited",
    ),
];

impl Mutant {
    /// Every mutant, in the order of the documentation.
    pub const ALL: [Self; TABLE.len()] = {
        let mut all = [Self::OkForUnknownPod; TABLE.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = TABLE[i].0;
            i += 1;
        }
        all
    };

    /// The name that `--mutant` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// What is wrong with it, in a few words.
    #[must_use]
    pub fn what(self) -> &'static str {
        self.entry().2
    }

    /// The mutant of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|entry| entry.1 == name).map(|entry| entry.0)
    }

    fn entry(self) -> &'static (Self, &'static str, &'static str) {
        TABLE
            .iter()
            .find(|entry| entry.0 == self)
            .expect("the table holds every mutant, a test says")
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
    fn names_are_unique_and_come_back() {
        let mut names: Vec<_> = Mutant::ALL.iter().map(|m| m.name()).collect();
        for mutant in Mutant::ALL {
            assert_eq!(mutant.name().parse::<Mutant>(), Ok(mutant));
            assert!(!mutant.what().is_empty());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Mutant::ALL.len());
        // The last variant's number tells how many there are, so that the table lacks none.
        assert_eq!(Mutant::OkForExited as usize + 1, Mutant::ALL.len());
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
