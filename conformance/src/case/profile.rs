//! What a target claims about itself: where it is known to differ from the reference, and how.
//!
//! A profile turns the failure of a `reference` or `robust` case that it claims into a fact: the target does as it says it does. It
//! touches no documented case, is never chosen by itself, and is named in every report. What it claims and the run does not
//! confirm is named too.
//!
//! ```toml
//! name = "containerd-2.4"
//! about = "containerd 2.4 with runc and CRIU 4"
//!
//! [[claim]]
//! case = "kubelet/403/body"
//! does = "names one subresource, and ends without a newline"
//! source = "kubernetes v1.30 pkg/kubelet/server/server.go"
//! seen = "*subresource=checkpoint)*"
//!
//! [[known]]
//! case = "runtime/place/location-longer"
//! does = "writes over the file that is there, and leaves its tail"
//! source = "containerd internal/cri/server/container_checkpoint_linux.go"
//! ```
//!
//! `[[known]]` is about a case of any level: its failure stays a failure, and is told with what is known of it.
//!
//! `seen` is a glob for what is seen when the case fails (`*` matches anything); with it another failure of the same case stays a failure.

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::{Clause, Level, Outcome, Record};

/// The profiles that come with the program, by name.
pub const BUILT_IN: &[(&str, &str)] = &[
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

/// What a target claims.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name, as reports give it.
    pub name: String,
    /// Of what it is the profile.
    pub about: String,
    claims: Vec<(Claim, GlobMatcher)>,
    known: Vec<Claim>,
}

/// One thing that a target claims to do otherwise than the reference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    case: String,
    does: String,
    source: String,
    #[serde(default = "anything")]
    seen: String,
}

