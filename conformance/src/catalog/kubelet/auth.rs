//! 401 and 403: who may not, and how they are told.

use reqwest::{
    Method,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};

use super::session::Session;
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    catalog::authority,
    target::{Answer, Credentials, Identity},
};

const NONE: &str = "kubelet/401/no-credentials";
const DENIED: &str = "kubelet/403/denied";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: NONE,
            clause: "a request without credentials is answered 401",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::None)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/unknown-token",
            clause: "a request with a bearer token that nobody issued is answered 401",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::UnknownToken)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/stranger-certificate",
            clause: "a request with a client certificate of an unknown authority is answered 401",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::StrangerCertificate)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/body",
            clause: "a 401 has the body `Unauthorized` and no WWW-Authenticate header",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "Unauthorized",
        },
        |s| Box::pin(body(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/before-lookup",
            clause: "who is not authenticated learns nothing of the Pods: authentication comes before everything else",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "401 for a Pod that does not exist",
        },
        |s| Box::pin(before_lookup(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/before-routing",
            clause: "who is not authenticated learns nothing of the routes: a wrong path and a wrong method are 401 as well",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "401 for a path that is too short and for another method",
        },
        |s| Box::pin(before_routing(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/401/other-scheme",
            clause: "an Authorization header that holds no bearer token is answered 401",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401 for Basic, for a scheme nobody knows, and for Bearer without a token",
        },
        |s| Box::pin(other_scheme(s)),
    ),
    Case::new(
        Clause {
            id: DENIED,
            clause: "who is authenticated and may not create nodes/checkpoint is answered 403",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(denied(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/403/body",
            clause: "a 403 names user, verb and resource",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "Forbidden (user=USER, verb=create, resource=nodes, subresource(s)=[checkpoint]) and a newline",
        },
        |s| Box::pin(denied_body(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/403/verb",
            clause: "the verb that is asked about follows the method",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403 with verb=update for PUT, verb=patch for PATCH, verb=delete for DELETE",
        },
        |s| Box::pin(verb(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/403/before-lookup",
            clause: "who may not checkpoint learns nothing of the Pods: authorisation comes before the lookup",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403 for a Pod that does not exist",
        },
        |s| Box::pin(denied_before_lookup(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/403/before-routing",
            clause: "who may not checkpoint learns nothing of the routes: a path that is too short is 403 as well",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(denied_before_routing(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/403/proxy-right",
            clause: "the right to create nodes/proxy is not the right to create nodes/checkpoint",
            authority: authority::AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(proxy_right(s)),
    ),
];

/// What makes a checkpoint.
pub(super) const FURTHER: &[Case<Session>] = &[Case::new(
    Clause {
        id: "kubelet/200/bearer-token",
        clause: "who may checkpoint may come with a bearer token that the cluster issued",
        authority: authority::AUTH,
        motivation: "",
        level: Level::Reference,
        expected: "200",
    },
    |s| Box::pin(bearer_token(s)),
)];

/// Through the API server's proxy it is the API server that asks who we are and what we may.
fn direct(s: &Session) -> Result<(), Stop> {
    if s.kubelet.proxied {
        return Err(Stop::Skip(
            "the API server's node proxy answers this, not the kubelet: needs the node's own address".to_owned(),
        ));
    }
    Ok(())
}

async fn ask(s: &Session, credentials: Credentials) -> Result<Answer, Stop> {
    direct(s)?;
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

async fn before_routing(s: &Session) -> Judgement {
    if ask(s, Credentials::None).await?.status != 401 {
        return Err(Stop::Blocked(NONE));
    }
    let client = s.kubelet.client().await;
    let subject = s.subject();
    let short = client.url_of(["checkpoint", &subject.namespace, &subject.pod]);
    let whole = client.checkpoint_url(&subject.namespace, &subject.pod, &subject.container, "");
    let short = client.send(Credentials::None, Method::POST, short).await?;
    let other = client.send(Credentials::None, Method::PUT, whole).await?;
    let seen = format!("{} for a short path, {} for PUT", short.brief(), other.brief());
    judge(short.status == 401 && other.status == 401, seen)
}

async fn other_scheme(s: &Session) -> Judgement {
    direct(s)?;
    s.served().await?;
    let client = s.kubelet.client().await;
    let subject = s.subject();
    let mut seen = Vec::new();
    // user:password, and a name that no scheme has.
    for value in [
        "Basic dXNlcjpwYXNzd29yZA==",
        "Conformance something",
        "Bearer",
        "Bearer ",
    ] {
        let url = client.checkpoint_url(&subject.namespace, &subject.pod, &subject.container, "");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        let answer = client
            .send_with(Credentials::None, Method::POST, url, headers, Vec::new())
            .await?;
        s.kubelet.remember_items(&answer);
        seen.push((value, answer.status));
    }
    let holds = seen.iter().all(|(_, status)| *status == 401);
    let seen: Vec<_> = seen
        .iter()
        .map(|(value, status)| format!("{status} for {value:?}"))
        .collect();
    judge(holds, seen.join(", "))
}

async fn bearer_token(s: &Session) -> Judgement {
    let client = s.kubelet.client().await;
    let credentials = match client.access() {
        access if access.others.by_token.is_some() => Credentials::KnownToken,
        access if matches!(access.identity, Identity::Token(_)) => Credentials::Good,
        _ => return Err(Stop::Skip("needs a bearer token of one who may checkpoint".to_owned())),
    };
    s.again().await?;
    let answer = ask(s, credentials).await?;
    judge(answer.status == 200, answer.brief())
}

async fn ask_denied(s: &Session) -> Result<Answer, Stop> {
    if s.kubelet.client().await.access().others.denied.is_none() {
        return Err(Stop::Skip(
            "needs a user whom the kubelet knows and who may not checkpoint".to_owned(),
        ));
    }
    ask(s, Credentials::Denied).await
}

/// Refused as is expected, so that what comes beside it can be judged.
async fn refused(s: &Session) -> Result<(), Stop> {
    if ask_denied(s).await?.status == 403 {
        Ok(())
    } else {
        Err(Stop::Blocked(DENIED))
    }
}

async fn denied(s: &Session) -> Judgement {
    let answer = ask_denied(s).await?;
    judge(answer.status == 403, answer.brief())
}

async fn denied_body(s: &Session) -> Judgement {
    let answer = ask_denied(s).await?;
    if answer.status != 403 {
        return Err(Stop::Blocked(DENIED));
    }
    let user = answer.body.strip_prefix("Forbidden (user=");
    let user = user.and_then(|rest| rest.strip_suffix(", verb=create, resource=nodes, subresource(s)=[checkpoint])\n"));
    judge(user.is_some_and(|user| !user.is_empty()), format!("{:?}", answer.body))
}

async fn verb(s: &Session) -> Judgement {
    let answer = ask_denied(s).await?;
    if answer.status != 403 {
        return Err(Stop::Blocked(DENIED));
    }
    let client = s.kubelet.client().await;
    let subject = s.subject();
    let mut wrong = Vec::new();
    for (method, verb) in [
        (Method::PUT, "update"),
        (Method::PATCH, "patch"),
        (Method::DELETE, "delete"),
    ] {
        let url = client.checkpoint_url(&subject.namespace, &subject.pod, &subject.container, "");
        let answer = client.send(Credentials::Denied, method.clone(), url).await?;
        // How the rest is worded is another case's.
        if answer.status != 403 || !answer.body.contains(&format!(", verb={verb}, ")) {
            wrong.push(format!("{method}: {}", answer.brief()));
        }
    }
    let holds = wrong.is_empty();
    let seen = if holds {
        "so for all three".to_owned()
    } else {
        wrong.join("; ")
    };
    judge(holds, seen)
}

async fn denied_before_lookup(s: &Session) -> Judgement {
    refused(s).await?;
    let client = s.kubelet.client().await;
    let url = client.checkpoint_url("no-such-namespace", "no-such-pod", "no-such-container", "");
    let answer = client.send(Credentials::Denied, Method::POST, url).await?;
    judge(answer.status == 403, answer.brief())
}

async fn denied_before_routing(s: &Session) -> Judgement {
    refused(s).await?;
    let client = s.kubelet.client().await;
    let url = client.url_of(["checkpoint", &s.subject().namespace, &s.subject().pod]);
    let answer = client.send(Credentials::Denied, Method::POST, url).await?;
    judge(answer.status == 403, answer.brief())
}

async fn proxy_right(s: &Session) -> Judgement {
    refused(s).await?;
    if s.kubelet.client().await.access().others.proxy_only.is_none() {
        return Err(Stop::Skip(
            "needs a user who may create nodes/proxy and not nodes/checkpoint".to_owned(),
        ));
    }
    let answer = ask(s, Credentials::ProxyOnly).await?;
    judge(answer.status == 403, answer.brief())
}
