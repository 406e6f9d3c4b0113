//! One fault rule: where, when and how a call fails. [`Display`](fmt::Display) prints a rule in the form that
//! [`grammar`] reads.
//!
//! [`grammar`]: super::grammar

use std::{fmt, time::Duration};

use tonic::Code;

use super::text::{DurationText, NameText, QuotedText, SizeText};
use crate::checkpoint::{self, Defect, Injection, Phase};

/// A fault rule. It is plain data: the engine evaluates it, and the fault layer or the checkpoint applies its effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The calls that the rule matches.
    pub selector: Selector,
    /// The matched calls on which the rule fires.
    pub trigger: Trigger,
    /// Where in the call it acts.
    pub point: InjectionPoint,
    /// What it does.
    pub effect: RuleEffect,
}

/// The calls that a rule matches. A `None` field matches every call. A pattern never matches a call without a pod or
/// container. All fields are globs (`*`, `?`, `[..]`, `{..}`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The name of the rpc (`CheckpointContainer`), or a glob over names (`List*`).
    pub rpc: String,
    /// The pod's name.
    pub pod: Option<String>,
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The container's name.
    pub container: Option<String>,
}

/// The matched calls on which a rule fires. Each rule counts its matched calls from 1. All given conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trigger {
    /// Only on the call with this number.
    pub nth: Option<u64>,
    /// On every call whose number is a multiple of this number.
    pub every: Option<u64>,
    /// With this probability, above 0 and at most 1.
    pub probability: Option<f64>,
    /// The seed of the random draws; `None` uses the seed of the engine. A seed and a call number always give the same
    /// draw.
    pub seed: Option<u64>,
    /// The maximum number of calls on which the rule fires.
    pub times: Option<u64>,
}

/// Where in a call a rule acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InjectionPoint {
    /// Before the runtime sees the call.
    Before,
    /// At the start of a phase of CheckpointContainer.
    Phase(Phase),
    /// After the runtime has succeeded or failed, before the caller gets the response.
    After,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleEffect {
    /// Fails with this gRPC code and exactly this message.
    Error {
        /// Never `Ok`.
        code: Code,
        /// Sent unchanged.
        message: String,
    },
    /// Fails with Unimplemented, `method X not implemented`: a runtime that has the call in its API but not in its
    /// code.
    Unimplemented,
    /// Fails with Unimplemented, `unknown method X for service S`: a runtime older than the call.
    UnknownMethod,
    /// Waits, then continues the call.
    Delay(Duration),
    /// Waits until the caller cancels or the deadline passes.
    Hang,
    /// Closes the caller's connection without a response.
    Disconnect,
    /// Kills fake-cri with SIGKILL.
    Crash,
    /// Writes to the archive fail with ENOSPC after this many bytes.
    NoSpace(u64),
    /// Writes to the archive fail with EIO after this many bytes.
    IoError(u64),
    /// The first N percent of the archive stay at the location, and the call fails.
    PartialArchive(u8),
    /// The archive is cut to N percent of its size, and the call succeeds.
    TruncatedArchive(u8),
    /// The archive has wrong checksums and bytes, and the call succeeds.
    CorruptArchive,
    /// The archive is an empty file, and the call succeeds.
    EmptyArchive,
    /// No archive exists, and the call succeeds.
    NoArchive,
    /// The archive gets this file mode.
    Mode(u32),
    /// The archive lacks the members that this glob matches.
    Omit(String),
    /// The container stays frozen.
    LeaveFrozen,
    /// The container is killed.
    KillContainer,
    /// A defect of the whole call.
    Defect(Defect),
}

/// The points at which an effect is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AllowedPoints {
    Anywhere,
    BeforeOrAfter,
    Before,
    Phases,
    Write,
}

impl AllowedPoints {
    pub(super) fn contains(self, point: InjectionPoint) -> bool {
        match self {
            AllowedPoints::Anywhere => true,
            AllowedPoints::BeforeOrAfter => !matches!(point, InjectionPoint::Phase(_)),
            AllowedPoints::Before => point == InjectionPoint::Before,
            AllowedPoints::Phases => matches!(point, InjectionPoint::Phase(_)),
            AllowedPoints::Write => point == InjectionPoint::Phase(Phase::Write),
        }
    }
}

