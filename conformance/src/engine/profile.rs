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
//! failure of the case stays a failure, without the known behavior.

use std::collections::BTreeMap;

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
    claims: BTreeMap<String, Claim>,
}

/// What a profile says about one case.
#[derive(Clone, Debug)]
struct Claim {
    /// Whether the failure becomes a known deviation. Otherwise it stays a failure.
    is_deviation: bool,
    actual: GlobMatcher,
    /// The text for reports: the behavior and its source.
    note: String,
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
        let mut claims = BTreeMap::new();
        let deviations = document.known_deviations.into_iter().map(|claim| (true, claim));
        let failures = document.known_failures.into_iter().map(|claim| (false, claim));
        for (is_deviation, claim) in deviations.chain(failures) {
            let ProfileClaim {
                case,
                behavior,
                source,
                actual,
            } = claim;
            let Some(info) = catalogue.iter().find(|info| info.id == case) else {
                return Err(ProfileError::UnknownCase(case));
            };
            if is_deviation && info.level == Level::Documented {
                let level = info.level;
                return Err(ProfileError::DocumentedCase { case, level });
            }
            if claims.contains_key(&case) {
                return Err(ProfileError::DuplicateClaim(case));
            }
            if behavior.trim().is_empty() || source.trim().is_empty() {
                return Err(ProfileError::MissingText(case));
            }
            let actual = match GlobBuilder::new(&actual).build() {
                Ok(glob) => glob.compile_matcher(),
                Err(source) => return Err(ProfileError::Glob { case, source }),
            };
            let note = format!("{} {behavior} ({source})", document.name);
            claims.insert(
                case,
                Claim {
                    is_deviation,
                    actual,
                    note,
                },
            );
        }
        Ok(Profile {
            name: document.name,
            description: document.description,
            claims,
        })
    }

    /// Turns claimed failures into known deviations, and returns the result of each claim.
    pub fn apply(&self, records: &mut [CaseRecord]) -> ProfileResult {
        let mut result = ProfileResult {
            name: self.name.clone(),
            description: self.description.clone(),
            ..ProfileResult::default()
        };
        // In the order of the claims, which are sorted.
        for (id, claim) in &self.claims {
            let Some(record) = records.iter_mut().find(|record| record.info.id == id) else {
                continue;
            };
            let ids = match &mut record.outcome {
                Outcome::Fail { actual } if !claim.actual.is_match(&*actual) => &mut result.mismatched,
                Outcome::Fail { actual } if claim.is_deviation => {
                    let actual = format!("{actual}; {}", claim.note);
                    record.outcome = Outcome::KnownDeviation { actual };
                    &mut result.known_deviations
                }
                Outcome::Fail { actual } => {
                    *actual = format!("{actual}; known: {}", claim.note);
                    &mut result.known_failures
                }
                Outcome::Pass { .. } if claim.is_deviation => &mut result.stale,
                _ => continue,
            };
            ids.push(id.clone());
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