fn anything() -> String {
    "*".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    about: String,
    #[serde(default, rename = "claim")]
    claims: Vec<Claim>,
    #[serde(default)]
    known: Vec<Claim>,
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is no TOML, or of another shape.
    #[error("cannot be read: {0}")]
    Toml(#[from] toml::de::Error),
    /// A glob that cannot be parsed.
    #[error("the claim about {case} has an invalid `seen`: {source}")]
    Glob {
        /// The claim's case.
        case: String,
        /// Why.
        source: globset::Error,
    },
    /// It names no case of this program.
    #[error("claims something about {0}, which is no case of this program (see `checkpoint-conformance list`)")]
    Unknown(String),
    /// It names a case that no version may differ in.
    #[error("claims something about {case}, which is {}: a profile is about `reference` and `robust` cases alone", level.as_str())]
    Level {
        /// The case.
        case: String,
        /// Its level.
        level: Level,
    },
    /// It claims two things about one case.
    #[error("claims something about {0} twice")]
    Twice(String),
    /// Words are missing.
    #[error("the claim about {0} does not say what the target does, or where that is known from")]
    Empty(String),
}

/// A profile that a run was judged under, and what became of its claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The profile's name.
    pub name: String,
    /// Of what it is the profile.
    pub about: String,
    /// The cases that failed as claimed, and so are facts; sorted.
    pub facts: Vec<String>,
    /// The cases that pass although a claim says otherwise; sorted.
    pub untrue: Vec<String>,
    /// The cases that fail, but otherwise than claimed, and so stay failures; sorted.
    pub otherwise: Vec<String>,
    /// The cases whose failure the profile knows of, and which stay failures; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

impl Profile {
    /// Reads a profile and holds it against the catalogue.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn parse(text: &str, catalogue: &[Clause]) -> Result<Profile, ProfileError> {
        let document: Document = toml::from_str(text)?;
        let mut claims: Vec<(Claim, GlobMatcher)> = Vec::new();
        for claim in document.claims {
            let Some(clause) = catalogue.iter().find(|clause| clause.id == claim.case) else {
                return Err(ProfileError::Unknown(claim.case));
            };
            if clause.level == Level::Documented {
                return Err(ProfileError::Level {
                    case: claim.case,
                    level: clause.level,
                });
            }
            if claims.iter().any(|(other, _)| other.case == claim.case) {
                return Err(ProfileError::Twice(claim.case));
            }
            if claim.does.trim().is_empty() || claim.source.trim().is_empty() {
                return Err(ProfileError::Empty(claim.case));
            }
            match GlobBuilder::new(&claim.seen).build() {
                Ok(glob) => claims.push((claim, glob.compile_matcher())),
                Err(source) => {
                    return Err(ProfileError::Glob {
                        case: claim.case,
                        source,
                    });
                }
            }
        }
        let mut known: Vec<Claim> = Vec::new();
        for one in document.known {
            if !catalogue.iter().any(|clause| clause.id == one.case) {
                return Err(ProfileError::Unknown(one.case));
            }
            let twice = known.iter().any(|other| other.case == one.case);
            if twice || claims.iter().any(|(claim, _)| claim.case == one.case) {
                return Err(ProfileError::Twice(one.case));
            }
            if one.does.trim().is_empty() || one.source.trim().is_empty() {
                return Err(ProfileError::Empty(one.case));
            }
            known.push(one);
        }
        Ok(Profile {
            name: document.name,
            about: document.about,
            claims,
            known,
        })
    }

    /// Turns the failures that are claimed into facts, and says what became of each claim.
    pub fn apply(&self, records: &mut [Record]) -> Claimed {
        let mut claimed = Claimed {
            name: self.name.clone(),
            about: self.about.clone(),
            ..Claimed::default()
        };
        for record in records {
            let id = record.clause.id;
            if let (Outcome::Fail { seen }, Some(known)) =
                (&mut record.outcome, self.known.iter().find(|known| known.case == id))
            {
                *seen = format!("{seen}; known: {} {} ({})", self.name, known.does, known.source);
                claimed.known.push(id.to_owned());
            }
            let Some((claim, seen_as_claimed)) = self.claims.iter().find(|(claim, _)| claim.case == id) else {
                continue;
            };
            match &record.outcome {
                Outcome::Fail { seen } if seen_as_claimed.is_match(seen) => {
                    record.outcome = Outcome::Fact {
                        seen: format!("{seen}; {} {} ({})", self.name, claim.does, claim.source),
                    };
                    claimed.facts.push(id.to_owned());
                }
                Outcome::Fail { .. } => claimed.otherwise.push(id.to_owned()),
                Outcome::Pass { .. } => claimed.untrue.push(id.to_owned()),
                Outcome::Fact { .. } | Outcome::Skip { .. } | Outcome::Error { .. } => {}
            }
        }
        for ids in [
            &mut claimed.facts,
            &mut claimed.untrue,
            &mut claimed.otherwise,
            &mut claimed.known,
        ] {
            ids.sort();
        }
        claimed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::case::Authority;

    const fn clause(id: &'static str, level: Level) -> Clause {
        Clause {
            id,
            clause: "",
            authority: Authority::PROJECT,
            motivation: "",
            level,
            expected: "",
        }
    }

    const CATALOGUE: &[Clause] = &[
        clause("x/documented", Level::Documented),
        clause("x/reference", Level::Reference),
        clause("x/other", Level::Reference),
        clause("x/third", Level::Reference),
        clause("x/robust", Level::Robust),
    ];

    const HEAD: &str = "name = \"old\"\nabout = \"an old one\"\n";

    fn claim(case: &str, more: &str) -> String {
        format!("[[claim]]\ncase = \"{case}\"\ndoes = \"answers 415\"\nsource = \"its code\"\n{more}\n")
    }

    fn record(number: usize, outcome: Outcome) -> Record {
        Record {
            clause: CATALOGUE[number],
            outcome,
            duration: Duration::ZERO,
            exhibits: Vec::new(),
        }
    }

    fn fail(seen: &str) -> Outcome {
        Outcome::Fail { seen: seen.to_owned() }
    }

    #[test]
    fn a_claimed_failure_is_a_fact_another_one_stays_and_an_untrue_claim_is_named() {
        let text = format!(
            "{HEAD}{}{}{}",
            claim("x/reference", "seen = \"*415*\""),
            claim("x/other", "seen = \"*415*\""),
            claim("x/third", "")
        );
        let profile = Profile::parse(&text, CATALOGUE).unwrap();
        let mut records = [
            record(0, fail("200")),
            record(1, fail("415 it was")),
            record(2, fail("500")),
            record(3, Outcome::Pass { seen: "406".to_owned() }),
            record(4, fail("1")),
        ];
        let claimed = profile.apply(&mut records);
        let words = records.each_ref().map(|record| record.outcome.word());
        assert_eq!(words, ["fail", "fact", "fail", "pass", "fail"]);
        assert_eq!(records[1].outcome.text(), "415 it was; old answers 415 (its code)");
        assert_eq!(claimed.facts, ["x/reference"]);
        assert_eq!(claimed.otherwise, ["x/other"]);
        assert_eq!(claimed.untrue, ["x/third"]);
    }

    #[test]
    fn what_is_known_of_any_level_stays_a_failure_and_is_told() {
        let text = format!("{HEAD}{}", claim("x/robust", "").replace("[[claim]]", "[[known]]"));
        let profile = Profile::parse(&text, CATALOGUE).unwrap();
        let mut records = [record(4, fail("500")), record(0, fail("500"))];
        let claimed = profile.apply(&mut records);
        assert_eq!(records[0].outcome, fail("500; known: old answers 415 (its code)"));
        assert_eq!(records[1].outcome, fail("500"));
        assert_eq!((claimed.known, claimed.facts.len()), (vec!["x/robust".to_owned()], 0));
        let twice = format!("{text}{}", claim("x/robust", "").replace("[[claim]]", "[[known]]"));
        assert!(matches!(Profile::parse(&twice, CATALOGUE), Err(ProfileError::Twice(_))));
    }

    #[rstest]
    #[case::documented(
        claim("x/documented", ""),
        "claims something about x/documented, which is documented"
    )]
    #[case::unknown(claim("x/new", ""), "x/new, which is no case of this program")]
    #[case::twice(format!("{0}{0}", claim("x/reference", "")), "x/reference twice")]
    #[case::glob(claim("x/reference", "seen = \"[\""), "invalid `seen`")]
    #[case::silent(claim("x/reference", "").replace("answers 415", ""), "does not say")]
    #[case::field(claim("x/reference", "level = \"robust\""), "unknown field `level`")]
    #[case::no_toml("claim".to_owned(), "cannot be read")]
    fn a_profile_that_goes_too_far_is_refused(#[case] text: String, #[case] message: &str) {
        let error = Profile::parse(&format!("{HEAD}{text}"), CATALOGUE).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}
