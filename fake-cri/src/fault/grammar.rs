//! The grammar of faults, for the flag, the pod annotation and the control API.
//!
//! ```text
//! rules    = [ item ] { ( ";" | newline ) [ item ] } ;
//! item     = preset | rule ;
//! preset   = "preset:" NAME [ "(" selector { "," selector } ")" ] ;
//! rule     = rpc [ "(" selector { "," selector } ")" ] ":" point "=" effect ;
//! rpc      = an rpc's name, or a glob of letters, digits, "*" and "?" ;
//! selector = ( "pod" | "namespace" | "container" ) "=" ( bare | string )      (* globs *)
//!          | ( "nth" | "every" | "times" | "seed" ) "=" integer
//!          | "p" "=" number ;                                                (* above 0, at most 1 *)
//! point    = "before" | "freeze" | "capture" | "write" | "finish" | "after" ;
//! effect   = "error" "(" code "," string ")"
//!          | "unimplemented" | "unknown-method"                              (* before *)
//!          | "delay" "(" duration ")" | "hang" | "crash"
//!          | "drop"                                                          (* before, after *)
//!          | "no-space" [ "(" size ")" ]                                      (* this and the next four lines: write *)
//!          | "io-error" [ "(" size ")" ]
//!          | ( "partial-archive" | "truncated-archive" ) "(" integer [ "%" ] ")"
//!          | "corrupt-archive" | "empty-archive" | "no-archive"
//!          | "mode" "(" octal ")" | "omit" "(" string ")"
//!          | "leave-frozen" | "kill-container"                               (* freeze, capture, write, finish *)
//!          | quirk                                                           (* before, of CheckpointContainer *)
//!          | "lose-memory" "(" ( "heap" | "stack" | "environment" | "threads" | "shared" ) ")"
//!          | "after" "(" ending "," aftermath ")" ;
//! quirk    = a word of `Quirk::PLAIN`, such as "ignore-deadline" ;
//! ending   = "success" | "error" | "deadline" | "timeout" | "cancel" ;
//! aftermath = "leave-frozen" | "kill-container" | "keep-partial" | "keep-temporary" | "refuse-next" | "misreport"
//!          | "break-exec" | "break-log" | "freeze-neighbours" ;
//! code     = "Cancelled" | "Unknown" | ... | "Unauthenticated" | 1 to 16 ;
//! string   = '"' { character | "\" ( '"' | "\" | "n" | "r" | "t" | "u{" hex "}" ) } '"' ;
//! bare     = { letter | digit | "." | "_" | "-" | "/" | "*" | "?" } ;
//! duration = { integer ( "ns" | "us" | "ms" | "s" | "m" | "h" | "d" ) } ;
//! size     = integer [ "KiB" | "MiB" | "GiB" | "TiB" ] ;
//! ```
//!
//! Spaces may stand between any two of these. The points `freeze` to `finish` belong to `CheckpointContainer` alone.
//! `nth` excludes `every` and `times`; `seed` needs `p`. An error names the column and what was expected there.

use std::{str::FromStr, time::Duration};

use globset::Glob;

use super::{
    cursor::Cursor,
    error::ParseError,
    preset::Preset,
    rpc::Rpc,
    rule::{Effect, Point, Rule, Scope, When},
    text,
};
use crate::checkpoint::{Aftermath, Ending, Quirk, Region};

/// The one rpc that has phases.
const CHECKPOINT: &str = "CheckpointContainer";

/// Every effect's word, in the order of the grammar.
const EFFECTS: &str = "error, unimplemented, unknown-method, delay, hang, crash, drop, no-space, io-error, partial-archive, \
                       truncated-archive, corrupt-archive, empty-archive, no-archive, mode, omit, leave-frozen, \
                       kill-container, lose-memory, after, or a way such as ignore-deadline: docs/FAULTS.md has them all";

/// Reads any number of rules and presets, separated by `;` or newlines. A preset becomes the rules it stands for.
///
/// # Errors
/// The first place where the text leaves the grammar.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>, ParseError> {
    let mut cursor = Cursor::new(text);
    let mut rules = Vec::new();
    loop {
        while cursor.separator() {}
        if cursor.at_end() {
            return Ok(rules);
        }
        rules.extend(item(&mut cursor)?);
        if !cursor.at_end() && !cursor.separator() {
            return Err(cursor.expected("`;`, a newline or the end"));
        }
    }
}

