//! Runs mutants, several at a time: each is an embedded target of its own.

use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _};

use super::{Definition, Finding};
use crate::{
    case::{self, Silent},
    catalog::kubelet::{Session, cases},
    target::Embedded,
};

/// How mutants are run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How many at a time.
    pub jobs: usize,
    /// What fake-cri is started from, where this program's own `main` does not call its entry point.
    pub executable: Option<PathBuf>,
}

/// Runs these mutants and returns what became of each, in their order. `each` is told as they end.
pub async fn run(definitions: &[Definition], options: &RunOptions, each: impl Fn(&Finding)) -> Vec<Finding> {
    let mut findings: Vec<_> = stream::iter(definitions.iter().enumerate())
        .map(|(number, definition)| async move { (number, run_one(*definition, options.executable.clone()).await) })
        .buffer_unordered(options.jobs.max(1))
        .inspect(|(_, finding)| each(finding))
        .collect()
        .await;
    findings.sort_by_key(|(number, _)| *number);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

async fn run_one(definition: Definition, executable: Option<PathBuf>) -> Finding {
    let embedded = Embedded {
        defect: Some(definition.defect()),
        executable,
        ..Embedded::default()
    };
    let kubelet = match embedded.start().await {
        Ok(kubelet) => kubelet,
        Err(error) => {
            let mut finding = Finding::new(definition, &[]);
            finding.errors.push(format!("the target did not start: {error}"));
            return finding;
        }
    };
    let session = Session::new(kubelet);
    let records = case::run(&cases(), &session, &mut Silent).await;
    let mut finding = Finding::new(definition, &records);
    if let Some(steering) = &session.kubelet.steering
        && let Err(error) = steering.shutdown().await
    {
        finding.errors.push(format!("the target did not end: {error}"));
    }
    finding
}
