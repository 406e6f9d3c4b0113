//! Runs the credential plugin of a kubeconfig user (`exec`), as the kubeconfigs of cloud providers have.
//!
//! ```text
//!  KUBERNETES_EXEC_INFO={"kind":"ExecCredential",..}  command args..
//!      | stdout
//!  {"kind": "ExecCredential", "status": {"token": ..}}    or clientCertificateData with clientKeyData
//! ```
//!
//! The plugin runs once, when the kubeconfig is read, with an empty standard input and the user's standard error. Its
//! credential must stay valid for the whole run. Source: client-go credential plugins, `client.authentication.k8s.io`
//! v1 and v1beta1.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecPlugin {
    api_version: String,
    command: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<ExecEnvVar>>,
    #[serde(default)]
    install_hint: Option<String>,
    #[serde(default)]
    interactive_mode: Option<String>,
    #[serde(default)]
    provide_cluster_info: bool,
}

/// The cluster, for a plugin with `provideClusterInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ClusterInfo {
    pub(super) server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_authority_data: Option<ByteString>,
    pub(super) insecure_skip_tls_verify: bool,
    /// The cluster's extension for credential plugins, unchanged from the kubeconfig.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<serde_yaml_ng::Value>,
}

#[derive(Debug, Deserialize)]
struct ExecEnvVar {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    kind: String,
    status: Option<ExecCredentialStatus>,
}

/// The plugin's credential. No `Debug`: it must never be printed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecCredentialStatus {
    pub(super) token: Option<String>,
    pub(super) client_certificate_data: Option<String>,
    pub(super) client_key_data: Option<String>,
}

const API_VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

impl ExecPlugin {
    /// Runs the plugin and parses its credential. A relative path of the plugin starts at the kubeconfig's directory.
    ///
    /// # Errors
    /// The plugin cannot be run, fails, needs a terminal, or prints no credential. The error does not quote the
    /// plugin's output, which may contain the credential.
    pub(super) fn credential(&self, directory: &Path, cluster: &ClusterInfo) -> Result<ExecCredentialStatus, String> {
        let ExecPlugin { command, .. } = self;
        if !API_VERSIONS.contains(&self.api_version.as_str()) {
            let supported = API_VERSIONS.join(" or ");
            return Err(format!(
                "credential plugin {command}: unsupported version {}, expected {supported}",
                self.api_version
            ));
        }
        if self.interactive_mode.as_deref() == Some("Always") {
            return Err(format!(
                "credential plugin {command} needs a terminal: use a token or a client certificate"
            ));
        }
        // As client-go does: a bare name is looked up in PATH, a relative path starts at the kubeconfig's directory.
        let program = if command.contains('/') {
            directory.join(command)
        } else {
            command.into()
        };
        let mut info = serde_json::json!({
            "apiVersion": self.api_version, "kind": "ExecCredential", "spec": {"interactive": false},
        });
        if self.provide_cluster_info {
            info["spec"]["cluster"] = serde_json::json!(cluster);
        }
        let variables = self
            .env
            .iter()
            .flatten()
            .map(|variable| (&variable.name, &variable.value));
        let output = Command::new(&program)
            .args(self.args.iter().flatten())
            .envs(variables)
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| {
                let hint = self
                    .install_hint
                    .as_deref()
                    .map_or(String::new(), |hint| format!("; {hint}"));
                format!("credential plugin {}: failed to run: {error}{hint}", program.display())
            })?;
        if !output.status.success() {
            return Err(format!("credential plugin {command} failed: {}", output.status));
        }
        // serde's message could quote the output.
        let credential: ExecCredential = serde_json::from_slice(&output.stdout).map_err(|error| {
            format!(
                "credential plugin {command} printed no valid ExecCredential (JSON error in line {})",
                error.line()
            )
        })?;
        if credential.kind != "ExecCredential" || credential.api_version != self.api_version {
            return Err(format!(
                "credential plugin {command} printed another kind or version than {} ExecCredential",
                self.api_version
            ));
        }
        credential
            .status
            .ok_or_else(|| format!("credential plugin {command} printed an ExecCredential without a status"))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rstest::rstest;

