//! The subcommand `explain`: what a case requires, and of what.

use std::fmt::Write as _;

use clap::Args;

use super::{Failure, print};
use crate::{
    engine::{CaseInfo, exit},
    mutation::MUTANTS,
    suites::{CatalogueEntry, Testable, catalogue_entries},
    targets::TargetKind,
};

#[derive(Clone, Debug, Args)]
pub(super) struct ExplainArgs {
    /// The id of a case, as `list` prints it
    #[arg(value_name = "ID")]
    id: String,
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
        print(&explain(entry))?;
        Ok(exit::PASS)
    }
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
    use super::*;

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
            "  failing mutants ",
        ] {
            assert!(text.contains(&format!("\n{line}")), "{line:?} is not in:\n{text}");
        }
    }
}
