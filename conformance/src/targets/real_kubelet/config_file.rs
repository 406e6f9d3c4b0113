//! The configuration file of a kubelet that writes only to its own directory.

use std::{fmt, path::Path};

use serde_json::{Value, json};
use tokio::process::Command;

use super::super::{KubeletConfig, SHORT_REQUEST_TIMEOUT, TargetError};

/// The settings that are the same in every run.
const CONFIG_TEMPLATE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../fixtures/kubelet/standalone.yaml"
));

/// The oldest kubelet with `podLogsDir`, which keeps Pod logs in the run directory.
const MIN_VERSION: KubeletVersion = KubeletVersion { minor: 30, patch: 0 };

/// The version of a kubelet, `v1.MINOR.PATCH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KubeletVersion {
    minor: u32,
    patch: u32,
}

impl KubeletVersion {
    /// Runs the executable with `--version`.
    pub(super) async fn detect(binary: &Path) -> Result<KubeletVersion, TargetError> {
        let refused = |why: String| TargetError::Argument(format!("{}: {why}", binary.display()));
        let output = Command::new(binary)
            .arg("--version")
            .output()
            .await
            .map_err(|error| refused(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = KubeletVersion::parse(&text).ok_or_else(|| refused("not a kubelet".to_owned()))?;
        if version < MIN_VERSION {
            return Err(refused(format!("kubelet {version} is older than {MIN_VERSION}")));
        }
        Ok(version)
    }

    /// Parses the output of `kubelet --version`: `Kubernetes v1.36.3`.
    fn parse(text: &str) -> Option<KubeletVersion> {
        let mut numbers = text.trim().strip_prefix("Kubernetes v1.")?.split(['.', '-', '+']);
        let minor = numbers.next()?.parse().ok()?;
        let patch = numbers.next().and_then(|patch| patch.parse().ok()).unwrap_or(0);
        Some(KubeletVersion { minor, patch })
    }
}

impl fmt::Display for KubeletVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}.{}", self.minor, self.patch)
    }
}

/// The settings that differ from run to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct KubeletConfigFile<'a> {
    /// The directory for all files of the kubelet.
    pub(super) run_dir: &'a Path,
    /// The ports on 127.0.0.1.
    pub(super) ports: Ports,
    pub(super) endpoint: &'a str,
    pub(super) kubelet_config: KubeletConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) secure: u16,
    /// The read-only port: HTTP without authentication.
    pub(super) read_only: u16,
}

impl KubeletConfigFile<'_> {
    /// The content of the configuration file. JSON is valid YAML and quotes paths correctly.
    pub(super) fn render(&self, version: KubeletVersion) -> Result<String, TargetError> {
        let mut file: Value = serde_yaml_ng::from_str(CONFIG_TEMPLATE)
            .map_err(|error| TargetError::Argument(format!("fixtures/kubelet/standalone.yaml: {error}")))?;
        let path = |name: &str| json!(self.run_dir.join(name).display().to_string());
        file["port"] = json!(self.ports.secure);
        file["readOnlyPort"] = json!(self.ports.read_only);
        file["containerRuntimeEndpoint"] = json!(self.endpoint);
        file["featureGates"] = match self.kubelet_config {
            KubeletConfig::GateDefault => json!({}),
            kubelet_config => json!({ "ContainerCheckpoint": kubelet_config != KubeletConfig::GateOff }),
        };
        file["enableDebuggingHandlers"] = json!(self.kubelet_config != KubeletConfig::DebuggingHandlersOff);
        if self.kubelet_config == KubeletConfig::ShortRequestTimeout {
            file["runtimeRequestTimeout"] = json!(format!("{}s", SHORT_REQUEST_TIMEOUT.as_secs()));
        }
        file["authentication"]["x509"]["clientCAFile"] = path("pki/ca.pem");
        file["tlsCertFile"] = path("pki/server.pem");
        file["tlsPrivateKeyFile"] = path("pki/server.key");
        file["staticPodPath"] = path("pods");
        file["podLogsDir"] = path("pod-logs");
        file["volumePluginDir"] = path("plugins");
        if version.minor < 31
            && let Some(fields) = file.as_object_mut()
        {
            fields.remove("failCgroupV1");
        }
        Ok(format!("{file:#}\n"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Kubernetes v1.36.3\n", Some((36, 3)))]
    #[case("Kubernetes v1.30.14", Some((30, 14)))]
    #[case("Kubernetes v1.37.0-beta.0", Some((37, 0)))]
    #[case("Kubernetes v1.31", Some((31, 0)))]
    #[case("containerd 2.4.2", None)]
    #[case("", None)]
    fn parses_versions(#[case] text: &str, #[case] expected: Option<(u32, u32)>) {
        assert_eq!(
            KubeletVersion::parse(text),
            expected.map(|(minor, patch)| KubeletVersion { minor, patch })
        );
    }

    #[tokio::test]
    async fn rejects_another_program() {
        let error = KubeletVersion::detect(Path::new("/bin/true")).await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/true: not a kubelet");
        assert!(KubeletVersion::detect(Path::new("/nonexistent/kubelet")).await.is_err());
    }

    #[test]
    fn fills_in_the_template() {
        let run_dir = Path::new("/f");
        let configuration = KubeletConfigFile {
            run_dir,
            ports: Ports {
                secure: 1,
                read_only: 2,
            },
            endpoint: "unix:///x",
            kubelet_config: KubeletConfig::GateOff,
        };
        let file = |minor| -> Value {
            serde_yaml_ng::from_str(&configuration.render(KubeletVersion { minor, patch: 0 }).unwrap()).unwrap()
        };
        assert_eq!(file(36)["failCgroupV1"], false);
        assert!(file(30).get("failCgroupV1").is_none());
        assert_eq!(file(36)["featureGates"]["ContainerCheckpoint"], false);
        let gate_default = KubeletConfigFile {
            kubelet_config: KubeletConfig::GateDefault,
            ..configuration
        };
        let unnamed = gate_default.render(KubeletVersion { minor: 36, patch: 0 }).unwrap();
        assert!(!unnamed.contains("ContainerCheckpoint"), "{unnamed}");
        assert_eq!(file(36)["enableDebuggingHandlers"], true);
        assert_eq!(file(36)["podLogsDir"], "/f/pod-logs");
        assert_eq!(file(36)["evictionHard"]["nodefs.available"], "0%");
        let empty = |value: &Value| value == "" || value == 0;
        let unset: Vec<_> = file(36)
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, value)| empty(value))
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(unset, ["healthzPort", "oomScoreAdj"]);
    }
}
