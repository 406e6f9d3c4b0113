//! Contradictory cases, which would make a pass with `--strict` impossible for every target.
//!
//! Two cases contradict each other if every known target fails at least one of them. One target that passes both proves
//! that there is no contradiction. A target is a mutant, with the cases that it is declared to fail, or a run, with the
//! cases that did not pass.

use std::collections::BTreeSet;

/// The pairs of `cases` that no target passes together. Each set of `failing` holds the cases that one target does not
/// pass.
pub fn contradictions<'a>(cases: &[&'a str], failing: &[BTreeSet<&'a str>]) -> Vec<(&'a str, &'a str)> {
    let mut pairs = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        for other in &cases[index + 1..] {
            let both_pass = failing
                .iter()
                .any(|failed| !failed.contains(case) && !failed.contains(other));
            if !both_pass {
                pairs.push((*case, *other));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_contradiction_unless_one_target_passes_both() {
        let cases = ["raised", "honoured", "other"];
        let raises = BTreeSet::from(["honoured"]);
        let honours = BTreeSet::from(["raised", "other"]);
        assert_eq!(
            contradictions(&cases, &[raises.clone(), honours.clone()]),
            [("raised", "honoured"), ("honoured", "other")]
        );
        let witness = BTreeSet::from(["raised"]);
        assert_eq!(
            contradictions(&cases, &[raises, honours, witness]),
            [("raised", "honoured")]
        );
        assert!(contradictions(&cases, &[BTreeSet::new()]).is_empty());
    }
}
