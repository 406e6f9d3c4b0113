//! The conditions of a run apart from its gate policy: everything that a reader needs to repeat the run.

use serde::{Deserialize, Serialize};

use super::{ExpectedFailuresResult, ProfileResult};

/// The order of a run, its profile and its list of expected failures, with the results of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConditions {
    /// The seed of the order in which cases ran; 0 is the catalogue's order.
    pub seed: u64,
    /// The result of the profile, if the user named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileResult>,
    /// The result of the list of expected failures, if the user named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_failures: Option<ExpectedFailuresResult>,
}

impl RunConditions {
    /// Whether a listed case passes, which fails the run.
    pub fn passes_unexpectedly(&self, id: &str) -> bool {
        let list = self.expected_failures.as_ref();
        list.is_some_and(|list| list.passed.iter().any(|passed| passed == id))
    }

    /// Whether the failure of a case is listed.
    pub fn fails_expectedly(&self, id: &str) -> bool {
        let list = self.expected_failures.as_ref();
        list.is_some_and(|list| list.failed.iter().any(|failed| failed == id))
    }

    /// The conditions as text, one line each, for human-readable reports; empty for default conditions.
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
                    0 => "no claim matched".to_owned(),
                    1 => "1 failure is a known deviation".to_owned(),
                    count => format!("{count} failures are known deviations"),
                }
            ));
            push_ids(&mut lines, "  claimed to fail, but passes", &profile.stale);
            push_ids(&mut lines, "  fails, but not as claimed", &profile.mismatched);
            push_ids(&mut lines, "  known failures", &profile.known_failures);
        }
        if let Some(list) = &self.expected_failures {
            lines.push(format!(
                "expected failures: {}: {} fail as listed",
                list.file,
                list.failed.len()
            ));
            push_ids(&mut lines, "  listed, but passes (remove from the list)", &list.passed);
            push_ids(&mut lines, "  listed, but neither passed nor failed", &list.other);
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
                "  claimed to fail, but passes: x/b, x/c",
                "  known failures: x/f",
                "expected failures: known.txt: 1 fail as listed",
                "  listed, but passes (remove from the list): x/e",
            ]
        );
        assert!(conditions.passes_unexpectedly("x/e") && !conditions.passes_unexpectedly("x/d"));
        assert!(conditions.fails_expectedly("x/d") && !conditions.fails_expectedly("x/e"));
    }
}
