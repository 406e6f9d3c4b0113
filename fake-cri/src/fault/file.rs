//! Faults in a TOML file.
//!
//! ```toml
//! description = "A disk that fails the second checkpoint, on a node that is slow anyway."
//!
//! [[fault]]
//! rpc = "CheckpointContainer"
//! container = "app"
//! nth = 2
//! point = "before"
//! effect = 'error(Internal,"disk on fire")'
//!
//! [[fault]]
//! preset = "slow-disk"
//!
//! [[fault]]
//! rule = "StartContainer:before=delay(300ms)"
//! ```
//!
//! The fields are the grammar's parts, and they are put together and read as the grammar has it, so both forms say the
//! same. `rule` stands alone; `preset` takes selectors beside it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{error::ParseError, grammar::parse_rules, rule::Rule, text::Name};
use crate::unquoted;

/// Why a file's faults cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is no TOML, or has a field that a fault does not have.
    #[error("{}: {message}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and what, without the text of the file.
        message: String,
    },
    /// A fault has too few fields, or fields that exclude each other.
    #[error("{}: fault {number}: {message}", path.display())]
    Fields {
        /// The file.
        path: PathBuf,
        /// Which `[[fault]]`, counted from 1.
        number: usize,
        /// What is wrong with its fields.
        message: &'static str,
    },
    /// A fault's fields, put together, are no rule.
    #[error("{}: fault {number}: {source}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// Which `[[fault]]`, counted from 1.
        number: usize,
        /// Where and what.
        source: ParseError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[expect(dead_code, reason = "written for people")]
    description: Option<String>,
    #[serde(default, rename = "fault")]
    faults: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    rule: Option<String>,
    preset: Option<String>,
    rpc: Option<String>,
    pod: Option<String>,
    namespace: Option<String>,
    container: Option<String>,
    nth: Option<u64>,
    every: Option<u64>,
    p: Option<f64>,
    seed: Option<u64>,
    times: Option<u64>,
    point: Option<String>,
    effect: Option<String>,
}

/// Reads a file of faults.
///
/// # Errors
/// With the file's name, the number of the fault and the place in it.
pub fn read_file(path: &Path) -> Result<Vec<Rule>, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file: File = toml::from_str(&text).map_err(|error| FileError::Toml {
        path: path.to_owned(),
        message: unquoted::toml(&error, &text),
    })?;
    let mut rules = Vec::new();
    for (index, entry) in file.faults.iter().enumerate() {
        let number = index + 1;
        let text = entry.grammar().map_err(|message| FileError::Fields {
            path: path.to_owned(),
            number,
            message,
        })?;
        rules.extend(parse_rules(&text).map_err(|source| FileError::Rule {
            path: path.to_owned(),
            number,
            source,
        })?);
    }
    Ok(rules)
}

impl Entry {
    /// The fault as the grammar writes it.
    fn grammar(&self) -> Result<String, &'static str> {
        let selectors = self.selectors();
        match (&self.rule, &self.preset, &self.rpc, &self.point, &self.effect) {
            (Some(rule), None, None, None, None) if selectors.is_empty() => Ok(rule.clone()),
            (Some(_), ..) => Err("`rule` says everything: no other field can stand beside it"),
            (None, Some(preset), None, None, None) => Ok(format!("preset:{preset}{selectors}")),
            (None, Some(_), ..) => Err("beside `preset` only selectors can stand, not `rpc`, `point` or `effect`"),
            (None, None, Some(rpc), Some(point), Some(effect)) => Ok(format!("{rpc}{selectors}:{point}={effect}")),
            (None, None, ..) => Err("expected `rule`, or `preset`, or `rpc` with `point` and `effect`"),
        }
    }

    fn selectors(&self) -> String {
        let names = [
            ("pod", &self.pod),
            ("namespace", &self.namespace),
            ("container", &self.container),
        ];
        let names = names
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", Name(value.as_ref()?))));
        let numbers = [
            ("nth", self.nth),
            ("every", self.every),
            ("seed", self.seed),
            ("times", self.times),
        ];
        let numbers = numbers
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        let all: Vec<_> = names.chain(numbers).chain(self.p.map(|p| format!("p={p}"))).collect();
        if all.is_empty() {
            String::new()
        } else {
            format!("({})", all.join(","))
        }
    }
}
