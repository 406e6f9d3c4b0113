//! Authentication (401) and authorization (403).

use reqwest::{
    Method,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, OK_CASE, WHEN_DONE_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, pass_if},
    suites::authority,
    targets::{Credentials, HttpResponse, Identity},
};

const NO_CREDENTIALS_CASE: &str = "kubelet/authentication/credentials-required";
const DENIED_CASE: &str = "kubelet/authorization/permission-required";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/authentication/credentials-required", Level::Documented)
        .requirement("The kubelet must return 401 for a request without credentials.")
        .authority(authority::API_RESPONSE)
        .expected("401")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(status_is_401(s, Credentials::Anonymous))),
    case("kubelet/authentication/unknown-token-rejected", Level::Documented)
        .requirement("The kubelet must return 401 for a request with an unknown bearer token.")
        .authority(authority::API_RESPONSE)
        .expected("401")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(status_is_401(s, Credentials::InvalidToken))),
    case(
        "kubelet/authentication/untrusted-certificate-rejected",
        Level::Documented,
    )
    .requirement(
        "The kubelet must return 401 for a request with a client certificate from an unknown certificate \
            authority.",
    )
    .authority(authority::API_RESPONSE)
    .expected("401")
    .requires(&[Capability::DirectConnection])
    .may_depend_on(&[OK_CASE])
    .shared()
    .run(|s| Box::pin(status_is_401(s, Credentials::UntrustedCertificate))),
    case("kubelet/authentication/unauthorized-body", Level::Reference)
        .requirement("The kubelet must send the body `Unauthorized` and no WWW-Authenticate header with a 401.")
        .authority(authority::KUBELET_AUTH)
        .expected("\"Unauthorized\", without a WWW-Authenticate header")
        .requires(&[Capability::DirectConnection])
        .depends_on(&["kubelet/authentication/credentials-required"])
        .shared()
        .run(|s| Box::pin(unauthorized_body(s))),
    case("kubelet/authentication/before-lookup", Level::Reference)
        .requirement("The kubelet must authenticate a request before it looks up the Pod.")
        .authority(authority::KUBELET_AUTH)
        .expected("401 for a Pod that does not exist")
        .requires(&[Capability::DirectConnection])
        .depends_on(&["kubelet/authentication/credentials-required"])
        .shared()
        .run(|s| Box::pin(before_lookup(s))),
    case("kubelet/authentication/before-routing", Level::Reference)
        .requirement("The kubelet must authenticate a request before it routes the request by path and method.")
        .authority(authority::KUBELET_AUTH)
        .expected("401 for a path that is too short and for PUT")
        .requires(&[Capability::DirectConnection])
        .depends_on(&["kubelet/authentication/credentials-required"])
        .shared()
        .run(|s| Box::pin(before_routing(s))),
    case("kubelet/authentication/non-bearer-scheme-rejected", Level::Documented)
        .requirement("The kubelet must return 401 for an Authorization header without a bearer token.")
        .authority(authority::API_RESPONSE)
        .expected("401 for Basic, for an unknown scheme, and for Bearer without a token")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(non_bearer_scheme(s))),
    case("kubelet/authorization/permission-required", Level::Reference)
        .requirement("The kubelet must return 403 for an authenticated user who may not create nodes/checkpoint.")
        .authority(authority::KUBELET_AUTH)
        .expected("403")
        .requires(&[Capability::DeniedUser, Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(denied(s))),
    case("kubelet/authorization/forbidden-body", Level::Reference)
        .requirement("The kubelet must name the user, the verb and the resource in the body of a 403.")
        .authority(authority::KUBELET_AUTH)
        .expected(
            "Forbidden (user=USER, verb=create, resource=nodes, subresource(s)=[checkpoint]), with a newline at \
            the end",
        )
        .requires(&[Capability::DeniedUser, Capability::DirectConnection])
        .depends_on(&["kubelet/authorization/permission-required"])
        .shared()
        .run(|s| Box::pin(denied_body(s))),
    case("kubelet/authorization/verb-follows-method", Level::Reference)
        .requirement("The kubelet must authorize the verb that corresponds to the HTTP method.")
        .authority(authority::KUBELET_AUTH)
        .expected("403 with the matching verb for PUT, PATCH, DELETE")
        .requires(&[Capability::DeniedUser, Capability::DirectConnection])
        .depends_on(&["kubelet/authorization/permission-required"])
        .shared()
        .run(|s| Box::pin(verb_follows_method(s))),
    case("kubelet/authorization/before-lookup", Level::Reference)
        .requirement("The kubelet must authorize a request before it looks up the Pod.")
        .authority(authority::KUBELET_AUTH)
        .expected("403 for a Pod that does not exist")
        .requires(&[Capability::DeniedUser, Capability::DirectConnection])
        .depends_on(&["kubelet/authorization/permission-required"])
        .shared()
        .run(|s| Box::pin(denied_before_lookup(s))),
    case("kubelet/authorization/before-routing", Level::Reference)
        .requirement("The kubelet must authorize a request before it routes the request by path.")
        .authority(authority::KUBELET_AUTH)
        .expected("403")
        .requires(&[Capability::DeniedUser, Capability::DirectConnection])
        .depends_on(&["kubelet/authorization/permission-required"])
        .shared()
        .run(|s| Box::pin(denied_before_routing(s))),
    case("kubelet/authorization/nodes-proxy-insufficient", Level::Reference)
        .requirement("The kubelet must return 403 for a user who may create nodes/proxy but not nodes/checkpoint.")
        .authority(authority::KUBELET_AUTH)
        .expected("403")
        .requires(&[
            Capability::DeniedUser,
            Capability::DirectConnection,
            Capability::NodeProxyUser,
        ])
        .depends_on(&["kubelet/authorization/permission-required"])
        .shared()
        .run(|s| Box::pin(nodes_proxy_is_not_enough(s))),
    case("kubelet/authentication/bearer-token-accepted", Level::Reference)
        .requirement("The kubelet must accept a valid bearer token of a user who may create nodes/checkpoint.")
        .authority(authority::KUBELET_AUTH)
        .expected("200")
        .requires(&[Capability::DirectConnection, Capability::BearerToken])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(bearer_token(s))),
];

