//! The effects of fault rules: one table with the keyword of each effect, its argument and where it is allowed.
//!
//! The table is the only list of effects. Besides its row, an effect needs code where it acts: the fault layer for the
//! points before and after a call ([`crate::service`]), [`super::checkpoint`] for the phases of a checkpoint.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tonic::Code;

use super::{
    Defect, InjectionPoint,
    cursor::Cursor,
    error::RuleParseError,
    text::{self, DurationText, QuotedText, SizeText},
};
use crate::checkpoint::Phase;

/// The status of a failed call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorStatus {
    /// Never `Ok`.
    #[serde(with = "code_number")]
    pub code: Code,
    /// Sent unchanged.
    pub message: String,
}

mod code_number {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use tonic::Code;

    pub(super) fn serialize<S: Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(i32::from(*code))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
        i32::deserialize(deserializer).map(Code::from)
    }
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

/// Whether an effect ends its part of the call (before, phases or after), so that later rules in this part cannot fire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Ends,
    Continues,
}

macro_rules! effects {
    ($($(#[$doc:meta])+ $variant:ident $(($argument:ty))? = $keyword:literal, $points:ident, $flow:ident;)+) => {
        /// What a rule does.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Effect {
            $($(#[$doc])+ $variant $(($argument))?,)+
            /// A defect of the whole call.
            Defect(Defect),
        }

        impl Effect {
            /// The keywords of all effects except the defects, in the order of the grammar.
            pub(super) const KEYWORDS: &'static [&'static str] = &[$($keyword),+];

            /// The keyword in the grammar.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Effect::$variant { .. } => $keyword,)+
                    Effect::Defect(defect) => defect.name(),
                }
            }

            pub(super) fn allowed_points(&self) -> AllowedPoints {
                match self {
                    $(Effect::$variant { .. } => AllowedPoints::$points,)+
                    Effect::Defect(_) => AllowedPoints::Before,
                }
            }

            pub(super) fn ends_call(&self) -> bool {
                let flow = match self {
                    $(Effect::$variant { .. } => Flow::$flow,)+
                    Effect::Defect(_) => Flow::Continues,
                };
                flow == Flow::Ends
            }

            /// Reads the argument of the effect with this keyword. Returns `None` if there is no such effect.
            pub(super) fn parse(keyword: &str, cursor: &mut Cursor) -> Result<Option<Effect>, RuleParseError> {
                Ok(Some(match keyword {
                    $($keyword => Effect::$variant $((parse_argument::<$argument>(cursor)?))?,)+
                    _ => return Defect::parse(keyword, cursor).map(|defect| defect.map(Effect::Defect)),
                }))
            }

            /// The argument in the form that the grammar reads.
            fn argument(&self) -> Option<String> {
                $(effects!(@argument self $variant $(($argument))?);)+
                match self {
                    Effect::Defect(defect) => defect.argument(),
                    _ => None,
                }
            }
        }
    };
    (@argument $self:ident $variant:ident) => {};
    (@argument $self:ident $variant:ident ($argument:ty)) => {
        if let Effect::$variant(argument) = $self {
            return Some(argument.to_text());
        }
    };
}

effects! {
    /// Fails with this gRPC code and exactly this message.
    Error(ErrorStatus) = "error", Anywhere, Ends;
    /// Fails with Unimplemented, `method X not implemented`: a runtime that has the call in its API but not in its
    /// code.
    Unimplemented = "unimplemented", Before, Ends;
    /// Fails with Unimplemented, `unknown method X for service S`: a runtime older than the call.
    UnknownMethod = "unknown-method", Before, Ends;
    /// Waits, then continues the call.
    Delay(Duration) = "delay", Anywhere, Continues;
    /// Waits until the caller cancels or the deadline passes.
    Hang = "hang", Anywhere, Ends;
    /// Kills fake-cri with SIGKILL.
    Crash = "crash", Anywhere, Ends;
    /// Closes the caller's connection without a response.
    Disconnect = "disconnect", BeforeOrAfter, Ends;
    /// The filesystem of the archive is full after this many bytes. The checkpoint fails only if the archive is larger.
    NoSpace(u64) = "no-space", Write, Continues;
    /// Writes to the archive fail with EIO after this many bytes. The checkpoint fails only if the archive is larger.
    IoError(u64) = "io-error", Write, Continues;
    /// The first N percent of the archive stay at the location, like those of a runtime that writes without a rename,
    /// and the call fails.
    PartialArchive(u8) = "partial-archive", Write, Ends;
    /// The archive is cut to N percent of its size, and the call succeeds.
    TruncatedArchive(u8) = "truncated-archive", Write, Continues;
    /// The archive has wrong header checksums and some wrong bytes, and the call succeeds.
    CorruptArchive = "corrupt-archive", Write, Continues;
    /// The archive is an empty file, and the call succeeds.
    EmptyArchive = "empty-archive", Write, Continues;
    /// No archive exists, and the call succeeds.
    NoArchive = "no-archive", Write, Continues;
    /// The archive gets this file mode.
    Mode(u32) = "mode", Write, Continues;
    /// The archive lacks the members that this glob matches.
    Omit(String) = "omit", Write, Continues;
    /// The container's processes are left stopped by SIGSTOP, however the checkpoint ends from this phase on. A ptrace
    /// stop cannot outlive its tracer.
    LeaveFrozen = "leave-frozen", Phases, Continues;
    /// The container's processes are killed.
    KillContainer = "kill-container", Phases, Continues;
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.argument() {
            Some(argument) => write!(f, "({argument})"),
            None => Ok(()),
        }
    }
}

