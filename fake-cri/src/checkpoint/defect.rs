//! Ways in which a runtime is unlike it should be for the whole of a call: what real ones did, each by its own word.
//!
//! A [`Defect`] is data. Those about the request (its id, location, timeout, deadline) are acted by the runtime, those about
//! what is captured and how the archive is written by the engine in the shim. [`Defect::After`] acts when the call has ended in
//! one way and not when it ended in another.

use serde::{Deserialize, Serialize};

/// How a checkpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallOutcome {
    /// It succeeded.
    Success,
    /// It failed by itself: a folder that is missing, a full disk.
    Error,
    /// The call's own deadline passed.
    Deadline,
    /// The request's `timeout` passed.
    Timeout,
    /// The caller went away.
    Cancel,
}

impl CallOutcome {
    /// Every ending.
    pub const ALL: [CallOutcome; 5] = [
        CallOutcome::Success,
        CallOutcome::Error,
        CallOutcome::Deadline,
        CallOutcome::Timeout,
        CallOutcome::Cancel,
    ];

    /// The word for it in the grammar.
    pub fn name(self) -> &'static str {
        match self {
            CallOutcome::Success => "success",
            CallOutcome::Error => "error",
            CallOutcome::Deadline => "deadline",
            CallOutcome::Timeout => "timeout",
            CallOutcome::Cancel => "cancel",
        }
    }
}

/// What is wrong after a checkpoint that has ended in some way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SideEffect {
    /// The container's processes are left stopped.
    LeaveFrozen,
    /// The container's processes are killed.
    KillContainer,
    /// What was written so far stays at the location.
    KeepPartial,
    /// What was written so far stays beside the location.
    KeepTemporary,
    /// The next checkpoint of the container fails.
    RefuseNext,
    /// ContainerStatus says that the container has exited.
    Misreport,
    /// ExecSync into the container fails.
    BreakExec,
    /// The container's log ends.
    BreakLog,
    /// The other containers of the Pod are left stopped.
    FreezeNeighbours,
}

impl SideEffect {
    /// All of them.
    pub const ALL: [SideEffect; 9] = [
        SideEffect::LeaveFrozen,
        SideEffect::KillContainer,
        SideEffect::KeepPartial,
        SideEffect::KeepTemporary,
        SideEffect::RefuseNext,
        SideEffect::Misreport,
        SideEffect::BreakExec,
        SideEffect::BreakLog,
        SideEffect::FreezeNeighbours,
    ];

    /// The word for it in the grammar.
    pub fn name(self) -> &'static str {
        match self {
            SideEffect::LeaveFrozen => "leave-frozen",
            SideEffect::KillContainer => "kill-container",
            SideEffect::KeepPartial => "keep-partial",
            SideEffect::KeepTemporary => "keep-temporary",
            SideEffect::RefuseNext => "fail-next-checkpoint",
            SideEffect::Misreport => "report-exited",
            SideEffect::BreakExec => "break-exec",
            SideEffect::BreakLog => "break-log",
            SideEffect::FreezeNeighbours => "freeze-siblings",
        }
    }
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryRegion {
    /// What the program took for itself: the heap, and anonymous mappings that are no stack.
    Heap,
    /// The first thread's stack.
    Stack,
    /// The environment, at the end of that stack.
    Environment,
    /// The stacks of the other threads.
    Threads,
    /// Shared anonymous memory.
    Shared,
}

impl MemoryRegion {
    /// All of them.
    pub const ALL: [MemoryRegion; 5] = [
        MemoryRegion::Heap,
        MemoryRegion::Stack,
        MemoryRegion::Environment,
        MemoryRegion::Threads,
        MemoryRegion::Shared,
    ];

    /// The word for it in the grammar.
    pub fn name(self) -> &'static str {
        match self {
            MemoryRegion::Heap => "heap",
            MemoryRegion::Stack => "stack",
            MemoryRegion::Environment => "environment",
            MemoryRegion::Threads => "threads",
            MemoryRegion::Shared => "shared",
        }
    }
}

