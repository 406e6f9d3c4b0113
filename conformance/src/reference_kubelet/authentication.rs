//! Authentication by client certificate or bearer token, or as anonymous.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, header};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::FromDer as _;

use super::{Config, StartError, certificates};
use crate::{http_server::ClientChain, tls};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserInfo {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Authentication {
    authorities: Option<(RootCertStore, Arc<dyn ClientCertVerifier>)>,
    tokens: Option<HashMap<String, UserInfo>>,
    anonymous: bool,
}

/// The result for one kind of credentials.
pub(crate) enum CredentialCheck {
    /// The request has no credentials of this kind.
    Absent,
    Invalid,
    Valid(UserInfo),
}

impl Authentication {
    pub(super) fn new(config: &Config) -> Result<Self, StartError> {
        let authorities = match &config.client_ca_file {
            None => None,
            Some(path) => {
                let roots = certificates::authorities(path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), tls::provider())
                    .build()
                    .map_err(|e| StartError::Content {
                        path: path.clone(),
                        reason: e.to_string(),
                    })?;
                Some((roots, verifier as Arc<dyn ClientCertVerifier>))
            }
        };
        Ok(Self {
            authorities,
            tokens: config.token_auth_file.as_deref().map(read_tokens).transpose()?,
            anonymous: config.anonymous,
        })
    }

    /// Returns the CAs for client certificates. Without CAs the server does not request a client certificate.
    pub(crate) fn client_cas(&self) -> Option<&RootCertStore> {
        self.authorities.as_ref().map(|(roots, _)| roots)
    }

    /// Returns the user; `None` means 401. Valid credentials of one kind suffice even when those of the other kind are
    /// invalid. A request with only invalid credentials is never anonymous.
    pub(crate) fn user(&self, request: &Parts) -> Option<UserInfo> {
        let mut invalid = false;
        for check in self.check(request) {
            match check {
                CredentialCheck::Valid(user) => return Some(user.with_group("system:authenticated")),
                CredentialCheck::Invalid => invalid = true,
                CredentialCheck::Absent => {}
            }
        }
        (self.anonymous && !invalid).then(|| UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
        })
    }

    /// Checks the certificate and the bearer token.
    pub(crate) fn check(&self, request: &Parts) -> [CredentialCheck; 2] {
        let chain = request
            .extensions
            .get::<ClientChain>()
            .map_or(&[][..], |chain| &chain.0);
        [self.check_certificate(chain), self.check_token(&request.headers)]
    }

    /// The user of the first token that `accepts` accepts.
    pub(crate) fn user_of_token(&self, accepts: impl Fn(&str) -> bool) -> Option<UserInfo> {
        let (_, user) = self.tokens.iter().flatten().find(|(token, _)| accepts(token))?;
        Some(user.clone())
    }

    fn check_certificate(&self, chain: &[CertificateDer<'_>]) -> CredentialCheck {
        let (Some((_, verifier)), Some((certificate, rest))) = (&self.authorities, chain.split_first()) else {
            return CredentialCheck::Absent;
        };
        if verifier.verify_client_cert(certificate, rest, UnixTime::now()).is_err() {
            return CredentialCheck::Invalid;
        }
        user_from_certificate(certificate).map_or(CredentialCheck::Absent, CredentialCheck::Valid)
    }

    fn check_token(&self, headers: &HeaderMap) -> CredentialCheck {
        let Some(tokens) = &self.tokens else {
            return CredentialCheck::Absent;
        };
        let value = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut words = value.trim().split(' ');
        let (Some(scheme), Some(token)) = (words.next(), words.next()) else {
            return CredentialCheck::Absent;
        };
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return CredentialCheck::Absent;
        }
        tokens
            .get(token)
            .map_or(CredentialCheck::Invalid, |user| CredentialCheck::Valid(user.clone()))
    }
}

impl UserInfo {
    fn with_group(mut self, group: &str) -> Self {
        if !self.groups.iter().any(|existing| existing == group) {
            self.groups.push(group.to_owned());
        }
        self
    }
}

/// Returns the user of a certificate: the common name, with the organizations as groups. `None` without a common name.
pub(crate) fn user_from_certificate(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok().map(str::to_owned))
        .collect();
    (!name.is_empty()).then_some(UserInfo { name, groups })
}

/// Reads a token file in the format of the API server: lines of `token,user,uid,"group1,group2"`.
fn read_tokens(path: &Path) -> Result<HashMap<String, UserInfo>, StartError> {
    let text = std::fs::read_to_string(path).map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })?;
    let mut tokens = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line_error = |what: &str| format!("line {}: {what}", number + 1);
        let content_error = |what: &str| StartError::Content {
            path: path.to_owned(),
            reason: line_error(what),
        };
        let mut fields = line.trim().splitn(4, ',').map(|field| field.trim().trim_matches('"'));
        let (Some(token), Some(name), Some(_uid)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(content_error("expected at least token, user and uid"));
        };
        if token.is_empty() {
            return Err(content_error("the token is empty"));
        }
        let groups = fields
            .next()
            .unwrap_or_default()
            .split(',')
            .filter(|group| !group.is_empty());
        let groups = groups.map(|group| group.trim().to_owned()).collect();
        tokens.insert(
            token.to_owned(),
            UserInfo {
                name: name.to_owned(),
                groups,
            },
        );
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_token_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.csv");
        std::fs::write(&path, "abc,alice,1\n\ndef,bob,2,\"admins,ops\"\n").unwrap();
        let tokens = read_tokens(&path).unwrap();
        assert_eq!(
            tokens["abc"],
            UserInfo {
                name: "alice".into(),
                groups: vec![]
            }
        );
        assert_eq!(tokens["def"].groups, ["admins", "ops"]);

        std::fs::write(&path, "abc,alice\n").unwrap();
        let error = read_tokens(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("line 1: expected at least token, user and uid"),
            "{error}"
        );
    }
}
