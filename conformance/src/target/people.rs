//! Whom a kubelet knows that the harness starts, and what they may do.
//!
//! | who | by | may |
//! |---|---|---|
//! | `checkpoint-conformance` | certificate, and a bearer token | everything |
//! | `...-denied` | certificate | `get` everything |
//! | `...-proxy-only` | certificate | `get` everything, `create nodes/proxy` |

use reqwest::Url;

use super::{Access, Authority, Identity, Pair, TargetError, Trust, client::Others};

/// As whom the harness comes.
pub(super) const USER: &str = "checkpoint-conformance";
/// As whom it is denied.
const DENIED: &str = "checkpoint-conformance-denied";
/// As whom it has the right to the node's proxy, and not to checkpoints.
const PROXY_ONLY: &str = "checkpoint-conformance-proxy-only";
const GROUP: &str = "checkpoint-conformance";

/// Who may do what: user, verb, subresource of nodes; `*` is any.
pub(super) const RIGHTS: [(&str, &str, &str); 4] = [
    (USER, "*", "*"),
    (DENIED, "get", "*"),
    (PROXY_ONLY, "get", "*"),
    (PROXY_ONLY, "create", "proxy"),
];

/// Their credentials.
#[derive(Debug)]
pub(super) struct People {
    user: Pair,
    denied: Pair,
    proxy_only: Pair,
    /// The user's bearer token.
    pub(super) token: String,
}

impl People {
    /// Makes credentials that live as long as the target.
    ///
    /// # Errors
    /// No key can be made.
    pub(super) fn new(authority: &Authority) -> Result<People, TargetError> {
        let token: [u8; 16] = rand::random();
        Ok(People {
            user: authority.client(USER, GROUP)?,
            denied: authority.client(DENIED, GROUP)?,
            proxy_only: authority.client(PROXY_ONLY, GROUP)?,
            token: format!("{:032x}", u128::from_be_bytes(token)),
        })
    }

    /// Access to a kubelet that knows them.
    ///
    /// # Errors
    /// The URL is none.
    pub(super) fn access(&self, base: &str, trust: Trust, read_only: Option<String>) -> Result<Access, TargetError> {
        let url = |text: &str| Url::parse(text).map_err(|error| TargetError::Argument(format!("{text}: {error}")));
        let identity = |pair: &Pair| Identity::Certificate {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
        };
        Ok(Access {
            base: url(base)?,
            trust,
            identity: identity(&self.user),
            others: Others {
                denied: Some(identity(&self.denied)),
                proxy_only: Some(identity(&self.proxy_only)),
                by_token: Some(Identity::Token(self.token.clone())),
            },
            read_only: read_only.as_deref().map(url).transpose()?,
        })
    }
}
