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

use std::str::FromStr;

use globset::Glob;

use super::{
    cursor::Cursor,
    effect::Effect,
    error::RuleParseError,
    preset::Preset,
    rpc::Rpc,
    rule::{InjectionPoint, Rule, Selector, Trigger},
};

/// The only rpc that has phases.
const CHECKPOINT_RPC: &str = "CheckpointContainer";

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
    if matches!(effect, Effect::Defect(_)) && rpc != CHECKPOINT_RPC {
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
            "seed" => trigger.seed.replace(cursor.parse_integer()?.0).is_some(),
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

fn parse_effect(cursor: &mut Cursor, point: InjectionPoint) -> Result<Effect, RuleParseError> {
    let (name, offset) = cursor.parse_word("an effect", |c| c.is_ascii_alphabetic() || c == '-')?;
    let Some(effect) = Effect::parse(&name, cursor)? else {
        let message = format!(
            "expected an effect ({}, zero-memory, after, or a defect such as ignore-deadline (see docs/FAULTS.md)), \
             found `{name}`",
            Effect::KEYWORDS.join(", ")
        );
        return Err(cursor.error_at(offset, message));
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

fn parse_glob(cursor: &mut Cursor) -> Result<String, RuleParseError> {
    let (value, offset) = cursor.parse_name("a name, a glob or a string")?;
    cursor.check_glob(value, offset)
}

fn parse_count(cursor: &mut Cursor) -> Result<u64, RuleParseError> {
    match cursor.parse_integer()? {
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