/// The argument of an effect, in parentheses.
trait Argument: Sized {
    /// The value without parentheses; `None` if the argument is required.
    const DEFAULT: Option<Self> = None;

    fn parse(cursor: &mut Cursor) -> Result<Self, RuleParseError>;

    fn to_text(&self) -> String;
}

fn parse_argument<T: Argument>(cursor: &mut Cursor) -> Result<T, RuleParseError> {
    match T::DEFAULT {
        Some(default) if !cursor.is_at('(') => Ok(default),
        _ => cursor.parse_parentheses(T::parse),
    }
}

impl Argument for ErrorStatus {
    fn parse(cursor: &mut Cursor) -> Result<Self, RuleParseError> {
        let code = cursor.parse_code()?;
        cursor.expect_symbol(',', "`,`")?;
        let message = cursor.parse_string("a message in double quotes")?.0;
        Ok(ErrorStatus { code, message })
    }

    fn to_text(&self) -> String {
        format!("{:?},{}", self.code, QuotedText(&self.message))
    }
}

impl Argument for Duration {
    fn parse(cursor: &mut Cursor) -> Result<Self, RuleParseError> {
        let (span, offset) = cursor.parse_word("a duration such as 250ms or 1m30s", |c| c.is_ascii_alphanumeric())?;
        humantime::parse_duration(&span).map_err(|error| {
            let message = format!("expected a duration such as 250ms or 1m30s, found `{span}` ({error})");
            cursor.error_at(offset, message)
        })
    }

    fn to_text(&self) -> String {
        DurationText(*self).to_string()
    }
}

/// A size in bytes.
impl Argument for u64 {
    const DEFAULT: Option<Self> = Some(0);

    fn parse(cursor: &mut Cursor) -> Result<Self, RuleParseError> {
        let expected = "a size in bytes such as 4096 or 64KiB";
        let (size, offset) = cursor.parse_word(expected, |c| c.is_ascii_alphanumeric())?;
        text::parse_size(&size).ok_or_else(|| cursor.error_at(offset, format!("expected {expected}, found `{size}`")))
    }

    fn to_text(&self) -> String {
        SizeText(*self).to_string()
    }
}

/// A percentage.
impl Argument for u8 {
    fn parse(cursor: &mut Cursor) -> Result<Self, RuleParseError> {
        let (number, offset) = cursor.parse_integer()?;
        cursor.eat('%');
        match u8::try_from(number) {
            Ok(percent) if percent <= 100 => Ok(percent),
            _ => Err(cursor.error_at(offset, format!("expected 0 to 100 percent, found `{number}`"))),
        }
    }

    fn to_text(&self) -> String {
        format!("{self}%")
    }
}

/// A file mode.
impl Argument for u32 {
    fn parse(cursor: &mut Cursor) -> Result<Self, RuleParseError> {
        let expected = "an octal mode such as 0644";
        let (mode, offset) = cursor.parse_word(expected, |c| c.is_ascii_digit())?;
        match u32::from_str_radix(&mode, 8) {
            Ok(bits) if bits <= 0o7777 => Ok(bits),
            _ => Err(cursor.error_at(offset, format!("expected {expected}, found `{mode}`"))),
        }
    }

    fn to_text(&self) -> String {
        format!("{self:04o}")
    }
}

/// A glob over the names of members.
impl Argument for String {
    fn parse(cursor: &mut Cursor) -> Result<Self, RuleParseError> {
        let (member, offset) = cursor.parse_string("a member name in double quotes")?;
        cursor.check_glob(member, offset)
    }

    fn to_text(&self) -> String {
        QuotedText(self).to_string()
    }
}
