//! 401 and 403: who may not, and how they are told.

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
            requirement: "a request without credentials is answered 401",
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
            requirement: "a request with a bearer token that nobody issued is answered 401",
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
            requirement: "a request with a client certificate of an unknown authority is answered 401",
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
            requirement: "a 401 has the body `Unauthorized` and no WWW-Authenticate header",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "Unauthorized",
        },
        |s| Box::pin(unauthorized_body(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/before-lookup",
            requirement: "who is not authenticated learns nothing of the Pods: authentication comes before everything else",
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
            requirement: "who is not authenticated learns nothing of the routes: a wrong path and a wrong method are 401 as well",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "401 for a path that is too short and for another method",
        },
        |s| Box::pin(before_routing(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authentication/non-bearer-scheme-rejected",
            requirement: "an Authorization header that holds no bearer token is answered 401",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "401 for Basic, for a scheme nobody knows, and for Bearer without a token",
        },
        |s| Box::pin(non_bearer_scheme(s)),
    ),
    Case::new(
        CaseInfo {
            id: DENIED_CASE,
            requirement: "who is authenticated and may not create nodes/checkpoint is answered 403",
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
            requirement: "a 403 names user, verb and resource",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "Forbidden (user=USER, verb=create, resource=nodes, subresource(s)=[checkpoint]) and a newline",
        },
        |s| Box::pin(denied_body(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authorization/verb-follows-method",
            requirement: "the verb that is asked about follows the method",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403 with verb=update for PUT, verb=patch for PATCH, verb=delete for DELETE",
        },
        |s| Box::pin(verb_follows_method(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/authorization/before-lookup",
            requirement: "who may not checkpoint learns nothing of the Pods: authorisation comes before the lookup",
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
            requirement: "who may not checkpoint learns nothing of the routes: a path that is too short is 403 as well",
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
            requirement: "the right to create nodes/proxy is not the right to create nodes/checkpoint",
            authority: authority::KUBELET_AUTH,
            motivation: "",
            level: Level::Reference,
            expected: "403",
        },
        |s| Box::pin(nodes_proxy_is_not_enough(s)),
    ),
];

/// What makes a checkpoint.
pub(super) const EXCLUSIVE_CASES: &[Case<KubeletSession>] = &[Case::new(
    CaseInfo {
        id: "kubelet/authentication/bearer-token-accepted",
        requirement: "who may checkpoint may come with a bearer token that the cluster issued",
        authority: authority::KUBELET_AUTH,
        motivation: "",
        level: Level::Reference,
        expected: "200",
    },
    |s| Box::pin(bearer_token(s)),
)];

/// Through the API server's proxy it is the API server that asks who we are and what we may.
fn require_direct(s: &KubeletSession) -> Result<(), NonPass> {
    if s.kubelet.through_node_proxy {
        return Err(NonPass::Skip(
            "the API server's node proxy answers this, not the kubelet: needs the node's own address".to_owned(),
        ));
    }
    Ok(())
}

async fn checkpoint_as(s: &KubeletSession, credentials: Credentials) -> Result<HttpResponse, NonPass> {
    require_direct(s)?;
    // If we are refused as well, a refusal of others says nothing.
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
        if challenge { " and WWW-Authenticate" } else { "" }
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
    // user:password, and a name that no scheme has.
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
                "needs a bearer token of one who may checkpoint".to_owned(),
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
            "needs a user whom the kubelet knows and who may not checkpoint".to_owned(),
        ));
    }
    checkpoint_as(s, Credentials::Denied).await
}

/// Refused as is expected, so that what comes beside it can be judged.
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
        // How the rest is worded is another case's.
        if response.status != 403 || !response.body.contains(&format!(", verb={verb}, ")) {
            problems.push(format!("{method}: {}", response.summary()));
        }
    }
    let as_expected = problems.is_empty();
    let actual = if as_expected {
        "so for all three".to_owned()
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
            "needs a user who may create nodes/proxy and not nodes/checkpoint".to_owned(),
        ));
    }
    let response = checkpoint_as(s, Credentials::NodeProxyOnly).await?;
    check(response.status == 403, response.summary())
}
