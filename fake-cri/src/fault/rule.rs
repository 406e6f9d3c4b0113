//! One fault rule: where it acts, when, and what it does. [`Display`](fmt::Display) prints it as [`grammar`] reads it.
//!
//! [`grammar`]: super::grammar

use std::{fmt, time::Duration};

use tonic::Code;

use super::text::{Name, Quoted, Size, Span};
use crate::checkpoint::{self, Injection, Phase, Quirk};

/// A fault: data, which the engine weighs and the layer or the checkpoint acts out.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which calls it is about.
    pub scope: Scope,
    /// On which of those it fires.
    pub when: When,
    /// Where in the call it acts.
    pub point: Point,
    /// What it does.
    pub effect: Effect,
}

/// Which calls a rule is about. A selector that is `None` takes every call; one that is given never takes a call that
/// names no pod or container. All are globs (`*`, `?`, `[..]`, `{..}`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
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
pub struct When {
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
pub enum Point {
    /// Before the runtime hears of the call.
    Before,
    /// At the beginning of a phase of CheckpointContainer.
    Phase(Phase),
    /// When the work is done (or has failed), before the caller hears.
    After,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
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
    Drop,
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
    Quirk(Quirk),
}

/// Where an effect may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At every point.
    Anywhere,
    /// Only around the call.
    Around,
    /// Only before the call.
    Before,
    /// In any phase of CheckpointContainer.
    Phases,
    /// Only where the archive is written.
    Write,
}

impl Place {
    /// Whether the point is within the place.
    pub(super) fn holds(self, point: Point) -> bool {
        match self {
            Place::Anywhere => true,
            Place::Around => !matches!(point, Point::Phase(_)),
            Place::Before => point == Point::Before,
            Place::Phases => matches!(point, Point::Phase(_)),
            Place::Write => point == Point::Phase(Phase::Write),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Anywhere => "every point",
            Place::Around => "before or after",
            Place::Before => "before",
            Place::Phases => "freeze, capture, write or finish",
            Place::Write => "write",
        })
    }
}

impl Point {
    /// Every point, in the order in which a call passes them.
    pub const ALL: [Point; 6] = [
        Point::Before,
        Point::Phase(Phase::Freeze),
        Point::Phase(Phase::Capture),
        Point::Phase(Phase::Write),
        Point::Phase(Phase::Finish),
        Point::After,
    ];

    /// The word for it in the grammar.
    pub fn name(self) -> &'static str {
        match self {
            Point::Before => "before",
            Point::Phase(Phase::Freeze) => "freeze",
            Point::Phase(Phase::Capture) => "capture",
            Point::Phase(Phase::Write) => "write",
            Point::Phase(Phase::Finish) => "finish",
            Point::After => "after",
        }
    }
}

