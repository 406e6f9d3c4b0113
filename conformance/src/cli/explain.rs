//! The subcommand `explain`: what a case requires, and of what. The steps are those of a run on the embedded target.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;

use super::{Failure, print, until_interrupted};
use crate::{
    archive::{Limits, inspect_file, sample},
    engine::{self, CaseInfo, CaseRecord, SilentObserver, Suite, exit},
    mutation::MUTANTS,
    report::Secrets,
    suites::{
        CatalogueEntry, Testable, archive, catalogue_entries,
        kubelet::{self, KubeletSession},
        runtime::{self, RuntimeSession},
    },
    targets::{Embedded, TargetKind, runtime::EmbeddedRuntime},
};

#[derive(Clone, Debug, Args)]
pub(super) struct ExplainArgs {
    /// The id of a case, as `list` prints it
    #[arg(value_name = "ID")]
    id: String,
    /// Do not run the case; omits its steps
    #[arg(long)]
    no_run: bool,
}

impl ExplainArgs {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let entries = catalogue_entries();
        let entry = entries.iter().find(|entry| entry.info.id == self.id);
        let entry = entry.ok_or_else(|| {
            Failure::Usage(format!(
                "no case has the id {}: `checkpoint-conformance list` prints all ids",
                self.id
            ))
        })?;
        let mut text = explain(entry);
        if !self.no_run {
            let runtime = tokio::runtime::Runtime::new().context("failed to start the async runtime")?;
            let (record, secrets) = runtime.block_on(run_embedded(entry))?;
            text.push_str(&secrets.redact(&steps(&record)));
        }
        print(&text)?;
        Ok(exit::PASS)
    }
}

/// Runs the case on the embedded target of its suite, or on the sample archive. Returns its record, and what must not
/// be printed.
async fn run_embedded(entry: &CatalogueEntry) -> Result<(CaseRecord, Secrets), Failure> {
    let id = entry.info.id;
    let mut observer = SilentObserver;
    let (records, secrets) = match entry.suite {
        Suite::Kubelet => {
            let kubelet = Embedded::default().start().await.map_err(anyhow::Error::from)?;
            let session = KubeletSession::new(kubelet);
            let cases: Vec<_> = kubelet::cases().into_iter().filter(|case| case.info.id == id).collect();
            let records = until_interrupted(engine::run(&cases, &session, &mut observer)).await;
            if let Some(lifecycle) = &session.kubelet.lifecycle {
                lifecycle.shutdown().await.map_err(anyhow::Error::from)?;
            }
            (records?, session.kubelet.secrets().await)
        }
        Suite::Runtime => {
            let runtime = EmbeddedRuntime::default().start().await.map_err(anyhow::Error::from)?;
            let session = RuntimeSession::new(runtime);
            let cases: Vec<_> = runtime::cases().into_iter().filter(|case| case.info.id == id).collect();
            let records = until_interrupted(engine::run(&cases, &session, &mut observer)).await;
            session.runtime.shutdown().await.map_err(anyhow::Error::from)?;
            let mut secrets = Secrets::default();
            session.runtime.canaries().iter().for_each(|canary| secrets.add(canary));
            (records?, secrets)
        }
        Suite::Archive => {
            let dir = tempfile::tempdir().context("failed to create a directory")?;
            let path = dir.path().join("checkpoint.tar");
            sample::tar_of(&sample::Sample::default().members())
                .and_then(|bytes| sample::write_private(&path, &bytes))
                .context("failed to write the sample archive")?;
            let inspected = inspect_file(&path, &sample::expected(), Limits::default()).map_err(anyhow::Error::from)?;
            (archive::check_all(&inspected), Secrets::default())
        }
    };
    let record = records.into_iter().find(|record| record.info.id == id);
    Ok((record.context("the case did not run")?, secrets))
}

/// The number of lines of an item of evidence that are printed.
const LINES_PER_STEP: usize = 6;

/// The result of the run, and each item of its evidence: what the case sent, and what it observed.
fn steps(record: &CaseRecord) -> String {
    let mut text = format!(
        "  {:<16}{} in {:.2?}: {}\n",
        "embedded run",
        record.outcome.as_str(),
        record.duration,
        record.outcome.detail()
    );
    for (index, item) in record.evidence.iter().enumerate() {
        let label = format!("{}. {}", index + 1, item.kind.as_str());
        let lines: Vec<_> = item.text.lines().filter(|line| !line.is_empty()).collect();
        let (printed, omitted) = lines.split_at(lines.len().min(LINES_PER_STEP));
        for (line_index, line) in printed.iter().enumerate() {
            let label = if line_index == 0 { label.as_str() } else { "" };
            let _ = writeln!(text, "    {label:<14}{line}");
        }
        if !omitted.is_empty() {
            let _ = writeln!(text, "    {:<14}({} more lines)", "", omitted.len());
        }
    }
    text
}

