//! The certificates of the server and of the authorities for clients.

use std::collections::BTreeSet;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{CertificateFiles, Config, StartError};
use crate::tls::CertificateKeyPair;

/// Reads the certificate of the server, or generates a self-signed one for the names that a client may use.
pub(super) fn server_certificate(config: &Config) -> Result<CertificateKeyPair, StartError> {
    if let Some(files) = &config.server_certificate {
        return read_pair(files);
    }
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter();
    let names = BTreeSet::from_iter(names.chain([config.address.to_string(), config.node_name.clone()]));
    let names = names.into_iter().filter(|name| !name.is_empty()).collect();
    CertificateKeyPair::self_signed(names).map_err(|error| StartError::Certificate(error.to_string()))
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

fn read_pair(files: &CertificateFiles) -> Result<CertificateKeyPair, StartError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| StartError::File {
            path: path.to_owned(),
            source,
        })
    };
    Ok(CertificateKeyPair {
        certificate: read(&files.certificate)?,
        key: read(&files.key)?,
    })
}
