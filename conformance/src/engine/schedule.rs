//! The order of cases, and which cases run concurrently.
//!
//! ```text
//!  cases -> stages (early, main, late), each in the order of the seed -> steps -> runner
//!             a step: one case that needs the target alone, or all cases of a stage that may share the target
//! ```
//!
//! The steps depend only on the cases and the seed. The number of jobs only limits how many cases of a step run
//! concurrently. So the order, and with it the verdict, does not depend on the machine.

use super::Case;

/// When a case runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before the other cases, which depend on its result. Early cases run in the catalogue's order, whatever the seed.
    Early,
    /// In any order.
    #[default]
    Main,
    /// After the other cases, because the case makes the target harder to use, for example by a restart.
    Late,
    /// After the other cases, because the case checks what they have recorded.
    Summary,
    /// After all others. The case restarts the target with the configuration that it needs, whatever the configuration
    /// before: between two such cases the configuration is not reverted.
    Restarting,
}

/// The order and concurrency of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The order within a stage: 0 is the catalogue's order, any other number a reproducible permutation.
    pub seed: u64,
    /// How many cases that share the target run concurrently; at least one.
    pub jobs: usize,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { seed: 0, jobs: 1 }
    }
}

impl Schedule {
    /// The steps in order. The cases of a stage that share the target form one step, at the position of the first of
    /// them.
    pub(super) fn steps<T>(&self, cases: &[Case<T>]) -> Vec<Vec<Case<T>>> {
        let mut steps = Vec::new();
        for stage in [
            Stage::Early,
            Stage::Main,
            Stage::Late,
            Stage::Summary,
            Stage::Restarting,
        ] {
            let mut stage_cases: Vec<_> = cases.iter().copied().filter(|case| case.plan.stage == stage).collect();
            if stage != Stage::Early && self.seed != 0 {
                stage_cases.sort_by_key(|case| self.order_key(case.info.id));
            }
            let mut shared_step: Option<usize> = None;
            for case in stage_cases {
                match shared_step {
                    Some(step) if case.plan.shared => {
                        let step: &mut Vec<Case<T>> = &mut steps[step];
                        step.push(case);
                    }
                    _ => {
                        if case.plan.shared {
                            shared_step = Some(steps.len());
                        }
                        steps.push(vec![case]);
                    }
                }
            }
        }
        steps
    }

    /// A sort key that depends only on the id and the seed, so that two cases keep their order whatever else is
    /// selected: FNV-1a, mixed as in SplitMix64.
    fn order_key(&self, id: &str) -> u64 {
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = hash ^ self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CaseBuilder, Level, case, pass};

    const fn declare(id: &'static str) -> CaseBuilder {
        case(id, Level::Documented)
    }

    const fn complete(declared: CaseBuilder) -> Case<()> {
        declared.run(|()| Box::pin(std::future::ready(pass(""))))
    }

    fn ids(steps: &[Vec<Case<()>>]) -> Vec<Vec<&'static str>> {
        steps
            .iter()
            .map(|step| step.iter().map(|case| case.info.id).collect())
            .collect()
    }

    const CASES: [Case<()>; 9] = [
        complete(declare("restart").stage(Stage::Restarting)),
        complete(declare("late").stage(Stage::Late)),
        complete(declare("a")),
        complete(declare("b").shared()),
        complete(declare("c")),
        complete(declare("d").shared()),
        complete(declare("e")),
        complete(declare("first").stage(Stage::Early).shared()),
        complete(declare("second").stage(Stage::Early)),
    ];

    #[test]
    fn without_a_seed_cases_run_in_catalogue_order_within_stages() {
        let steps = Schedule::default().steps(&CASES);
        assert_eq!(
            ids(&steps),
            [
                vec!["first"],
                vec!["second"],
                vec!["a"],
                vec!["b", "d"],
                vec!["c"],
                vec!["e"],
                vec!["late"],
                vec!["restart"]
            ]
        );
    }

    #[test]
    fn a_seed_gives_a_repeatable_order_within_stages() {
        let order_of = |seed| ids(&Schedule { seed, jobs: 1 }.steps(&CASES));
        assert_eq!(order_of(7), order_of(7));
        assert!((1..20).any(|seed| order_of(seed) != order_of(0)));
        for seed in 1..20 {
            let steps = order_of(seed);
            assert_eq!(steps[..2], [vec!["first"], vec!["second"]]);
            assert_eq!(steps[steps.len() - 2..], [vec!["late"], vec!["restart"]]);
            assert_eq!(steps.concat().len(), CASES.len());
        }
    }

    #[test]
    fn the_order_of_two_cases_does_not_depend_on_the_selection() {
        let schedule = Schedule { seed: 3, jobs: 1 };
        let all = ids(&schedule.steps(&CASES)).concat();
        let two = ids(&schedule.steps(&[CASES[2], CASES[6]])).concat();
        let order_in_all: Vec<_> = all.into_iter().filter(|id| two.contains(id)).collect();
        assert_eq!(order_in_all, two);
    }
}
