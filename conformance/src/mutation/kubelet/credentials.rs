//! Kubelets that accept credentials that are almost valid, believe identities that a request only claims, or decide by
//! earlier requests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{StatusCode, Version, header};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use super::{Mutant, any_user, kubelet, replace};
use crate::http_server::{ClientChain, ConnectionNumber};
use crate::reference_kubelet::{
    authentication::{Authentication, CredentialCheck, UserInfo, user_from_certificate},
    route::query_values,
    server::Handlers,
};

const ALTERED_TOKEN: &[&str] = &["kubelet/authentication/altered-token-rejected"];
const CLAIMED_IDENTITY: &[&str] = &["kubelet/authentication/claimed-identity-rejected"];
const EITHER_CREDENTIAL: &[&str] = &["kubelet/authentication/either-credential-accepted"];
const HTTP2: &[&str] = &["kubelet/http2/same-responses"];

/// The group of the users of HTTP/2 requests, in the mutant that does not authorize them.
const HTTP2_GROUP: &str = "http2";

pub(super) const MUTANTS: &[Mutant] = &[
    // Certificates.
    kubelet("expired-certificate-accepted")
        .summary("accepts a client certificate after its validity")
        .defect(replace!(authenticate, |authentication, request| {
            let expired = |leaf: &X509Certificate<'_>| leaf.validity().not_after < ASN1Time::now();
            authentication
                .user(request)
                .or_else(|| certificate_user(request, expired))
        }))
        .must_fail(&["kubelet/authentication/expired-certificate-rejected"]),
    kubelet("future-certificate-accepted")
        .summary("accepts a client certificate before its validity")
        .defect(replace!(authenticate, |authentication, request| {
            let future = |leaf: &X509Certificate<'_>| leaf.validity().not_before > ASN1Time::now();
            authentication
                .user(request)
                .or_else(|| certificate_user(request, future))
        }))
        .must_fail(&["kubelet/authentication/future-certificate-rejected"]),
    kubelet("validity-ignored")
        .summary("does not check the validity of client certificates")
        .defect(replace!(authenticate, |authentication, request| {
            let invalid = |leaf: &X509Certificate<'_>| !leaf.validity().is_valid();
            authentication
                .user(request)
                .or_else(|| certificate_user(request, invalid))
        }))
        .must_fail(&[
            "kubelet/authentication/expired-certificate-rejected",
            "kubelet/authentication/future-certificate-rejected",
        ]),
    kubelet("server-certificate-accepted")
        .summary("accepts certificates that are valid for servers only")
        .defect(replace!(authenticate, |authentication, request| {
            authentication
                .user(request)
                .or_else(|| certificate_user(request, is_for_servers))
        }))
        .must_fail(&["kubelet/authentication/server-certificate-rejected"]),
    kubelet("issuer-by-name")
        .summary("compares the name of a certificate's issuer in place of its signature")
        .defect(replace!(authenticate, |authentication, request| {
            let names = authentication
                .client_cas()
                .map(|cas| cas.subjects())
                .unwrap_or_default();
            let is_namesake = |leaf: &X509Certificate<'_>| {
                let issuer = leaf.issuer().as_raw();
                leaf.validity().is_valid() && !is_for_servers(leaf) && names.iter().any(|name| name.as_ref() == issuer)
            };
            authentication
                .user(request)
                .or_else(|| certificate_user(request, is_namesake))
        }))
        .must_fail(&["kubelet/authentication/namesake-ca-rejected"]),
    // Tokens.
    kubelet("token-prefix-sufficient")
        .summary("accepts the beginning of a token")
        .defect(replace!(authenticate, |authentication, request| {
            by_token(authentication, request, |known, token| known.starts_with(token))
        }))
        .must_fail(ALTERED_TOKEN),
    kubelet("token-suffix-sufficient")
        .summary("accepts the end of a token")
        .defect(replace!(authenticate, |authentication, request| {
            by_token(authentication, request, |known, token| known.ends_with(token))
        }))
        .must_fail(ALTERED_TOKEN),
    kubelet("longer-token-accepted")
        .summary("accepts a token with further bytes at its end")
        .defect(replace!(authenticate, |authentication, request| {
            by_token(authentication, request, |known, token| token.starts_with(known))
        }))
        .must_fail(ALTERED_TOKEN),
    kubelet("token-case-ignored")
        .summary("compares tokens without regard to case")
        .defect(replace!(authenticate, |authentication, request| {
            by_token(authentication, request, str::eq_ignore_ascii_case)
        }))
        .must_fail(ALTERED_TOKEN),
    kubelet("token-length-compared")
        .summary("compares only the length of tokens")
        .defect(replace!(authenticate, |authentication, request| {
            by_token(authentication, request, |known, token| known.len() == token.len())
        }))
        .must_fail(ALTERED_TOKEN),
    kubelet("eight-bytes-of-token-compared")
        .summary("compares only the first eight bytes of tokens")
        .defect(replace!(authenticate, |authentication, request| {
            by_token(authentication, request, |known, token| {
                known.as_bytes().get(..8) == token.as_bytes().get(..8)
            })
        }))
        .must_fail(ALTERED_TOKEN),
    kubelet("last-byte-of-token-ignored")
        .summary("does not compare the last byte of tokens")
        .defect(replace!(authenticate, |authentication, request| {
            by_token(authentication, request, |known, token| {
                let (known, token) = (known.as_bytes(), token.as_bytes());
                known.len() == token.len() && known[..known.len() - 1] == token[..token.len() - 1]
            })
        }))
        .must_fail(ALTERED_TOKEN),
    kubelet("token-as-any-word")
        .summary("looks for the token in every word of the Authorization header")
        .defect(replace!(authenticate, |authentication, request| {
            let value = header_text(request, "authorization");
            let by_word = || authentication.user_of_token(|known| value.split(' ').any(|word| word == known));
            authentication.user(request).or_else(by_word)
        }))
        .must_fail(ALTERED_TOKEN),
    // Claims.
    kubelet("x-remote-user-believed")
        .summary("believes the header X-Remote-User")
        .defect(replace!(authenticate, |authentication, request| {
            by_claim(
                authentication,
                request,
                !header_text(request, "x-remote-user").is_empty(),
            )
        }))
        .must_fail(CLAIMED_IDENTITY),
    kubelet("impersonate-user-believed")
        .summary("believes the header Impersonate-User of a request without credentials")
        .defect(replace!(authenticate, |authentication, request| {
            by_claim(
                authentication,
                request,
                !header_text(request, "impersonate-user").is_empty(),
            )
        }))
        .must_fail(CLAIMED_IDENTITY),
    kubelet("forwarded-localhost-believed")
        .summary("takes a request for a local one by X-Forwarded-For")
        .defect(replace!(authenticate, |authentication, request| {
            by_claim(
                authentication,
                request,
                header_text(request, "x-forwarded-for") == "127.0.0.1",
            )
        }))
        .must_fail(CLAIMED_IDENTITY),
    kubelet("client-certificate-header-believed")
        .summary("believes the certificate that a header names")
        .defect(replace!(authenticate, |authentication, request| {
            let named = header_text(request, "x-forwarded-client-cert").contains("system:masters");
            by_claim(authentication, request, named)
        }))
        .must_fail(CLAIMED_IDENTITY),
    kubelet("localhost-host-believed")
        .summary("takes a request for a local one by its Host header")
        .defect(replace!(authenticate, |authentication, request| {
            by_claim(authentication, request, header_text(request, "host") == "localhost")
        }))
        .must_fail(CLAIMED_IDENTITY),
    kubelet("token-in-query-accepted")
        .summary("accepts a token in the query")
        .defect(replace!(authenticate, |authentication, request| {
            let tokens = query_values(request.uri.query(), "access_token");
            let by_query = || authentication.user_of_token(|known| tokens.iter().any(|token| token == known));
            authentication.user(request).or_else(by_query)
        }))
        .must_fail(CLAIMED_IDENTITY),
    kubelet("token-in-cookie-accepted")
        .summary("accepts a token in a cookie")
        .defect(replace!(authenticate, |authentication, request| {
            let cookie = header_text(request, "cookie");
            let by_cookie = || authentication.user_of_token(|known| cookie == format!("token={known}"));
            authentication.user(request).or_else(by_cookie)
        }))
        .must_fail(CLAIMED_IDENTITY),
    kubelet("impersonation-implemented")
        .summary("lets every authenticated user impersonate another one")
        .defect(|config| {
            config.behavior.authenticate = |authentication, request| {
                let mut user = authentication.user(request)?;
                let groups = header_text(request, "impersonate-group");
                user.groups.extend((!groups.is_empty()).then(|| groups.to_owned()));
                Some(user)
            };
            config.behavior.authorize = |Handlers { authorizer, .. }, user, attributes| {
                authorizer.allows(user, attributes) || user.groups.iter().any(|group| group == "system:masters")
            };
        })
        .must_fail(&["kubelet/authorization/impersonation-ignored"]),
    // Decisions by earlier requests.
    kubelet("identity-of-connection-kept")
        .summary("takes a request without credentials for one of the user who sent the last one on the connection")
        .defect(replace!(authenticate, user_of_connection))
        .must_fail(&["kubelet/authentication/per-request"]),
    kubelet("decision-cached-by-user")
        .summary("allows a user everything after the first allowed request")
        .defect(replace!(authorize, |handlers, user, attributes| {
            let mut allowed_users = handlers
                .config
                .behavior
                .memory
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let allows = handlers.authorizer.allows(user, attributes);
            if allows {
                allowed_users.insert(user.name.clone());
            }
            allows || allowed_users.contains(&user.name)
        }))
        .must_fail(&["kubelet/authorization/per-request"]),
    // Combinations.
    kubelet("invalid-credential-decides")
        .summary("returns 401 for a valid credential beside an invalid one")
        .defect(replace!(authenticate, |authentication, request| {
            let is_invalid = |check: &CredentialCheck| matches!(check, CredentialCheck::Invalid);
            if authentication.check(request).iter().any(is_invalid) {
                return None;
            }
            authentication.user(request)
        }))
        .must_fail(EITHER_CREDENTIAL),
    kubelet("certificate-alone-counts")
        .summary("ignores the token of a request with a certificate")
        .defect(replace!(authenticate, |authentication, request| {
            match authentication.check(request) {
                [CredentialCheck::Invalid, _] => None,
                _ => authentication.user(request),
            }
        }))
        .must_fail(EITHER_CREDENTIAL),
    kubelet("bearer-case-sensitive")
        .summary("returns 401 for the scheme `bearer` in lower case")
        .defect(replace!(authenticate, |authentication, request| {
            if header_text(request, "authorization").starts_with("bearer ") {
                return None;
            }
            authentication.user(request)
        }))
        .must_fail(EITHER_CREDENTIAL),
    // HTTP/2.
    kubelet("http2-unauthorized")
        .summary("allows every authenticated user everything over HTTP/2")
        .defect(|config| {
            config.behavior.authenticate = |authentication, request| {
                let mut user = authentication.user(request)?;
                user.groups
                    .extend((request.version == Version::HTTP_2).then(|| HTTP2_GROUP.to_owned()));
                Some(user)
            };
            config.behavior.authorize = |Handlers { authorizer, .. }, user, attributes| {
                authorizer.allows(user, attributes) || user.groups.iter().any(|group| group == HTTP2_GROUP)
            };
        })
        .must_fail(HTTP2),
    kubelet("http2-query-ignored")
        .summary("ignores the query over HTTP/2")
        .defect(replace!(edit_request, |request| {
            if request.version == Version::HTTP_2 {
                let path = request.uri.path().to_owned();
                request.uri = path.parse().expect("a path is a URI");
            }
        }))
        .must_fail(HTTP2),
    kubelet("http2-timeout-ignored")
        .summary("ignores a valid timeout over HTTP/2")
        .defect(replace!(edit_request, |request| {
            let is_valid = |query: &str| {
                query
                    .strip_prefix("timeout=")
                    .is_some_and(|value| value.parse::<u32>().is_ok())
            };
            if request.version == Version::HTTP_2 && request.uri.query().is_some_and(is_valid) {
                let path = request.uri.path().to_owned();
                request.uri = path.parse().expect("a path is a URI");
            }
        }))
        .must_fail(HTTP2),
    kubelet("http2-errors-without-body")
        .summary("returns errors without a body over HTTP/2")
        .defect(replace!(edit_response, |_, request, response| {
            match response.status() {
                StatusCode::INTERNAL_SERVER_ERROR if request.version == Version::HTTP_2 => {
                    response.map(|_| Bytes::new())
                }
                _ => response,
            }
        }))
        .must_fail(HTTP2),
    kubelet("http2-accept-header-ignored")
        .summary("ignores the Accept header over HTTP/2")
        .defect(replace!(edit_request, |request| {
            if request.version == Version::HTTP_2 {
                request.headers.remove(header::ACCEPT);
            }
        }))
        .must_fail(HTTP2),
];

