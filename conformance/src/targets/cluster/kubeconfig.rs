//! Reads a kubeconfig: the address of a cluster, its CA, and the user's credentials.
//!
//! Supported: `server`, `certificate-authority` (also `-data`), `insecure-skip-tls-verify`, `client-certificate` and
//! `client-key` (also `-data`), `token`, `tokenFile`, and `exec`, whose plugin is run as kubectl runs it. A user with
//! an `auth-provider`, which client-go removed in 1.26, is an error.

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::ByteString;
use reqwest::Url;
use serde::Deserialize;

use super::{
    super::{ExtraIdentities, HttpsEndpoint, Identity, ServerVerification, TargetError},
    exec::{ClusterInfo, ExecPlugin},
};
use crate::tls::CertificateKeyPair;

#[derive(Debug, Deserialize)]
struct KubeconfigFile {
    #[serde(default, rename = "current-context")]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Debug, Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<ByteString>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    #[serde(default)]
    extensions: Vec<NamedExtension>,
}

#[derive(Debug, Deserialize)]
struct NamedExtension {
    name: String,
    #[serde(default)]
    extension: serde_yaml_ng::Value,
}

/// The name of a cluster's extension for credential plugins, as in client-go.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    user: UserEntry,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<ByteString>,
    client_key: Option<PathBuf>,
    client_key_data: Option<ByteString>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<ExecPlugin>,
    auth_provider: Option<serde_yaml_ng::Value>,
}

