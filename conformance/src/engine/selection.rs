//! Which cases of the catalogue a run takes.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{CaseInfo, Level};

/// A choice of cases by id and level.
#[derive(Clone, Debug)]
pub struct Selection {
    ids: Option<GlobSet>,
    levels: Vec<Level>,
}

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("invalid filter: {0}")]
pub struct SelectionError(#[from] globset::Error);

impl Selection {
    /// Takes a case whose id matches any of `globs` (all when there is none) and whose level is among `levels` (any when
    /// there is none). `*` also matches `/`, so `kubelet/lookup*` takes all below it.
    ///
    /// # Errors
    /// A glob that cannot be parsed.
    pub fn new(globs: &[String], levels: &[Level]) -> Result<Selection, SelectionError> {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(GlobBuilder::new(glob).build()?);
        }
        Ok(Selection {
            ids: if globs.is_empty() { None } else { Some(set.build()?) },
            levels: levels.to_vec(),
        })
    }

    /// Takes every case.
    pub fn all() -> Selection {
        Selection {
            ids: None,
            levels: Vec::new(),
        }
    }

    /// Whether this case is taken.
    pub fn selects(&self, info: &CaseInfo) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.is_match(info.id))
            && (self.levels.is_empty() || self.levels.contains(&info.level))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::engine::Authority;

    const POD_UNKNOWN: CaseInfo = CaseInfo {
        id: "kubelet/lookup/pod-unknown",
        requirement: "",
        authority: Authority::PROJECT,
        motivation: "",
        level: Level::Documented,
        expected: "",
    };

    #[rstest]
    #[case::all(&[], &[], true)]
    #[case::exact(&["kubelet/lookup/pod-unknown"], &[], true)]
    #[case::star_crosses_segments(&["kubelet/*"], &[], true)]
    #[case::second_of_two(&["runtime/*", "*pod*"], &[], true)]
    #[case::other(&["kubelet/authentication/*"], &[], false)]
    #[case::level(&[], &[Level::Documented, Level::Robust], true)]
    #[case::other_level(&["*"], &[Level::Reference], false)]
    fn takes(#[case] globs: &[&str], #[case] levels: &[Level], #[case] selected: bool) {
        let globs: Vec<_> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        assert_eq!(Selection::new(&globs, levels).unwrap().selects(&POD_UNKNOWN), selected);
    }

    #[test]
    fn a_broken_glob_is_refused() {
        let error = Selection::new(&["kubelet/[".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().starts_with("invalid filter: "), "{error}");
    }
}
