//! One fault rule: where, when and how a call fails. [`Display`](fmt::Display) prints a rule in the form that
//! [`grammar`] reads.
//!
//! [`grammar`]: super::grammar

use std::fmt;

use super::{effect::Effect, text::NameText};
use crate::checkpoint::Phase;

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
    pub effect: Effect,
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
