//! The conditions that a run was judged under, beside its rules: all that a reader must know to judge it the same way again.

use serde::{Deserialize, Serialize};

use super::{ExpectedFailuresResult, ProfileResult};

/// The order of a run, the profile and the list of known failures that it was judged under, and what became of those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConditions {
    /// The seed of the order in which cases ran; 0 is the catalogue's order.
    pub seed: u64,
    /// The profile, if the user named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileResult>,
    /// The list of known failures, if the user named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_failures: Option<ExpectedFailuresResult>,
}

impl RunConditions {
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

    /// The conditions in words, a line each, as every report for people says them; none for a run without any.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.seed != 0 {
            lines.push(format!("order: seed {}", self.seed));
        }
        if let Some(profile) = &self.profile {
            lines.push(format!(
                "profile: {} ({}): {}",
                profile.name,
                profile.description,
                match profile.known_deviations.len() {
                    0 => "no claim of it was seen".to_owned(),
                    1 => "1 failure is a known deviation".to_owned(),
                    count => format!("{count} failures are known deviations"),
                }
            ));
            push_ids(&mut lines, "  claims otherwise, and passes", &profile.stale);
            push_ids(&mut lines, "  fails otherwise than it claims", &profile.mismatched);
            push_ids(&mut lines, "  fails, as is known of it", &profile.known_failures);
        }
        if let Some(list) = &self.expected_failures {
            lines.push(format!(
                "expected failures: {}: {} fail as listed",
                list.file,
                list.failed.len()
            ));
            push_ids(&mut lines, "  listed, and passes: take it off the list", &list.passed);
            push_ids(&mut lines, "  listed, and could not be judged", &list.other);
        }
        lines
    }
}

fn push_ids(lines: &mut Vec<String>, label: &str, ids: &[String]) {
    if !ids.is_empty() {
        lines.push(format!("{label}: {}", ids.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_conditions_have_no_lines() {
        assert!(RunConditions::default().describe().is_empty());
    }

    #[test]
    fn every_condition_is_described_with_its_result() {
        let ids = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let conditions = RunConditions {
            seed: 7,
            profile: Some(ProfileResult {
                name: "old".to_owned(),
                description: "an old one".to_owned(),
                known_deviations: ids("x/a"),
                stale: ids("x/b x/c"),
                mismatched: Vec::new(),
                known_failures: ids("x/f"),
            }),
            expected_failures: Some(ExpectedFailuresResult {
                file: "known.txt".to_owned(),
                failed: ids("x/d"),
                passed: ids("x/e"),
                other: Vec::new(),
            }),
        };
        assert_eq!(
            conditions.describe(),
            [
                "order: seed 7",
                "profile: old (an old one): 1 failure is a known deviation",
                "  claims otherwise, and passes: x/b, x/c",
                "  fails, as is known of it: x/f",
                "expected failures: known.txt: 1 fail as listed",
                "  listed, and passes: take it off the list: x/e",
            ]
        );
        assert!(conditions.passes_unexpectedly("x/e") && !conditions.passes_unexpectedly("x/d"));
        assert!(conditions.fails_expectedly("x/d") && !conditions.fails_expectedly("x/e"));
    }
}
