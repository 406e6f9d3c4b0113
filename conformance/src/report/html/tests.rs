//! The page loads nothing, escapes everything, and has an anchor for every link.

use super::*;
use crate::report::tests::{hostile, sample};

fn nodes() -> [Report; 2] {
    ["node-a", "node-b"].map(|node| {
        let mut report = sample();
        report.target.node = Some(node.to_owned());
        report
    })
}

/// Returns the page without its style and script, which the tests of the markup must ignore.
fn page_without_assets(reports: &[Report]) -> String {
    let page = render(reports);
    assert_eq!(page.matches(STYLE).count(), 1);
    assert_eq!(page.matches(SCRIPT).count(), 1);
    let policy = content_security_policy().replace('\'', "&#39;");
    page.replace(STYLE, "").replace(SCRIPT, "").replace(&policy, "POLICY")
}

fn attribute_values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    page.split(&format!(" {attribute}=\""))
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect()
}

#[test]
fn page_shows_requirement_expected_actual_and_rerun() {
    insta::assert_snapshot!(
        page_without_assets(&[sample()])
            .replace("><", ">\n<")
            .replace(env!("CARGO_PKG_VERSION"), "VERSION")
    );
}

#[test]
fn hostile_text_never_becomes_markup() {
    let page = page_without_assets(&[hostile()]);
    let tags: std::collections::BTreeSet<_> = page
        .split('<')
        .skip(1)
        .map(|rest| rest.trim_start_matches('/').split([' ', '>']).next().unwrap())
        .collect();
    assert!(!tags.contains("img"), "{tags:?}");
    assert_eq!(page.matches("<script").count(), 1, "the script of the page");
    assert!(!page.contains("<!--"), "{page}");
    assert!(!page.contains('\x1b') && !page.contains('\u{202e}') && !page.contains('\0'));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    for attribute in ["onerror", "onclick", "style"] {
        assert!(attribute_values(&page, attribute).is_empty(), "{attribute}");
    }
}

#[test]
fn every_link_has_a_target() {
    for reports in [vec![sample()], nodes().to_vec()] {
        let page = page_without_assets(&reports);
        let ids = attribute_values(&page, "id");
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ids.len(), "ids are unique: {ids:?}");
        let links = attribute_values(&page, "href");
        assert!(links.len() > 8, "{links:?}");
        for link in links {
            if link == "data:," {
                continue; // An empty icon: without it the browser requests /favicon.ico.
            }
            // Links to authorities are external and are loaded only when the reader follows them.
            if link.starts_with("https://kubernetes.io/") {
                continue;
            }
            let id = link
                .strip_prefix('#')
                .unwrap_or_else(|| panic!("{link} leaves the page"));
            assert!(ids.contains(&id), "{link} has no target: {ids:?}");
        }
        assert!(attribute_values(&page, "src").is_empty());
    }
}

#[test]
fn csp_allows_only_own_style_and_script() {
    let policy = content_security_policy();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert_eq!(policy.matches("sha256-").count(), 2, "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let page = render(&[sample()]);
    let unescaped = page.replace("&#39;", "'");
    assert!(unescaped.contains(&policy), "{page}");
    for foreign in ["http://", "https://", "@import", "url("] {
        assert!(!STYLE.contains(foreign) && !SCRIPT.contains(foreign), "{foreign}");
    }
}

#[test]
fn merged_reports_have_distinct_anchors() {
    let page = page_without_assets(&nodes());
    for anchor in ["node-a:kubelet/lookup/pod-unknown", "node-b:kubelet/lookup/pod-unknown"] {
        assert!(attribute_values(&page, "id").contains(&anchor), "{anchor}");
    }
    assert!(page.contains("<th>node-a</th><th>node-b</th>"), "{page}");
    assert!(page.contains("<option value=\"node-b\">node-b</option>"), "{page}");
    assert_eq!(page.matches("<dt>Node</dt>").count(), 2);
}
