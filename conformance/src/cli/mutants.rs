//! The subcommand `mutants`.

use anyhow::Context as _;
use clap::Args;
use globset::Glob;
use tokio_util::sync::CancellationToken;

use super::{Failure, print, until_interrupted};
use crate::{
    engine::exit,
    mutation::{MUTANTS, Mutant, MutationOptions, markdown, render, run},
};

#[derive(Clone, Debug, Args)]
pub(super) struct MutantsArgs {
    /// Run only mutants whose SUITE/NAME matches this glob (`*` also matches `/`): kubelet/*, archive/memory/*
    #[arg(long, value_name = "GLOB")]
    filter: Option<String>,
    /// The number of concurrent mutants [default: twice the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print docs/MUTANTS.md without running any mutant
    #[arg(long, conflicts_with_all = ["filter", "jobs"])]
    markdown: bool,
}

impl MutantsArgs {
    /// Runs the mutants and prints the matrix. Returns 1 when a mutant did not fail exactly the cases that its
    /// definition lists.
    pub(super) fn run(self) -> Result<u8, Failure> {
        if self.markdown {
            print(&markdown())?;
            return Ok(exit::PASS);
        }
        let mutants = self.selected()?;
        let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let options = MutationOptions {
            // A mutant waits most of the time, for heartbeats and for injected delays.
            jobs: self.jobs.unwrap_or(2 * processors),
            executable: None,
            cancellation: CancellationToken::new(),
        };
        let runtime = tokio::runtime::Runtime::new().context("failed to start the async runtime")?;
        let bar = indicatif::ProgressBar::new(mutants.len() as u64);
        let (findings, interrupted) = runtime.block_on(async {
            let work = run(&mutants, &options, |finding| {
                bar.set_message(finding.mutant.name);
                bar.inc(1);
            });
            tokio::pin!(work);
            match until_interrupted(&mut work).await {
                Ok(findings) => (findings, None),
                Err(interrupted) => {
                    options.cancellation.cancel();
                    (work.await, Some(interrupted))
                }
            }
        });
        bar.finish_and_clear();
        print(&render(&findings))?;
        if let Some(interrupted) = interrupted {
            return Err(interrupted);
        }
        let all_caught = findings.iter().all(crate::mutation::MutantResult::is_caught);
        Ok(if all_caught { exit::PASS } else { exit::FAIL })
    }

    fn selected(&self) -> Result<Vec<Mutant>, Failure> {
        let Some(filter) = &self.filter else {
            return Ok(MUTANTS.to_vec());
        };
        let glob = Glob::new(filter).map_err(|error| Failure::Usage(format!("invalid filter: {error}")))?;
        let glob = glob.compile_matcher();
        let selected: Vec<_> = MUTANTS
            .iter()
            .copied()
            .filter(|mutant| glob.is_match(format!("{}/{}", mutant.suite.as_str(), mutant.name)))
            .collect();
        if selected.is_empty() {
            return Err(Failure::Usage(format!("no mutant matches {filter}")));
        }
        Ok(selected)
    }
}
