//! The users that a kubelet started by the harness knows, and their permissions.
//!
//! | user | credentials | permissions |
//! |---|---|---|
//! | `checkpoint-conformance` | certificate, bearer token | everything |
//! | `...-denied` | certificate | `get` everything |
//! | `...-metrics-reader` | certificate | `get` everything |
//! | `...-proxy-only` | certificate | `get` everything, `create nodes/proxy` |

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use reqwest::Url;

use super::{ExtraIdentities, HttpsEndpoint, Identity, InvalidCertificate, ServerVerification, TargetError};
use crate::tls::{CertificateAuthority, CertificateKeyPair};

pub(super) const AUTHORIZED_USER: &str = "checkpoint-conformance";
const DENIED_USER: &str = "checkpoint-conformance-denied";
const METRICS_READER: &str = "checkpoint-conformance-metrics-reader";
const NODE_PROXY_USER: &str = "checkpoint-conformance-proxy-only";
const USER_GROUP: &str = "checkpoint-conformance";

/// Certificates of the authorized user with one defect each.
fn invalid_certificates(
    authority: &CertificateAuthority,
) -> Result<Vec<(InvalidCertificate, CertificateKeyPair)>, TargetError> {
    let issue = |edit: fn(&mut CertificateParams)| authority.issue_client_with(AUTHORIZED_USER, USER_GROUP, edit);
    let namesake = CertificateAuthority::new(authority.name())?;
    Ok(vec![
        (
            InvalidCertificate::Expired,
            issue(|params| params.not_after = date_time_ymd(2020, 1, 1))?,
        ),
        (
            InvalidCertificate::NotYetValid,
            issue(|params| params.not_before = date_time_ymd(4000, 1, 1))?,
        ),
        (
            InvalidCertificate::ServerAuthOnly,
            issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])?,
        ),
        (
            InvalidCertificate::NamesakeAuthority,
            namesake.issue_client(AUTHORIZED_USER, USER_GROUP)?,
        ),
    ])
}

/// User, verb and subresource of nodes. `*` matches any verb or subresource.
pub(super) const PERMISSIONS: [(&str, &str, &str); 5] = [
    (AUTHORIZED_USER, "*", "*"),
    (DENIED_USER, "get", "*"),
    (METRICS_READER, "get", "*"),
    (NODE_PROXY_USER, "get", "*"),
    (NODE_PROXY_USER, "create", "proxy"),
];

#[derive(Debug)]
pub(super) struct TestIdentities {
    authorized: CertificateKeyPair,
    denied: CertificateKeyPair,
    metrics_reader: CertificateKeyPair,
    node_proxy_only: CertificateKeyPair,
    invalid_certificates: Vec<(InvalidCertificate, CertificateKeyPair)>,
    /// The bearer token of [`AUTHORIZED_USER`].
    pub(super) token: String,
}

impl TestIdentities {
    /// Creates credentials, which are valid as long as the target exists.
    pub(super) fn new(authority: &CertificateAuthority) -> Result<TestIdentities, TargetError> {
        Ok(TestIdentities {
            authorized: authority.issue_client(AUTHORIZED_USER, USER_GROUP)?,
            denied: authority.issue_client(DENIED_USER, USER_GROUP)?,
            metrics_reader: authority.issue_client(METRICS_READER, USER_GROUP)?,
            node_proxy_only: authority.issue_client(NODE_PROXY_USER, USER_GROUP)?,
            invalid_certificates: invalid_certificates(authority)?,
            token: format!("{:032x}", rand::random::<u128>()),
        })
    }

    /// The address of a kubelet that knows these users, with their credentials.
    pub(super) fn endpoint(
        &self,
        base: &str,
        verification: ServerVerification,
        read_only: Option<String>,
    ) -> Result<HttpsEndpoint, TargetError> {
        let url = |text: &str| Url::parse(text).map_err(|error| TargetError::Argument(format!("{text}: {error}")));
        let identity = |pair: &CertificateKeyPair| Identity::Certificate(pair.clone());
        Ok(HttpsEndpoint {
            base_url: url(base)?,
            verification,
            identity: identity(&self.authorized),
            extra_identities: ExtraIdentities {
                denied_user: Some(identity(&self.denied)),
                metrics_reader: Some(identity(&self.metrics_reader)),
                node_proxy_user: Some(identity(&self.node_proxy_only)),
                token_user: Some(Identity::Token(self.token.clone())),
                invalid_certificates: self
                    .invalid_certificates
                    .iter()
                    .map(|(defect, pair)| (*defect, identity(pair)))
                    .collect(),
            },
            read_only: read_only.as_deref().map(url).transpose()?,
        })
    }
}
