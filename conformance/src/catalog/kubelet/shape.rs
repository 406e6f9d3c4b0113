//! What a request must look like to be one: method, path, media types.

use reqwest::{
    Method,
    header::{ACCEPT, HeaderMap, HeaderValue},
};

use super::{SERVER, session::Session};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    target::{Answer, Credentials},
};

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/405/other-methods",
            clause: "another method than POST is answered 405 and nothing is checkpointed",
            source: SERVER,
            level: Level::Reference,
            expected: "405: Method Not Allowed",
        },
        |s| Box::pin(other_methods(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/405/allow",
            clause: "a 405 says in its Allow header what is allowed",
            source: SERVER,
            level: Level::Reference,
            expected: "Allow: POST",
        },
        |s| Box::pin(allow(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/path-too-short",
            clause: "a path with too few segments is answered 404",
            source: SERVER,
            level: Level::Reference,
            expected: "404: Page Not Found",
        },
        |s| {
            Box::pin(path(
                s,
                format!("/checkpoint/{}/{}", s.subject().namespace, s.subject().pod),
            ))
        },
    ),
    Case::new(
        Clause {
            id: "kubelet/404/path-too-long",
            clause: "a path with too many segments is answered 404",
            source: SERVER,
            level: Level::Reference,
            expected: "404: Page Not Found",
        },
        |s| Box::pin(path(s, format!("/checkpoint/{}/more", s.subject()))),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/trailing-slash",
            clause: "one trailing slash is tolerated",
            source: SERVER,
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(trailing_slash(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/406/accept",
            clause: "an Accept that excludes JSON is refused: 406, by kubelets before 1.36 also 415 without a body sent",
            source: SERVER,
            level: Level::Reference,
            expected: "406, or 415 without a body",
        },
        |s| Box::pin(accept(s)),
    ),
];

async fn send(s: &Session, method: Method, path: &str) -> Result<Answer, Stop> {
    s.served().await?;
    let client = s.kubelet.client().await;
    let answer = client.send(Credentials::Good, method, client.url(path)).await?;
    s.kubelet.remember_items(&answer);
    Ok(answer)
}

fn own_path(s: &Session) -> String {
    format!("/checkpoint/{}", s.subject())
}

async fn other_methods(s: &Session) -> Judgement {
    let mut wrong = Vec::new();
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = send(s, method.clone(), &own_path(s)).await?;
        // Authorisation comes before routing, and each method is a right of its own there. Who may only checkpoint, as a
        // Job's service account, cannot tell; who comes to a kubelet that was started here may do everything.
        if answer.status == 403 && s.kubelet.steering.is_none() {
            return Err(Stop::Skip(format!("needs a user who may {method} nodes/checkpoint")));
        }
        if answer.status != 405 || answer.body != "405: Method Not Allowed" {
            wrong.push(format!("{method}: {}", answer.brief()));
        }
    }
    let seen = if wrong.is_empty() {
        "405 for GET, PUT, DELETE, PATCH".to_owned()
    } else {
        wrong.join("; ")
    };
    judge(wrong.is_empty(), seen)
}

async fn allow(s: &Session) -> Judgement {
    let answer = send(s, Method::GET, &own_path(s)).await?;
    if answer.status != 405 {
        return Err(Stop::Blocked("kubelet/405/other-methods"));
    }
    let seen = answer.header("allow");
    judge(seen == "POST", format!("Allow: {seen}"))
}

async fn path(s: &Session, path: String) -> Judgement {
    let answer = send(s, Method::POST, &path).await?;
    judge(
        answer.status == 404 && answer.body == "404: Page Not Found",
        answer.brief(),
    )
}

async fn trailing_slash(s: &Session) -> Judgement {
    s.again().await?;
    let answer = send(s, Method::POST, &format!("{}/", own_path(s))).await?;
    judge(answer.status == 200, answer.brief())
}

async fn accept(s: &Session) -> Judgement {
    s.served().await?;
    let client = s.kubelet.client().await;
    let mut statuses = Vec::new();
    for body in [Vec::new(), b"{}".to_vec()] {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/html"))]);
        let url = client.url(&own_path(s));
        let answer = client
            .send_with(Credentials::Good, Method::POST, url, headers, body)
            .await?;
        s.kubelet.remember_items(&answer);
        statuses.push(answer.status);
    }
    judge(
        matches!(statuses[..], [406 | 415, 406]),
        format!("{} without a body, {} with one", statuses[0], statuses[1]),
    )
}
