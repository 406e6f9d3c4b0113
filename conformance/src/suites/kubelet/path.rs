//! The path of a request.

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, OK_CASE, WHEN_DONE_CASE, describe_calls};
use crate::engine::{Capability, Case, CaseResult, Level, case, check};
use crate::suites::authority;

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/path/too-few-segments", Level::Reference)
        .requirement("The kubelet must return 404 for a path with too few segments.")
        .authority(authority::KUBELET_SERVER)
        .expected("404: Page Not Found")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(too_short(s))),
    case("kubelet/path/too-many-segments", Level::Reference)
        .requirement("The kubelet must return 404 for a path with too many segments.")
        .authority(authority::KUBELET_SERVER)
        .expected("404: Page Not Found")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(too_long(s))),
    case("kubelet/path/trailing-slash-accepted", Level::Reference)
        .requirement("The kubelet must accept a path with one trailing slash.")
        .authority(authority::KUBELET_SERVER)
        .expected("200")
        .requires(&[Capability::DirectConnection])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(is_200(s, format!("/checkpoint/{}/", s.container_under_test())))),
    case("kubelet/path/percent-decoded", Level::Reference)
        .requirement("The kubelet must percent-decode the names in the path.")
        .authority(authority::KUBELET_SERVER)
        .expected("200")
        .requires(&[Capability::DirectConnection])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(is_200(s, percent_encoded_path(s)))),
    case("kubelet/path/encoded-slash-separates", Level::Reference)
        .requirement("The kubelet must treat an encoded slash in the path as a separator.")
        .authority(authority::KUBELET_SERVER)
        .expected("200 for namespace/pod%2Fcontainer")
        .requires(&[Capability::DirectConnection])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(is_200(s, encoded_slash_path(s)))),
    case("kubelet/path/dot-segments-redirected", Level::Reference)
        .requirement("The kubelet must redirect a path with `..` to the canonical path and make no checkpoint.")
        .authority(authority::GO_MUX)
        .expected("307 or 301 to the path without `..`, and no call to the runtime")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(is_redirected(s, dot_segment_path(s)))),
    case("kubelet/path/empty-segments-redirected", Level::Reference)
        .requirement(
            "The kubelet must redirect a path with an empty segment to the canonical path without a \
            checkpoint.",
        )
        .authority(authority::GO_MUX)
        .expected("307 or 301 to the path without the empty segment, and no call to the runtime")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(is_redirected(s, empty_segment_path(s)))),
    case("kubelet/path/malformed-escape-rejected", Level::Reference)
        .requirement("The kubelet must return 400 for a path with a malformed percent-encoding.")
        .authority(authority::GO_REQUEST)
        .expected("400")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(malformed_escape(s))),
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
