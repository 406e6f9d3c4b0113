//! Indirect dependencies: what a case depends on, a case that depends on it depends on too.

use std::collections::{BTreeMap, BTreeSet};

use super::{Case, CaseInfo};

/// Completes `depends_on` and `may_depend_on` of every case by the indirect dependencies, in the order of the
/// catalogue. So the first failed dependency of a case is the cause, and not a case that the cause blocks.
///
/// The lists live as long as the program: call this once per catalogue.
pub fn with_indirect_dependencies<T>(cases: Vec<Case<T>>) -> Vec<Case<T>> {
    let by_id: BTreeMap<_, _> = cases.iter().map(|case| (case.info.id, case.info)).collect();
    let ids: Vec<_> = cases.iter().map(|case| case.info.id).collect();
    let ordered = |selected: &BTreeSet<&'static str>| -> &'static [&'static str] {
        ids.iter()
            .copied()
            .filter(|id| selected.contains(id))
            .collect::<Vec<_>>()
            .leak()
    };
    let complete = |mut case: Case<T>| {
        let always = reachable(case.info.id, &by_id, |info| info.depends_on.to_vec());
        let any = reachable(case.info.id, &by_id, |info| {
            [info.depends_on, info.may_depend_on].concat()
        });
        case.info.depends_on = ordered(&always);
        case.info.may_depend_on = ordered(&any.difference(&always).copied().collect());
        case
    };
    cases.iter().copied().map(complete).collect()
}

/// The ids that can be reached from `id`, without `id` itself.
fn reachable(
    id: &'static str,
    by_id: &BTreeMap<&'static str, CaseInfo>,
    next: impl Fn(&CaseInfo) -> Vec<&'static str>,
) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut pending = vec![id];
    while let Some(info) = pending.pop().and_then(|id| by_id.get(id)) {
        pending.extend(next(info).into_iter().filter(|id| found.insert(*id)));
    }
    found.remove(id);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Level, case, pass};

    #[test]
    fn indirect_dependencies_are_added_in_catalogue_order() {
        let declare = |id, depends_on, may_depend_on| {
            case(id, Level::Robust)
                .depends_on(depends_on)
                .may_depend_on(may_depend_on)
                .check::<()>(|_| pass(""))
        };
        let cases = with_indirect_dependencies(vec![
            declare("root", &[], &[]),
            declare("left", &["root"], &[]),
            declare("right", &[], &["root"]),
            declare("both", &["left"], &["right"]),
            declare("last", &["both"], &[]),
        ]);
        let of = |id: &str| cases.iter().find(|case| case.info.id == id).unwrap().info;
        assert_eq!(of("last").depends_on, ["root", "left", "both"]);
        assert_eq!(of("last").may_depend_on, ["right"]);
        assert_eq!(of("right").depends_on, [""; 0]);
        assert_eq!(of("right").may_depend_on, ["root"]);
    }
}
