//! What a request must look like beside its path: method, media types, query, body, protocol; and what answers look like.

use reqwest::{
    Method,
    header::{ACCEPT, HeaderMap, HeaderValue},
};

use super::session::{OK, Session, described};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge, pass},
    catalog::authority,
    target::{Answer, Credentials, Protocol},
};

const ACCEPT_CASE: &str = "kubelet/406/accept";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/405/other-methods",
            clause: "another method than POST is answered 405 and nothing is checkpointed",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "405: Method Not Allowed",
        },
        |s| Box::pin(other_methods(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/405/allow",
            clause: "a 405 says in its Allow header what is allowed",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "Allow: POST",
        },
        |s| Box::pin(allow(s)),
    ),
    Case::new(
        Clause {
            id: ACCEPT_CASE,
            clause: "an Accept that excludes JSON is refused: 406, by kubelets before 1.36 also 415 without a body sent",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "406, or 415 without a body",
        },
        |s| Box::pin(accept(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/406/body",
            clause: "a 406 says what there is",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "406: Not Acceptable, and `Available representations: application/json`",
        },
        |s| Box::pin(not_acceptable(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/accept-list",
            clause: "an Accept that allows JSON among others is accepted",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200 for text/html, application/json;q=0.5",
        },
        |s| Box::pin(accept_list(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/request-body",
            clause: "what the body of a request holds does not matter",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200 for a body that is no JSON",
        },
        |s| Box::pin(request_body(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/unknown-parameter",
            clause: "query parameters that nobody knows do not matter",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(unknown_parameter(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/http2/same-answers",
            clause: "a kubelet that speaks HTTP/2 gives the same answers over it as over HTTP/1.1",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "the same status and body for 200, 401, 404 and 405",
        },
        |s| Box::pin(same_answers(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/error/content-type",
            clause: "an error is a text, and its content type says so",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "text/plain; charset=utf-8",
        },
        |s| Box::pin(content_type(s)),
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
    let mark = s.mark().await?;
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
    let calls = s.calls_after(mark).await?;
    let called = described(&calls);
    if wrong.is_empty() && calls.is_none_or(|calls| calls.is_empty()) {
        return pass(format!("405 for GET, PUT, DELETE, PATCH; {called}"));
    }
    wrong.push(called);
    judge(false, wrong.join("; "))
}

async fn allow(s: &Session) -> Judgement {
    let answer = send(s, Method::GET, &own_path(s)).await?;
    if answer.status != 405 {
        return Err(Stop::Blocked("kubelet/405/other-methods"));
    }
    let seen = answer.header("allow");
    judge(seen == "POST", format!("Allow: {seen}"))
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

/// A POST for the subject with these headers, this body and this query.
async fn post(s: &Session, headers: HeaderMap, body: &[u8], query: &str) -> Result<Answer, Stop> {
    let client = s.kubelet.client().await;
    let subject = s.subject();
    let url = client.checkpoint_url(&subject.namespace, &subject.pod, &subject.container, query);
    let answer = client
        .send_with(Credentials::Good, Method::POST, url, headers, body.to_vec())
        .await?;
    s.kubelet.remember_items(&answer);
    Ok(answer)
}

fn accepting(types: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(types))])
}

async fn not_acceptable(s: &Session) -> Judgement {
    const BODY: &str = "406: Not Acceptable\n\nAvailable representations: application/json";
    s.served().await?;
    // With a body: without one older kubelets answer 415.
    let answer = post(s, accepting("text/html"), b"{}", "").await?;
    if answer.status != 406 {
        return Err(Stop::Blocked(ACCEPT_CASE));
    }
    judge(answer.body == BODY, format!("{:?}", answer.body))
}

async fn accept_list(s: &Session) -> Judgement {
    s.again().await?;
    let answer = post(s, accepting("text/html, application/json;q=0.5"), b"", "").await?;
    judge(answer.status == 200, answer.brief())
}

async fn request_body(s: &Session) -> Judgement {
    s.again().await?;
    let answer = post(s, HeaderMap::new(), b"{not json", "").await?;
    judge(answer.status == 200, answer.brief())
}

async fn unknown_parameter(s: &Session) -> Judgement {
    s.again().await?;
    let answer = post(s, HeaderMap::new(), b"", "leaveRunning=false&pretty").await?;
    judge(answer.status == 200, answer.brief())
}

async fn same_answers(s: &Session) -> Judgement {
    if s.kubelet.proxied {
        return Err(Stop::Skip(
            "it is the API server that speaks to us, not the kubelet: needs the node's own address".to_owned(),
        ));
    }
    s.again().await?;
    let client = s.kubelet.client().await;
    let own = own_path(s);
    let unknown = format!("{own}-unknown");
    let requests = [
        (Credentials::Good, Method::POST, own.as_str()),
        (Credentials::None, Method::POST, own.as_str()),
        (Credentials::Good, Method::POST, unknown.as_str()),
        (Credentials::Good, Method::GET, own.as_str()),
    ];
    let mut seen = Vec::new();
    let mut same = true;
    for (credentials, method, path) in requests {
        let mut answers = Vec::new();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let answer = client.send_raw(credentials, protocol, method.clone(), path).await?;
            let Some(answer) = answer else {
                return Err(Stop::Skip(format!("the kubelet does not speak {protocol}")));
            };
            s.kubelet.remember_items(&answer);
            answers.push(answer);
        }
        let (one, two) = (&answers[0], &answers[1]);
        // The location of a checkpoint carries its time.
        same &= one.status == two.status && (one.status == 200 || one.body == two.body);
        seen.push(format!("{method}: {} and {}", one.status, two.status));
    }
    judge(same, seen.join(", "))
}

async fn content_type(s: &Session) -> Judgement {
    const TEXT: &str = "text/plain; charset=utf-8";
    s.served().await?;
    let subject = s.subject();
    let unknown = subject.sibling("checkpoint-conformance-no-such-container");
    let mut answers = vec![
        s.kubelet.checkpoint(&unknown, "").await?,
        s.kubelet.checkpoint(subject, "timeout=-1").await?,
        send(s, Method::GET, &own_path(s)).await?,
        send(s, Method::POST, "/checkpoint/too/short").await?,
        post(s, accepting("text/html"), b"{}", "").await?,
    ];
    if !s.kubelet.proxied {
        answers.push(s.kubelet.checkpoint_as(Credentials::None, subject, "").await?);
    }
    answers.retain(|answer| answer.status >= 400);
    if answers.is_empty() {
        return Err(Stop::Blocked(OK));
    }
    let kind = |answer: &Answer| (answer.status, answer.header("content-type").to_owned());
    let wrong: Vec<_> = answers.iter().map(kind).filter(|(_, kind)| kind != TEXT).collect();
    if wrong.is_empty() {
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status.to_string()).collect();
        return pass(format!("{TEXT} for {}", statuses.join(", ")));
    }
    let wrong: Vec<_> = wrong
        .iter()
        .map(|(status, kind)| format!("{kind:?} for {status}"))
        .collect();
    judge(false, wrong.join(", "))
}
