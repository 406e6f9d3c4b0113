//! The grammar of fault rules in flags, pod annotations and the control API.
//!
//! ```text
//! rules    = [ item ] { ( ";" | newline ) [ item ] } ;
//! item     = preset | rule ;
//! preset   = "preset:" NAME [ "(" selector { "," selector } ")" ] ;
//! rule     = rpc [ "(" selector { "," selector } ")" ] ":" point "=" effect ;
//! rpc      = the name of an rpc, or a glob of letters, digits, "*" and "?" ;
//! selector = ( "pod" | "namespace" | "container" ) "=" ( bare | string )      (* globs *)
//!          | ( "nth" | "every" | "times" | "seed" ) "=" integer
//!          | "p" "=" number ;                                                (* above 0, at most 1 *)
//! point    = "before" | "freeze" | "capture" | "write" | "finish" | "after" ;
//! effect   = "error" "(" code "," string ")"
//!          | "unimplemented" | "unknown-method"                              (* before *)
//!          | "delay" "(" duration ")" | "hang" | "crash"
//!          | "disconnect"                                                          (* before, after *)
//!          | "no-space" [ "(" size ")" ]                                      (* this and the next 4 lines: write *)
//!          | "io-error" [ "(" size ")" ]
//!          | ( "partial-archive" | "truncated-archive" ) "(" integer [ "%" ] ")"
//!          | "corrupt-archive" | "empty-archive" | "no-archive"
//!          | "mode" "(" octal ")" | "omit" "(" string ")"
//!          | "leave-frozen" | "kill-container"                               (* freeze, capture, write, finish *)
//!          | defect                                                           (* before, of CheckpointContainer *)
//!          | "zero-memory" "(" ( "heap" | "stack" | "environment" | "threads" | "shared" ) ")"
//!          | "after" "(" outcome "," side_effect ")" ;
//! defect    = a keyword in `Defect::WITHOUT_ARGUMENT`, such as "ignore-deadline" ;
//! outcome   = "success" | "error" | "deadline" | "timeout" | "cancel" ;
//! side_effect = "leave-frozen" | "kill-container" | "keep-partial" | "keep-temporary" | "fail-next-checkpoint"
//!          | "report-exited" | "break-exec" | "break-log" | "freeze-siblings" ;
//! code     = "Cancelled" | "Unknown" | ... | "Unauthenticated" | 1 to 16 ;
//! string   = '"' { character | "\" ( '"' | "\" | "n" | "r" | "t" | "u{" hex "}" ) } '"' ;
//! bare     = { letter | digit | "." | "_" | "-" | "/" | "*" | "?" } ;
//! duration = { integer ( "ns" | "us" | "ms" | "s" | "m" | "h" | "d" ) } ;
//! size     = integer [ "KiB" | "MiB" | "GiB" | "TiB" ] ;
//! ```
//!
//! Spaces are allowed between any two tokens. Only `CheckpointContainer` has the points `freeze` to `finish`. `nth`
//! excludes `every` and `times`; `seed` needs `p`. An error gives the column and the expected token.

use std::{str::FromStr, time::Duration};

use globset::Glob;

use super::{
    cursor::Cursor,
    error::RuleParseError,
    preset::Preset,
    rpc::Rpc,
    rule::{InjectionPoint, Rule, RuleEffect, Selector, Trigger},
    text,
};
use crate::checkpoint::{CallOutcome, Defect, MemoryRegion, SideEffect};

/// The only rpc that has phases.
const CHECKPOINT_RPC: &str = "CheckpointContainer";

/// The keywords of all effects, in the order of the grammar.
const EFFECT_NAMES: &str = "error, unimplemented, unknown-method, delay, hang, crash, disconnect, no-space, io-error, partial-archive, \
                       truncated-archive, corrupt-archive, empty-archive, no-archive, mode, omit, leave-frozen, \
                       kill-container, zero-memory, after, or a defect such as ignore-deadline (see docs/FAULTS.md)";

/// Reads rules and presets, separated by `;` or newlines. A preset is replaced by its rules.
///
/// # Errors
/// The text is not valid. The error gives the first wrong position.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>, RuleParseError> {
    let mut cursor = Cursor::new(text);
    let mut rules = Vec::new();
    loop {
        while cursor.eat_separator() {}
        if cursor.at_end() {
            return Ok(rules);
        }
        rules.extend(parse_item(&mut cursor)?);
        if !cursor.at_end() && !cursor.eat_separator() {
            return Err(cursor.expected_error("`;`, a newline or the end"));
        }
    }
}

/// The rules of one argument or annotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleList(pub Vec<Rule>);

impl FromStr for RuleList {
    type Err = RuleParseError;

    fn from_str(text: &str) -> Result<RuleList, RuleParseError> {
        parse_rules(text).map(RuleList)
    }
}