/// The case as text, one labelled line per fact.
fn explain(entry: &CatalogueEntry) -> String {
    let info = &entry.info;
    let mut text = format!("{}\n", info.id);
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {label:<16}{value}");
        }
    };
    line("requirement", info.requirement);
    line("expected", info.expected);
    line("level", info.level.as_str());
    line("authority", &info.authority.citation());
    line("", info.authority.url);
    line("motivation", info.motivation);
    for (index, capability) in info.requires.iter().enumerate() {
        let label = if index == 0 { "requires" } else { "" };
        line(label, &format!("{}: {}", capability.as_str(), capability.reason()));
    }
    list(&mut line, "depends on", info.depends_on);
    list(&mut line, "may depend on", info.may_depend_on);
    let kinds = TargetKind::ALL.into_iter().filter(|kind| kind.suite() == entry.suite);
    for (index, kind) in kinds.enumerate() {
        let label = if index == 0 { "targets" } else { "" };
        line(
            label,
            &format!("{}: {}", kind.as_str(), Testable::on(kind, info).cell()),
        );
    }
    if entry.suite == Suite::Kubelet {
        line("archives", &format!("at most {}", entry.max_archives));
    }
    list(&mut line, "failing mutants", &failing_mutants(info));
    text
}

fn list(line: &mut impl FnMut(&str, &str), label: &str, values: &[&str]) {
    for (index, value) in values.iter().enumerate() {
        line(if index == 0 { label } else { "" }, value);
    }
}

/// The mutants that must fail this case.
fn failing_mutants(info: &CaseInfo) -> Vec<&'static str> {
    let mutants = MUTANTS.iter().filter(|mutant| mutant.must_fail.contains(&info.id));
    mutants.map(|mutant| mutant.name).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        engine::Outcome,
        evidence::{EvidenceItem, EvidenceKind},
    };

    #[test]
    fn a_case_is_explained_completely() {
        let entries = catalogue_entries();
        let entry = entries
            .iter()
            .find(|entry| entry.info.id == "kubelet/authorization/forbidden-body");
        let text = explain(entry.unwrap());
        for line in [
            "  requirement     The kubelet must name the user,",
            "  level           reference",
            "  authority       kubernetes v1.36.3: pkg/kubelet/server/auth.go",
            "                  https://github.com/kubernetes/kubernetes/blob/v1.36.3/pkg/kubelet/server/auth.go",
            "  requires        denied-user: requires a user",
            "                  direct-connection: requires a direct connection",
            "  depends on      kubelet/authorization/permission-required",
            "  may depend on   kubelet/checkpoint/succeeds",
            "  targets         embedded: yes",
            "                  url: with --denied-token-file",
            "                  node-proxy: no",
            "  archives        at most 0",
            "  failing mutants ",
        ] {
            assert!(text.contains(&format!("\n{line}")), "{line:?} is not in:\n{text}");
        }
    }

    #[test]
    fn steps_are_the_evidence_in_its_order() {
        let item = |kind, text: &str| EvidenceItem {
            kind,
            text: text.to_owned(),
        };
        let log: Vec<_> = (1..=9).map(|number| format!("line {number}")).collect();
        let record = CaseRecord {
            info: catalogue_entries()[0].info,
            outcome: Outcome::Pass {
                actual: "status 200".to_owned(),
            },
            duration: Duration::from_millis(120),
            evidence: vec![
                item(EvidenceKind::Request, "POST /checkpoint\nas: Authorized"),
                item(EvidenceKind::Response, &format!("200\n\n{}", log.join("\n"))),
            ],
        };
        let expected = "  embedded run    pass in 120.00ms: status 200\n    1. request    POST /checkpoint\n                  as: Authorized\n    \
                        2. response   200\n                  line 1\n                  line 2\n                  line 3\n                  \
                        line 4\n                  line 5\n                  (4 more lines)\n";
        assert_eq!(steps(&record), expected);
    }
}
