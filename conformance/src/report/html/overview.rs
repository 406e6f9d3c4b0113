//! The overview at the top of the page: verdict, target, deciding cases, tables of results.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::{LabelledReport, OUTCOMES, escape_controls, escape_to_one_line, status_word};
use crate::{
    engine::{Level, Suite},
    report::{
        CaseReport,
        phrases::{counts, meaning, versions},
    },
};

/// The maximum number of report columns. With more reports, each report gets its own table.
const MAX_COLUMNS: usize = 8;

pub(super) fn report_card(entry: &LabelledReport) -> Markup {
    let report = entry.report;
    let target = &report.target;
    html! {
        div.card {
            div.verdict {
                span class={ "word big " (report.verdict.as_str()) } { (report.verdict.as_str()) }
                @if !entry.label.is_empty() { strong { (entry.label) } }
                span { (meaning(report)) }
            }
            @let because = report.verdict.deciding_cases();
            @if !because.is_empty() {
                ul.plain { @for id in because { (case_link(entry, id)) } }
            }
            @let others: Vec<_> = report
                .cases
                .iter()
                .filter(|case| case.outcome == "fail" && !because.contains(&case.id))
                .collect();
            @if !others.is_empty() {
                p.soft { "Other failures, which do not decide the verdict:" }
                ul.plain { @for case in others { (case_link(entry, &case.id)) } }
            }
            dl.properties {
                dt { "Suite" } dd { (target.suite.as_str()) ", " (counts(report)) }
                dt { "Target" } dd { (escape_controls(&target.description)) }
                dt { "Version" } dd { (escape_to_one_line(&versions(report))) }
                @if let Some(footprint) = &report.footprint {
                    dt { "Footprint" } dd { (escape_to_one_line(&footprint.summary())) }
                }
                @if let Some(node) = &target.node { dt { "Node" } dd { (escape_to_one_line(node)) } }
                @if !target.endpoint.is_empty() { dt { "Endpoint" } dd { code { (escape_to_one_line(&target.endpoint)) } } }
                @if !target.container.is_empty() { dt { "Container" } dd { code { (escape_to_one_line(&target.container)) } } }
                @if let Some(mutant) = &target.mutant { dt { "Mutant" } dd { code { (escape_to_one_line(mutant)) } } }
                dt { "Decided by" }
                dd { @if report.strict { "cases of every level" } @else { "documented cases" } }
                @let conditions = report.conditions.describe();
                @if !conditions.is_empty() { dt { "Conditions" } dd { @for line in conditions { div { (escape_to_one_line(&line)) } } } }
                dt { "Run" }
                dd {
                    time datetime=(report.started_at) { (report.started_at.strftime("%Y-%m-%d %H:%M:%S UTC")) }
                    ", " (format!("{:.1} s", report.duration))
                }
            }
        }
        @if !report.remaining_archives.is_empty() {
            div.card.left {
                strong { "Archives that were not removed. They contain the memory of a container:" }
                ul.plain { @for path in &report.remaining_archives { li { code { (escape_to_one_line(path)) } } } }
            }
        }
    }
}

fn case_link(entry: &LabelledReport, id: &str) -> Markup {
    let case = entry.report.cases.iter().find(|case| case.id == id);
    html! {
        li {
            a href={ "#" (entry.anchor(id)) } { (id) }
            @if let Some(case) = case {
                " " span.soft { (escape_to_one_line(&case.requirement)) }
                @if case.level != Level::Documented { " " span.soft { "(" (case.level.as_str()) ")" } }
            }
        }
    }
}

/// Renders the groups with their counts for one report, or each case by report for several reports of a suite.
pub(super) fn tables(reports: &[LabelledReport]) -> Markup {
    html! {
        @for suite in [Suite::Kubelet, Suite::Runtime, Suite::Archive] {
            @let of_suite: Vec<_> = reports.iter().filter(|entry| entry.report.target.suite == suite).collect();
            @if (2..=MAX_COLUMNS).contains(&of_suite.len()) {
                (comparison_table(suite, &of_suite))
            } @else {
                @for entry in of_suite { (group_table(entry)) }
            }
        }
    }
}

fn group_table(entry: &LabelledReport) -> Markup {
    let mut groups: Vec<(&str, Vec<&CaseReport>)> = Vec::new();
    for case in &entry.report.cases {
        match groups.last_mut() {
            Some((group, cases)) if *group == case.group() => cases.push(case),
            _ => groups.push((case.group(), vec![case])),
        }
    }
    html! {
        h2 { "By group" @if !entry.label.is_empty() { ": " (entry.label) } }
        div.card.scroll {
            table {
                thead { tr {
                    th { "Group" }
                    @for outcome in OUTCOMES { th.number { (outcome) } }
                } }
                tbody {
                    @for (group, cases) in &groups {
                        tr {
                            td { a href={ "#" (entry.group_anchor(group)) } { code { (group) } } }
                            @for outcome in OUTCOMES {
                                (count_cell(cases.iter().filter(|case| case.outcome == outcome).count(), outcome))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn count_cell(count: usize, outcome: &str) -> Markup {
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

fn comparison_table(suite: Suite, reports: &[&LabelledReport]) -> Markup {
    let ids: BTreeSet<_> = reports
        .iter()
        .flat_map(|entry| &entry.report.cases)
        .map(|case| &case.id)
        .collect();
    html! {
        h2 { "Results by case: " (suite.as_str()) }
        div.card.scroll {
            table {
                thead { tr {
                    th { "Case" }
                    @for entry in reports { th { (entry.label) } }
                } }
                tbody {
                    @for id in ids {
                        tr {
                            td { code { (id) } }
                            @for entry in reports {
                                td {
                                    @match entry.report.cases.iter().find(|case| case.id == *id) {
                                        Some(case) => a href={ "#" (entry.anchor(id)) } { (status_word(&case.outcome)) },
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
