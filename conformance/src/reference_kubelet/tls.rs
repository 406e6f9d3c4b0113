//! TLS of the server.
//!
//! The handshake requests a client certificate and accepts any certificate whose key the client has. Authentication
//! checks the issuer later, so that an untrusted client gets 401, as from a kubelet, and not a TLS error.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::{CertificateFiles, Config, StartError};

/// The TLS configuration of the server and its certificate.
pub(super) struct TlsIdentity {
    pub(super) config: Arc<ServerConfig>,
    /// The certificate of the server, PEM.
    pub(super) certificate: String,
}

/// Reads or generates the certificate of the server and builds the TLS configuration.
pub(super) fn server(config: &Config, roots: Option<&RootCertStore>) -> Result<TlsIdentity, StartError> {
    let (certificate, key) = match &config.server_certificate {
        Some(files) => read_pair(files)?,
        None => make_self_signed(config)?,
    };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| StartError::Certificate(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| StartError::Certificate(e.to_string()))?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Certificate(error.to_string()))?;
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let hints = roots.subjects();
            builder.with_client_cert_verifier(Arc::new(AcceptAnyClient { provider, hints }))
        }
    };
    let mut server = builder
        .with_single_cert(chain, key)
        .map_err(|error| StartError::Certificate(error.to_string()))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    if config.http2 {
        server.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(TlsIdentity {
        config: Arc::new(server),
        certificate,
    })
}

pub(super) fn authorities(path: &Path) -> Result<RootCertStore, StartError> {
    let content = |reason: String| StartError::Content {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read(path).map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| content(error.to_string()))?;
        roots.add(certificate).map_err(|error| content(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(content("the file contains no certificate".to_owned()));
    }
    Ok(roots)
}

fn read_pair(files: &CertificateFiles) -> Result<(String, String), StartError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| StartError::File {
            path: path.to_owned(),
            source,
        })
    };
    Ok((read(&files.certificate)?, read(&files.key)?))
}

/// Generates a self-signed certificate for the names that a client may use.
fn make_self_signed(config: &Config) -> Result<(String, String), StartError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter();
    let names = BTreeSet::from_iter(names.chain([config.address.to_string(), config.node_name.clone()]));
    let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let certified =
        rcgen::generate_simple_self_signed(names).map_err(|error| StartError::Certificate(error.to_string()))?;
    Ok((certified.cert.pem(), certified.signing_key.serialize_pem()))
}

/// Accepts every client that has the key of its certificate.
#[derive(Debug)]
struct AcceptAnyClient {
    provider: Arc<CryptoProvider>,
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AcceptAnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

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
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