impl fmt::Display for AllowedPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AllowedPoints::Anywhere => "every point",
            AllowedPoints::BeforeOrAfter => "before or after",
            AllowedPoints::Before => "before",
            AllowedPoints::Phases => "freeze, capture, write or finish",
            AllowedPoints::Write => "write",
        })
    }
}

impl InjectionPoint {
    /// All points, in the order in which a call passes them.
    pub const ALL: [InjectionPoint; 6] = [
        InjectionPoint::Before,
        InjectionPoint::Phase(Phase::Freeze),
        InjectionPoint::Phase(Phase::Capture),
        InjectionPoint::Phase(Phase::Write),
        InjectionPoint::Phase(Phase::Finish),
        InjectionPoint::After,
    ];

    /// The keyword in the grammar.
    pub fn name(self) -> &'static str {
        match self {
            InjectionPoint::Before => "before",
            InjectionPoint::Phase(Phase::Freeze) => "freeze",
            InjectionPoint::Phase(Phase::Capture) => "capture",
            InjectionPoint::Phase(Phase::Write) => "write",
            InjectionPoint::Phase(Phase::Finish) => "finish",
            InjectionPoint::After => "after",
        }
    }
}

impl RuleEffect {
    /// The keyword in the grammar.
    pub fn name(&self) -> &'static str {
        match self {
            RuleEffect::Error { .. } => "error",
            RuleEffect::Unimplemented => "unimplemented",
            RuleEffect::UnknownMethod => "unknown-method",
            RuleEffect::Delay(_) => "delay",
            RuleEffect::Hang => "hang",
            RuleEffect::Disconnect => "disconnect",
            RuleEffect::Crash => "crash",
            RuleEffect::NoSpace(_) => "no-space",
            RuleEffect::IoError(_) => "io-error",
            RuleEffect::PartialArchive(_) => "partial-archive",
            RuleEffect::TruncatedArchive(_) => "truncated-archive",
            RuleEffect::CorruptArchive => "corrupt-archive",
            RuleEffect::EmptyArchive => "empty-archive",
            RuleEffect::NoArchive => "no-archive",
            RuleEffect::Mode(_) => "mode",
            RuleEffect::Omit(_) => "omit",
            RuleEffect::LeaveFrozen => "leave-frozen",
            RuleEffect::KillContainer => "kill-container",
            RuleEffect::Defect(defect) => defect.name(),
        }
    }

    pub(super) fn allowed_points(&self) -> AllowedPoints {
        match self {
            RuleEffect::Error { .. } | RuleEffect::Delay(_) | RuleEffect::Hang | RuleEffect::Crash => {
                AllowedPoints::Anywhere
            }
            RuleEffect::Disconnect => AllowedPoints::BeforeOrAfter,
            RuleEffect::Unimplemented | RuleEffect::UnknownMethod | RuleEffect::Defect(_) => AllowedPoints::Before,
            RuleEffect::LeaveFrozen | RuleEffect::KillContainer => AllowedPoints::Phases,
            RuleEffect::NoSpace(_)
            | RuleEffect::IoError(_)
            | RuleEffect::PartialArchive(_)
            | RuleEffect::TruncatedArchive(_)
            | RuleEffect::CorruptArchive
            | RuleEffect::EmptyArchive
            | RuleEffect::NoArchive
            | RuleEffect::Mode(_)
            | RuleEffect::Omit(_) => AllowedPoints::Write,
        }
    }

    /// Whether the effect ends its part of the call (before, phases or after), so that later rules in this part cannot
    /// fire.
    pub(super) fn ends_call(&self) -> bool {
        match self {
            RuleEffect::Error { .. }
            | RuleEffect::Unimplemented
            | RuleEffect::UnknownMethod
            | RuleEffect::Hang
            | RuleEffect::Disconnect
            | RuleEffect::Crash
            | RuleEffect::PartialArchive(_) => true,
            // A full or broken disk fails the checkpoint only if the archive is larger than the limit.
            RuleEffect::NoSpace(_)
            | RuleEffect::IoError(_)
            | RuleEffect::Delay(_)
            | RuleEffect::TruncatedArchive(_)
            | RuleEffect::CorruptArchive
            | RuleEffect::EmptyArchive
            | RuleEffect::NoArchive
            | RuleEffect::Mode(_)
            | RuleEffect::Omit(_)
            | RuleEffect::LeaveFrozen
            | RuleEffect::KillContainer
            | RuleEffect::Defect(_) => false,
        }
    }

    /// The effect as an injection into this phase; `None` for effects that act only around a call.
    pub(super) fn injection(&self, phase: Phase) -> Option<Injection> {
        use checkpoint::InjectedEffect as Injected;
        let effect = match self {
            RuleEffect::Error { code, message } => Injected::Error {
                code: i32::from(*code),
                message: message.clone(),
            },
            RuleEffect::Delay(span) => Injected::Delay(*span),
            RuleEffect::Hang => Injected::Hang,
            RuleEffect::Crash => Injected::CrashRuntime,
            RuleEffect::NoSpace(after) => Injected::NoSpace { after: *after },
            RuleEffect::IoError(after) => Injected::IoError { after: *after },
            RuleEffect::PartialArchive(percent) => Injected::PartialArchive { percent: *percent },
            RuleEffect::TruncatedArchive(percent) => Injected::TruncatedArchive { percent: *percent },
            RuleEffect::CorruptArchive => Injected::CorruptArchive,
            RuleEffect::EmptyArchive => Injected::EmptyArchive,
            RuleEffect::NoArchive => Injected::NoArchive,
            RuleEffect::Mode(mode) => Injected::Mode(*mode),
            RuleEffect::Omit(glob) => Injected::OmitMember(glob.clone()),
            RuleEffect::LeaveFrozen => Injected::LeaveFrozen,
            RuleEffect::KillContainer => Injected::KillContainer,
            RuleEffect::Defect(defect) => Injected::Defect(*defect),
            RuleEffect::Unimplemented | RuleEffect::UnknownMethod | RuleEffect::Disconnect => return None,
        };
        Some(Injection { phase, effect })
    }
}

