//! Profiles: known differences between a version of a target and the reference.
//!
//! A profile turns the failure of a `reference` or `robust` case into a known deviation if the profile claims that
//! failure. A profile does not affect documented cases, is never selected automatically, and is named in every report.
//! Reports also name claims that the run does not confirm.
//!
//! ```toml
//! name = "containerd-2.4"
//! description = "containerd 2.4 with runc and CRIU 4"
//!
//! [[known-deviation]]
//! case = "kubelet/authorization/forbidden-body"
//! behavior = "names one subresource, and ends without a newline"
//! source = "kubernetes v1.30 pkg/kubelet/server/server.go"
//! actual = "*subresource=checkpoint)*"
//!
//! [[known-failure]]
//! case = "runtime/location/existing-file-replaced"
//! behavior = "overwrites the existing file without truncating it"
//! source = "containerd internal/cri/server/container_checkpoint_linux.go"
//! ```
//!
//! `[[known-failure]]` may name a case of any level: its failure stays a failure, and the report adds the known
//! behavior.
//!
//! `actual` is a glob for the observed value of the failed case (`*` matches anything). With `actual`, any other
//! failure of the case stays a failure.

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::{CaseInfo, CaseRecord, Level, Outcome};

/// The built-in profiles, by name.
pub const BUILT_IN_PROFILES: &[(&str, &str)] = &[
    (
        "kubelet-1.30",
        include_str!("../../../fixtures/profiles/kubelet-1.30.toml"),
    ),
    (
        "kubelet-1.36",
        include_str!("../../../fixtures/profiles/kubelet-1.36.toml"),
    ),
    (
        "kubelet-1.37",
        include_str!("../../../fixtures/profiles/kubelet-1.37.toml"),
    ),
    (
        "containerd-2.4",
        include_str!("../../../fixtures/profiles/containerd-2.4.toml"),
    ),
    ("cri-o", include_str!("../../../fixtures/profiles/cri-o.toml")),
    ("criu", include_str!("../../../fixtures/profiles/criu.toml")),
];

/// A profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The profile's name in reports.
    pub name: String,
    /// The target that the profile describes.
    pub description: String,
    claims: Vec<(ProfileClaim, GlobMatcher)>,
    known_failures: Vec<ProfileClaim>,
}

/// One difference between the target and the reference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileClaim {
    case: String,
    behavior: String,
    source: String,
    #[serde(default = "match_any_glob")]
    actual: String,
}

fn match_any_glob() -> String {
    "*".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileDocument {
    name: String,
    description: String,
    #[serde(default, rename = "known-deviation")]
    known_deviations: Vec<ProfileClaim>,
    #[serde(default, rename = "known-failure")]
    known_failures: Vec<ProfileClaim>,
}

/// Why a profile is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The text is not TOML, or has another structure.
    #[error("invalid profile: {0}")]
    Toml(#[from] toml::de::Error),
    /// The glob of a claim is invalid.
    #[error("the claim about {case} has an invalid `actual`: {source}")]
    Glob {
        /// The claim's case.
        case: String,
        /// Why the glob is invalid.
        source: globset::Error,
    },
    /// A claim names an unknown case.
    #[error("unknown case {0} (see `checkpoint-conformance list`)")]
    UnknownCase(String),
    /// A claim names a documented case, in which no version may differ.
    #[error("the claim about {case}, which is {}, is not allowed: claims may name `reference` and `robust` cases \
        only", level.as_str())]
    DocumentedCase {
        /// The claim's case.
        case: String,
        /// The level of the case.
        level: Level,
    },
    /// Two claims name the same case.
    #[error("two claims about {0}")]
    DuplicateClaim(String),
    /// A claim has no behavior or no source.
    #[error("the claim about {0} has an empty `behavior` or `source`")]
    MissingText(String),
}

/// A profile that was applied to a run, with the results of its claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileResult {
    /// The profile's name.
    pub name: String,
    /// The target that the profile describes.
    pub description: String,
    /// The cases that failed as claimed and became known deviations; sorted.
    pub known_deviations: Vec<String>,
    /// The cases that passed although a claim says that they fail; sorted.
    pub stale: Vec<String>,
    /// The cases that failed, but not as claimed, and so stay failures; sorted.
    pub mismatched: Vec<String>,
    /// The failed cases with a known failure, which stay failures; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_failures: Vec<String>,
}

