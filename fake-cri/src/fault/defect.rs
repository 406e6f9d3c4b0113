//! Defects of a whole call: each reproduces a misbehaviour of a real runtime.
//!
//! A [`Defect`] is data. The decorator of the call (`service/call_defects.rs`) applies the defects of the request (id,
//! location, timeout, deadline) and of the container's later calls. The hooks of the engine ([`super::checkpoint`])
//! apply those of the dump and of its temporary. [`Defect::After`] acts only after a call with the given outcome.

use serde::{Deserialize, Serialize};

use super::{cursor::Cursor, error::RuleParseError};

/// How a checkpoint call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallOutcome {
    /// The call succeeded.
    Success,
    /// The call failed by itself: a missing directory, a full disk.
    Error,
    /// The call's own deadline passed.
    Deadline,
    /// The request's `timeout` passed.
    Timeout,
    /// The caller cancelled.
    Cancel,
}

impl CallOutcome {
    /// All outcomes.
    pub const ALL: [CallOutcome; 5] = [
        CallOutcome::Success,
        CallOutcome::Error,
        CallOutcome::Deadline,
        CallOutcome::Timeout,
        CallOutcome::Cancel,
    ];

    /// The word in the fault grammar.
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

/// A fault that acts after a checkpoint with some outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SideEffect {
    /// The container's processes are left stopped.
    LeaveFrozen,
    /// The container's processes are killed.
    KillContainer,
    /// The partial archive stays at the location.
    KeepPartial,
    /// The partial archive stays beside the location.
    KeepTemporary,
    /// The next checkpoint of the container fails.
    RefuseNext,
    /// ContainerStatus reports the container as exited.
    ReportExited,
    /// ExecSync into the container fails.
    BreakExec,
    /// The container's log ends.
    BreakLog,
    /// The other containers of the Pod are left stopped.
    FreezeSiblings,
}

impl SideEffect {
    /// All side effects.
    pub const ALL: [SideEffect; 9] = [
        SideEffect::LeaveFrozen,
        SideEffect::KillContainer,
        SideEffect::KeepPartial,
        SideEffect::KeepTemporary,
        SideEffect::RefuseNext,
        SideEffect::ReportExited,
        SideEffect::BreakExec,
        SideEffect::BreakLog,
        SideEffect::FreezeSiblings,
    ];

    /// The word in the fault grammar.
    pub fn name(self) -> &'static str {
        match self {
            SideEffect::LeaveFrozen => "leave-frozen",
            SideEffect::KillContainer => "kill-container",
            SideEffect::KeepPartial => "keep-partial",
            SideEffect::KeepTemporary => "keep-temporary",
            SideEffect::RefuseNext => "fail-next-checkpoint",
            SideEffect::ReportExited => "report-exited",
            SideEffect::BreakExec => "break-exec",
            SideEffect::BreakLog => "break-log",
            SideEffect::FreezeSiblings => "freeze-siblings",
        }
    }
}

/// A region of process memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryRegion {
    /// The heap, and anonymous mappings that are no stack.
    Heap,
    /// The main thread's stack, without the environment.
    Stack,
    /// The environment, at the end of the main thread's stack.
    Environment,
    /// The stacks of the other threads.
    Threads,
    /// Shared anonymous memory.
    Shared,
}

impl MemoryRegion {
    /// All regions.
    pub const ALL: [MemoryRegion; 5] = [
        MemoryRegion::Heap,
        MemoryRegion::Stack,
        MemoryRegion::Environment,
        MemoryRegion::Threads,
        MemoryRegion::Shared,
    ];

    /// The word in the fault grammar.
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
        /// A defect of a whole call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Defect {
            $(#[doc = $means] $variant,)+
            /// After a checkpoint with this outcome, the side effect acts.
            After(CallOutcome, SideEffect),
            /// This memory region is zero in the archive.
            ZeroMemory(MemoryRegion),
        }

        impl Defect {
            /// The defects without an argument, and their descriptions.
            pub const WITHOUT_ARGUMENT: &'static [(Defect, &'static str)] = &[$((Defect::$variant, $means),)+];

            /// The word in the fault grammar.
            pub fn name(self) -> &'static str {
                match self {
                    $(Defect::$variant => $name,)+
                    Defect::After(..) => "after",
                    Defect::ZeroMemory(_) => "zero-memory",
                }
            }
        }
    };
}

