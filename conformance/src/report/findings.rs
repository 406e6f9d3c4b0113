//! Generates docs/FINDINGS.md: the failures of real targets, for their maintainers.
//!
//! ```text
//!  report.json of each target ----+
//!                                 +--> one section per target, one line per failing case,
//!  fixtures/findings/*.toml ------+    with the manual confirmation
//! ```
//!
//! A failure counts as confirmed when someone reproduced it without this harness. A note describes how, for one case
//! and one target. A note that matches no failure is stale (the target was fixed, or the case was renamed) and is
//! reported. A note marked `intermittent` is not stale when its case passes: the document keeps it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    CaseReport, Report,
    escape::escape_to_one_line,
    phrases::{authority_link, counts, meaning},
    summary::{code_span, truncate},
};

/// The manual confirmation of a failure.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The id of the case.
    pub case: String,
    /// The target: a substring of its description in the report, such as `containerd 2.4.2`.
    pub target: String,
    /// How the failure was confirmed, in one or two sentences.
    pub confirmation: String,
    /// The failure in one line for a maintainer; replaces the text of the report.
    #[serde(default)]
    pub summary: Option<String>,
    /// Whether the failure is intermittent: a run in which the case passes does not make the note stale.
    #[serde(default)]
    pub intermittent: bool,
    /// The upstream issue.
    #[serde(default)]
    pub upstream: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NotesFile {
    #[serde(default)]
    finding: Vec<Note>,
}

/// Why notes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NotesError {
    /// A file or directory could not be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The path of the file or directory.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The content of a file is not a list of findings.
    #[error("failed to parse {} as a list of findings: {source}", path.display())]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// The TOML error.
        source: Box<toml::de::Error>,
    },
}

/// Reads the notes of a file, or of the `.toml` files of a directory in the order of their names.
///
/// # Errors
/// A file or the directory cannot be read, or a file is not a list of findings. The error names the path.
pub fn notes(path: &Path) -> Result<Vec<Note>, NotesError> {
    let failed = |source| NotesError::Read {
        path: path.to_owned(),
        source,
    };
    if !path.is_dir() {
        return read_notes_file(path);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    files.sort();
    let notes: Result<Vec<_>, _> = files.iter().map(|file| read_notes_file(file)).collect();
    Ok(notes?.into_iter().flatten().collect())
}

fn read_notes_file(path: &Path) -> Result<Vec<Note>, NotesError> {
    let text = fs::read_to_string(path).map_err(|source| NotesError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file: NotesFile = toml::from_str(&text).map_err(|source| NotesError::Content {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(file.finding)
}

impl Note {
    fn matches(&self, report: &Report, case: &CaseReport) -> bool {
        self.case == case.id && self.matches_target(report)
    }

    fn matches_target(&self, report: &Report) -> bool {
        report.target.description.contains(&self.target)
    }

    /// Whether the note is for an intermittent failure whose case passed in this report.
    fn is_unreproduced(&self, report: &Report) -> bool {
        let passes = |case: &CaseReport| case.outcome == "pass" && self.matches(report, case);
        self.intermittent && report.cases.iter().any(passes)
    }
}

/// Returns the notes that match no failure of these reports, except intermittent ones whose case passed.
pub fn stale_notes<'a>(reports: &[Report], notes: &'a [Note]) -> Vec<&'a Note> {
    let matches_a_failure = |note: &Note| {
        reports.iter().any(|report| {
            note.is_unreproduced(report) || failures(report).iter().any(|case| note.matches(report, case))
        })
    };
    notes.iter().filter(|note| !matches_a_failure(note)).collect()
}

fn failures(report: &Report) -> Vec<&CaseReport> {
    let mut failures: Vec<_> = report
        .cases
        .iter()
        .filter(|case| matches!(case.outcome.as_str(), "fail" | "known-deviation"))
        .collect();
    failures.sort_by_key(|case| (case.level, &case.id));
    failures
}

/// Renders the document.
pub fn findings(reports: &[Report], notes: &[Note]) -> String {
    let mut text = String::from(
        "# Findings\n\n\
         <!-- Generated by `checkpoint-conformance findings`; manual confirmations come from fixtures/findings. -->\n\n\
         Failing cases of real programs, by version. Each line has the requirement, the expected and the actual\n\
         value, and the command that reproduces the failure. *Confirmed by hand* says how the failure was\n\
         reproduced without this harness; a failure without it is unconfirmed. Levels: `documented` requirements\n\
         come from documentation, `reference` requirements from existing implementations, `robust` requirements\n\
         from this project.\n",
    );
    table(&mut text, reports);
    for report in reports {
        target_section(&mut text, report, notes);
    }
    text
}

fn table(text: &mut String, reports: &[Report]) {
    text.push_str("\n| target | suite | verdict | cases |\n|---|---|---|---|\n");
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            target_name(report),
            report.target.suite.as_str(),
            report.verdict.as_str(),
            counts(report)
        );
    }
}