impl fmt::Display for RuleEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            RuleEffect::Error { code, message } => write!(f, "({code:?},{})", QuotedText(message)),
            RuleEffect::Delay(span) => write!(f, "({})", DurationText(*span)),
            RuleEffect::NoSpace(bytes) | RuleEffect::IoError(bytes) => write!(f, "({})", SizeText(*bytes)),
            RuleEffect::PartialArchive(percent) | RuleEffect::TruncatedArchive(percent) => write!(f, "({percent}%)"),
            RuleEffect::Mode(mode) => write!(f, "({mode:04o})"),
            RuleEffect::Omit(glob) => write!(f, "({})", QuotedText(glob)),
            RuleEffect::Defect(defect) => match defect.argument() {
                Some(argument) => write!(f, "({argument})"),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.selector.rpc)?;
        let names = [
            ("pod", &self.selector.pod),
            ("namespace", &self.selector.namespace),
            ("container", &self.selector.container),
        ];
        let names = names
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", NameText(value.as_ref()?))));
        let counts = [("nth", self.trigger.nth), ("every", self.trigger.every)];
        let random_counts = [("seed", self.trigger.seed), ("times", self.trigger.times)];
        let format_count = |(key, value): (&str, Option<u64>)| Some(format!("{key}={}", value?));
        let selectors: Vec<_> = names
            .chain(counts.into_iter().filter_map(format_count))
            .chain(self.trigger.probability.map(|p| format!("p={p}")))
            .chain(random_counts.into_iter().filter_map(format_count))
            .collect();
        if !selectors.is_empty() {
            write!(f, "({})", selectors.join(","))?;
        }
        write!(f, ":{}={}", self.point.name(), self.effect)
    }
}