/// What one argument or annotation says: any number of rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(pub Vec<Rule>);

impl FromStr for Rules {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Rules, ParseError> {
        parse_rules(text).map(Rules)
    }
}

impl FromStr for Rule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Rule, ParseError> {
        let mut cursor = Cursor::new(text);
        let rule = rule(&mut cursor)?;
        if cursor.at_end() {
            Ok(rule)
        } else {
            Err(cursor.expected("the end"))
        }
    }
}

fn item(cursor: &mut Cursor) -> Result<Vec<Rule>, ParseError> {
    if !cursor.eat_word("preset:") {
        return Ok(vec![rule(cursor)?]);
    }
    let (name, at) = cursor.word("a preset's name", |c| c.is_ascii_alphanumeric() || c == '-')?;
    let Some(preset) = Preset::by_name(&name) else {
        let names: Vec<_> = Preset::ALL.iter().map(|preset| preset.name).collect();
        return Err(cursor.error(at, format!("unknown preset `{name}`; there are {}", names.join(", "))));
    };
    let (scope, when) = selectors(cursor)?;
    preset.rules(&scope, &when).map_err(|message| cursor.error(at, message))
}

fn rule(cursor: &mut Cursor) -> Result<Rule, ParseError> {
    let rpc = rpc(cursor)?;
    let (mut scope, when) = selectors(cursor)?;
    cursor.symbol(':', if scope == Scope::default() { "`(` or `:`" } else { "`:`" })?;
    let point = point(cursor, &rpc)?;
    cursor.symbol('=', "`=`")?;
    let at = cursor.position();
    let effect = effect(cursor, point)?;
    if matches!(effect, Effect::Quirk(_)) && rpc != CHECKPOINT {
        let message = format!("`{}` is a way of {CHECKPOINT} alone, not of {rpc}", effect.name());
        return Err(cursor.error(at, message));
    }
    scope.rpc = rpc;
    Ok(Rule {
        scope,
        when,
        point,
        effect,
    })
}

fn rpc(cursor: &mut Cursor) -> Result<String, ParseError> {
    let (name, at) = cursor.word("an rpc's name", |c| c.is_ascii_alphanumeric() || matches!(c, '*' | '?'))?;
    let matcher = Glob::new(&name)
        .map_err(|error| cursor.error(at, error.to_string()))?
        .compile_matcher();
    if Rpc::all().iter().any(|rpc| matcher.is_match(rpc.name())) {
        return Ok(name);
    }
    let near = Rpc::all()
        .iter()
        .map(|rpc| rpc.name())
        .max_by_key(|known| common_prefix(known, &name))
        .filter(|known| common_prefix(known, &name) >= 3);
    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Err(cursor.error(at, format!("no rpc of the CRI is called `{name}`{hint}")))
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a.eq_ignore_ascii_case(b))
        .count()
}

fn selectors(cursor: &mut Cursor) -> Result<(Scope, When), ParseError> {
    let (mut scope, mut when) = (Scope::default(), When::default());
    if !cursor.eat('(') {
        return Ok((scope, when));
    }
    loop {
        let expected = "a selector (pod, namespace, container, nth, every, p, seed, times)";
        let (key, at) = cursor.word(expected, |c| c.is_ascii_alphabetic())?;
        let known = ["pod", "namespace", "container", "nth", "every", "p", "seed", "times"];
        if !known.contains(&key.as_str()) {
            return Err(cursor.error(at, format!("expected {expected}, found `{key}`")));
        }
        cursor.symbol('=', "`=`")?;
        let before = match key.as_str() {
            "pod" => scope.pod.replace(glob(cursor)?).is_some(),
            "namespace" => scope.namespace.replace(glob(cursor)?).is_some(),
            "container" => scope.container.replace(glob(cursor)?).is_some(),
            "nth" => when.nth.replace(count(cursor)?).is_some(),
            "every" => when.every.replace(count(cursor)?).is_some(),
            "times" => when.times.replace(count(cursor)?).is_some(),
            "seed" => when.seed.replace(integer(cursor)?.0).is_some(),
            _ => when.probability.replace(probability(cursor)?).is_some(),
        };
        if before {
            return Err(cursor.error(at, format!("`{key}` is given twice")));
        }
        if let Some(message) = when.contradiction() {
            return Err(cursor.error(at, message.to_owned()));
        }
        if cursor.eat(')') {
            break;
        }
        cursor.symbol(',', "`,` or `)`")?;
    }
    if when.seed.is_some() && when.probability.is_none() {
        return Err(cursor.error(
            cursor.position() - 1,
            "expected `,p=`: a seed draws for a probability".to_owned(),
        ));
    }
    Ok((scope, when))
}