fn target_name(report: &Report) -> String {
    let node = report
        .target
        .node
        .as_ref()
        .map_or(String::new(), |node| format!(" on {node}"));
    code_span(&format!("{}{node}", report.target.description)).replace('|', "\\|")
}

fn target_section(text: &mut String, report: &Report, notes: &[Note]) {
    let _ = writeln!(
        text,
        "\n## {} ({} suite)\n\nTested {}: **{}**, {}. {}.",
        target_name(report),
        report.target.suite.as_str(),
        report.started_at.strftime("%Y-%m-%d"),
        report.verdict.as_str(),
        meaning(report),
        counts(report)
    );
    for line in report.conditions.describe() {
        let _ = writeln!(text, "\n{}", code_span(line.trim_start()));
    }
    let failures = failures(report);
    if failures.is_empty() {
        text.push_str("\nNo case failed.\n");
    } else {
        text.push('\n');
    }
    for case in failures {
        finding_item(text, report, case, notes);
    }
    unreproduced(text, report, notes);
    not_executed(text, report);
}

fn finding_item(text: &mut String, report: &Report, case: &CaseReport, notes: &[Note]) {
    let note = notes.iter().find(|note| note.matches(report, case));
    let suffix = if case.outcome == "known-deviation" {
        ", a known deviation of the profile"
    } else {
        ""
    };
    let _ = write!(text, "- {} ({}{suffix}): ", code_span(&case.id), case.level.as_str());
    match note.and_then(|note| note.summary.as_ref()) {
        Some(summary) => text.push_str(summary.trim()),
        None => {
            let _ = write!(
                text,
                "{} Expected {}, actual {}",
                prose(&case.requirement),
                prose(&case.expected),
                code_span(&truncate(case.actual.trim_end(), 300))
            );
        }
    }
    let _ = write!(
        text,
        ". Required by {}. Reproduced by {}.",
        match authority_link(&case.authority) {
            Some(url) => format!("[{}]({url})", prose(&case.authority.citation())),
            None => prose(&case.authority.citation()),
        },
        code_span(&short_command(&case.rerun))
    );
    match note {
        Some(note) => {
            let _ = write!(text, " *Confirmed by hand*: {}", note.confirmation.trim());
            if let Some(upstream) = &note.upstream {
                let _ = write!(text, " Known upstream: {upstream}");
            }
        }
        None => text.push_str(" *Not confirmed by hand.*"),
    }
    text.push('\n');
}

/// Lists the intermittent failures that were confirmed by hand and whose cases passed in this run.
fn unreproduced(text: &mut String, report: &Report, notes: &[Note]) {
    let mut unreproduced_notes = notes.iter().filter(|note| note.is_unreproduced(report)).peekable();
    if unreproduced_notes.peek().is_some() {
        text.push_str("\nIntermittent failures that did not occur in this run:\n\n");
    }
    for note in unreproduced_notes {
        let summary = note.summary.as_deref().unwrap_or("fails in other runs").trim();
        let confirmation = note.confirmation.trim();
        let _ = writeln!(
            text,
            "- {}: {summary}. *Confirmed by hand*: {confirmation}",
            code_span(&note.case)
        );
    }
}

/// Removes the directory of the program from the command: the path on the machine of the run is useless to readers.
fn short_command(rerun_command: &str) -> String {
    let (program, rest) = rerun_command.split_once(' ').unwrap_or((rerun_command, ""));
    let program = program.rsplit('/').next().unwrap_or(program);
    format!("{program} {rest}").trim_end().to_owned()
}

