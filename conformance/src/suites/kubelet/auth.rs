//! Authentication (401) and authorization (403).

use reqwest::{
    Method,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};

use super::session::KubeletSession;
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check},
    suites::authority,
    targets::{Credentials, HttpResponse, Identity},
};

const NO_CREDENTIALS_CASE: &str = "kubelet/authentication/credentials-required";
const DENIED_CASE: &str = "kubelet/authorization/permission-required";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: NO_CREDENTIALS_CASE,
            requirement: "The kubelet must return 401 for a request without credentials.",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::Anonymous)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/unknown-token-rejected",
            requirement: "The kubelet must return 401 for a request with an unknown bearer token.",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::InvalidToken)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/untrusted-certificate-rejected",
            requirement: "The kubelet must return 401 for a request with a client certificate from an unknown \
                certificate authority.",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401",
        },
        |s| Box::pin(status_is_401(s, Credentials::UntrustedCertificate)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/unauthorized-body",
            requirement: "The kubelet must send the body `Unauthorized` and no WWW-Authenticate header with a 401.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "\"Unauthorized\", without a WWW-Authenticate header",
        },
        |s| Box::pin(unauthorized_body(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/before-lookup",
            requirement: "The kubelet must authenticate a request before it looks up the Pod.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "401 for a Pod that does not exist",
        },
        |s| Box::pin(before_lookup(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/before-routing",
            requirement: "The kubelet must authenticate a request before it routes the request by path and method.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "401 for a path that is too short and for PUT",
        },
        |s| Box::pin(before_routing(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/non-bearer-scheme-rejected",
            requirement: "The kubelet must return 401 for an Authorization header without a bearer token.",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401 for Basic, for an unknown scheme, and for Bearer without a token",
        },
        |s| Box::pin(non_bearer_scheme(s)),
    ),
    Case::new(
        CaseInfo {
            id: DENIED_CASE,
            requirement: "The kubelet must return 403 for an authenticated user who may not create nodes/checkpoint.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(denied(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authorization/forbidden-body",
            requirement: "The kubelet must name the user, the verb and the resource in the body of a 403.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "Forbidden (user=USER, verb=create, resource=nodes, subresource(s)=[checkpoint]), with a \
                newline at the end",
        },
        |s| Box::pin(denied_body(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authorization/verb-follows-method",
            requirement: "The kubelet must authorize the verb that corresponds to the HTTP method.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403 with the matching verb for PUT, PATCH, DELETE",
        },
        |s| Box::pin(verb_follows_method(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authorization/before-lookup",
            requirement: "The kubelet must authorize a request before it looks up the Pod.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403 for a Pod that does not exist",
        },
        |s| Box::pin(denied_before_lookup(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authorization/before-routing",
            requirement: "The kubelet must authorize a request before it routes the request by path.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(denied_before_routing(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authorization/nodes-proxy-insufficient",
            requirement: "The kubelet must return 403 for a user who may create nodes/proxy but not \
                nodes/checkpoint.",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(nodes_proxy_is_not_enough(s)),
    ),
];

pub(super) const EXCLUSIVE_CASES: &[Case<KubeletSession>] = &[Case::new(
    CaseInfo {
        id: "kubelet/authentication/bearer-token-accepted",
        requirement: "The kubelet must accept a valid bearer token of a user who may create nodes/checkpoint.",
        authority: authority::KUBELET_AUTH,
        motivation: "",
        level: Level::Reference,
        expected: "200",
    },
    |s| Box::pin(bearer_token(s)),
)];

/// Behind the API server's node proxy, the API server authenticates and authorizes the caller.
fn require_direct(s: &KubeletSession) -> Result<(), NonPass> {
    if s.kubelet.through_node_proxy {
        return Err(NonPass::Skip(
            "requires a direct connection to the kubelet: the API server's node proxy responds to this request \
                itself"
                .to_owned(),
        ));
    }
    Ok(())
}

async fn checkpoint_as(s: &KubeletSession, credentials: Credentials) -> Result<HttpResponse, NonPass> {
    require_direct(s)?;
    // If the endpoint rejects valid credentials too, a rejection of other credentials proves nothing.
    s.require_endpoint().await?;
    Ok(s.kubelet
        .checkpoint_as(credentials, s.container_under_test(), "")
        .await?)
}

async fn status_is_401(s: &KubeletSession, credentials: Credentials) -> CaseResult {
    let response = checkpoint_as(s, credentials).await?;
    check(response.status == 401, response.summary())
}

async fn unauthorized_body(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_as(s, Credentials::Anonymous).await?;
    if response.status != 401 {
        return Err(NonPass::Blocked(NO_CREDENTIALS_CASE));
    }
    let challenge = response.headers.contains_key("www-authenticate");
    let actual = format!(
        "{:?}{}",
        response.body,
        if challenge { "and WWW-Authenticate" } else { "" }
    );
    check(response.body == "Unauthorized" && !challenge, actual)
}

async fn before_lookup(s: &KubeletSession) -> CaseResult {
    if checkpoint_as(s, Credentials::Anonymous).await?.status != 401 {
        return Err(NonPass::Blocked(NO_CREDENTIALS_CASE));
    }
    let client = s.kubelet.client().await;
    let url = client.checkpoint_url("no-such-namespace", "no-such-pod", "no-such-container", "");
    let response = client.send(Credentials::Anonymous, Method::POST, url).await?;
    check(response.status == 401, response.summary())
}

async fn before_routing(s: &KubeletSession) -> CaseResult {
    if checkpoint_as(s, Credentials::Anonymous).await?.status != 401 {
        return Err(NonPass::Blocked(NO_CREDENTIALS_CASE));
    }
    let client = s.kubelet.client().await;
    let container_under_test = s.container_under_test();
    let short = client.url_from_segments(["checkpoint", &container_under_test.namespace, &container_under_test.pod]);
    let whole = client.checkpoint_url(
        &container_under_test.namespace,
        &container_under_test.pod,
        &container_under_test.container,
        "",
    );
    let short = client.send(Credentials::Anonymous, Method::POST, short).await?;
    let other = client.send(Credentials::Anonymous, Method::PUT, whole).await?;
    let actual = format!("{} for a short path, {} for PUT", short.summary(), other.summary());
    check(short.status == 401 && other.status == 401, actual)
}

async fn non_bearer_scheme(s: &KubeletSession) -> CaseResult {
    require_direct(s)?;
    s.require_endpoint().await?;
    let client = s.kubelet.client().await;
    let container_under_test = s.container_under_test();
    let mut actual = Vec::new();
    // "user:password" in base64, and a scheme that does not exist.
    for value in [
        "Basic dXNlcjpwYXNzd29yZA==",
        "Conformance something",
        "Bearer",
        "Bearer ",
    ] {
        let url = client.checkpoint_url(
            &container_under_test.namespace,
            &container_under_test.pod,
            &container_under_test.container,
            "",
        );
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        let response = client
            .send_with(Credentials::Anonymous, Method::POST, url, headers, Vec::new())
            .await?;
        s.kubelet.remember_archives(&response);
        actual.push((value, response.status));
    }
    let as_expected = actual.iter().all(|(_, status)| *status == 401);
    let actual: Vec<_> = actual
        .iter()
        .map(|(value, status)| format!("{status} for {value:?}"))
        .collect();
    check(as_expected, actual.join(", "))
}

async fn bearer_token(s: &KubeletSession) -> CaseResult {
    let client = s.kubelet.client().await;
    let credentials = match client.endpoint() {
        access if access.extra_identities.token_user.is_some() => Credentials::ValidToken,
        access if matches!(access.identity, Identity::Token(_)) => Credentials::Authorized,
        _ => {
            return Err(NonPass::Skip(
                "requires a bearer token of a user who may create nodes/checkpoint".to_owned(),
            ));
        }
    };
    s.require_checkpointable().await?;
    let response = checkpoint_as(s, credentials).await?;
    check(response.status == 200, response.summary())
}

async fn checkpoint_as_denied_user(s: &KubeletSession) -> Result<HttpResponse, NonPass> {
    if s.kubelet
        .client()
        .await
        .endpoint()
        .extra_identities
        .denied_user
        .is_none()
    {
        return Err(NonPass::Skip(
            "requires a user whom the kubelet authenticates and who may not create nodes/checkpoint".to_owned(),
        ));
    }
    checkpoint_as(s, Credentials::Denied).await
}

/// Passes if the denied user gets 403, so that other properties of that response can be checked.
async fn require_denied(s: &KubeletSession) -> Result<(), NonPass> {
    if checkpoint_as_denied_user(s).await?.status == 403 {
        Ok(())
    } else {
        Err(NonPass::Blocked(DENIED_CASE))
    }
}

async fn denied(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_as_denied_user(s).await?;
    check(response.status == 403, response.summary())
}

async fn denied_body(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_as_denied_user(s).await?;
    if response.status != 403 {
        return Err(NonPass::Blocked(DENIED_CASE));
    }
    let user = response.body.strip_prefix("Forbidden (user=");
    let user = user.and_then(|rest| rest.strip_suffix(", verb=create, resource=nodes, subresource(s)=[checkpoint])\n"));
    check(
        user.is_some_and(|user| !user.is_empty()),
        format!("{:?}", response.body),
    )
}

async fn verb_follows_method(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_as_denied_user(s).await?;
    if response.status != 403 {
        return Err(NonPass::Blocked(DENIED_CASE));
    }
    let client = s.kubelet.client().await;
    let container_under_test = s.container_under_test();
    let mut problems = Vec::new();
    for (method, verb) in [
        (Method::PUT, "update"),
        (Method::PATCH, "patch"),
        (Method::DELETE, "delete"),
    ] {
        let url = client.checkpoint_url(
            &container_under_test.namespace,
            &container_under_test.pod,
            &container_under_test.container,
            "",
        );
        let response = client.send(Credentials::Denied, method.clone(), url).await?;
        // The wording of the rest of the body is the subject of another case.
        if response.status != 403 || !response.body.contains(&format!(", verb={verb}, ")) {
            problems.push(format!("{method}: {}", response.summary()));
        }
    }
    let as_expected = problems.is_empty();
    let actual = if as_expected {
        "403 with the matching verb for PUT, PATCH, DELETE".to_owned()
    } else {
        problems.join("; ")
    };
    check(as_expected, actual)
}

async fn denied_before_lookup(s: &KubeletSession) -> CaseResult {
    require_denied(s).await?;
    let client = s.kubelet.client().await;
    let url = client.checkpoint_url("no-such-namespace", "no-such-pod", "no-such-container", "");
    let response = client.send(Credentials::Denied, Method::POST, url).await?;
    check(response.status == 403, response.summary())
}

async fn denied_before_routing(s: &KubeletSession) -> CaseResult {
    require_denied(s).await?;
    let client = s.kubelet.client().await;
    let url = client.url_from_segments([
        "checkpoint",
        &s.container_under_test().namespace,
        &s.container_under_test().pod,
    ]);
    let response = client.send(Credentials::Denied, Method::POST, url).await?;
    check(response.status == 403, response.summary())
}

async fn nodes_proxy_is_not_enough(s: &KubeletSession) -> CaseResult {
    require_denied(s).await?;
    if s.kubelet
        .client()
        .await
        .endpoint()
        .extra_identities
        .node_proxy_user
        .is_none()
    {
        return Err(NonPass::Skip(
            "requires a user who may create nodes/proxy and not nodes/checkpoint".to_owned(),
        ));
    }
    let response = checkpoint_as(s, Credentials::NodeProxyOnly).await?;
    check(response.status == 403, response.summary())
}