impl When {
    /// What of it cannot hold together.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        match (self.nth, self.every, self.times) {
            (Some(_), Some(_), _) => Some("`nth` and `every` exclude each other"),
            (Some(_), _, Some(_)) => Some("`nth` fires once, so `times` has no place beside it"),
            _ => None,
        }
    }
}

fn point(cursor: &mut Cursor, rpc: &str) -> Result<Point, ParseError> {
    let expected = "a point (before, freeze, capture, write, finish, after)";
    let (name, at) = cursor.word(expected, |c| c.is_ascii_alphabetic())?;
    let Some(point) = Point::ALL.into_iter().find(|point| point.name() == name) else {
        return Err(cursor.error(at, format!("expected {expected}, found `{name}`")));
    };
    if matches!(point, Point::Phase(_)) && rpc != CHECKPOINT {
        let message = format!("`{name}` is a phase of {CHECKPOINT}; {rpc} has `before` and `after`");
        return Err(cursor.error(at, message));
    }
    Ok(point)
}

fn effect(cursor: &mut Cursor, point: Point) -> Result<Effect, ParseError> {
    let (name, at) = cursor.word("an effect", |c| c.is_ascii_alphabetic() || c == '-')?;
    let effect = match name.as_str() {
        "error" => arguments(cursor, |cursor| {
            let code = cursor.code()?;
            cursor.symbol(',', "`,`")?;
            let message = cursor.string("a message in double quotes")?.0;
            Ok(Effect::Error { code, message })
        })?,
        "unimplemented" => Effect::Unimplemented,
        "unknown-method" => Effect::UnknownMethod,
        "delay" => arguments(cursor, |cursor| Ok(Effect::Delay(duration(cursor)?)))?,
        "hang" => Effect::Hang,
        "crash" => Effect::Crash,
        "drop" => Effect::Drop,
        "no-space" if !cursor.sees('(') => Effect::NoSpace(0),
        "no-space" => arguments(cursor, |cursor| Ok(Effect::NoSpace(size(cursor)?)))?,
        "io-error" if !cursor.sees('(') => Effect::IoError(0),
        "io-error" => arguments(cursor, |cursor| Ok(Effect::IoError(size(cursor)?)))?,
        "partial-archive" => arguments(cursor, |cursor| Ok(Effect::PartialArchive(percent(cursor)?)))?,
        "truncated-archive" => arguments(cursor, |cursor| Ok(Effect::TruncatedArchive(percent(cursor)?)))?,
        "corrupt-archive" => Effect::CorruptArchive,
        "empty-archive" => Effect::EmptyArchive,
        "no-archive" => Effect::NoArchive,
        "mode" => arguments(cursor, |cursor| Ok(Effect::Mode(mode(cursor)?)))?,
        "omit" => arguments(cursor, |cursor| {
            let (member, at) = cursor.string("a member's name in double quotes")?;
            valid_glob(cursor, member, at).map(Effect::Omit)
        })?,
        "leave-frozen" => Effect::LeaveFrozen,
        "kill-container" => Effect::KillContainer,
        "lose-memory" => arguments(cursor, |cursor| {
            let region = chosen(cursor, &Region::ALL.map(|region| (region.name(), region)))?;
            Ok(Effect::Quirk(Quirk::LoseMemory(region)))
        })?,
        "after" => arguments(cursor, |cursor| {
            let ending = chosen(cursor, &Ending::ALL.map(|ending| (ending.name(), ending)))?;
            cursor.symbol(',', "`,`")?;
            let aftermath = chosen(cursor, &Aftermath::ALL.map(|aftermath| (aftermath.name(), aftermath)))?;
            Ok(Effect::Quirk(Quirk::After(ending, aftermath)))
        })?,
        word if let Some((quirk, _)) = Quirk::PLAIN.iter().find(|(quirk, _)| quirk.name() == word) => {
            Effect::Quirk(*quirk)
        }
        _ => return Err(cursor.error(at, format!("expected an effect ({EFFECTS}), found `{name}`"))),
    };
    if effect.place().holds(point) {
        return Ok(effect);
    }
    let message = format!(
        "`{name}` cannot stand at `{}`; it can at {}",
        point.name(),
        effect.place()
    );
    Err(cursor.error(at, message))
}