impl FromStr for Rule {
    type Err = RuleParseError;

    fn from_str(text: &str) -> Result<Rule, RuleParseError> {
        let mut cursor = Cursor::new(text);
        let rule = parse_rule(&mut cursor)?;
        if cursor.at_end() {
            Ok(rule)
        } else {
            Err(cursor.expected_error("the end"))
        }
    }
}

fn parse_item(cursor: &mut Cursor) -> Result<Vec<Rule>, RuleParseError> {
    if !cursor.eat_word("preset:") {
        return Ok(vec![parse_rule(cursor)?]);
    }
    let (name, offset) = cursor.parse_word("a preset name", |c| c.is_ascii_alphanumeric() || c == '-')?;
    let Some(preset) = Preset::by_name(&name) else {
        let names: Vec<_> = Preset::ALL.iter().map(|preset| preset.name).collect();
        return Err(cursor.error_at(
            offset,
            format!("unknown preset `{name}`; known presets: {}", names.join(", ")),
        ));
    };
    let (selector, trigger) = parse_selectors(cursor)?;
    preset
        .rules(&selector, &trigger)
        .map_err(|message| cursor.error_at(offset, message))
}

fn parse_rule(cursor: &mut Cursor) -> Result<Rule, RuleParseError> {
    let rpc = parse_rpc(cursor)?;
    let (mut selector, trigger) = parse_selectors(cursor)?;
    cursor.expect_symbol(
        ':',
        if selector == Selector::default() {
            "`(` or `:`"
        } else {
            "`:`"
        },
    )?;
    let point = parse_point(cursor, &rpc)?;
    cursor.expect_symbol('=', "`=`")?;
    let offset = cursor.offset();
    let effect = parse_effect(cursor, point)?;
    if matches!(effect, RuleEffect::Defect(_)) && rpc != CHECKPOINT_RPC {
        let message = format!("`{}` is a defect of {CHECKPOINT_RPC}, not of {rpc}", effect.name());
        return Err(cursor.error_at(offset, message));
    }
    selector.rpc = rpc;
    Ok(Rule {
        selector,
        trigger,
        point,
        effect,
    })
}

fn parse_rpc(cursor: &mut Cursor) -> Result<String, RuleParseError> {
    let (name, offset) = cursor.parse_word("an rpc name", |c| c.is_ascii_alphanumeric() || matches!(c, '*' | '?'))?;
    let matcher = Glob::new(&name)
        .map_err(|error| cursor.error_at(offset, error.to_string()))?
        .compile_matcher();
    if Rpc::all().iter().any(|rpc| matcher.is_match(rpc.name())) {
        return Ok(name);
    }
    let nearest = Rpc::all()
        .iter()
        .map(|rpc| rpc.name())
        .max_by_key(|candidate| common_prefix(candidate, &name))
        .filter(|candidate| common_prefix(candidate, &name) >= 3);
    let hint = nearest.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Err(cursor.error_at(offset, format!("the CRI has no rpc `{name}`{hint}")))
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a.eq_ignore_ascii_case(b))
        .count()
}

fn parse_selectors(cursor: &mut Cursor) -> Result<(Selector, Trigger), RuleParseError> {
    let (mut selector, mut trigger) = (Selector::default(), Trigger::default());
    if !cursor.eat('(') {
        return Ok((selector, trigger));
    }
    loop {
        let expected = "a selector (pod, namespace, container, nth, every, p, seed, times)";
        let (key, offset) = cursor.parse_word(expected, |c| c.is_ascii_alphabetic())?;
        let keys = ["pod", "namespace", "container", "nth", "every", "p", "seed", "times"];
        if !keys.contains(&key.as_str()) {
            return Err(cursor.error_at(offset, format!("expected {expected}, found `{key}`")));
        }
        cursor.expect_symbol('=', "`=`")?;
        let is_duplicate = match key.as_str() {
            "pod" => selector.pod.replace(parse_glob(cursor)?).is_some(),
            "namespace" => selector.namespace.replace(parse_glob(cursor)?).is_some(),
            "container" => selector.container.replace(parse_glob(cursor)?).is_some(),
            "nth" => trigger.nth.replace(parse_count(cursor)?).is_some(),
            "every" => trigger.every.replace(parse_count(cursor)?).is_some(),
            "times" => trigger.times.replace(parse_count(cursor)?).is_some(),
            "seed" => trigger.seed.replace(parse_integer(cursor)?.0).is_some(),
            _ => trigger.probability.replace(parse_probability(cursor)?).is_some(),
        };
        if is_duplicate {
            return Err(cursor.error_at(offset, format!("`{key}` is given twice")));
        }
        if let Some(message) = trigger.contradiction() {
            return Err(cursor.error_at(offset, message.to_owned()));
        }
        if cursor.eat(')') {
            break;
        }
        cursor.expect_symbol(',', "`,` or `)`")?;
    }
    if trigger.seed.is_some() && trigger.probability.is_none() {
        return Err(cursor.error_at(cursor.offset() - 1, "expected `,p=`: `seed` needs `p`".to_owned()));
    }
    Ok((selector, trigger))
}

