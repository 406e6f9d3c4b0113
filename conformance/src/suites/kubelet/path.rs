//! What the path may look like.

use super::session::{KubeletSession, describe_calls};
use crate::engine::{Case, CaseInfo, CaseResult, Level, check};
use crate::suites::authority;

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: "kubelet/path/too-few-segments",
            requirement: "a path with too few segments is answered 404",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404: Page Not Found",
        },
        |s| Box::pin(too_short(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/path/too-many-segments",
            requirement: "a path with too many segments is answered 404",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404: Page Not Found",
        },
        |s| Box::pin(too_long(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/path/trailing-slash-accepted",
            requirement: "one trailing slash is tolerated",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(is_200(s, format!("/checkpoint/{}/", s.container_under_test()))),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/path/percent-decoded",
            requirement: "the names in the path are percent-decoded",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(is_200(s, percent_encoded_path(s))),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/path/encoded-slash-separates",
            requirement: "an encoded slash in the path separates names as a plain one does",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200 for namespace/pod%2Fcontainer",
        },
        |s| Box::pin(is_200(s, encoded_slash_path(s))),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/path/dot-segments-redirected",
            requirement: "a path with `..` is redirected to the canonical one, and nothing is checkpointed",
            authority: authority::GO_MUX,
            motivation: "",
            level: Level::Reference,
            expected: "307 or 301, Location the path without `..`",
        },
        |s| Box::pin(is_redirected(s, dot_segment_path(s))),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/path/empty-segments-redirected",
            requirement: "a path with an empty segment is redirected to the canonical one, and nothing is checkpointed",
            authority: authority::GO_MUX,
            motivation: "",
            level: Level::Reference,
            expected: "307 or 301, Location the path without the empty segment",
        },
        |s| Box::pin(is_redirected(s, empty_segment_path(s))),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/path/malformed-escape-rejected",
            requirement: "a path with a malformed percent-encoding is answered 400",
            authority: authority::GO_REQUEST,
            motivation: "",
            level: Level::Reference,
            expected: "400",
        },
        |s| Box::pin(malformed_escape(s)),
    ),
];

async fn is_page_not_found(s: &KubeletSession, path: &str) -> CaseResult {
    let response = s.post_raw_path(path).await?;
    check(
        response.status == 404 && response.body == "404: Page Not Found",
        response.summary(),
    )
}

async fn too_short(s: &KubeletSession) -> CaseResult {
    is_page_not_found(
        s,
        &format!(
            "/checkpoint/{}/{}",
            s.container_under_test().namespace,
            s.container_under_test().pod
        ),
    )
    .await
}

async fn too_long(s: &KubeletSession) -> CaseResult {
    is_page_not_found(s, &format!("/checkpoint/{}/more", s.container_under_test())).await
}

async fn is_200(s: &KubeletSession, path: String) -> CaseResult {
    s.require_checkpointable().await?;
    let response = s.post_raw_path(&path).await?;
    check(response.status == 200, format!("{} for {path}", response.summary()))
}

/// The first letter of each name encoded.
fn percent_encoded_path(s: &KubeletSession) -> String {
    let encode = |name: &String| match name.as_bytes().split_first() {
        Some((first, rest)) => format!("%{first:02X}{}", String::from_utf8_lossy(rest)),
        None => String::new(),
    };
    let container_under_test = s.container_under_test();
    let names = [
        &container_under_test.namespace,
        &container_under_test.pod,
        &container_under_test.container,
    ]
    .map(encode);
    format!("/checkpoint/{}", names.join("/"))
}

fn encoded_slash_path(s: &KubeletSession) -> String {
    let container_under_test = s.container_under_test();
    format!(
        "/checkpoint/{}/{}%2F{}",
        container_under_test.namespace, container_under_test.pod, container_under_test.container
    )
}

fn dot_segment_path(s: &KubeletSession) -> String {
    let container_under_test = s.container_under_test();
    format!(
        "/checkpoint/{}/other/../{}/{}",
        container_under_test.namespace, container_under_test.pod, container_under_test.container
    )
}

fn empty_segment_path(s: &KubeletSession) -> String {
    let container_under_test = s.container_under_test();
    format!(
        "/checkpoint/{}//{}/{}",
        container_under_test.namespace, container_under_test.pod, container_under_test.container
    )
}

async fn is_redirected(s: &KubeletSession, path: String) -> CaseResult {
    s.require_endpoint().await?;
    let journal_position = s.journal_position().await?;
    let response = s.post_raw_path(&path).await?;
    let calls = s.calls_after(journal_position).await?;
    let called = describe_calls(&calls);
    let location = response.header("location");
    let canonical = location == format!("/checkpoint/{}", s.container_under_test());
    let as_expected = matches!(response.status, 301 | 307) && canonical && calls.is_none_or(|calls| calls.is_empty());
    check(as_expected, format!("{} to {location:?}; {called}", response.status))
}

async fn malformed_escape(s: &KubeletSession) -> CaseResult {
    let response = s
        .post_raw_path(&format!("/checkpoint/{}%zz", s.container_under_test()))
        .await?;
    check(response.status == 400, response.summary())
}
