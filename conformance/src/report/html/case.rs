//! The cases: one collapsible block each, with requirement, expected and actual value, rerun command and evidence.

use maud::{Markup, html};

use super::{LabelledReport, escape_controls, escape_to_one_line, status_word};
use crate::{
    evidence::{EvidenceItem, EvidenceKind},
    report::{
        CaseReport,
        phrases::{authority_link, non_gating_reason},
    },
};

/// The maximum number of deciding cases whose blocks are open initially.
const MAX_OPEN_CASES: usize = 5;

pub(super) fn all_cases(entry: &LabelledReport) -> Markup {
    let because = entry.report.verdict.deciding_cases();
    html! {
        section.report data-report=(entry.label) {
            h2 {
                "Results by case"
                @if !entry.label.is_empty() { ": " (entry.label) }
            }
            @for cases in entry.report.cases.chunk_by(|a, b| a.group() == b.group()) {
                @let group = cases[0].group();
                section.group {
                    h3 id=(entry.group_anchor(group)) { (group) }
                    @for case in cases {
                        (case_block(entry, case, because.iter().take(MAX_OPEN_CASES).any(|id| *id == case.id)))
                    }
                }
            }
        }
    }
}

fn case_block(entry: &LabelledReport, case: &CaseReport, open: bool) -> Markup {
    html! {
        details class={ "case " (case.outcome) } id=(entry.anchor(&case.id)) open[open] data-outcome=(case.outcome)
            data-level=(case.level.as_str()) data-report=(entry.label)
        {
            summary {
                (status_word(&case.outcome))
                span { (escape_to_one_line(&case.requirement)) }
                span.level { (case.level.as_str()) }
                span.id { (case.id) }
            }
            div.body {
                p {
                    span.label { "Required by " }
                    @match authority_link(&case.authority) {
                        Some(url) => a href=(url) rel="noreferrer" { (escape_to_one_line(&case.authority.citation())) },
                        None => (escape_to_one_line(&case.authority.citation())),
                    }
                }
                @if !case.motivation.is_empty() {
                    p { span.label { "Violated in " } (escape_to_one_line(&case.motivation)) }
                }
                div.sides {
                    div { div.label { "Expected" } pre { (escape_controls(&case.expected)) } }
                    div {
                        div.label { @if matches!(case.outcome.as_str(), "pass" | "fail" | "known-deviation") { "Actual" } @else { "Reason" } }
                        pre class={ "actual " (case.outcome) } { (escape_controls(&case.actual)) }
                    }
                }
                @if !case.rerun.is_empty() {
                    figure {
                        figcaption { "Rerun this case" }
                        div.rerun {
                            pre { code { (escape_to_one_line(&case.rerun)) } }
                            button.copy type="button" hidden { "Copy" }
                        }
                    }
                }
                (evidence(&case.evidence))
                @if let Some(why) = non_gating_reason(entry.report, case) { p.soft { "Does not fail the run: " (escape_to_one_line(&why)) "." } }
                p.soft {
                    a href={ "#" (entry.anchor(&case.id)) } { "Link to this case" }
                    ", " (format!("{:.3} s", case.duration))
                }
            }
        }
    }
}

/// Renders the evidence in order. A request and the response that follows it are side by side.
fn evidence(items: &[EvidenceItem]) -> Markup {
    let mut rows: Vec<&[EvidenceItem]> = Vec::new();
    let mut rest = items;
    while let [first, after @ ..] = rest {
        let pair = first.kind == EvidenceKind::Request
            && after.first().is_some_and(|next| next.kind == EvidenceKind::Response);
        let (row, tail) = rest.split_at(if pair { 2 } else { 1 });
        rows.push(row);
        rest = tail;
    }
    html! {
        @for row in rows {
            div.exchange {
                @for item in row {
                    figure {
                        figcaption { (title(item.kind)) }
                        pre { (escape_controls(&item.text)) }
                    }
                }
            }
        }
    }
}

fn title(kind: EvidenceKind) -> &'static str {
    match kind {
        EvidenceKind::Request => "Request",
        EvidenceKind::Response => "Response",
        EvidenceKind::Journal => "Journal of the runtime",
        EvidenceKind::Archive => "Archive",
        EvidenceKind::Cri => "CRI call",
        EvidenceKind::Note => "Note",
    }
}
