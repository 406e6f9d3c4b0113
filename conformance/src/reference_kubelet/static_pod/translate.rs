//! Translates the spec of a Pod into CRI messages, as the kubelet does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use sha2::{Digest as _, Sha256};

use super::super::Config;
use super::super::images::LocalImage;
use super::super::pod_store::label;
use super::{
    dns,
    files::{self, TERMINATION_LOG_PATH},
    manifest::pod_spec,
    resources,
};

pub(in super::super) fn log_directory(config: &Config, pod: &Pod) -> PathBuf {
    let metadata = &pod.metadata;
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let name = format!(
        "{}_{}_{}",
        part(&metadata.namespace),
        part(&metadata.name),
        part(&metadata.uid)
    );
    config.pod_logs_dir.join(name)
}

/// Returns the log path of one run of a container, relative to the log directory of the Pod.
pub(in super::super) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Returns the sandbox configuration of a Pod. The annotations of the Pod are set only on the sandbox.
pub(in super::super) fn sandbox(config: &Config, pod: &Pod, attempt: u32) -> cri::PodSandboxConfig {
    let metadata = &pod.metadata;
    let spec = pod_spec(pod);
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let mut labels: HashMap<String, String> = metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity(pod));
    let hostname: String = match spec.host_network {
        Some(true) => String::new(),
        _ => part(&metadata.name).chars().take(63).collect(),
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: part(&metadata.name),
            uid: part(&metadata.uid),
            namespace: part(&metadata.namespace),
            attempt,
        }),
        hostname: hostname.trim_end_matches(['-', '.']).to_owned(),
        log_directory: log_directory(config, pod).display().to_string(),
        labels,
        annotations: metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        dns_config: Some(dns::node_config()),
        linux: Some(cri::LinuxPodSandboxConfig {
            resources: Some(resources::sandbox()),
            overhead: Some(cri::LinuxContainerResources::default()),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                seccomp: Some(profile(cri::security_profile::ProfileType::RuntimeDefault)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Returns the configuration of one run of a container, and creates the files that the kubelet mounts into it.
///
/// # Errors
/// Such a file cannot be created.
pub(in super::super) fn container(
    config: &Config,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &LocalImage,
) -> std::io::Result<cri::ContainerConfig> {
    let spec = pod_spec(pod);
    let mut labels = identity(pod);
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    let envs = container.env.iter().flatten().map(|variable| cri::KeyValue {
        key: variable.name.clone(),
        value: variable.value.clone().unwrap_or_default().into_bytes(),
    });
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt,
        }),
        image: Some(cri::ImageSpec {
            image: image.reference.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        mounts: files::mounts(config, pod, container)?,
        labels,
        annotations: annotations(spec, container, attempt),
        log_path: log_path(&container.name, attempt),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::container()),
            security_context: Some(security(spec, image)),
        }),
        envs: envs.collect(),
        ..Default::default()
    })
}

fn identity(pod: &Pod) -> HashMap<String, String> {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    HashMap::from([
        (label::POD_NAME.to_owned(), part(&pod.metadata.name)),
        (label::POD_NAMESPACE.to_owned(), part(&pod.metadata.namespace)),
        (label::POD_UID.to_owned(), part(&pod.metadata.uid)),
    ])
}

fn annotations(spec: &PodSpec, container: &Container, attempt: u32) -> HashMap<String, String> {
    let hash = Sha256::digest(serde_json::to_vec(container).unwrap_or_default());
    HashMap::from([
        ("io.kubernetes.container.hash".to_owned(), hex::encode(&hash[..4])),
        ("io.kubernetes.container.restartCount".to_owned(), attempt.to_string()),
        (
            "io.kubernetes.container.terminationMessagePath".to_owned(),
            TERMINATION_LOG_PATH.to_owned(),
        ),
        (
            "io.kubernetes.container.terminationMessagePolicy".to_owned(),
            "File".to_owned(),
        ),
        (
            "io.kubernetes.pod.terminationGracePeriod".to_owned(),
            grace_period(spec).to_string(),
        ),
    ])
}

/// Returns the seconds between SIGTERM and SIGKILL.
pub(super) fn grace_period(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds.unwrap_or(30).max(0)
}

fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let network = match spec.host_network {
        Some(true) => cri::NamespaceMode::Node,
        _ => cri::NamespaceMode::Pod,
    };
    cri::NamespaceOption {
        network: network.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        // The kubelet sends the user namespace of the host explicitly for a Pod without hostUsers: false.
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Node.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn profile(kind: cri::security_profile::ProfileType) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind.into(),
        ..Default::default()
    }
}

fn security(spec: &PodSpec, image: &LocalImage) -> cri::LinuxContainerSecurityContext {
    // The kubelet, which is root, sends the user of the image. A runtime that does not run as root cannot apply the
    // user.
    let user = nix::unistd::geteuid().is_root().then_some(image);
    let mut masked_paths = MASKED_PATHS.map(str::to_owned).to_vec();
    masked_paths.extend(thermal_throttles(Path::new("/sys/devices/system/cpu")));
    cri::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: user.and_then(|image| image.uid).map(|value| cri::Int64Value { value }),
        run_as_username: user.map(|image| image.username.clone()).unwrap_or_default(),
        masked_paths,
        readonly_paths: READONLY_PATHS.map(str::to_owned).to_vec(),
        seccomp: Some(profile(cri::security_profile::ProfileType::Unconfined)),
        ..Default::default()
    }
}

/// Returns the `thermal_throttle` directories of the processors that have one. The kubelet masks them.
fn thermal_throttles(processors: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(processors).into_iter().flatten().flatten();
    let processor_numbers =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("cpu")?.parse::<u32>().ok());
    let mut processor_numbers: Vec<_> = processor_numbers.collect();
    processor_numbers.sort_unstable();
    let paths = processor_numbers
        .into_iter()
        .map(|number| processors.join(format!("cpu{number}/thermal_throttle")));
    let existing = paths.filter(|path| path.exists());
    existing.map(|path| path.display().to_string()).collect()
}

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(extra: &str) -> Pod {
        super::super::yaml(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web-n, namespace: x, uid: u, labels: {{app: web}}, \
             annotations: {{fake-cri.dev/memory: 1Mi}}}}, spec: {{{extra} containers: [{{name: app, image: busybox, \
             command: [sh], env: [{{name: HOME, value: /root}}]}}]}}}}"
        ))
    }

    #[test]
    fn pod_annotations_stay_on_the_sandbox() {
        let root = tempfile::tempdir().unwrap();
        let config = Config::new(root.path(), "unix:///x");
        let pod = pod("");
        let sandbox = sandbox(&config, &pod, 0);
        assert_eq!(sandbox.annotations["fake-cri.dev/memory"], "1Mi");
        assert_eq!(sandbox.labels[label::POD_UID], "u");
        assert_eq!(sandbox.labels["app"], "web");
        let logs = root.path().join("pod-logs/x_web-n_u");
        assert_eq!(sandbox.log_directory, logs.display().to_string());
        assert_eq!(sandbox.hostname, "web-n");

        let image = LocalImage {
            reference: "sha256:1".to_owned(),
            ..LocalImage::default()
        };
        let container = container(&config, &pod, &pod_spec(&pod).containers[0], 2, &image).unwrap();
        assert!(!container.annotations.contains_key("fake-cri.dev/memory"));
        assert_eq!(container.annotations["io.kubernetes.container.restartCount"], "2");
        assert_eq!(container.labels[label::CONTAINER_NAME], "app");
        assert!(!container.labels.contains_key("app"));
        assert_eq!(container.log_path, "app/2.log");
        assert_eq!(container.command, ["sh"]);
        assert_eq!(
            (container.envs[0].key.as_str(), &container.envs[0].value[..]),
            ("HOME", &b"/root"[..])
        );
        assert_eq!(container.image.unwrap().image, "sha256:1");
    }

    #[test]
    fn asks_for_the_network_namespace_of_the_host() {
        let options = namespaces(pod_spec(&pod("hostNetwork: true,")));
        assert_eq!(options.network(), cri::NamespaceMode::Node);
        assert_eq!(options.pid(), cri::NamespaceMode::Container);
        assert_eq!(options.ipc(), cri::NamespaceMode::Pod);
    }
}
