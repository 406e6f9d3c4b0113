//! Reads fault rules from a TOML file.
//!
//! ```toml
//! description = "A slow disk that fails the second checkpoint."
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
//! The fields are the parts of the grammar. They are joined to a rule text, which the grammar parses, so that both
//! forms mean the same. `rule` excludes all other fields; `preset` allows only selectors.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{error::RuleParseError, grammar::parse_rules, rule::Rule, text::NameText};
use crate::parse_errors;

/// Why a fault file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FaultFileError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// The file is not valid TOML, or has an unknown field.
    #[error("{}: {message}", path.display())]
    Toml {
        /// The path of the file.
        path: PathBuf,
        /// The position and the reason, without content of the file.
        message: String,
    },
    /// A fault lacks fields, or has fields that exclude each other.
    #[error("{}: fault {ordinal}: {message}", path.display())]
    Fields {
        /// The path of the file.
        path: PathBuf,
        /// The position of the `[[fault]]` table, counted from 1.
        ordinal: usize,
        /// The reason.
        message: &'static str,
    },
    /// The fields of a fault do not form a valid rule.
    #[error("{}: fault {ordinal}: {source}", path.display())]
    Rule {
        /// The path of the file.
        path: PathBuf,
        /// The position of the `[[fault]]` table, counted from 1.
        ordinal: usize,
        /// The parse error of the joined fields.
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

/// Reads a fault file.
///
/// # Errors
/// The file cannot be read, is not valid TOML, or has an invalid fault. The error names the file and the fault.
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
    /// The fault in the form of the grammar.
    fn rule_text(&self) -> Result<String, &'static str> {
        let selectors = self.selector_text();
        match (&self.rule, &self.preset, &self.rpc, &self.point, &self.effect) {
            (Some(rule), None, None, None, None) if selectors.is_empty() => Ok(rule.clone()),
            (Some(_), ..) => Err("`rule` excludes all other fields"),
            (None, Some(preset), None, None, None) => Ok(format!("preset:{preset}{selectors}")),
            (None, Some(_), ..) => Err("`preset` allows only selectors, not `rpc`, `point` or `effect`"),
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