impl Effect {
    /// The word for it in the grammar.
    pub fn name(&self) -> &'static str {
        match self {
            Effect::Error { .. } => "error",
            Effect::Unimplemented => "unimplemented",
            Effect::UnknownMethod => "unknown-method",
            Effect::Delay(_) => "delay",
            Effect::Hang => "hang",
            Effect::Drop => "drop",
            Effect::Crash => "crash",
            Effect::NoSpace(_) => "no-space",
            Effect::IoError(_) => "io-error",
            Effect::PartialArchive(_) => "partial-archive",
            Effect::TruncatedArchive(_) => "truncated-archive",
            Effect::CorruptArchive => "corrupt-archive",
            Effect::EmptyArchive => "empty-archive",
            Effect::NoArchive => "no-archive",
            Effect::Mode(_) => "mode",
            Effect::Omit(_) => "omit",
            Effect::LeaveFrozen => "leave-frozen",
            Effect::KillContainer => "kill-container",
            Effect::Quirk(quirk) => quirk.name(),
        }
    }

    /// Where it may stand.
    pub(super) fn place(&self) -> Place {
        match self {
            Effect::Error { .. } | Effect::Delay(_) | Effect::Hang | Effect::Crash => Place::Anywhere,
            Effect::Drop => Place::Around,
            Effect::Unimplemented | Effect::UnknownMethod | Effect::Quirk(_) => Place::Before,
            Effect::LeaveFrozen | Effect::KillContainer => Place::Phases,
            Effect::NoSpace(_)
            | Effect::IoError(_)
            | Effect::PartialArchive(_)
            | Effect::TruncatedArchive(_)
            | Effect::CorruptArchive
            | Effect::EmptyArchive
            | Effect::NoArchive
            | Effect::Mode(_)
            | Effect::Omit(_) => Place::Write,
        }
    }

    /// Whether nothing after it in the same part of the call can happen.
    pub(super) fn ends(&self) -> bool {
        match self {
            Effect::Error { .. }
            | Effect::Unimplemented
            | Effect::UnknownMethod
            | Effect::Hang
            | Effect::Drop
            | Effect::Crash
            | Effect::PartialArchive(_) => true,
            // A full or a broken disk ends the checkpoint only if the archive is that large.
            Effect::NoSpace(_)
            | Effect::IoError(_)
            | Effect::Delay(_)
            | Effect::TruncatedArchive(_)
            | Effect::CorruptArchive
            | Effect::EmptyArchive
            | Effect::NoArchive
            | Effect::Mode(_)
            | Effect::Omit(_)
            | Effect::LeaveFrozen
            | Effect::KillContainer
            | Effect::Quirk(_) => false,
        }
    }

    /// What the checkpoint does in this phase; `None` for what only stands around a call.
    pub(super) fn injection(&self, phase: Phase) -> Option<Injection> {
        use checkpoint::Effect as Injected;
        let effect = match self {
            Effect::Error { code, message } => Injected::Error {
                code: i32::from(*code),
                message: message.clone(),
            },
            Effect::Delay(span) => Injected::Delay(*span),
            Effect::Hang => Injected::Hang,
            Effect::Crash => Injected::CrashRuntime,
            Effect::NoSpace(after) => Injected::NoSpace { after: *after },
            Effect::IoError(after) => Injected::IoError { after: *after },
            Effect::PartialArchive(percent) => Injected::PartialArchive { percent: *percent },
            Effect::TruncatedArchive(percent) => Injected::TruncatedArchive { percent: *percent },
            Effect::CorruptArchive => Injected::CorruptArchive,
            Effect::EmptyArchive => Injected::EmptyArchive,
            Effect::NoArchive => Injected::NoArchive,
            Effect::Mode(mode) => Injected::Mode(*mode),
            Effect::Omit(glob) => Injected::OmitMember(glob.clone()),
            Effect::LeaveFrozen => Injected::LeaveFrozen,
            Effect::KillContainer => Injected::KillContainer,
            Effect::Quirk(quirk) => Injected::Quirk(*quirk),
            Effect::Unimplemented | Effect::UnknownMethod | Effect::Drop => return None,
        };
        Some(Injection { phase, effect })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Effect::Error { code, message } => write!(f, "({code:?},{})", Quoted(message)),
            Effect::Delay(span) => write!(f, "({})", Span(*span)),
            Effect::NoSpace(bytes) | Effect::IoError(bytes) => write!(f, "({})", Size(*bytes)),
            Effect::PartialArchive(percent) | Effect::TruncatedArchive(percent) => write!(f, "({percent}%)"),
            Effect::Mode(mode) => write!(f, "({mode:04o})"),
            Effect::Omit(glob) => write!(f, "({})", Quoted(glob)),
            Effect::Quirk(quirk) => match quirk.argument() {
                Some(argument) => write!(f, "({argument})"),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scope.rpc)?;
        let names = [
            ("pod", &self.scope.pod),
            ("namespace", &self.scope.namespace),
            ("container", &self.scope.container),
        ];
        let names = names
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", Name(value.as_ref()?))));
        let numbers = [("nth", self.when.nth), ("every", self.when.every)];
        let draws = [("seed", self.when.seed), ("times", self.when.times)];
        let number = |(key, value): (&str, Option<u64>)| Some(format!("{key}={}", value?));
        let selectors: Vec<_> = names
            .chain(numbers.into_iter().filter_map(number))
            .chain(self.when.probability.map(|p| format!("p={p}")))
            .chain(draws.into_iter().filter_map(number))
            .collect();
        if !selectors.is_empty() {
            write!(f, "({})", selectors.join(","))?;
        }
        write!(f, ":{}={}", self.point.name(), self.effect)
    }
}