/// Escapes text as part of a sentence: backticks stay, `<` is escaped so that it starts no HTML tag.
fn prose(text: &str) -> String {
    escape_to_one_line(text).replace('<', "&lt;")
}

fn not_executed(text: &mut String, report: &Report) {
    for (outcome, title) in [("skip", "Skipped"), ("error", "Errors of the harness")] {
        let mut by_reason: Vec<(&str, Vec<String>)> = Vec::new();
        for case in report.cases.iter().filter(|case| case.outcome == outcome) {
            match by_reason.iter_mut().find(|(reason, _)| *reason == case.actual) {
                Some((_, ids)) => ids.push(code_span(&case.id)),
                None => by_reason.push((&case.actual, vec![code_span(&case.id)])),
            }
        }
        if by_reason.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}:\n");
        for (reason, ids) in by_reason {
            let _ = writeln!(text, "- {}: {}", prose(&truncate(reason, 300)), ids.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn report() -> Report {
        let mut report = sample();
        report.target.description = "containerd 2.4.2".to_owned();
        for case in &mut report.cases {
            case.rerun = case
                .rerun
                .replace("checkpoint-conformance", "/somewhere/bin/checkpoint-conformance");
        }
        report
    }

    fn parse(text: &str) -> Vec<Note> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        notes(file.path()).unwrap()
    }

    const NOTE: &str = "[[finding]]\ncase = \"kubelet/lookup/pod-unknown\"\ntarget = \"containerd 2.4\"\n\
                        confirmation = \"by curl.\"\nupstream = \"containerd#1\"\n";

    #[test]
    fn renders_a_section_per_target() {
        insta::assert_snapshot!(findings(&[report(), sample()], &parse(NOTE)));
    }

    #[test]
    fn uses_the_line_of_the_note() {
        let note = parse(&format!("{NOTE}summary = \"left frozen after a deadline\"\n"));
        let text = findings(&[report()], &note);
        assert!(
            text.contains("(documented): left frozen after a deadline. Required by"),
            "{text}"
        );
    }

    #[test]
    fn reports_stale_notes() {
        let fits = parse(NOTE);
        assert!(stale_notes(&[report()], &fits).is_empty());
        for wrong in [
            NOTE.replace("pod-unknown", "no-such-case"),
            NOTE.replace("containerd 2.4", "cri-o"),
            NOTE.replace("kubelet/lookup/pod-unknown", "kubelet/checkpoint/succeeds"),
        ] {
            assert_eq!(stale_notes(&[report()], &parse(&wrong)).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn keeps_intermittent_findings() {
        let passes = NOTE.replace("kubelet/lookup/pod-unknown", "kubelet/checkpoint/succeeds");
        let intermittent = parse(&format!("{passes}intermittent = true\n"));
        assert!(stale_notes(&[report()], &intermittent).is_empty());
        let text = findings(&[report()], &intermittent);
        let line = "- `kubelet/checkpoint/succeeds`: fails in other runs. *Confirmed by hand*: by curl.\n";
        assert!(text.contains(line), "{text}");
        assert!(!findings(&[report()], &parse(&passes)).contains(line));
        // A note for a target that is in no report is stale, even if it is intermittent.
        let elsewhere = parse(&format!(
            "{}intermittent = true\n",
            NOTE.replace("containerd 2.4", "cri-o")
        ));
        assert_eq!(stale_notes(&[report()], &elsewhere).len(), 1);
    }

    #[test]
    fn reads_a_directory_of_notes_in_order() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("b.toml"), NOTE.replace("by curl", "second")).unwrap();
        fs::write(directory.path().join("a.toml"), NOTE).unwrap();
        fs::write(directory.path().join("README.md"), "no notes").unwrap();
        let confirmed: Vec<_> = notes(directory.path())
            .unwrap()
            .into_iter()
            .map(|note| note.confirmation)
            .collect();
        assert_eq!(confirmed, ["by curl.", "second."]);
        fs::write(directory.path().join("c.toml"), NOTE.replace("upstream", "upsteam")).unwrap();
        let error = notes(directory.path()).unwrap_err().to_string();
        assert!(error.contains("c.toml") && error.contains("upsteam"), "{error}");
    }
}
