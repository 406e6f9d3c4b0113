//! Translates the spec of a Pod into CRI messages, as the kubelet does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use sha2::{Digest as _, Sha256};

use super::super::Config;
use super::super::pod_store::label;
use super::super::runtime_calls::LocalImage;
use super::super::runtime_calls::PullPolicy;
use super::{
    dns, environment,
    manifest::{self, pod_spec},
    resources, volume,
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
    let context = spec.security_context.clone().unwrap_or_default();
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(is_privileged);
    let hostname = if spec.host_network == Some(true) {
        String::new()
    } else {
        let name = spec.hostname.clone().unwrap_or_else(|| part(&metadata.name));
        name.chars()
            .take(63)
            .collect::<String>()
            .trim_end_matches(['-', '.'])
            .to_owned()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: part(&metadata.name),
            uid: part(&metadata.uid),
            namespace: part(&metadata.namespace),
            attempt,
        }),
        hostname,
        log_directory: log_directory(config, pod).display().to_string(),
        labels,
        annotations: metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        dns_config: Some(dns::node_config()),
        linux: Some(cri::LinuxPodSandboxConfig {
            resources: Some(resources::sandbox()),
            overhead: Some(cri::LinuxContainerResources::default()),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                run_as_user: context.run_as_user.map(|value| cri::Int64Value { value }),
                run_as_group: context.run_as_group.map(|value| cri::Int64Value { value }),
                supplemental_groups: context.supplemental_groups.unwrap_or_default(),
                privileged,
                seccomp: Some(profile(cri::security_profile::ProfileType::RuntimeDefault)),
                ..Default::default()
            }),
            sysctls: context
                .sysctls
                .unwrap_or_default()
                .into_iter()
                .map(|s| (s.name, s.value))
                .collect(),
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
    let variables = environment::variables_of(pod, container);
    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words
            .iter()
            .flatten()
            .map(|word| environment::expand(word, &variables))
            .collect()
    };
    let mut labels = identity(pod);
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    let stdin = container.stdin == Some(true);
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
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: volume::all_mounts(config, pod, container)?,
        labels,
        annotations: annotations(spec, container, attempt),
        log_path: log_path(&container.name, attempt),
        stdin,
        stdin_once: stdin && container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::container()),
            security_context: Some(security(spec, container, image)),
        }),
        envs: variables
            .into_iter()
            .map(|(key, value)| cri::KeyValue {
                key,
                value: value.into_bytes(),
            })
            .collect(),
        ..Default::default()
    })
}

/// Returns the pull policy. Without a policy in the spec it is Always for the tag `latest`, else IfNotPresent.
pub(super) fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some("Never") => PullPolicy::Never,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
            if latest {
                PullPolicy::Always
            } else {
                PullPolicy::IfNotPresent
            }
        }
    }
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
    let path = container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".to_owned());
    let policy = container
        .termination_message_policy
        .clone()
        .unwrap_or_else(|| "File".to_owned());
    let hash = Sha256::digest(serde_json::to_vec(container).unwrap_or_default());
    HashMap::from([
        (
            "io.kubernetes.container.hash".to_owned(),
            manifest::hexadecimal(&hash[..4]),
        ),
        ("io.kubernetes.container.restartCount".to_owned(), attempt.to_string()),
        ("io.kubernetes.container.terminationMessagePath".to_owned(), path),
        ("io.kubernetes.container.terminationMessagePolicy".to_owned(), policy),
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

fn is_privileged(container: &Container) -> bool {
    container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        == Some(true)
}

fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let mode = |host: Option<bool>, default: cri::NamespaceMode| {
        i32::from(if host == Some(true) {
            cri::NamespaceMode::Node
        } else {
            default
        })
    };
    let shared = spec.share_process_namespace == Some(true);
    let pid = if shared {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: mode(spec.host_network, cri::NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, cri::NamespaceMode::Pod),
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

fn security(spec: &PodSpec, container: &Container, image: &LocalImage) -> cri::LinuxContainerSecurityContext {
    let container_context = container.security_context.clone().unwrap_or_default();
    let pod_context = spec.security_context.clone().unwrap_or_default();
    let capabilities = container_context.capabilities.map(|capabilities| cri::Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        ..Default::default()
    });
    let user = container_context.run_as_user.or(pod_context.run_as_user);
    // Without a user in the Pod the kubelet, which is root, sends the user of the image. A runtime that does not run as
    // root cannot apply the user.
    let use_image_user = user.is_none() && nix::unistd::geteuid().is_root();
    let privileged = container_context.privileged == Some(true);
    let paths = |paths: &[&str]| -> Vec<String> {
        let applicable = paths.iter().filter(|_| !privileged);
        applicable.map(|path| (*path).to_owned()).collect()
    };
    let mut masked_paths = paths(&MASKED_PATHS);
    if !privileged {
        masked_paths.extend(thermal_throttles(Path::new("/sys/devices/system/cpu")));
    }
    cri::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(spec)),
        run_as_user: user
            .or(image.uid.filter(|_| use_image_user))
            .map(|value| cri::Int64Value { value }),
        run_as_username: match use_image_user {
            true => image.username.clone(),
            false => String::new(),
        },
        run_as_group: container_context
            .run_as_group
            .or(pod_context.run_as_group)
            .map(|value| cri::Int64Value { value }),
        readonly_rootfs: container_context.read_only_root_filesystem == Some(true),
        supplemental_groups: pod_context.supplemental_groups.unwrap_or_default(),
        no_new_privs: container_context.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths: paths(&READONLY_PATHS),
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
    use rstest::rstest;

    use super::*;

    fn pod(extra: &str) -> Pod {
        super::super::yaml(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web-n, namespace: x, uid: u, labels: {{app: web}}, \
             annotations: {{fake-cri.dev/memory: 1Mi}}}}, spec: {{{extra} containers: [{{name: app, image: busybox, \
             command: [sh, $(HOME)], env: [{{name: HOME, value: /root}}]}}]}}}}"
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
        assert_eq!(container.command, ["sh", "/root"]);
        assert_eq!(container.image.unwrap().image, "sha256:1");
    }

    #[test]
    fn asks_for_the_namespaces_of_the_host() {
        let options = namespaces(pod_spec(&pod("hostNetwork: true, shareProcessNamespace: true,")));
        assert_eq!(options.network(), cri::NamespaceMode::Node);
        assert_eq!(options.pid(), cri::NamespaceMode::Pod);
        assert_eq!(options.ipc(), cri::NamespaceMode::Pod);
    }

    #[rstest]
    #[case("busybox", None, PullPolicy::Always)]
    #[case("localhost:5000/busybox:latest", None, PullPolicy::Always)]
    #[case("localhost:5000/busybox:1", None, PullPolicy::IfNotPresent)]
    #[case("busybox@sha256:00", None, PullPolicy::IfNotPresent)]
    #[case("busybox", Some("Never"), PullPolicy::Never)]
    fn pulls_by_policy(#[case] image: &str, #[case] policy: Option<&str>, #[case] expected: PullPolicy) {
        let container = Container {
            image: Some(image.to_owned()),
            image_pull_policy: policy.map(str::to_owned),
            ..Container::default()
        };
        assert_eq!(pull_policy(&container), expected);
    }
}
