//! Runs mutants, several at a time: each is an embedded target of its own, or an archive in a folder of its own.

use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _};

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
    let run = match definition.wrong {
        Wrong::Kubelet(_) | Wrong::Preset(_) => kubelet(definition, executable).await,
        Wrong::Runtime(name) => runtime(name, executable).await,
        Wrong::Archive(name) => archive(name).await,
    };
    match run {
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
    }
}

/// What became of a suite's cases, and of the target's end.
type Ran = (Vec<Record>, Result<(), String>);

async fn kubelet(definition: Definition, executable: Option<PathBuf>) -> Result<Ran, String> {
    let embedded = Embedded {
        defect: definition.defect(),
        executable,
        ..Embedded::default()
    };
    let kubelet = embedded.start().await;
    let kubelet = kubelet.map_err(|error| format!("the target did not start: {error}"))?;
    let session = Session::new(kubelet);
    let records = case::run(&kubelet::cases(), &session, &mut Silent).await;
    let ended = match &session.kubelet.steering {
        Some(steering) => steering.shutdown().await,
        None => Ok(()),
    };
    Ok((
        records,
        ended.map_err(|error| format!("the target did not end: {error}")),
    ))
}

async fn runtime(name: &'static str, executable: Option<PathBuf>) -> Result<Ran, String> {
    let embedded = EmbeddedRuntime {
        defect: Some((name.to_owned(), format!("preset:{name}"))),
        executable,
    };
    let runtime = embedded.start().await;
    let runtime = runtime.map_err(|error| format!("the target did not start: {error}"))?;
    let session = RuntimeSession::new(runtime);
    let records = case::run(&runtime::cases(), &session, &mut Silent).await;
    let ended = session.runtime.shutdown().await;
    Ok((
        records,
        ended.map_err(|error| format!("the target did not end: {error}")),
    ))
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
