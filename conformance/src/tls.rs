//! TLS: the certificates and the configuration of the servers that the harness starts, the certificate of a client that
//! no kubelet must accept, and a check of peers that accepts any certificate.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CertifiedKey, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// A certificate with its private key, both PEM.
#[derive(Clone, Debug)]
pub struct CertificateKeyPair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl CertificateKeyPair {
    /// Creates a self-signed server certificate for these names and addresses.
    ///
    /// # Errors
    /// No key can be created, or a name is invalid.
    pub(crate) fn self_signed(names: Vec<String>) -> Result<CertificateKeyPair, rcgen::Error> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
        Ok(CertificateKeyPair {
            certificate: cert.pem(),
            key: signing_key.serialize_pem(),
        })
    }

    /// The certificates and the key, as rustls uses them.
    ///
    /// # Errors
    /// A text is no PEM.
    pub(crate) fn parse(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rustls::pki_types::pem::Error> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
    }
}

/// A certificate authority. Its key exists only in memory.
#[derive(Debug)]
pub struct CertificateAuthority {
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Creates an authority with that common name.
    ///
    /// # Errors
    /// No key can be created.
    pub fn new(name: &str) -> Result<CertificateAuthority, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(CertificateAuthority {
            name: name.to_owned(),
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
        })
    }

    /// The common name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The authority's certificate (PEM).
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a client certificate for a user of a group.
    ///
    /// # Errors
    /// No key can be created.
    pub fn issue_client(&self, user: &str, group: &str) -> Result<CertificateKeyPair, rcgen::Error> {
        self.issue_client_with(user, group, |_| {})
    }

    /// Issues a client certificate after `edit` has changed its contents.
    ///
    /// # Errors
    /// No key can be created.
    pub(crate) fn issue_client_with(
        &self,
        user: &str,
        group: &str,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Result<CertificateKeyPair, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        self.sign(params)
    }

    /// Issues a server certificate for 127.0.0.1 and localhost.
    ///
    /// # Errors
    /// No key can be created.
    pub fn issue_server(&self, name: &str) -> Result<CertificateKeyPair, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, None);
        params.subject_alt_names = vec![
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
            SanType::DnsName("localhost".try_into()?),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<CertificateKeyPair, rcgen::Error> {
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(CertificateKeyPair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn distinguished_name(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut name_attributes = DistinguishedName::new();
    name_attributes.push(DnType::CommonName, name);
    if let Some(group) = group {
        name_attributes.push(DnType::OrganizationName, group);
    }
    name_attributes
}

/// The implementation of the cryptographic primitives.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The TLS configuration of a server. With `client_cas` the handshake requests a client certificate and accepts any
/// certificate whose key the client has: authentication checks the issuer later, so that an untrusted client gets 401,
/// as from a kubelet, and not a TLS error.
///
/// # Errors
/// The certificate and the key do not fit.
pub(crate) fn server_config(
    pair: &CertificateKeyPair,
    client_cas: Option<&RootCertStore>,
    http2: bool,
) -> anyhow::Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_cas {
        None => builder.with_no_client_auth(),
        Some(cas) => builder.with_client_cert_verifier(Arc::new(AcceptAnyPeer::new(cas.subjects()))),
    };
    let (chain, key) = pair.parse()?;
    let mut config = builder.with_single_cert(chain, key)?;
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(config)
}

/// Accepts every peer that has the key of its certificate.
#[derive(Debug)]
pub(crate) struct AcceptAnyPeer {
    provider: Arc<CryptoProvider>,
    client_cas: Vec<rustls::DistinguishedName>,
}

impl AcceptAnyPeer {
    /// `client_cas` are the names of authorities that a server sends to its clients.
    pub(crate) fn new(client_cas: Vec<rustls::DistinguishedName>) -> AcceptAnyPeer {
        let provider = provider();
        AcceptAnyPeer { provider, client_cas }
    }
}

/// The methods that both traits have.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}

impl ClientCertVerifier for AcceptAnyPeer {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &self.client_cas
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    verify_signatures!();
}

impl ServerCertVerifier for AcceptAnyPeer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_certificate_names_user_group_and_issuer() {
        let authority = CertificateAuthority::new("the authority").unwrap();
        let pair = authority.issue_client("alice", "admins").unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=alice, O=admins");
        assert_eq!(certificate.issuer().to_string(), "CN=the authority");
    }
}
