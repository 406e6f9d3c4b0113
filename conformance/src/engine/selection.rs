//! The selection of the cases of a run.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{CaseInfo, Level};

/// A selection of cases by id and level.
#[derive(Clone, Debug)]
pub struct Selection {
    ids: Option<GlobSet>,
    levels: Vec<Level>,
}

/// An invalid filter.
#[derive(Debug, thiserror::Error)]
#[error("invalid filter: {0}")]
pub struct SelectionError(#[from] globset::Error);

impl Selection {
    /// Selects a case if its id matches any of `globs` (or `globs` is empty) and its level is in `levels` (or `levels`
    /// is empty). `*` also matches `/`, so `kubelet/lookup*` selects all cases below it.
    ///
    /// # Errors
    /// A glob cannot be parsed.
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

    /// Selects every case.
    pub fn all() -> Selection {
        Selection {
            ids: None,
            levels: Vec::new(),
        }
    }

    /// Whether this case is selected.
    pub fn selects(&self, info: &CaseInfo) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.is_match(info.id))
            && (self.levels.is_empty() || self.levels.contains(&info.level))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const POD_UNKNOWN: CaseInfo = CaseInfo::new("kubelet/lookup/pod-unknown", Level::Documented);

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