fn arguments(
    cursor: &mut Cursor,
    read: impl FnOnce(&mut Cursor) -> Result<Effect, ParseError>,
) -> Result<Effect, ParseError> {
    cursor.symbol('(', "`(`")?;
    let effect = read(cursor)?;
    cursor.symbol(')', "`)`")?;
    Ok(effect)
}

/// One of these words, as what it stands for.
fn chosen<T: Copy>(cursor: &mut Cursor, words: &[(&str, T)]) -> Result<T, ParseError> {
    let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
    let expected = format!("one of {}", names.join(", "));
    let (word, at) = cursor.word(&expected, |c| c.is_ascii_alphabetic() || c == '-')?;
    let found = words.iter().find(|(name, _)| *name == word);
    found
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| cursor.error(at, format!("expected {expected}, found `{word}`")))
}

fn glob(cursor: &mut Cursor) -> Result<String, ParseError> {
    let (value, at) = cursor.name("a name, a glob or a string")?;
    valid_glob(cursor, value, at)
}

fn valid_glob(cursor: &Cursor, value: String, at: usize) -> Result<String, ParseError> {
    match Glob::new(&value) {
        Ok(_) => Ok(value),
        Err(error) => Err(cursor.error(at, error.to_string())),
    }
}

fn integer(cursor: &mut Cursor) -> Result<(u64, usize), ParseError> {
    let (digits, at) = cursor.word("a whole number", |c| c.is_ascii_digit())?;
    match digits.parse() {
        Ok(number) => Ok((number, at)),
        Err(_) => Err(cursor.error(at, format!("`{digits}` is too large"))),
    }
}

fn count(cursor: &mut Cursor) -> Result<u64, ParseError> {
    match integer(cursor)? {
        (0, at) => Err(cursor.error(at, "expected a number from 1 on, found `0`".to_owned())),
        (number, _) => Ok(number),
    }
}

fn probability(cursor: &mut Cursor) -> Result<f64, ParseError> {
    let expected = "a probability above 0 and at most 1";
    let (number, at) = cursor.word(expected, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))?;
    match number.parse::<f64>() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err(cursor.error(at, format!("expected {expected}, found `{number}`"))),
    }
}

fn duration(cursor: &mut Cursor) -> Result<Duration, ParseError> {
    let (span, at) = cursor.word("a duration such as 250ms or 1m30s", |c| c.is_ascii_alphanumeric())?;
    humantime::parse_duration(&span).map_err(|error| {
        let message = format!("expected a duration such as 250ms or 1m30s, found `{span}` ({error})");
        cursor.error(at, message)
    })
}

fn size(cursor: &mut Cursor) -> Result<u64, ParseError> {
    let expected = "a size in bytes such as 4096 or 64KiB";
    let (size, at) = cursor.word(expected, |c| c.is_ascii_alphanumeric())?;
    text::parse_size(&size).ok_or_else(|| cursor.error(at, format!("expected {expected}, found `{size}`")))
}

fn percent(cursor: &mut Cursor) -> Result<u8, ParseError> {
    let (number, at) = integer(cursor)?;
    cursor.eat('%');
    match u8::try_from(number) {
        Ok(percent) if percent <= 100 => Ok(percent),
        _ => Err(cursor.error(at, format!("expected 0 to 100 percent, found `{number}`"))),
    }
}

fn mode(cursor: &mut Cursor) -> Result<u32, ParseError> {
    let expected = "an octal mode such as 0644";
    let (mode, at) = cursor.word(expected, |c| c.is_ascii_digit())?;
    match u32::from_str_radix(&mode, 8) {
        Ok(bits) if bits <= 0o7777 => Ok(bits),
        _ => Err(cursor.error(at, format!("expected {expected}, found `{mode}`"))),
    }
}