impl Trigger {
    /// Why the conditions exclude each other, if they do.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        match (self.nth, self.every, self.times) {
            (Some(_), Some(_), _) => Some("`nth` and `every` exclude each other"),
            (Some(_), _, Some(_)) => Some("`nth` and `times` exclude each other"),
            _ => None,
        }
    }
}

fn parse_point(cursor: &mut Cursor, rpc: &str) -> Result<InjectionPoint, RuleParseError> {
    let expected = "a point (before, freeze, capture, write, finish, after)";
    let (name, offset) = cursor.parse_word(expected, |c| c.is_ascii_alphabetic())?;
    let Some(point) = InjectionPoint::ALL.into_iter().find(|point| point.name() == name) else {
        return Err(cursor.error_at(offset, format!("expected {expected}, found `{name}`")));
    };
    if matches!(point, InjectionPoint::Phase(_)) && rpc != CHECKPOINT_RPC {
        let message = format!("`{name}` is a phase of {CHECKPOINT_RPC}; {rpc} has only `before` and `after`");
        return Err(cursor.error_at(offset, message));
    }
    Ok(point)
}

fn parse_effect(cursor: &mut Cursor, point: InjectionPoint) -> Result<RuleEffect, RuleParseError> {
    let (name, offset) = cursor.parse_word("an effect", |c| c.is_ascii_alphabetic() || c == '-')?;
    let effect = match name.as_str() {
        "error" => parse_arguments(cursor, |cursor| {
            let code = cursor.parse_code()?;
            cursor.expect_symbol(',', "`,`")?;
            let message = cursor.parse_string("a message in double quotes")?.0;
            Ok(RuleEffect::Error { code, message })
        })?,
        "unimplemented" => RuleEffect::Unimplemented,
        "unknown-method" => RuleEffect::UnknownMethod,
        "delay" => parse_arguments(cursor, |cursor| Ok(RuleEffect::Delay(parse_duration(cursor)?)))?,
        "hang" => RuleEffect::Hang,
        "crash" => RuleEffect::Crash,
        "disconnect" => RuleEffect::Disconnect,
        "no-space" if !cursor.is_at('(') => RuleEffect::NoSpace(0),
        "no-space" => parse_arguments(cursor, |cursor| Ok(RuleEffect::NoSpace(parse_size_argument(cursor)?)))?,
        "io-error" if !cursor.is_at('(') => RuleEffect::IoError(0),
        "io-error" => parse_arguments(cursor, |cursor| Ok(RuleEffect::IoError(parse_size_argument(cursor)?)))?,
        "partial-archive" => parse_arguments(cursor, |cursor| Ok(RuleEffect::PartialArchive(parse_percent(cursor)?)))?,
        "truncated-archive" => parse_arguments(cursor, |cursor| {
            Ok(RuleEffect::TruncatedArchive(parse_percent(cursor)?))
        })?,
        "corrupt-archive" => RuleEffect::CorruptArchive,
        "empty-archive" => RuleEffect::EmptyArchive,
        "no-archive" => RuleEffect::NoArchive,
        "mode" => parse_arguments(cursor, |cursor| Ok(RuleEffect::Mode(parse_mode(cursor)?)))?,
        "omit" => parse_arguments(cursor, |cursor| {
            let (member, offset) = cursor.parse_string("a member name in double quotes")?;
            check_glob(cursor, member, offset).map(RuleEffect::Omit)
        })?,
        "leave-frozen" => RuleEffect::LeaveFrozen,
        "kill-container" => RuleEffect::KillContainer,
        "zero-memory" => parse_arguments(cursor, |cursor| {
            let region = parse_choice(cursor, &MemoryRegion::ALL.map(|region| (region.name(), region)))?;
            Ok(RuleEffect::Defect(Defect::ZeroMemory(region)))
        })?,
        "after" => parse_arguments(cursor, |cursor| {
            let outcome = parse_choice(cursor, &CallOutcome::ALL.map(|outcome| (outcome.name(), outcome)))?;
            cursor.expect_symbol(',', "`,`")?;
            let side_effect = parse_choice(
                cursor,
                &SideEffect::ALL.map(|side_effect| (side_effect.name(), side_effect)),
            )?;
            Ok(RuleEffect::Defect(Defect::After(outcome, side_effect)))
        })?,
        word if let Some((defect, _)) = Defect::WITHOUT_ARGUMENT
            .iter()
            .find(|(defect, _)| defect.name() == word) =>
        {
            RuleEffect::Defect(*defect)
        }
        _ => return Err(cursor.error_at(offset, format!("expected an effect ({EFFECT_NAMES}), found `{name}`"))),
    };
    if effect.allowed_points().contains(point) {
        return Ok(effect);
    }
    let message = format!(
        "`{name}` is not allowed at `{}`; it is allowed at {}",
        point.name(),
        effect.allowed_points()
    );
    Err(cursor.error_at(offset, message))
}

