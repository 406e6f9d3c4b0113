//! Creates certificates: for the targets that the harness starts, and for a client that no kubelet must accept.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::TargetError;

/// A certificate with its private key, both PEM.
#[derive(Clone, Debug)]
pub struct CertificateKeyPair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// A certificate authority. Its key exists only in memory.
#[derive(Debug)]
pub struct CertificateAuthority(CertifiedIssuer<'static, KeyPair>);

impl CertificateAuthority {
    /// Creates an authority with that common name.
    ///
    /// # Errors
    /// No key can be created.
    pub fn new(name: &str) -> Result<CertificateAuthority, TargetError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(CertificateAuthority(CertifiedIssuer::self_signed(
            params,
            KeyPair::generate()?,
        )?))
    }

    /// The authority's certificate (PEM).
    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// Issues a client certificate for a user of a group.
    ///
    /// # Errors
    /// No key can be created.
    pub fn issue_client(&self, user: &str, group: &str) -> Result<CertificateKeyPair, TargetError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// Issues a server certificate for 127.0.0.1 and localhost.
    ///
    /// # Errors
    /// No key can be created.
    pub fn issue_server(&self, name: &str) -> Result<CertificateKeyPair, TargetError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, None);
        params.subject_alt_names = vec![
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
            SanType::DnsName("localhost".try_into()?),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<CertificateKeyPair, TargetError> {
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
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