async fn checkpoint_as(s: &KubeletSession, credentials: Credentials) -> Result<HttpResponse, NonPass> {
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
    let url = client.url("/checkpoint/no-such-namespace/no-such-pod/no-such-container");
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
    let whole = client.checkpoint_url(container_under_test, "");
    let short = client.send(Credentials::Anonymous, Method::POST, short).await?;
    let other = client.send(Credentials::Anonymous, Method::PUT, whole).await?;
    let actual = format!("{} for a short path, {} for PUT", short.summary(), other.summary());
    check(short.status == 401 && other.status == 401, actual)
}

async fn non_bearer_scheme(s: &KubeletSession) -> CaseResult {
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
        let url = client.checkpoint_url(container_under_test, "");
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
            return Err(NonPass::Missing(Capability::BearerToken));
        }
    };
    s.require_checkpointable().await?;
    let response = checkpoint_as(s, credentials).await?;
    check(response.status == 200, response.summary())
}

/// Passes if the denied user gets 403, so that other properties of that response can be checked.
async fn require_denied(s: &KubeletSession) -> Result<(), NonPass> {
    if checkpoint_as(s, Credentials::Denied).await?.status == 403 {
        Ok(())
    } else {
        Err(NonPass::Blocked(DENIED_CASE))
    }
}

async fn denied(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_as(s, Credentials::Denied).await?;
    check(response.status == 403, response.summary())
}

async fn denied_body(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_as(s, Credentials::Denied).await?;
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
    let response = checkpoint_as(s, Credentials::Denied).await?;
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
        let url = client.checkpoint_url(container_under_test, "");
        let response = client.send(Credentials::Denied, method.clone(), url).await?;
        // The wording of the rest of the body is the subject of another case.
        if response.status != 403 || !response.body.contains(&format!(", verb={verb}, ")) {
            problems.push(format!("{method}: {}", response.summary()));
        }
    }
    pass_if(
        problems.is_empty(),
        "403 with the matching verb for PUT, PATCH, DELETE",
        problems.join("; "),
    )
}

async fn denied_before_lookup(s: &KubeletSession) -> CaseResult {
    require_denied(s).await?;
    let client = s.kubelet.client().await;
    let url = client.url("/checkpoint/no-such-namespace/no-such-pod/no-such-container");
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
    let response = checkpoint_as(s, Credentials::NodeProxyOnly).await?;
    check(response.status == 403, response.summary())
}
