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

use super::{error::RuleParseError, grammar::parse_rules, rule::Rule, text::NameText};
use crate::parse_errors;

/// Why a file's faults cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FaultFileError {
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
    #[error("{}: fault {ordinal}: {message}", path.display())]
    Fields {
        /// The file.
        path: PathBuf,
        /// Which `[[fault]]`, counted from 1.
        ordinal: usize,
        /// What is wrong with its fields.
        message: &'static str,
    },
    /// A fault's fields, put together, are no rule.
    #[error("{}: fault {ordinal}: {source}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// Which `[[fault]]`, counted from 1.
        ordinal: usize,
        /// Where and what.
        source: RuleParseError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultFile {
    #[expect(dead_code, reason = "written for people")]
    description: Option<String>,
    #[serde(default, rename = "fault")]
    faults: Vec<FaultEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultEntry {
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
/// With the file's name, the ordinal of the fault and the place in it.
pub fn read_fault_file(path: &Path) -> Result<Vec<Rule>, FaultFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FaultFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file: FaultFile = toml::from_str(&text).map_err(|error| FaultFileError::Toml {
        path: path.to_owned(),
        message: parse_errors::toml_error_message(&error, &text),
    })?;
    let mut rules = Vec::new();
    for (index, entry) in file.faults.iter().enumerate() {
        let ordinal = index + 1;
        let text = entry.rule_text().map_err(|message| FaultFileError::Fields {
            path: path.to_owned(),
            ordinal,
            message,
        })?;
        rules.extend(parse_rules(&text).map_err(|source| FaultFileError::Rule {
            path: path.to_owned(),
            ordinal,
            source,
        })?);
    }
    Ok(rules)
}

impl FaultEntry {
    /// The fault as the grammar writes it.
    fn rule_text(&self) -> Result<String, &'static str> {
        let selectors = self.selector_text();
        match (&self.rule, &self.preset, &self.rpc, &self.point, &self.effect) {
            (Some(rule), None, None, None, None) if selectors.is_empty() => Ok(rule.clone()),
            (Some(_), ..) => Err("`rule` says everything: no other field can stand beside it"),
            (None, Some(preset), None, None, None) => Ok(format!("preset:{preset}{selectors}")),
            (None, Some(_), ..) => Err("beside `preset` only selectors can stand, not `rpc`, `point` or `effect`"),
            (None, None, Some(rpc), Some(point), Some(effect)) => Ok(format!("{rpc}{selectors}:{point}={effect}")),
            (None, None, ..) => Err("expected `rule`, or `preset`, or `rpc` with `point` and `effect`"),
        }
    }

    fn selector_text(&self) -> String {
        let names = [
            ("pod", &self.pod),
            ("namespace", &self.namespace),
            ("container", &self.container),
        ];
        let names = names
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", NameText(value.as_ref()?))));
        let counts = [
            ("nth", self.nth),
            ("every", self.every),
            ("seed", self.seed),
            ("times", self.times),
        ];
        let numbers = counts
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        let selectors: Vec<_> = names.chain(numbers).chain(self.p.map(|p| format!("p={p}"))).collect();
        if selectors.is_empty() {
            String::new()
        } else {
            format!("({})", selectors.join(","))
        }
    }
}