/// The user of a client certificate that satisfies `accepts`, whatever its issuer.
fn certificate_user(request: &Parts, accepts: impl Fn(&X509Certificate<'_>) -> bool) -> Option<UserInfo> {
    let certificate = request.extensions.get::<ClientChain>()?.0.first()?;
    let (_, leaf) = X509Certificate::from_der(certificate).ok()?;
    accepts(&leaf).then(|| user_from_certificate(certificate))?
}

fn is_for_servers(leaf: &X509Certificate<'_>) -> bool {
    let usage = leaf.extended_key_usage().ok().flatten();
    usage.is_some_and(|usage| usage.value.server_auth && !usage.value.client_auth)
}

/// The user by valid credentials, or the user of the first known token that `matches(known, presented)`.
fn by_token(
    authentication: &Authentication,
    request: &Parts,
    matches: impl Fn(&str, &str) -> bool,
) -> Option<UserInfo> {
    let presented = header_text(request, "authorization").strip_prefix("Bearer ");
    let similar = || {
        let presented = presented.filter(|token| !token.is_empty())?;
        authentication.user_of_token(|known| matches(known, presented))
    };
    authentication.user(request).or_else(similar)
}

fn by_claim(authentication: &Authentication, request: &Parts, is_claimed: bool) -> Option<UserInfo> {
    authentication.user(request).or_else(|| is_claimed.then(any_user))
}

/// The value of a header; empty if there is none.
fn header_text<'a>(request: &'a Parts, name: &str) -> &'a str {
    let value = request.headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn user_of_connection(authentication: &Authentication, request: &Parts) -> Option<UserInfo> {
    // The numbers are unique in this process, so mutants that run at the same time do not share entries.
    static USERS: Mutex<BTreeMap<ConnectionNumber, UserInfo>> = Mutex::new(BTreeMap::new());
    let connection = *request.extensions.get::<ConnectionNumber>()?;
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    match authentication.user(request) {
        Some(user) => {
            users.insert(connection, user.clone());
            Some(user)
        }
        None => users.get(&connection).cloned(),
    }
}
