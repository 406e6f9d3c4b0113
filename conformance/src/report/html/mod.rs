//! `report.html`: one page without anything beside it, for the one who has to argue with a vendor.
//!
//! ```text
//!  overview   verdict, target, what decided; the table of groups, or of clauses by node
//!  controls   search and filters, by a small script; without it everything is still there to read
//!  case       one foldable block a case: requirement, expected and actual, the command, the evidence
//! ```
//!
//! The page loads nothing: its policy forbids it, and allows exactly the style and the script that it brings, by their
//! hashes. All text passes through [`escape_controls`] and maud's escaping. An anchor is the case's id, with the report's label
//! before it where there are several.

mod case;
mod overview;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::{
    Report,
    escape::{escape_controls, escape_to_one_line},
    labels::labels,
    phrases::{OUTCOMES, worst_verdict},
};
use crate::engine::Level;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A report with the label that tells it from its neighbours.
struct LabelledReport<'a> {
    label: String,
    report: &'a Report,
}

impl LabelledReport<'_> {
    /// The anchor of one of its cases.
    fn anchor(&self, id: &str) -> String {
        if self.label.is_empty() {
            id.to_owned()
        } else {
            format!("{}:{id}", self.label.replace(char::is_whitespace, "-"))
        }
    }

    /// The anchor of a group of its cases. No case's id begins so.
    fn group_anchor(&self, group: &str) -> String {
        format!("group:{}", self.anchor(group))
    }
}

/// The page for these reports.
pub(super) fn render(reports: &[Report]) -> String {
    let labelled: Vec<_> = labels(reports)
        .into_iter()
        .zip(reports)
        .map(|(label, report)| LabelledReport { label, report })
        .collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(content_security_policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (worst_verdict(reports)) ": " (title(reports)) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Checkpoint conformance: " (title(reports)) }
                    @for entry in &labelled { (overview::report_card(entry)) }
                    (overview::tables(&labelled))
                }
                (controls(&labelled))
                main {
                    @for entry in &labelled { (case::all_cases(entry)) }
                }
                footer {
                    "Made by checkpoint-conformance " (env!("CARGO_PKG_VERSION"))
                    ". Tokens, keys and what was read of a container's memory are cut out: "
                    code { "[secret]" }
                    " stands in their place."
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn title(reports: &[Report]) -> String {
    match reports {
        [entry] => escape_to_one_line(&entry.target.description),
        several => format!("{} reports", several.len()),
    }
}

/// Nothing is loaded, sent or framed; the style and the script are those whose hashes stand here.
fn content_security_policy() -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// Hidden until the script runs: without it they would do nothing.
fn controls(reports: &[LabelledReport]) -> Markup {
    let count = |outcome: &str| reports.iter().map(|entry| entry.report.count(outcome)).sum::<usize>();
    html! {
        form.controls #controls hidden {
            div {
                input #q type="search" placeholder="Search clauses, answers, evidence" aria-label="Search";
                fieldset.choices aria-label="Outcome" {
                    @for outcome in OUTCOMES {
                        label {
                            input type="checkbox" name="outcome" value=(outcome) checked;
                            " " (outcome) " " span.soft { (count(outcome)) }
                        }
                    }
                }
                fieldset.choices aria-label="Level" {
                    @for level in Level::ALL {
                        label {
                            input type="checkbox" name="level" value=(level.as_str()) checked;
                            " " (level.as_str())
                        }
                    }
                }
                @if reports.len() > 1 {
                    select #report aria-label="Report" {
                        option value="" { "every report" }
                        @for entry in reports { option value=(entry.label) { (entry.label) } }
                    }
                }
                button #open type="button" { "Open all" }
                button #close type="button" { "Close all" }
                output.shown #shown aria-live="polite" {}
            }
        }
    }
}

/// The word of an outcome or a verdict, coloured.
fn status_word(status: &str) -> Markup {
    html! { span class={ "word " (status) } { (status) } }
}

#[cfg(test)]
mod tests;
