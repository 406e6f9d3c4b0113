//! Runs mutants concurrently, each with an embedded target, or an archive in a directory, of its own.

use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::{ArchiveDefect, Defect, Mutant, MutantResult};
use crate::{
    archive::{Limits, inspect_file, sample},
    engine::{self, CaseRecord, SilentObserver, Suite},
    suites::{
        archive,
        kubelet::{self, KubeletSession},
        runtime::{self, RuntimeSession},
    },
    targets::{Embedded, runtime::EmbeddedRuntime},
};

/// How mutants are run.
#[derive(Clone, Debug)]
pub struct MutationOptions {
    /// How many mutants run concurrently.
    pub jobs: usize,
    /// The executable that starts fake-cri, if this program's `main` does not call fake-cri's entry point.
    pub executable: Option<PathBuf>,
    /// Cancels the run: no further mutant begins, and the targets of running mutants are shut down.
    pub cancellation: CancellationToken,
}

/// Runs mutants and returns the results of those that ran to the end, in the order of `mutants`. Calls `on_result`
/// after each mutant.
pub async fn run(
    mutants: &[Mutant],
    options: &MutationOptions,
    on_result: impl Fn(&MutantResult),
) -> Vec<MutantResult> {
    let mut results: Vec<_> = stream::iter(mutants.iter().enumerate())
        .take_until(options.cancellation.cancelled())
        .map(|(index, mutant)| async move { (index, run_one(*mutant, options).await) })
        .buffer_unordered(options.jobs.max(1))
        .filter_map(|(index, result)| async move { Some((index, result?)) })
        .inspect(|(_, result)| on_result(result))
        .collect()
        .await;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs one mutant; `None` if the run was cancelled.
async fn run_one(mutant: Mutant, options: &MutationOptions) -> Option<MutantResult> {
    let run = match (mutant.suite, mutant.defect) {
        (_, Defect::Archive(defect)) => run_archive_suite(defect).await.map(Some),
        (Suite::Runtime, _) => run_runtime_suite(mutant, options).await,
        _ => run_kubelet_suite(mutant, options).await,
    };
    Some(match run.transpose()? {
        Ok((records, shutdown_result)) => {
            let mut result = MutantResult::new(mutant, &records);
            result.errors.extend(shutdown_result.err());
            result
        }
        Err(error) => {
            let mut result = MutantResult::new(mutant, &[]);
            result.errors.push(error);
            result
        }
    })
}

/// The records of a suite, and the result of the target's shutdown.
type SuiteOutcome = (Vec<CaseRecord>, Result<(), String>);

async fn run_kubelet_suite(mutant: Mutant, options: &MutationOptions) -> Result<Option<SuiteOutcome>, String> {
    let embedded = Embedded {
        defect: mutant.embedded_defect(),
        executable: options.executable.clone(),
        ..Embedded::default()
    };
    let kubelet = embedded.start().await;
    let kubelet = kubelet.map_err(|error| format!("the target did not start: {error}"))?;
    let session = KubeletSession::new(kubelet);
    let cases = kubelet::cases();
    let mut observer = SilentObserver;
    let work = engine::run(&cases, &session, &mut observer);
    let records = options.cancellation.run_until_cancelled(work).await;
    let shutdown_result = match &session.kubelet.lifecycle {
        Some(lifecycle) => lifecycle.shutdown().await,
        None => Ok(()),
    };
    let shutdown_result = shutdown_result.map_err(|error| format!("the target did not shut down: {error}"));
    Ok(records.map(|records| (records, shutdown_result)))
}

async fn run_runtime_suite(mutant: Mutant, options: &MutationOptions) -> Result<Option<SuiteOutcome>, String> {
    let embedded = EmbeddedRuntime {
        defect: Some((mutant.name.to_owned(), mutant.runtime_rules())),
        executable: options.executable.clone(),
    };
    let runtime = embedded.start().await;
    let runtime = runtime.map_err(|error| format!("the target did not start: {error}"))?;
    let session = RuntimeSession::new(runtime);
    let cases = runtime::cases();
    let mut observer = SilentObserver;
    let work = engine::run(&cases, &session, &mut observer);
    let records = options.cancellation.run_until_cancelled(work).await;
    let shutdown_result = session.runtime.shutdown().await;
    let shutdown_result = shutdown_result.map_err(|error| format!("the target did not shut down: {error}"));
    Ok(records.map(|records| (records, shutdown_result)))
}

/// Writes, reads and checks the archive on a blocking thread.
async fn run_archive_suite(defect: ArchiveDefect) -> Result<SuiteOutcome, String> {
    let task = tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().map_err(|error| format!("failed to create a directory: {error}"))?;
        let path = dir.path().join("checkpoint.tar");
        defect
            .write(&path)
            .map_err(|error| format!("failed to write the archive: {error}"))?;
        let mut archive = inspect_file(&path, &sample::expected(), Limits::default())
            .map_err(|error| format!("failed to read the archive: {error}"))?;
        defect.edit_result(&mut archive);
        Ok((archive::check_all(&archive), Ok(())))
    });
    task.await
        .unwrap_or_else(|error| Err(format!("the check of the archive did not end: {error}")))
}
