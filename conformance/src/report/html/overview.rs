//! What a reader sees first: the verdict, what was judged, and where to look.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::{Labelled, OUTCOMES, on_one_line, visible, word};
use crate::{
    case::{Level, Suite},
    report::{
        CaseReport,
        words::{counts, meaning, versions},
    },
};

/// More columns than this do not fit a page; then nodes stand in rows.
const MOST_COLUMNS: usize = 8;

/// One report in short.
pub(super) fn card(one: &Labelled) -> Markup {
    let report = one.report;
    let target = &report.target;
    html! {
        div.card {
            div.verdict {
                span class={ "word big " (report.verdict.word()) } { (report.verdict.word()) }
                @if !one.label.is_empty() { strong { (one.label) } }
                span { (meaning(report)) }
            }
            @let because = report.verdict.because();
            @if !because.is_empty() {
                ul.plain { @for id in because { (link(one, id)) } }
            }
            @let others: Vec<_> = report
                .cases
                .iter()
                .filter(|case| case.outcome == "fail" && !because.contains(&case.id))
                .collect();
            @if !others.is_empty() {
                p.soft { "Does not hold either, without deciding the verdict:" }
                ul.plain { @for case in others { (link(one, &case.id)) } }
            }
            dl.facts {
                dt { "Suite" } dd { (target.suite.as_str()) ", " (counts(report)) }
                dt { "Target" } dd { (visible(&target.description)) }
                dt { "Version" } dd { (on_one_line(&versions(report))) }
                @if let Some(footprint) = &report.footprint {
                    dt { "Footprint" } dd { (on_one_line(&footprint.line())) }
                }
                @if let Some(node) = &target.node { dt { "Node" } dd { (on_one_line(node)) } }
                @if !target.endpoint.is_empty() { dt { "Endpoint" } dd { code { (on_one_line(&target.endpoint)) } } }
                @if !target.container.is_empty() { dt { "Container" } dd { code { (on_one_line(&target.container)) } } }
                @if let Some(mutant) = &target.mutant { dt { "Wrong on purpose" } dd { code { (on_one_line(mutant)) } } }
                dt { "Decided by" }
                dd { @if report.strict { "clauses of every level" } @else { "documented clauses" } }
                @let terms = report.terms.lines();
                @if !terms.is_empty() { dt { "Terms" } dd { @for line in terms { div { (on_one_line(&line)) } } } }
                dt { "Run" }
                dd {
                    time datetime=(report.started) { (report.started.strftime("%Y-%m-%d %H:%M:%S UTC")) }
                    ", " (format!("{:.1} s", report.duration))
                }
            }
        }
        @if !report.archives_left.is_empty() {
            div.card.left {
                strong { "Archives left behind. They hold the memory of a container:" }
                ul.plain { @for path in &report.archives_left { li { code { (on_one_line(path)) } } } }
            }
        }
    }
}

fn link(one: &Labelled, id: &str) -> Markup {
    let case = one.report.cases.iter().find(|case| case.id == id);
    html! {
        li {
            a href={ "#" (one.anchor(id)) } { (id) }
            @if let Some(case) = case {
                " " span.soft { (on_one_line(&case.clause)) }
                @if case.level != Level::Documented { " " span.soft { "(" (case.level.as_str()) ")" } }
            }
        }
    }
}

/// For one report the groups of its clauses with their counts; for several of a suite, each clause by report.
pub(super) fn tables(reports: &[Labelled]) -> Markup {
    html! {
        @for suite in [Suite::Kubelet, Suite::Runtime, Suite::Archive] {
            @let of_suite: Vec<_> = reports.iter().filter(|one| one.report.target.suite == suite).collect();
            @if (2..=MOST_COLUMNS).contains(&of_suite.len()) {
                (by_report(suite, &of_suite))
            } @else {
                @for one in of_suite { (groups(one)) }
            }
        }
    }
}

fn groups(one: &Labelled) -> Markup {
    let mut groups: Vec<(&str, Vec<&CaseReport>)> = Vec::new();
    for case in &one.report.cases {
        match groups.last_mut() {
            Some((group, cases)) if *group == case.group() => cases.push(case),
            _ => groups.push((case.group(), vec![case])),
        }
    }
    html! {
        h2 { "By group" @if !one.label.is_empty() { ": " (one.label) } }
        div.card.scroll {
            table {
                thead { tr {
                    th { "Group" }
                    @for outcome in OUTCOMES { th.number { (outcome) } }
                } }
                tbody {
                    @for (group, cases) in &groups {
                        tr {
                            td { a href={ "#" (one.group_anchor(group)) } { code { (group) } } }
                            @for outcome in OUTCOMES {
                                (number(cases.iter().filter(|case| case.outcome == outcome).count(), outcome))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn number(count: usize, outcome: &str) -> Markup {
    html! {
        @if count == 0 {
            td.number.zero { "0" }
        } @else if outcome == "pass" {
            td.number { (count) }
        } @else {
            td.number { span class={ "word " (outcome) } { (count) } }
        }
    }
}

fn by_report(suite: Suite, reports: &[&Labelled]) -> Markup {
    let ids: BTreeSet<_> = reports
        .iter()
        .flat_map(|one| &one.report.cases)
        .map(|case| &case.id)
        .collect();
    html! {
        h2 { "Verdict by clause: " (suite.as_str()) }
        div.card.scroll {
            table {
                thead { tr {
                    th { "Clause" }
                    @for one in reports { th { (one.label) } }
                } }
                tbody {
                    @for id in ids {
                        tr {
                            td { code { (id) } }
                            @for one in reports {
                                td {
                                    @match one.report.cases.iter().find(|case| case.id == *id) {
                                        Some(case) => a href={ "#" (one.anchor(id)) } { (word(&case.outcome)) },
                                        None => span.soft { "not run" },
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
