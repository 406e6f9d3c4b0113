//! Credentials that are almost valid, identities that a request only claims, and requests that come after others.

use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, OK_CASE, WHEN_DONE_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, pass_if, skip},
    suites::authority,
    targets::{Credentials, HttpResponse, Identity, InvalidCertificate, Protocol, RawRequest, TokenAlteration},
};

const NO_CREDENTIALS_CASE: &str = "kubelet/authentication/credentials-required";
const TOKEN_CASE: &str = "kubelet/authentication/bearer-token-accepted";
const DENIED_CASE: &str = "kubelet/authorization/permission-required";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/authentication/altered-token-rejected", Level::Documented)
        .requirement("The kubelet must return 401 for a bearer token that differs from a valid one in any byte.")
        .authority(authority::API_RESPONSE)
        .motivation("caches and comparisons that use a prefix, a length or one case of a token")
        .expected("401 for a valid token with a byte removed, added or changed, in other case, as second word")
        .requires(&[Capability::BearerToken, Capability::DirectConnection])
        .may_depend_on(&[OK_CASE, "kubelet/authentication/unknown-token-rejected"])
        .run(|s| Box::pin(altered_token(s))),
    case("kubelet/authentication/expired-certificate-rejected", Level::Documented)
        .requirement("The kubelet must return 401 for a client certificate whose validity has ended.")
        .authority(authority::API_RESPONSE)
        .expected("401")
        .requires(&[Capability::ClientAuthority, Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(invalid_certificate(s, InvalidCertificate::Expired))),
    case("kubelet/authentication/future-certificate-rejected", Level::Documented)
        .requirement("The kubelet must return 401 for a client certificate whose validity has not begun.")
        .authority(authority::API_RESPONSE)
        .expected("401")
        .requires(&[Capability::ClientAuthority, Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(invalid_certificate(s, InvalidCertificate::NotYetValid))),
    case("kubelet/authentication/server-certificate-rejected", Level::Documented)
        .requirement("The kubelet must return 401 for a certificate of its client CA that is valid for servers only.")
        .authority(authority::API_RESPONSE)
        .motivation("the serving certificates of a node may come from the CA of its clients")
        .expected("401")
        .requires(&[Capability::ClientAuthority, Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(invalid_certificate(s, InvalidCertificate::ServerAuthOnly))),
    case("kubelet/authentication/namesake-ca-rejected", Level::Documented)
        .requirement(
            "The kubelet must return 401 for a client certificate of another CA with the name of its client CA.",
        )
        .authority(authority::API_RESPONSE)
        .motivation("a check of the issuer's name instead of its signature")
        .expected("401")
        .requires(&[Capability::ClientAuthority, Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(invalid_certificate(s, InvalidCertificate::NamesakeAuthority))),
    case("kubelet/authentication/claimed-identity-rejected", Level::Reference)
        .requirement("The kubelet must return 401 for a request that states its identity in a header or in the query.")
        .authority(authority::KUBELET_AUTH)
        .motivation("the headers of a front proxy, of impersonation or of a forwarding load balancer believed")
        .expected("401 with X-Remote-User, Impersonate-User, X-Forwarded-For and the like, and with ?access_token=")
        .requires(&[Capability::DirectConnection])
        .depends_on(&[NO_CREDENTIALS_CASE])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(claimed_identity(s))),
    case("kubelet/authentication/per-request", Level::Reference)
        .requirement("The kubelet must authenticate every request of a connection by its own credentials.")
        .authority(authority::KUBELET_AUTH)
        .motivation("proxies send the requests of several users over one connection")
        .expected("401 for a request without credentials on the connection of an authenticated request")
        .requires(&[Capability::BearerToken, Capability::DirectConnection])
        .depends_on(&[NO_CREDENTIALS_CASE])
        .may_depend_on(&[OK_CASE, TOKEN_CASE])
        .run(|s| Box::pin(authenticated_per_request(s))),
    case("kubelet/authentication/either-credential-accepted", Level::Reference)
        .requirement(
            "The kubelet must accept a valid token or certificate beside an invalid credential of the other kind.",
        )
        .authority(authority::KUBELET_AUTH)
        .expected("200 for each combination, and for the scheme `bearer` in lower case")
        .requires(&[Capability::BearerToken, Capability::DirectConnection])
        .depends_on(&[KEEPS_RUNNING_CASE, TOKEN_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(4)
        .run(|s| Box::pin(either_credential(s))),
    case("kubelet/authorization/impersonation-ignored", Level::Reference)
        .requirement("The kubelet must return 403 for a denied user who asks to impersonate another user.")
        .authority(authority::KUBELET_AUTH)
        .motivation("only the API server implements impersonation")
        .expected("403 with Impersonate-User and Impersonate-Group")
        .requires(&[Capability::DeniedUser, Capability::DirectConnection])
        .depends_on(&[DENIED_CASE])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(impersonation(s))),
    case("kubelet/authorization/per-request", Level::Reference)
        .requirement("The kubelet must authorize a checkpoint independently of what it allowed the same user before.")
        .authority(authority::KUBELET_AUTH)
        .motivation("a cache of decisions whose key is the user alone")
        .expected("403 for a user who has just read the metrics")
        .requires(&[Capability::DeniedUser, Capability::DirectConnection])
        .depends_on(&[DENIED_CASE])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(authorized_per_request(s))),
];

async fn checkpoint_as(s: &KubeletSession, credentials: Credentials) -> Result<HttpResponse, NonPass> {
    s.require_endpoint().await?;
    Ok(s.kubelet
        .checkpoint_as(credentials, s.container_under_test(), "")
        .await?)
}

/// Requests a checkpoint with these headers and this query.
async fn checkpoint_with(
    s: &KubeletSession,
    credentials: Credentials,
    headers: HeaderMap,
    query: &str,
) -> Result<HttpResponse, NonPass> {
    s.require_endpoint().await?;
    let client = s.kubelet.client().await;
    let url = client.checkpoint_url(s.container_under_test(), query);
    let response = client
        .send_with(credentials, Method::POST, url, headers, Vec::new())
        .await?;
    s.kubelet.remember_archives(&response);
    Ok(response)
}

/// A bearer token of a user who may checkpoint; the calling case must require [`Capability::BearerToken`].
async fn require_token(s: &KubeletSession) -> Result<String, NonPass> {
    let client = s.kubelet.client().await;
    let token = client.endpoint().valid_token().map(str::to_owned);
    token.ok_or(NonPass::Missing(Capability::BearerToken))
}

async fn altered_token(s: &KubeletSession) -> CaseResult {
    if checkpoint_as(s, Credentials::InvalidToken).await?.status != 401 {
        return Err(NonPass::Blocked("kubelet/authentication/unknown-token-rejected"));
    }
    let token = require_token(s).await?;
    let (mut rejected, mut problems) = (0, Vec::new());
    for alteration in TokenAlteration::ALL {
        if alteration.apply(&token).is_none() {
            continue;
        }
        let response = checkpoint_as(s, Credentials::AlteredToken(alteration)).await?;
        if response.status == 401 {
            rejected += 1;
        } else {
            problems.push(format!("{} for {alteration:?}", response.summary()));
        }
    }
    pass_if(
        problems.is_empty(),
        format!("401 for {rejected} altered tokens"),
        problems.join("; "),
    )
}

async fn invalid_certificate(s: &KubeletSession, defect: InvalidCertificate) -> CaseResult {
    let response = checkpoint_as(s, Credentials::InvalidCertificate(defect)).await?;
    check(response.status == 401, response.summary())
}

/// Headers in which proxies and API servers state an identity. The kubelet reads none of them.
const CLAIMS: [&[(&str, &str)]; 9] = [
    &[("x-remote-user", "system:admin"), ("x-remote-group", "system:masters")],
    &[
        ("impersonate-user", "system:admin"),
        ("impersonate-group", "system:masters"),
    ],
    &[
        ("x-forwarded-user", "system:admin"),
        ("x-forwarded-groups", "system:masters"),
    ],
    &[("x-forwarded-for", "127.0.0.1")],
    &[("x-real-ip", "127.0.0.1")],
    &[("forwarded", "for=127.0.0.1;host=localhost")],
    &[(
        "x-forwarded-client-cert",
        "Subject=\"O=system:masters,CN=system:admin\"",
    )],
    &[
        ("x-ssl-client-verify", "SUCCESS"),
        ("x-ssl-client-s-dn", "O=system:masters,CN=system:admin"),
    ],
    &[("host", "localhost")],
];

fn headers_of(claim: &[(&'static str, &'static str)]) -> HeaderMap {
    let header =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    claim.iter().map(header).collect()
}

async fn claimed_identity(s: &KubeletSession) -> CaseResult {
    if checkpoint_as(s, Credentials::Anonymous).await?.status != 401 {
        return Err(NonPass::Blocked(NO_CREDENTIALS_CASE));
    }
    let mut requests: Vec<_> = CLAIMS
        .iter()
        .map(|claim| (claim[0].0.to_owned(), headers_of(claim), String::new()))
        .collect();
    // A valid token counts only in the Authorization header.
    if let Ok(token) = require_token(s).await {
        // A kubelet in use may log the query.
        let parameters: &[&str] = match s.kubelet.lifecycle {
            Some(_) => &["access_token", "token", "bearer"],
            None => &[],
        };
        for parameter in parameters {
            requests.push((
                format!("?{parameter}="),
                HeaderMap::new(),
                format!("{parameter}={token}"),
            ));
        }
        for name in ["proxy-authorization", "x-auth-token", "cookie"] {
            let value = match name {
                "proxy-authorization" => format!("Bearer {token}"),
                "cookie" => format!("token={token}"),
                _ => token.clone(),
            };
            let Ok(value) = HeaderValue::from_str(&value) else {
                continue;
            };
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
            requests.push((name.to_owned(), headers, String::new()));
        }
    }
    let mut problems = Vec::new();
    let claims = requests.len();
    for (name, headers, query) in requests {
        let response = checkpoint_with(s, Credentials::Anonymous, headers, &query).await?;
        if response.status != 401 {
            problems.push(format!("{} with {name}", response.summary()));
        }
    }
    pass_if(
        problems.is_empty(),
        format!("401 with {claims} claims"),
        problems.join("; "),
    )
}

async fn authenticated_per_request(s: &KubeletSession) -> CaseResult {
    if checkpoint_as(s, Credentials::Anonymous).await?.status != 401 {
        return Err(NonPass::Blocked(NO_CREDENTIALS_CASE));
    }
    let path = format!("/checkpoint/{}", s.container_under_test());
    // An invalid parameter: the user is authenticated and authorized, and no checkpoint is made.
    let invalid = format!("{path}?timeout=soon");
    let request = |credentials, path| RawRequest::new(credentials, Protocol::Http1, Method::POST, path);
    let requests = [
        request(Credentials::ValidToken, &*invalid),
        request(Credentials::Anonymous, &*path),
    ];
    let client = s.kubelet.client().await;
    let responses = client.send_on_one_connection(&requests).await?.unwrap_or_default();
    for response in &responses {
        s.kubelet.remember_archives(response);
    }
    match &responses[..] {
        [first, ..] if matches!(first.status, 401 | 403) => Err(NonPass::Blocked(TOKEN_CASE)),
        [_, second, ..] => check(second.status == 401, second.summary()),
        _ => skip("requires a kubelet that keeps an HTTP/1.1 connection open"),
    }
}

async fn either_credential(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    if checkpoint_as(s, Credentials::ValidToken).await?.status != 200 {
        return Err(NonPass::Blocked(TOKEN_CASE));
    }
    let mut responses = Vec::new();
    let client = s.kubelet.client().await;
    if matches!(client.endpoint().identity, Identity::Certificate(_)) {
        responses.push((
            "a valid certificate and an unknown token",
            checkpoint_as(s, Credentials::CertificateAndInvalidToken).await?,
        ));
    }
    responses.push((
        "a valid token and an untrusted certificate",
        checkpoint_as(s, Credentials::ValidTokenAndUntrustedCertificate).await?,
    ));
    responses.push((
        "`bearer` in lower case",
        checkpoint_as(s, Credentials::ValidTokenLowerCaseScheme).await?,
    ));
    let actual: Vec<_> = responses
        .iter()
        .map(|(label, response)| format!("{} for {label}", response.status))
        .collect();
    check(
        responses.iter().all(|(_, response)| response.status == 200),
        actual.join(", "),
    )
}

/// Passes if the denied user gets 403.
async fn require_denied(s: &KubeletSession, credentials: Credentials) -> Result<(), NonPass> {
    if checkpoint_as(s, credentials).await?.status == 403 {
        Ok(())
    } else {
        Err(NonPass::Blocked(DENIED_CASE))
    }
}

async fn impersonation(s: &KubeletSession) -> CaseResult {
    require_denied(s, Credentials::Denied).await?;
    let headers = headers_of(&[
        ("impersonate-user", "system:admin"),
        ("impersonate-group", "system:masters"),
    ]);
    let response = checkpoint_with(s, Credentials::Denied, headers, "").await?;
    check(response.status == 403, response.summary())
}

async fn authorized_per_request(s: &KubeletSession) -> CaseResult {
    require_denied(s, Credentials::Denied).await?;
    let client = s.kubelet.client().await;
    let read = client
        .send(Credentials::MetricsReader, Method::GET, client.url("/metrics"))
        .await?;
    let response = checkpoint_as(s, Credentials::MetricsReader).await?;
    check(
        response.status == 403,
        format!("{} after {} for GET /metrics", response.summary(), read.status),
    )
}
