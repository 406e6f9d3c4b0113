//! The page's own promises: it loads nothing, it escapes everything, its anchors are there.

use super::*;
use crate::report::tests::{hostile, sample};

fn nodes() -> [Report; 2] {
    ["node-a", "node-b"].map(|node| {
        let mut report = sample();
        report.target.node = Some(node.to_owned());
        report
    })
}

/// The page without its own style and script, which a test of the rest would only trip over.
fn body(reports: &[Report]) -> String {
    let page = render(reports);
    assert_eq!(page.matches(STYLE).count(), 1);
    assert_eq!(page.matches(SCRIPT).count(), 1);
    let policy = policy().replace('\'', "&#39;");
    page.replace(STYLE, "").replace(SCRIPT, "").replace(&policy, "POLICY")
}

fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    page.split(&format!(" {attribute}=\""))
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect()
}

#[test]
fn the_page_says_what_was_demanded_expected_seen_and_how_to_see_it_again() {
    insta::assert_snapshot!(
        body(&[sample()])
            .replace("><", ">\n<")
            .replace(env!("CARGO_PKG_VERSION"), "VERSION")
    );
}

#[test]
fn nothing_that_a_target_says_becomes_markup() {
    let page = body(&[hostile()]);
    let tags: std::collections::BTreeSet<_> = page
        .split('<')
        .skip(1)
        .map(|rest| rest.trim_start_matches('/').split([' ', '>']).next().unwrap())
        .collect();
    assert!(!tags.contains("img"), "{tags:?}");
    assert_eq!(page.matches("<script").count(), 1, "its own");
    assert!(!page.contains("<!--"), "{page}");
    assert!(!page.contains('\x1b') && !page.contains('\u{202e}') && !page.contains('\0'));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    for attribute in ["onerror", "onclick", "style"] {
        assert!(values(&page, attribute).is_empty(), "{attribute}");
    }
}

#[test]
fn every_link_leads_to_a_document_that_is_cited_or_somewhere_on_the_page() {
    for reports in [vec![sample()], nodes().to_vec()] {
        let page = body(&reports);
        let ids = values(&page, "id");
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ids.len(), "an id is given once: {ids:?}");
        let links = values(&page, "href");
        assert!(links.len() > 8, "{links:?}");
        for link in links {
            if link == "data:," {
                continue; // the icon: without one a browser asks the server for it
            }
            // A document that demands something is elsewhere, and is asked for only by who follows the link.
            if link.starts_with("https://kubernetes.io/") {
                continue;
            }
            let id = link
                .strip_prefix('#')
                .unwrap_or_else(|| panic!("{link} leaves the page"));
            assert!(ids.contains(&id), "{link} leads nowhere: {ids:?}");
        }
        assert!(values(&page, "src").is_empty());
    }
}

#[test]
fn the_policy_allows_exactly_its_own_style_and_script() {
    let policy = policy();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert_eq!(policy.matches("sha256-").count(), 2, "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let page = render(&[sample()]);
    let shown = page.replace("&#39;", "'");
    assert!(shown.contains(&policy), "{page}");
    for foreign in ["http://", "https://", "@import", "url("] {
        assert!(!STYLE.contains(foreign) && !SCRIPT.contains(foreign), "{foreign}");
    }
}

#[test]
fn several_reports_stand_side_by_side_and_have_anchors_of_their_own() {
    let page = body(&nodes());
    for anchor in ["node-a:kubelet/404/pod-unknown", "node-b:kubelet/404/pod-unknown"] {
        assert!(values(&page, "id").contains(&anchor), "{anchor}");
    }
    assert!(page.contains("<th>node-a</th><th>node-b</th>"), "{page}");
    assert!(page.contains("<option value=\"node-b\">node-b</option>"), "{page}");
    assert_eq!(page.matches("<dt>Node</dt>").count(), 2);
}