/// Reads the API server's address and the credentials of a context; `None` is the current context.
///
/// # Errors
/// The file cannot be read, a context, cluster or user is missing, or the user has no supported credentials. The error
/// names the file and the entry.
pub(super) fn read(path: &Path, context: Option<&str>) -> Result<HttpsEndpoint, TargetError> {
    let refused = |why: String| TargetError::Argument(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(TargetError::file(path))?;
    let file: KubeconfigFile =
        serde_yaml_ng::from_str(&text).map_err(|error| refused(format!("invalid kubeconfig: {error}")))?;
    let name = context.unwrap_or(&file.current_context);
    if name.is_empty() {
        return Err(refused("no current context: set one with --context".to_owned()));
    }
    let missing = |kind: &str, name: &str| refused(format!("no {kind} called {name:?}"));
    let context = file.contexts.iter().find(|entry| entry.name == name);
    let context = &context.ok_or_else(|| missing("context", name))?.context;
    let cluster = file.clusters.iter().find(|entry| entry.name == context.cluster);
    let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
    let user = file.users.iter().find(|entry| entry.name == context.user);
    let user = &user.ok_or_else(|| missing("user", &context.user))?.user;

    let directory = path.parent().unwrap_or(Path::new(""));
    let mut base_url = Url::parse(&cluster.server).map_err(|error| refused(format!("{}: {error}", cluster.server)))?;
    if !base_url.path().ends_with('/') {
        base_url.set_path(&format!("{}/", base_url.path()));
    }
    let authority = data_or_file(
        directory,
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
    )?;
    let cluster_info = ClusterInfo {
        server: cluster.server.clone(),
        certificate_authority_data: authority.as_ref().map(|pem| ByteString(pem.clone().into_bytes())),
        insecure_skip_tls_verify: cluster.insecure_skip_tls_verify,
        config: {
            let mut extensions = cluster.extensions.iter();
            extensions
                .find(|entry| entry.name == EXEC_EXTENSION)
                .map(|entry| entry.extension.clone())
        },
    };
    let verification = match authority {
        _ if cluster.insecure_skip_tls_verify => ServerVerification::Insecure,
        Some(pem) => ServerVerification::CaBundle(pem),
        None => {
            let reason = format!(
                "cluster {:?}: neither certificate-authority nor certificate-authority-data is set",
                context.cluster
            );
            return Err(refused(reason));
        }
    };
    let mut certificate = data_or_file(directory, &user.client_certificate_data, &user.client_certificate)?;
    let mut key = data_or_file(directory, &user.client_key_data, &user.client_key)?;
    let mut token = match (&user.token, &user.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => Some(read_text(&directory.join(file))?),
        (None, None) => None,
    };
    let user_error = |why: &str| refused(format!("user {:?}: {why}", context.user));
    // As client-go does: static credentials take precedence over the plugin.
    if certificate.is_none()
        && token.is_none()
        && let Some(exec) = &user.exec
    {
        let credential = exec
            .credential(directory, &cluster_info)
            .map_err(|why| user_error(&why))?;
        (certificate, key, token) = (
            credential.client_certificate_data,
            credential.client_key_data,
            credential.token,
        );
    }
    let identity = match (certificate, key, token) {
        (Some(certificate), Some(key), _) => Identity::Certificate(CertificateKeyPair { certificate, key }),
        (_, _, Some(token)) => Identity::Token(token.trim().to_owned()),
        _ if user.auth_provider.is_some() => {
            return Err(user_error(
                "auth-provider is not supported: use a token, a client certificate or exec",
            ));
        }
        _ => return Err(user_error("neither a client certificate with its key nor a token")),
    };
    Ok(HttpsEndpoint {
        base_url,
        verification,
        identity,
        extra_identities: ExtraIdentities::default(),
        read_only: None,
    })
}

/// The inline data, or else the content of the file.
fn data_or_file(
    directory: &Path,
    data: &Option<ByteString>,
    file: &Option<PathBuf>,
) -> Result<Option<String>, TargetError> {
    match (data, file) {
        (Some(data), _) => Ok(Some(String::from_utf8_lossy(&data.0).into_owned())),
        (None, Some(file)) => read_text(&directory.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn read_text(path: &Path) -> Result<String, TargetError> {
    fs::read_to_string(path).map_err(TargetError::file(path))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: c, user: by-token}}
- {name: two, context: {cluster: c, user: by-certificate, namespace: x}}
- {name: program, context: {cluster: c, user: by-program}}
- {name: provider, context: {cluster: c, user: by-provider}}
- {name: nobody, context: {cluster: c, user: not-there}}
- {name: lax, context: {cluster: lax, user: by-token}}
clusters:
- {name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: ca.pem}}
- {name: lax, cluster: {server: "https://127.0.0.1:6443/prefix", insecure-skip-tls-verify: true}}
users:
- {name: by-token, user: {token: t0k3n}}
- {name: by-certificate, user: {client-certificate-data: b25l, client-key-data: dHdv}}
- {name: by-program, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /none/login}}}
- {name: by-provider, user: {auth-provider: {name: gcp}}}
"#;

    fn write_kubeconfig() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), "the authority").unwrap();
        let path = directory.path().join("config");
        fs::write(&path, KUBECONFIG).unwrap();
        (directory, path)
    }

    #[test]
    fn resolves_files_and_decodes_data() {
        let (_directory, path) = write_kubeconfig();
        let endpoint = read(&path, None).unwrap();
        assert!(matches!(&endpoint.verification, ServerVerification::CaBundle(pem) if pem == "the authority"));
        assert!(matches!(&endpoint.identity, Identity::Token(token) if token == "t0k3n"));
        let endpoint = read(&path, Some("two")).unwrap();
        let Identity::Certificate(pair) = &endpoint.identity else {
            panic!("{endpoint:?}");
        };
        assert_eq!((pair.certificate.as_str(), pair.key.as_str()), ("one", "two"));
        let endpoint = read(&path, Some("lax")).unwrap();
        assert!(matches!(endpoint.verification, ServerVerification::Insecure));
        assert_eq!(endpoint.base_url.as_str(), "https://127.0.0.1:6443/prefix/");
    }

    #[rstest]
    #[case("three", "no context called \"three\"")]
    #[case("nobody", "no user called \"not-there\"")]
    #[case("program", "user \"by-program\": credential plugin /none/login: failed to run")]
    #[case("provider", "auth-provider is not supported")]
    fn names_what_is_missing(#[case] context: &str, #[case] why: &str) {
        let (_directory, path) = write_kubeconfig();
        let error = read(&path, Some(context)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("config"), "{error}");
    }
}
