//! The terms that a run was judged under, beside its rules: all that a reader must know to judge it the same way again.

use serde::{Deserialize, Serialize};

use super::{Claimed, Foreseen};

/// The order of a run, the profile and the list of known failures that it was judged under, and what became of those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// The seed of the order in which cases ran; 0 is the catalogue's order.
    pub seed: u64,
    /// The profile, if the user named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Claimed>,
    /// The list of known failures, if the user named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_failures: Option<Foreseen>,
}

impl Terms {
    /// Whether a listed case passes, which fails the run.
    pub fn passes_unexpectedly(&self, id: &str) -> bool {
        let list = self.expected_failures.as_ref();
        list.is_some_and(|list| list.passed.iter().any(|passed| passed == id))
    }

    /// Whether a case's failure is listed.
    pub fn fails_expectedly(&self, id: &str) -> bool {
        let list = self.expected_failures.as_ref();
        list.is_some_and(|list| list.failed.iter().any(|failed| failed == id))
    }

    /// The terms in words, a line each, as every report for people says them; none for a run without any.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.seed != 0 {
            lines.push(format!("order: seed {}", self.seed));
        }
        if let Some(profile) = &self.profile {
            lines.push(format!(
                "profile: {} ({}): {}",
                profile.name,
                profile.about,
                match profile.facts.len() {
                    0 => "no claim of it was seen".to_owned(),
                    1 => "1 failure is a fact".to_owned(),
                    facts => format!("{facts} failures are facts"),
                }
            ));
            named(&mut lines, "  claims otherwise, and passes", &profile.untrue);
            named(&mut lines, "  fails otherwise than it claims", &profile.otherwise);
            named(&mut lines, "  fails, as is known of it", &profile.known);
        }
        if let Some(list) = &self.expected_failures {
            lines.push(format!(
                "expected failures: {}: {} fail as listed",
                list.file,
                list.failed.len()
            ));
            named(&mut lines, "  listed, and passes: take it off the list", &list.passed);
            named(&mut lines, "  listed, and could not be judged", &list.other);
        }
        lines
    }
}

fn named(lines: &mut Vec<String>, what: &str, ids: &[String]) {
    if !ids.is_empty() {
        lines.push(format!("{what}: {}", ids.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_terms_says_nothing() {
        assert!(Terms::default().lines().is_empty());
    }

    #[test]
    fn every_term_is_said_with_what_became_of_it() {
        let ids = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let terms = Terms {
            seed: 7,
            profile: Some(Claimed {
                name: "old".to_owned(),
                about: "an old one".to_owned(),
                facts: ids("x/a"),
                untrue: ids("x/b x/c"),
                otherwise: Vec::new(),
                known: ids("x/f"),
            }),
            expected_failures: Some(Foreseen {
                file: "known.txt".to_owned(),
                failed: ids("x/d"),
                passed: ids("x/e"),
                other: Vec::new(),
            }),
        };
        assert_eq!(
            terms.lines(),
            [
                "order: seed 7",
                "profile: old (an old one): 1 failure is a fact",
                "  claims otherwise, and passes: x/b, x/c",
                "  fails, as is known of it: x/f",
                "expected failures: known.txt: 1 fail as listed",
                "  listed, and passes: take it off the list: x/e",
            ]
        );
        assert!(terms.passes_unexpectedly("x/e") && !terms.passes_unexpectedly("x/d"));
        assert!(terms.fails_expectedly("x/d") && !terms.fails_expectedly("x/e"));
    }
}
