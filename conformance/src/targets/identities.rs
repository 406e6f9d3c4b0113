//! The users that a kubelet started by the harness knows, and their permissions.
//!
//! | user | credentials | permissions |
//! |---|---|---|
//! | `checkpoint-conformance` | certificate, bearer token | everything |
//! | `...-denied` | certificate | `get` everything |
//! | `...-proxy-only` | certificate | `get` everything, `create nodes/proxy` |

use reqwest::Url;

use super::{HttpsEndpoint, Identity, ServerVerification, TargetError, client::ExtraIdentities};
use crate::tls::{CertificateAuthority, CertificateKeyPair};

pub(super) const AUTHORIZED_USER: &str = "checkpoint-conformance";
const DENIED_USER: &str = "checkpoint-conformance-denied";
const NODE_PROXY_USER: &str = "checkpoint-conformance-proxy-only";
const USER_GROUP: &str = "checkpoint-conformance";

/// User, verb and subresource of nodes. `*` matches any verb or subresource.
pub(super) const PERMISSIONS: [(&str, &str, &str); 4] = [
    (AUTHORIZED_USER, "*", "*"),
    (DENIED_USER, "get", "*"),
    (NODE_PROXY_USER, "get", "*"),
    (NODE_PROXY_USER, "create", "proxy"),
];

#[derive(Debug)]
pub(super) struct TestIdentities {
    authorized: CertificateKeyPair,
    denied: CertificateKeyPair,
    node_proxy_only: CertificateKeyPair,
    /// The bearer token of [`AUTHORIZED_USER`].
    pub(super) token: String,
}

impl TestIdentities {
    /// Creates credentials, which are valid as long as the target exists.
    pub(super) fn new(authority: &CertificateAuthority) -> Result<TestIdentities, TargetError> {
        Ok(TestIdentities {
            authorized: authority.issue_client(AUTHORIZED_USER, USER_GROUP)?,
            denied: authority.issue_client(DENIED_USER, USER_GROUP)?,
            node_proxy_only: authority.issue_client(NODE_PROXY_USER, USER_GROUP)?,
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
                node_proxy_user: Some(identity(&self.node_proxy_only)),
                token_user: Some(Identity::Token(self.token.clone())),
            },
            read_only: read_only.as_deref().map(url).transpose()?,
        })
    }
}
