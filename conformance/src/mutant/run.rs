//! Runs mutants, several at a time: each is an embedded target of its own, or an archive in a folder of its own.

use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::{Definition, Finding, Wrong};
use crate::{
    archive::{Limits, inspect_file, mutant, sample},
    case::{self, Record, Silent},
    catalog::{
        archive,
        kubelet::{self, Session},
        runtime::{self, RuntimeSession},
    },
    target::{Embedded, runtime::EmbeddedRuntime},
};

/// How mutants are run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How many at a time.
    pub jobs: usize,
    /// What fake-cri is started from, where this program's own `main` does not call its entry point.
    pub executable: Option<PathBuf>,
    /// Ends the run before its time: no further mutant begins, and the targets of those that run are taken down.
    pub stop: CancellationToken,
}

/// Runs these mutants and returns what became of each that ran to its end, in their order. `each` is told as they end.
pub async fn run(definitions: &[Definition], options: &RunOptions, each: impl Fn(&Finding)) -> Vec<Finding> {
    let mut findings: Vec<_> = stream::iter(definitions.iter().enumerate())
        .take_until(options.stop.cancelled())
        .map(|(number, definition)| async move { (number, run_one(*definition, options).await) })
        .buffer_unordered(options.jobs.max(1))
        .filter_map(|(number, finding)| async move { Some((number, finding?)) })
        .inspect(|(_, finding)| each(finding))
        .collect()
        .await;
    findings.sort_by_key(|(number, _)| *number);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// `None` when it was stopped.
async fn run_one(definition: Definition, options: &RunOptions) -> Option<Finding> {
    let run = match definition.wrong {
        Wrong::Kubelet(_) | Wrong::Preset(_) => kubelet(definition, options).await,
        Wrong::Runtime(_) | Wrong::RuntimeRules { .. } => runtime(definition, options).await,
        Wrong::Archive(name) => archive(name).await.map(Some),
    };
    Some(match run.transpose()? {
        Ok((records, ended)) => {
            let mut finding = Finding::new(definition, &records);
            finding.errors.extend(ended.err());
            finding
        }
        Err(error) => {
            let mut finding = Finding::new(definition, &[]);
            finding.errors.push(error);
            finding
        }
    })
}

/// What became of a suite's cases, and of the target's end.
type Ran = (Vec<Record>, Result<(), String>);

async fn kubelet(definition: Definition, options: &RunOptions) -> Result<Option<Ran>, String> {
    let embedded = Embedded {
        defect: definition.defect(),
        executable: options.executable.clone(),
        ..Embedded::default()
    };
    let kubelet = embedded.start().await;
    let kubelet = kubelet.map_err(|error| format!("the target did not start: {error}"))?;
    let session = Session::new(kubelet);
    let cases = kubelet::cases();
    let mut silent = Silent;
    let work = case::run(&cases, &session, &mut silent);
    let records = options.stop.run_until_cancelled(work).await;
    let ended = match &session.kubelet.steering {
        Some(steering) => steering.shutdown().await,
        None => Ok(()),
    };
    let ended = ended.map_err(|error| format!("the target did not end: {error}"));
    Ok(records.map(|records| (records, ended)))
}

async fn runtime(definition: Definition, options: &RunOptions) -> Result<Option<Ran>, String> {
    let embedded = EmbeddedRuntime {
        defect: Some((definition.name().to_owned(), definition.runtime_rules())),
        executable: options.executable.clone(),
    };
    let runtime = embedded.start().await;
    let runtime = runtime.map_err(|error| format!("the target did not start: {error}"))?;
    let session = RuntimeSession::new(runtime);
    let cases = runtime::cases();
    let mut silent = Silent;
    let work = case::run(&cases, &session, &mut silent);
    let records = options.stop.run_until_cancelled(work).await;
    let ended = session.runtime.shutdown().await;
    let ended = ended.map_err(|error| format!("the target did not end: {error}"));
    Ok(records.map(|records| (records, ended)))
}

/// Writes the archive, reads it and judges it: all of that is work for the processor and for files.
async fn archive(name: &'static str) -> Result<Ran, String> {
    let judged = tokio::task::spawn_blocking(move || {
        let mutant = mutant::by_name(name).ok_or_else(|| format!("no archive mutant is called {name}"))?;
        let folder = tempfile::tempdir().map_err(|error| format!("failed to make a folder: {error}"))?;
        let path = folder.path().join("checkpoint.tar");
        mutant
            .write(&path)
            .map_err(|error| format!("failed to write the archive: {error}"))?;
        let mut archive = inspect_file(&path, &sample::expected(), Limits::default())
            .map_err(|error| format!("failed to read the archive: {error}"))?;
        mutant.alter(&mut archive);
        Ok((archive::judge(&archive), Ok(())))
    });
    judged
        .await
        .unwrap_or_else(|error| Err(format!("judging did not end: {error}")))
}
