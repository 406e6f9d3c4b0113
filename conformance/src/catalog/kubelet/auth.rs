//! 401 and 403: who may not, and how they are told.

use reqwest::Method;

use super::{AUTH, RESPONSE, session::Session};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    target::{Answer, Credentials},
};

const NONE: &str = "kubelet/401/no-credentials";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: NONE,
            clause: "a request without credentials is answered 401",
            source: RESPONSE,
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::None)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/unknown-token",
            clause: "a request with a bearer token that nobody issued is answered 401",
            source: RESPONSE,
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::UnknownToken)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/stranger-certificate",
            clause: "a request with a client certificate of an unknown authority is answered 401",
            source: RESPONSE,
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::StrangerCertificate)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/body",
            clause: "a 401 has the body `Unauthorized` and no WWW-Authenticate header",
            source: AUTH,
            level: Level::Reference,
            expected: "Unauthorized",
        },
        |s| Box::pin(body(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/before-lookup",
            clause: "who is not authenticated learns nothing of the Pods: authentication comes before everything else",
            source: AUTH,
            level: Level::Reference,
            expected: "401 for a Pod that does not exist",
        },
        |s| Box::pin(before_lookup(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/403/denied",
            clause: "who is authenticated and may not create nodes/checkpoint is answered 403",
            source: AUTH,
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(denied(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/403/body",
            clause: "a 403 names user, verb and resource",
            source: AUTH,
            level: Level::Reference,
            expected: "Forbidden (user=USER, verb=create, resource=nodes, subresource(s)=[checkpoint]) and a newline",
        },
        |s| Box::pin(denied_body(s)),
    ),
];

async fn ask(s: &Session, credentials: Credentials) -> Result<Answer, Stop> {
    // If we are refused as well, a refusal of others says nothing.
    s.served().await?;
    Ok(s.kubelet.checkpoint_as(credentials, s.subject(), "").await?)
}

async fn status_is_401(s: &Session, credentials: Credentials) -> Judgement {
    let answer = ask(s, credentials).await?;
    judge(answer.status == 401, answer.brief())
}

async fn body(s: &Session) -> Judgement {
    let answer = ask(s, Credentials::None).await?;
    if answer.status != 401 {
        return Err(Stop::Blocked(NONE));
    }
    let challenge = answer.headers.contains_key("www-authenticate");
    let seen = format!(
        "{:?}{}",
        answer.body,
        if challenge { " and WWW-Authenticate" } else { "" }
    );
    judge(answer.body == "Unauthorized" && !challenge, seen)
}

async fn before_lookup(s: &Session) -> Judgement {
    if ask(s, Credentials::None).await?.status != 401 {
        return Err(Stop::Blocked(NONE));
    }
    let client = s.kubelet.client().await;
    let url = client.checkpoint_url("no-such-namespace", "no-such-pod", "no-such-container", "");
    let answer = client.send(Credentials::None, Method::POST, url).await?;
    judge(answer.status == 401, answer.brief())
}

async fn ask_denied(s: &Session) -> Result<Answer, Stop> {
    if s.kubelet.client().await.access().denied.is_none() {
        return Err(Stop::Skip(
            "needs a user whom the kubelet knows and who may not checkpoint".to_owned(),
        ));
    }
    ask(s, Credentials::Denied).await
}

async fn denied(s: &Session) -> Judgement {
    let answer = ask_denied(s).await?;
    judge(answer.status == 403, answer.brief())
}

async fn denied_body(s: &Session) -> Judgement {
    let answer = ask_denied(s).await?;
    if answer.status != 403 {
        return Err(Stop::Blocked("kubelet/403/denied"));
    }
    let user = answer.body.strip_prefix("Forbidden (user=");
    let user = user.and_then(|rest| rest.strip_suffix(", verb=create, resource=nodes, subresource(s)=[checkpoint])\n"));
    judge(user.is_some_and(|user| !user.is_empty()), format!("{:?}", answer.body))
}