fn parse_arguments(
    cursor: &mut Cursor,
    read: impl FnOnce(&mut Cursor) -> Result<RuleEffect, RuleParseError>,
) -> Result<RuleEffect, RuleParseError> {
    cursor.expect_symbol('(', "`(`")?;
    let effect = read(cursor)?;
    cursor.expect_symbol(')', "`)`")?;
    Ok(effect)
}

/// Reads one of these keywords and returns its value.
fn parse_choice<T: Copy>(cursor: &mut Cursor, choices: &[(&str, T)]) -> Result<T, RuleParseError> {
    let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
    let expected = format!("one of {}", names.join(", "));
    let (word, offset) = cursor.parse_word(&expected, |c| c.is_ascii_alphabetic() || c == '-')?;
    let choice = choices.iter().find(|(name, _)| *name == word);
    choice
        .map(|(_, value)| *value)
        .ok_or_else(|| cursor.error_at(offset, format!("expected {expected}, found `{word}`")))
}

fn parse_glob(cursor: &mut Cursor) -> Result<String, RuleParseError> {
    let (value, offset) = cursor.parse_name("a name, a glob or a string")?;
    check_glob(cursor, value, offset)
}

fn check_glob(cursor: &Cursor, value: String, offset: usize) -> Result<String, RuleParseError> {
    match Glob::new(&value) {
        Ok(_) => Ok(value),
        Err(error) => Err(cursor.error_at(offset, error.to_string())),
    }
}

fn parse_integer(cursor: &mut Cursor) -> Result<(u64, usize), RuleParseError> {
    let (digits, offset) = cursor.parse_word("an integer", |c| c.is_ascii_digit())?;
    match digits.parse() {
        Ok(number) => Ok((number, offset)),
        Err(_) => Err(cursor.error_at(offset, format!("`{digits}` is too large"))),
    }
}

fn parse_count(cursor: &mut Cursor) -> Result<u64, RuleParseError> {
    match parse_integer(cursor)? {
        (0, offset) => Err(cursor.error_at(offset, "expected a positive number, found `0`".to_owned())),
        (number, _) => Ok(number),
    }
}

fn parse_probability(cursor: &mut Cursor) -> Result<f64, RuleParseError> {
    let expected = "a probability above 0 and at most 1";
    let (number, offset) = cursor.parse_word(expected, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))?;
    match number.parse::<f64>() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err(cursor.error_at(offset, format!("expected {expected}, found `{number}`"))),
    }
}

fn parse_duration(cursor: &mut Cursor) -> Result<Duration, RuleParseError> {
    let (span, offset) = cursor.parse_word("a duration such as 250ms or 1m30s", |c| c.is_ascii_alphanumeric())?;
    humantime::parse_duration(&span).map_err(|error| {
        let message = format!("expected a duration such as 250ms or 1m30s, found `{span}` ({error})");
        cursor.error_at(offset, message)
    })
}

fn parse_size_argument(cursor: &mut Cursor) -> Result<u64, RuleParseError> {
    let expected = "a size in bytes such as 4096 or 64KiB";
    let (size, offset) = cursor.parse_word(expected, |c| c.is_ascii_alphanumeric())?;
    text::parse_size(&size).ok_or_else(|| cursor.error_at(offset, format!("expected {expected}, found `{size}`")))
}

fn parse_percent(cursor: &mut Cursor) -> Result<u8, RuleParseError> {
    let (number, offset) = parse_integer(cursor)?;
    cursor.eat('%');
    match u8::try_from(number) {
        Ok(percent) if percent <= 100 => Ok(percent),
        _ => Err(cursor.error_at(offset, format!("expected 0 to 100 percent, found `{number}`"))),
    }
}

fn parse_mode(cursor: &mut Cursor) -> Result<u32, RuleParseError> {
    let expected = "an octal mode such as 0644";
    let (mode, offset) = cursor.parse_word(expected, |c| c.is_ascii_digit())?;
    match u32::from_str_radix(&mode, 8) {
        Ok(bits) if bits <= 0o7777 => Ok(bits),
        _ => Err(cursor.error_at(offset, format!("expected {expected}, found `{mode}`"))),
    }
}