    use super::*;

    /// Runs a shell script as the plugin `./login`. A symlink to the shell avoids ETXTBSY: a new executable could still
    /// be open for writing in a child of another test.
    fn run(script: &str, more_yaml: &str) -> Result<ExecCredentialStatus, String> {
        let directory = tempfile::tempdir().unwrap();
        symlink("/bin/sh", directory.path().join("login")).unwrap();
        let args = serde_json::json!(["-c", script, "login", "of"]);
        let exec =
            format!("{{apiVersion: client.authentication.k8s.io/v1, command: ./login, args: {args}{more_yaml}}}");
        credential(&exec, directory.path())
    }

    fn credential(exec: &str, directory: &Path) -> Result<ExecCredentialStatus, String> {
        let cluster = ClusterInfo {
            server: "https://one".to_owned(),
            certificate_authority_data: Some(ByteString(b"the authority".to_vec())),
            insecure_skip_tls_verify: false,
            config: Some(serde_yaml_ng::from_str("{audience: a}").unwrap()),
        };
        let exec: ExecPlugin = serde_yaml_ng::from_str(exec).unwrap();
        exec.credential(directory, &cluster)
    }

    const CLUSTER: &str = r#"{"certificate-authority-data": "dGhlIGF1dGhvcml0eQ==", "config": {"audience": "a"},
        "insecure-skip-tls-verify": false, "server": "https://one"}"#;

    #[rstest]
    #[case(", provideClusterInfo: true", CLUSTER)]
    #[case("", "null")]
    fn passes_the_cluster_info_on_request(#[case] more: &str, #[case] cluster: &str) {
        let directory = tempfile::tempdir().unwrap();
        let info_file = directory.path().join("seen");
        let script = format!("printf %s \"$KUBERNETES_EXEC_INFO\" > {}; exit 1", info_file.display());
        run(&script, more).err().unwrap();
        let info: serde_json::Value = serde_json::from_slice(&fs::read(info_file).unwrap()).unwrap();
        let cluster: serde_json::Value = serde_json::from_str(cluster).unwrap();
        assert_eq!(info["spec"]["cluster"], cluster);
    }

    #[test]
    fn reads_a_token_from_the_plugin() {
        let script = r#"case "$KUBERNETES_EXEC_INFO" in *ExecCredential*) ;; *) exit 3 ;; esac
            printf '{"kind": "ExecCredential", "apiVersion": "%s", "status": {"token": "%s"}}' \
            client.authentication.k8s.io/v1 "$1-$REALM""#;
        let credential = run(script, ", env: [{name: REALM, value: here}]").unwrap();
        assert_eq!(credential.token.as_deref(), Some("of-here"));
        assert!(credential.client_certificate_data.is_none());
    }

    #[rstest]
    #[case("exit 7", "", "exit status: 7")]
    #[case("echo s3cret", "", "printed no valid ExecCredential")]
    #[case(r#"echo '{"kind": "Status", "apiVersion": "v1"}'"#, "", "another kind or version")]
    #[case(
        r#"echo '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1"}'"#,
        "",
        "without a status"
    )]
    #[case("true", ", interactiveMode: Always", "needs a terminal")]
    fn errors_never_quote_the_output(#[case] script: &str, #[case] more: &str, #[case] why: &str) {
        let error = run(script, more).err().unwrap();
        assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn names_a_missing_plugin_with_its_install_hint() {
        let yaml = "{apiVersion: client.authentication.k8s.io/v1, command: /none/login, installHint: get it}";
        let error = credential(yaml, Path::new("/")).err().unwrap();
        assert!(error.contains("/none/login") && error.contains("get it"), "{error}");
        let yaml = "{apiVersion: client.authentication.k8s.io/v1alpha1, command: login}";
        let error = credential(yaml, Path::new("/")).err().unwrap();
        assert!(error.contains("v1alpha1"), "{error}");
    }
}
