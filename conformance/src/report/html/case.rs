//! The cases, each a block that unfolds to what an argument needs: what was demanded, what was expected and seen, how to see
//! it again, and what passed between harness and target.

use maud::{Markup, html};

use super::{Labelled, on_one_line, visible, word};
use crate::{
    exhibit::{Exhibit, ExhibitKind},
    report::{
        CaseReport,
        words::{link, spared},
    },
};

/// As many of the cases that decided the verdict stand open from the start.
const OPEN: usize = 5;

/// Every case of a report, by group.
pub(super) fn all(one: &Labelled) -> Markup {
    let because = one.report.verdict.because();
    html! {
        section.report data-report=(one.label) {
            h2 {
                "Verdict by clause"
                @if !one.label.is_empty() { ": " (one.label) }
            }
            @for cases in one.report.cases.chunk_by(|a, b| a.group() == b.group()) {
                @let group = cases[0].group();
                section.group {
                    h3 id=(one.group_anchor(group)) { (group) }
                    @for case in cases {
                        (block(one, case, because.iter().take(OPEN).any(|id| *id == case.id)))
                    }
                }
            }
        }
    }
}

fn block(one: &Labelled, case: &CaseReport, open: bool) -> Markup {
    html! {
        details class={ "case " (case.outcome) } id=(one.anchor(&case.id)) open[open] data-outcome=(case.outcome)
            data-level=(case.level.as_str()) data-report=(one.label)
        {
            summary {
                (word(&case.outcome))
                span { (on_one_line(&case.clause)) }
                span.level { (case.level.as_str()) }
                span.id { (case.id) }
            }
            div.body {
                p {
                    span.label { "Demanded by " }
                    @match link(&case.authority) {
                        Some(url) => a href=(url) rel="noreferrer" { (on_one_line(&case.source)) },
                        None => (on_one_line(&case.source)),
                    }
                }
                @if !case.motivation.is_empty() {
                    p { span.label { "Seen broken " } (on_one_line(&case.motivation)) }
                }
                div.sides {
                    div { div.label { "Expected" } pre { (visible(&case.expected)) } }
                    div {
                        div.label { @if matches!(case.outcome.as_str(), "pass" | "fail" | "fact") { "Seen" } @else { "Why not judged" } }
                        pre class={ "seen " (case.outcome) } { (visible(&case.seen)) }
                    }
                }
                @if !case.again.is_empty() {
                    figure {
                        figcaption { "Repeat this case alone" }
                        div.again {
                            pre { code { (on_one_line(&case.again)) } }
                            button.copy type="button" hidden { "Copy" }
                        }
                    }
                }
                (evidence(&case.exhibits))
                @if let Some(why) = spared(one.report, case) { p.soft { "Does not fail the run: " (on_one_line(&why)) "." } }
                p.soft {
                    a href={ "#" (one.anchor(&case.id)) } { "Link to this case" }
                    ", " (format!("{:.3} s", case.duration))
                }
            }
        }
    }
}

/// The exhibits in their order; a request and the answer that follows it stand side by side.
fn evidence(exhibits: &[Exhibit]) -> Markup {
    let mut rows: Vec<&[Exhibit]> = Vec::new();
    let mut rest = exhibits;
    while let [first, after @ ..] = rest {
        let pair =
            first.kind == ExhibitKind::Request && after.first().is_some_and(|next| next.kind == ExhibitKind::Answer);
        let (row, tail) = rest.split_at(if pair { 2 } else { 1 });
        rows.push(row);
        rest = tail;
    }
    html! {
        @for row in rows {
            div.exchange {
                @for exhibit in row {
                    figure {
                        figcaption { (title(exhibit.kind)) }
                        pre { (visible(&exhibit.text)) }
                    }
                }
            }
        }
    }
}

fn title(kind: ExhibitKind) -> &'static str {
    match kind {
        ExhibitKind::Request => "Request",
        ExhibitKind::Answer => "Answer",
        ExhibitKind::Journal => "The runtime's journal",
        ExhibitKind::Archive => "Archive",
        ExhibitKind::Cri => "Call of the CRI",
        ExhibitKind::Note => "Note",
    }
}
