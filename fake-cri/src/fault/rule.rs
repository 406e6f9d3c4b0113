//! One fault rule: where it acts, when, and what it does. [`Display`](fmt::Display) prints it as [`grammar`] reads it.
//!
//! [`grammar`]: super::grammar

use std::{fmt, time::Duration};

use tonic::Code;

use super::text::{DurationText, NameText, QuotedText, SizeText};
use crate::checkpoint::{self, Defect, Injection, Phase};

/// A fault: data, which the engine weighs and the layer or the checkpoint acts out.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which calls it is about.
    pub selector: Selector,
    /// On which of those it fires.
    pub trigger: Trigger,
    /// Where in the call it acts.
    pub point: InjectionPoint,
    /// What it does.
    pub effect: RuleEffect,
}

/// Which calls a rule is about. A selector that is `None` takes every call; one that is given never takes a call that
/// names no pod or container. All are globs (`*`, `?`, `[..]`, `{..}`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The rpc's name, `CheckpointContainer`, or a glob over names, `List*`.
    pub rpc: String,
    /// The pod's name.
    pub pod: Option<String>,
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The container's name.
    pub container: Option<String>,
}

/// On which of the calls in its scope a rule fires. Calls are counted from 1, for each rule on its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trigger {
    /// On this one alone.
    pub nth: Option<u64>,
    /// On this one and each multiple of it.
    pub every: Option<u64>,
    /// With this probability, above 0 and at most 1.
    pub probability: Option<f64>,
    /// The seed that the draws come from; the engine's when it is not given. The same seed draws the same for the same
    /// call number.
    pub seed: Option<u64>,
    /// No more often than this.
    pub times: Option<u64>,
}

/// Where in a call a rule acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InjectionPoint {
    /// Before the runtime hears of the call.
    Before,
    /// At the beginning of a phase of CheckpointContainer.
    Phase(Phase),
    /// When the work is done (or has failed), before the caller hears.
    After,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleEffect {
    /// Answers with this gRPC code and this message, word for word.
    Error {
        /// The code; never `Ok`.
        code: Code,
        /// The message.
        message: String,
    },
    /// Answers Unimplemented `method X not implemented`, as a runtime that knows the call but does not have it.
    Unimplemented,
    /// Answers Unimplemented `unknown method X for service S`, as a runtime older than the call.
    UnknownMethod,
    /// Waits, then goes on.
    Delay(Duration),
    /// Waits until the caller gives up or the deadline passes.
    Hang,
    /// Closes the caller's connection without an answer.
    Disconnect,
    /// Kills fake-cri with SIGKILL.
    Crash,
    /// The disk is full once this many bytes of the archive are written.
    NoSpace(u64),
    /// The disk fails once this many bytes of the archive are written.
    IoError(u64),
    /// This share of the archive (percent) is left at the location, and the call fails.
    PartialArchive(u8),
    /// The archive is cut to this share (percent), and the call succeeds.
    TruncatedArchive(u8),
    /// The archive has wrong checksums and bytes, and the call succeeds.
    CorruptArchive,
    /// The archive is a file of no bytes, and the call succeeds.
    EmptyArchive,
    /// There is no archive, and the call succeeds.
    NoArchive,
    /// The archive has this mode.
    Mode(u32),
    /// The archive lacks the members that this glob names.
    Omit(String),
    /// The container is left stopped.
    LeaveFrozen,
    /// The container is killed.
    KillContainer,
    /// The call as a whole goes wrong in this way.
    Defect(Defect),
}

/// Where an effect may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AllowedPoints {
    /// At every point.
    Anywhere,
    /// Only around the call.
    BeforeOrAfter,
    /// Only before the call.
    Before,
    /// In any phase of CheckpointContainer.
    Phases,
    /// Only where the archive is written.
    Write,
}

impl AllowedPoints {
    /// Whether the point is within the place.
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
    /// Every point, in the order in which a call passes them.
    pub const ALL: [InjectionPoint; 6] = [
        InjectionPoint::Before,
        InjectionPoint::Phase(Phase::Freeze),
        InjectionPoint::Phase(Phase::Capture),
        InjectionPoint::Phase(Phase::Write),
        InjectionPoint::Phase(Phase::Finish),
        InjectionPoint::After,
    ];

    /// The word for it in the grammar.
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
    /// The word for it in the grammar.
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

    /// Where it may stand.
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

    /// Whether nothing after it in the same part of the call can happen.
    pub(super) fn ends_call(&self) -> bool {
        match self {
            RuleEffect::Error { .. }
            | RuleEffect::Unimplemented
            | RuleEffect::UnknownMethod
            | RuleEffect::Hang
            | RuleEffect::Disconnect
            | RuleEffect::Crash
            | RuleEffect::PartialArchive(_) => true,
            // A full or a broken disk ends the checkpoint only if the archive is that large.
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

    /// What the checkpoint does in this phase; `None` for what only stands around a call.
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