impl Profile {
    /// Parses a profile and validates it against the catalogue.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn parse(text: &str, catalogue: &[CaseInfo]) -> Result<Profile, ProfileError> {
        let document: ProfileDocument = toml::from_str(text)?;
        let mut claims: Vec<(ProfileClaim, GlobMatcher)> = Vec::new();
        for claim in document.known_deviations {
            let Some(info) = catalogue.iter().find(|info| info.id == claim.case) else {
                return Err(ProfileError::UnknownCase(claim.case));
            };
            if info.level == Level::Documented {
                return Err(ProfileError::DocumentedCase {
                    case: claim.case,
                    level: info.level,
                });
            }
            if claims.iter().any(|(other, _)| other.case == claim.case) {
                return Err(ProfileError::DuplicateClaim(claim.case));
            }
            if claim.behavior.trim().is_empty() || claim.source.trim().is_empty() {
                return Err(ProfileError::MissingText(claim.case));
            }
            match GlobBuilder::new(&claim.actual).build() {
                Ok(glob) => claims.push((claim, glob.compile_matcher())),
                Err(source) => {
                    return Err(ProfileError::Glob {
                        case: claim.case,
                        source,
                    });
                }
            }
        }
        let mut known: Vec<ProfileClaim> = Vec::new();
        for failure in document.known_failures {
            if !catalogue.iter().any(|info| info.id == failure.case) {
                return Err(ProfileError::UnknownCase(failure.case));
            }
            let duplicate = known.iter().any(|other| other.case == failure.case);
            if duplicate || claims.iter().any(|(claim, _)| claim.case == failure.case) {
                return Err(ProfileError::DuplicateClaim(failure.case));
            }
            if failure.behavior.trim().is_empty() || failure.source.trim().is_empty() {
                return Err(ProfileError::MissingText(failure.case));
            }
            known.push(failure);
        }
        Ok(Profile {
            name: document.name,
            description: document.description,
            claims,
            known_failures: known,
        })
    }

    /// Turns claimed failures into known deviations, and returns the result of each claim.
    pub fn apply(&self, records: &mut [CaseRecord]) -> ProfileResult {
        let mut result = ProfileResult {
            name: self.name.clone(),
            description: self.description.clone(),
            ..ProfileResult::default()
        };
        for record in records {
            let id = record.info.id;
            if let (Outcome::Fail { actual }, Some(known)) = (
                &mut record.outcome,
                self.known_failures.iter().find(|known| known.case == id),
            ) {
                *actual = format!("{actual}; known: {} {} ({})", self.name, known.behavior, known.source);
                result.known_failures.push(id.to_owned());
            }
            let Some((claim, actual_glob)) = self.claims.iter().find(|(claim, _)| claim.case == id) else {
                continue;
            };
            match &record.outcome {
                Outcome::Fail { actual } if actual_glob.is_match(actual) => {
                    record.outcome = Outcome::KnownDeviation {
                        actual: format!("{actual}; {} {} ({})", self.name, claim.behavior, claim.source),
                    };
                    result.known_deviations.push(id.to_owned());
                }
                Outcome::Fail { .. } => result.mismatched.push(id.to_owned()),
                Outcome::Pass { .. } => result.stale.push(id.to_owned()),
                Outcome::KnownDeviation { .. } | Outcome::Skip { .. } | Outcome::Error { .. } => {}
            }
        }
        for ids in [
            &mut result.known_deviations,
            &mut result.stale,
            &mut result.mismatched,
            &mut result.known_failures,
        ] {
            ids.sort();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;

    const fn case_info(id: &'static str, level: Level) -> CaseInfo {
        CaseInfo::new(id, level)
    }

    const CATALOGUE: &[CaseInfo] = &[
        case_info("x/documented", Level::Documented),
        case_info("x/reference", Level::Reference),
        case_info("x/other", Level::Reference),
        case_info("x/third", Level::Reference),
        case_info("x/robust", Level::Robust),
    ];

    const PROFILE_HEADER: &str = "name = \"old\"\ndescription = \"an old one\"\n";

    fn claim(case: &str, more: &str) -> String {
        format!("[[known-deviation]]\ncase = \"{case}\"\nbehavior = \"returns 415\"\nsource = \"its code\"\n{more}\n")
    }

    fn record(index: usize, outcome: Outcome) -> CaseRecord {
        CaseRecord {
            info: CATALOGUE[index],
            outcome,
            duration: Duration::ZERO,
            evidence: Vec::new(),
        }
    }

    fn failed_outcome(actual: &str) -> Outcome {
        Outcome::Fail {
            actual: actual.to_owned(),
        }
    }

    #[test]
    fn claims_turn_only_matching_failures_into_known_deviations() {
        let text = format!(
            "{PROFILE_HEADER}{}{}{}",
            claim("x/reference", "actual = \"*415*\""),
            claim("x/other", "actual = \"*415*\""),
            claim("x/third", "")
        );
        let profile = Profile::parse(&text, CATALOGUE).unwrap();
        let mut records = [
            record(0, failed_outcome("200")),
            record(1, failed_outcome("415 it was")),
            record(2, failed_outcome("500")),
            record(
                3,
                Outcome::Pass {
                    actual: "406".to_owned(),
                },
            ),
            record(4, failed_outcome("1")),
        ];
        let result = profile.apply(&mut records);
        let words = records.each_ref().map(|record| record.outcome.as_str());
        assert_eq!(words, ["fail", "known-deviation", "fail", "pass", "fail"]);
        assert_eq!(records[1].outcome.detail(), "415 it was; old returns 415 (its code)");
        assert_eq!(result.known_deviations, ["x/reference"]);
        assert_eq!(result.mismatched, ["x/other"]);
        assert_eq!(result.stale, ["x/third"]);
    }

    #[test]
    fn a_known_failure_stays_a_failure_with_its_note() {
        let text = format!(
            "{PROFILE_HEADER}{}",
            claim("x/robust", "").replace("[[known-deviation]]", "[[known-failure]]")
        );
        let profile = Profile::parse(&text, CATALOGUE).unwrap();
        let mut records = [record(4, failed_outcome("500")), record(0, failed_outcome("500"))];
        let result = profile.apply(&mut records);
        assert_eq!(
            records[0].outcome,
            failed_outcome("500; known: old returns 415 (its code)")
        );
        assert_eq!(records[1].outcome, failed_outcome("500"));
        assert_eq!(
            (result.known_failures, result.known_deviations.len()),
            (vec!["x/robust".to_owned()], 0)
        );
        let duplicate = format!(
            "{text}{}",
            claim("x/robust", "").replace("[[known-deviation]]", "[[known-failure]]")
        );
        assert!(matches!(
            Profile::parse(&duplicate, CATALOGUE),
            Err(ProfileError::DuplicateClaim(_))
        ));
    }

    #[rstest]
    #[case::documented(claim("x/documented", ""), "the claim about x/documented, which is documented")]
    #[case::unknown(claim("x/new", ""), "unknown case x/new")]
    #[case::duplicate(format!("{0}{0}", claim("x/reference", "")), "two claims about x/reference")]
    #[case::glob(claim("x/reference", "actual = \"[\""), "invalid `actual`")]
    #[case::empty_behavior(claim("x/reference", "").replace("returns 415", ""), "has an empty")]
    #[case::field(claim("x/reference", "level = \"robust\""), "unknown field `level`")]
    #[case::no_toml("claim".to_owned(), "invalid profile")]
    fn invalid_profiles_are_refused(#[case] text: String, #[case] message: &str) {
        let error = Profile::parse(&format!("{PROFILE_HEADER}{text}"), CATALOGUE).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}
