//! What the path may look like.

use super::session::{Session, described};
use crate::case::{Case, Clause, Judgement, Level, judge};
use crate::catalog::authority;

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/404/path-too-short",
            clause: "a path with too few segments is answered 404",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404: Page Not Found",
        },
        |s| Box::pin(too_short(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/path-too-long",
            clause: "a path with too many segments is answered 404",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404: Page Not Found",
        },
        |s| Box::pin(too_long(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/trailing-slash",
            clause: "one trailing slash is tolerated",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(is_200(s, format!("/checkpoint/{}/", s.subject()))),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/percent-encoded",
            clause: "the names in the path are percent-decoded",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(is_200(s, encoded(s))),
    ),
    Case::new(
        Clause {
            id: "kubelet/path/encoded-slash",
            clause: "an encoded slash in the path separates names as a plain one does",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200 for namespace/pod%2Fcontainer",
        },
        |s| Box::pin(is_200(s, encoded_slash(s))),
    ),
    Case::new(
        Clause {
            id: "kubelet/path/dot-segments",
            clause: "a path with `..` is redirected to the canonical one, and nothing is checkpointed",
            authority: authority::GO_MUX,
            motivation: "",
            level: Level::Reference,
            expected: "307 or 301, Location the path without `..`",
        },
        |s| Box::pin(redirected(s, dotted(s))),
    ),
    Case::new(
        Clause {
            id: "kubelet/path/empty-segments",
            clause: "a path with an empty segment is redirected to the canonical one, and nothing is checkpointed",
            authority: authority::GO_MUX,
            motivation: "",
            level: Level::Reference,
            expected: "307 or 301, Location the path without the empty segment",
        },
        |s| Box::pin(redirected(s, doubled(s))),
    ),
    Case::new(
        Clause {
            id: "kubelet/400/malformed-escape",
            clause: "a path with a malformed percent-encoding is answered 400",
            authority: authority::GO_REQUEST,
            motivation: "",
            level: Level::Reference,
            expected: "400",
        },
        |s| Box::pin(malformed_escape(s)),
    ),
];

async fn no_page(s: &Session, path: &str) -> Judgement {
    let answer = s.raw(path).await?;
    judge(
        answer.status == 404 && answer.body == "404: Page Not Found",
        answer.brief(),
    )
}

async fn too_short(s: &Session) -> Judgement {
    no_page(s, &format!("/checkpoint/{}/{}", s.subject().namespace, s.subject().pod)).await
}

async fn too_long(s: &Session) -> Judgement {
    no_page(s, &format!("/checkpoint/{}/more", s.subject())).await
}

async fn is_200(s: &Session, path: String) -> Judgement {
    s.again().await?;
    let answer = s.raw(&path).await?;
    judge(answer.status == 200, format!("{} for {path}", answer.brief()))
}

/// The first letter of each name encoded.
fn encoded(s: &Session) -> String {
    let encode = |name: &String| match name.as_bytes().split_first() {
        Some((first, rest)) => format!("%{first:02X}{}", String::from_utf8_lossy(rest)),
        None => String::new(),
    };
    let subject = s.subject();
    let names = [&subject.namespace, &subject.pod, &subject.container].map(encode);
    format!("/checkpoint/{}", names.join("/"))
}

fn encoded_slash(s: &Session) -> String {
    let subject = s.subject();
    format!(
        "/checkpoint/{}/{}%2F{}",
        subject.namespace, subject.pod, subject.container
    )
}

fn dotted(s: &Session) -> String {
    let subject = s.subject();
    format!(
        "/checkpoint/{}/other/../{}/{}",
        subject.namespace, subject.pod, subject.container
    )
}

fn doubled(s: &Session) -> String {
    let subject = s.subject();
    format!(
        "/checkpoint/{}//{}/{}",
        subject.namespace, subject.pod, subject.container
    )
}

async fn redirected(s: &Session, path: String) -> Judgement {
    s.served().await?;
    let mark = s.mark().await?;
    let answer = s.raw(&path).await?;
    let calls = s.calls_after(mark).await?;
    let called = described(&calls);
    let location = answer.header("location");
    let canonical = location == format!("/checkpoint/{}", s.subject());
    let holds = matches!(answer.status, 301 | 307) && canonical && calls.is_none_or(|calls| calls.is_empty());
    judge(holds, format!("{} to {location:?}; {called}", answer.status))
}

async fn malformed_escape(s: &Session) -> Judgement {
    let answer = s.raw(&format!("/checkpoint/{}%zz", s.subject())).await?;
    judge(answer.status == 400, answer.brief())
}
