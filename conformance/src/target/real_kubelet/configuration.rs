//! The configuration of a kubelet that keeps to its folder.

use std::{fmt, path::Path};

use serde_json::{Value, json};
use tokio::process::Command;

use super::TargetError;

/// The oldest kubelet whose Pod logs can be kept in a folder of ours.
const OLDEST: Version = Version { minor: 30, patch: 0 };

/// The version of a kubelet, `v1.MINOR.PATCH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    minor: u32,
    patch: u32,
}

impl Version {
    /// Asks the executable.
    ///
    /// # Errors
    /// It cannot be run, is no kubelet, or is too old.
    pub(super) async fn of(binary: &Path) -> Result<Version, TargetError> {
        let refused = |why: String| TargetError::Argument(format!("{}: {why}", binary.display()));
        let output = Command::new(binary)
            .arg("--version")
            .output()
            .await
            .map_err(|error| refused(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&text).ok_or_else(|| refused("this is no kubelet".to_owned()))?;
        if version < OLDEST {
            return Err(refused(format!("kubelet {version} is older than {OLDEST}")));
        }
        Ok(version)
    }

    /// Reads `Kubernetes v1.36.3`, as `kubelet --version` says it.
    fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.trim().strip_prefix("Kubernetes v1.")?.split(['.', '-', '+']);
        let minor = numbers.next()?.parse().ok()?;
        let patch = numbers.next().and_then(|patch| patch.parse().ok()).unwrap_or(0);
        Some(Version { minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}.{}", self.minor, self.patch)
    }
}

/// What differs from run to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Configuration<'a> {
    /// Where everything lies.
    pub(super) folder: &'a Path,
    /// Where it serves on 127.0.0.1.
    pub(super) port: u16,
    /// The runtime.
    pub(super) endpoint: &'a str,
    /// The feature gate.
    pub(super) checkpoint: bool,
}

impl Configuration<'_> {
    /// The file. JSON is YAML, and a path needs no thought about quotes in it.
    pub(super) fn render(&self, version: Version) -> String {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut file = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "port": self.port,
            "readOnlyPort": 0,
            "healthzPort": 0,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": false },
                "x509": { "clientCAFile": path("pki/ca.pem") },
            },
            "authorization": { "mode": "AlwaysAllow" },
            "tlsCertFile": path("pki/server.pem"),
            "tlsPrivateKeyFile": path("pki/server.key"),
            "featureGates": { "ContainerCheckpoint": self.checkpoint },
            "containerRuntimeEndpoint": self.endpoint,
            "staticPodPath": path("pods"),
            "fileCheckFrequency": "1s",
            "syncFrequency": "1s",
            // Kept inside the folder.
            "podLogsDir": path("pod-logs"),
            "volumePluginDir": path("plugins"),
            // Switched off: what would be done to the machine.
            "makeIPTablesUtilChains": false,
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "cgroupDriver": "cgroupfs",
            "oomScoreAdj": 0,
            "failSwapOn": false,
            // Switched off: what a full or small machine would make it do to our Pod.
            "localStorageCapacityIsolation": false,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
                "pid.available": "0%",
            },
        });
        if version.minor >= 31 {
            // Older ones do not know the field, and do not refuse cgroup v1.
            file["failCgroupV1"] = Value::Bool(false);
        }
        format!("{file:#}\n")
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
    fn versions(#[case] text: &str, #[case] expected: Option<(u32, u32)>) {
        assert_eq!(
            Version::parse(text),
            expected.map(|(minor, patch)| Version { minor, patch })
        );
    }

    #[tokio::test]
    async fn another_program_is_no_kubelet() {
        let error = Version::of(Path::new("/bin/true")).await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/true: this is no kubelet");
        assert!(Version::of(Path::new("/nonexistent/kubelet")).await.is_err());
    }

    #[test]
    fn a_field_is_written_for_those_that_know_it() {
        let folder = Path::new("/f");
        let configuration = Configuration {
            folder,
            port: 1,
            endpoint: "unix:///x",
            checkpoint: false,
        };
        let file =
            |minor| -> Value { serde_yaml_ng::from_str(&configuration.render(Version { minor, patch: 0 })).unwrap() };
        assert_eq!(file(36)["failCgroupV1"], false);
        assert!(file(30).get("failCgroupV1").is_none());
        assert_eq!(file(36)["featureGates"]["ContainerCheckpoint"], false);
        assert_eq!(file(36)["podLogsDir"], "/f/pod-logs");
    }
}