defects! {
    IgnoreDeadline = "ignore-deadline", "continues after the call's deadline, and the archive appears";
    IgnoreCancel = "ignore-cancel", "continues after the caller cancelled, and the archive appears";
    IgnoreTimeout = "ignore-timeout", "ignores the request's `timeout`";
    TimeoutInMilliseconds = "timeout-in-milliseconds", "takes the request's `timeout` as milliseconds";
    ZeroTimeoutExpiresAtOnce = "zero-timeout-expires-at-once", "treats a `timeout` of zero as expired";
    TimeoutOverflows = "timeout-overflows", "treats a `timeout` that overflows in nanoseconds as expired";
    AcceptUnknownContainer = "accept-unknown-container", "succeeds for an unknown container";
    UnknownContainerIsInternal = "unknown-container-is-internal", "returns Internal, not NotFound, for an unknown container";
    AcceptExitedContainer = "accept-exited-container", "succeeds for an exited container, without an archive";
    AcceptCreatedContainer = "accept-created-container", "succeeds for a container that was not started, without an archive";
    RejectIdPrefix = "reject-id-prefix", "returns NotFound for a unique prefix of an id";
    AcceptEmptyId = "accept-empty-id", "succeeds for an empty id";
    AcceptEmptyLocation = "accept-empty-location", "succeeds for an empty location, without an archive";
    ResolveRelativeLocation = "resolve-relative-location", "resolves a relative location in the runtime's working directory";
    AcceptMissingDirectory = "accept-missing-directory", "succeeds for a location in a missing directory, without an archive";
    CreateDirectory = "create-directory", "creates a missing directory and fails";
    AcceptUnwritableLocation = "accept-unwritable-location", "succeeds for a location below a file, without an archive";
    AcceptDirectoryLocation = "accept-directory-location", "succeeds if the location is a directory, with the archive in it";
    FollowSymlink = "follow-symlink", "follows a symlink at the location";
    NoTruncate = "no-truncate", "does not truncate an existing file: the end of a longer file stays after the archive";
    KeepMode = "keep-mode", "keeps the mode of an existing file";
    IgnoreNoSpace = "ignore-no-space", "ignores ENOSPC";
    RespondEarly = "respond-early", "returns success shortly before the archive appears";
    OtherContainer = "other-container", "checkpoints another running container";
    OtherMetadata = "other-metadata", "writes `config.dump` and `spec.dump` of another container";
    EarlierImages = "earlier-images", "writes the images of the container's first checkpoint";
    EarlierArchive = "earlier-archive", "writes the archive of the container's first checkpoint";
    CopyLogLate = "copy-log-late", "thaws the container before its log is copied";
    InitProcessOnly = "init-process-only", "dumps only the container's init process";
    OmitThread = "omit-thread", "omits the last thread of each process with several threads";
    TruncateConcurrent = "truncate-concurrent", "truncates the archive of a checkpoint that begins during another one of the same container";
    RefuseConcurrent = "refuse-concurrent", "fails a checkpoint that begins during one of another container";
    OneAtATime = "one-at-a-time", "delays a checkpoint until no other container is being checkpointed";
    RejectRestoredContainer = "reject-restored-container", "fails for a container that was restored from an archive";
    KillExecs = "kill-execs", "ends running ExecSync commands with code 137";
}

impl Defect {
    /// Reads the argument of the defect with this keyword. Returns `None` if there is no such defect.
    pub(super) fn parse(keyword: &str, cursor: &mut Cursor) -> Result<Option<Defect>, RuleParseError> {
        match keyword {
            "zero-memory" => cursor.parse_parentheses(|cursor| {
                let region = cursor.parse_choice(MemoryRegion::ALL.map(|region| (region.name(), region)))?;
                Ok(Some(Defect::ZeroMemory(region)))
            }),
            "after" => cursor.parse_parentheses(|cursor| {
                let outcome = cursor.parse_choice(CallOutcome::ALL.map(|outcome| (outcome.name(), outcome)))?;
                cursor.expect_symbol(',', "`,`")?;
                let side_effects = SideEffect::ALL.map(|side_effect| (side_effect.name(), side_effect));
                Ok(Some(Defect::After(outcome, cursor.parse_choice(side_effects)?)))
            }),
            keyword => {
                let mut defects = Defect::WITHOUT_ARGUMENT.iter().map(|(defect, _)| *defect);
                Ok(defects.find(|defect| defect.name() == keyword))
            }
        }
    }

    /// The argument in parentheses, if the defect takes one.
    pub fn argument(self) -> Option<String> {
        match self {
            Defect::After(ending, side_effect) => Some(format!("{},{}", ending.name(), side_effect.name())),
            Defect::ZeroMemory(region) => Some(region.name().to_owned()),
            _ => None,
        }
    }
}