macro_rules! defects {
    ($($variant:ident = $name:literal, $means:literal;)+) => {
        /// One way.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Defect {
            $(#[doc = $means] $variant,)+
            /// After a checkpoint that ended so, this is wrong.
            After(CallOutcome, SideEffect),
            /// This kind of memory is zero in the archive.
            LoseMemory(MemoryRegion),
        }

        impl Defect {
            /// Those that take no argument, with what they mean.
            pub const WITHOUT_ARGUMENT: &'static [(Defect, &'static str)] = &[$((Defect::$variant, $means),)+];

            /// The word for it in the grammar.
            pub fn name(self) -> &'static str {
                match self {
                    $(Defect::$variant => $name,)+
                    Defect::After(..) => "after",
                    Defect::LoseMemory(_) => "zero-memory",
                }
            }
        }
    };
}

defects! {
    IgnoreDeadline = "ignore-deadline", "the work goes on after the call's deadline, and its archive appears";
    IgnoreCancel = "ignore-cancel", "the work goes on after the caller went away, and its archive appears";
    IgnoreTimeout = "ignore-timeout", "the request's `timeout` is not read";
    TimeoutInMilliseconds = "timeout-in-milliseconds", "the request's `timeout` is taken for milliseconds";
    ZeroTimeoutIsNow = "zero-timeout-expires-at-once", "a `timeout` of zero is over at once";
    TimeoutOverflows = "timeout-overflows", "a `timeout` whose nanoseconds do not fit is over at once";
    AcceptUnknown = "accept-unknown-container", "a container that is not known is a success";
    UnknownIsInternal = "unknown-container-is-internal", "a container that is not known is Internal, not NotFound";
    AcceptExited = "accept-exited-container", "a container that has exited is a success, without an archive";
    AcceptCreated = "accept-created-container", "a container that was not started is a success, without an archive";
    RefuseShortIds = "reject-id-prefix", "the beginning of an id is not found";
    AcceptEmptyId = "accept-empty-id", "an empty id is a success";
    AcceptEmptyLocation = "accept-empty-location", "an empty location is a success, without an archive";
    ResolveRelative = "resolve-relative-location", "a relative location counts from the runtime's working directory";
    AcceptMissingFolder = "accept-missing-directory", "a location whose folder is missing is a success, without an archive";
    CreateFolder = "create-directory", "a missing folder is made, and the call fails";
    AcceptUnwritable = "accept-unwritable-location", "a location below a file is a success, without an archive";
    AcceptFolder = "accept-directory-location", "a location that is a folder is a success, with the archive within";
    FollowSymlink = "follow-symlink", "a symlink at the location is followed";
    KeepTail = "no-truncate", "an existing file is not truncated: what was longer stays behind the archive";
    KeepMode = "keep-mode", "an existing file keeps its mode";
    IgnoreNoSpace = "ignore-no-space", "a write that finds no space is not noticed";
    AnswerEarly = "respond-early", "success is answered a moment before the archive is there";
    OtherContainer = "other-container", "another running container is checkpointed";
    OtherDocuments = "other-metadata", "`config.dump` and `spec.dump` are another container's";
    EarlierImages = "earlier-images", "the images are those of the container's first checkpoint";
    EarlierArchive = "earlier-archive", "the archive is that of the container's first checkpoint";
    LateLog = "copy-log-late", "the container runs on before its log is copied";
    OnlyFirstProcess = "init-process-only", "the container's other processes are not in the archive";
    LoseThread = "omit-thread", "of each process with several threads the last one is not in the archive";
    SpoilConcurrent = "truncate-concurrent", "a checkpoint that begins during another of the same container makes an archive that ends in its middle";
    RefuseParallel = "refuse-concurrent", "a checkpoint that begins during one of another container fails";
    OneAtATime = "one-at-a-time", "a checkpoint waits for those of all other containers";
    RefuseRestored = "reject-restored-container", "a container that was made from an archive cannot be checkpointed";
    KillExecs = "kill-execs", "commands that ExecSync has under way end with code 137";
}

impl Defect {
    /// The argument in its parentheses, where it has one.
    pub fn argument(self) -> Option<String> {
        match self {
            Defect::After(ending, side_effect) => Some(format!("{},{}", ending.name(), side_effect.name())),
            Defect::LoseMemory(region) => Some(region.name().to_owned()),
            _ => None,
        }
    }
}
