//! What becomes of each field of a pod's and a container's config: applied, refused, or reported as not applied.
//!
//! What is asked for and not done is refused or said. A row of [`FIELDS`] decides for its field; a test walks the CRI's descriptor, so
//! that a new field cannot be passed over. `docs/CRI-FIELDS.md` is this table.

use std::{collections::BTreeSet, fs, sync::Mutex};

use cri_proto::runtime::v1;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{
    RuntimeError,
    message::{StoredMessage, to_dynamic},
};

/// What becomes of a field that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldTreatment {
    /// It is done, or it is data that is kept and told back.
    Applied,
    /// Its own fields decide.
    Nested,
    /// The call fails; with `--allow-unapplied-fields` it is reported.
    Refused,
    /// It is not done, which the log says once.
    Reported,
}

/// A field, what becomes of it, and what statuses and archives say of it then.
struct Field {
    message: &'static str,
    field: &'static str,
    treatment: FieldTreatment,
    note: &'static str,
}

macro_rules! fields {
    ($($message:ident { $($field:ident: $treatment:ident $note:literal;)* })*) => {
        &[$($(Field {
            message: stringify!($message),
            field: stringify!($field),
            treatment: FieldTreatment::$treatment,
            note: $note,
        },)*)*]
    };
}

const FIELDS: &[Field] = fields! {
    PodSandboxConfig {
        metadata: Applied "PodSandboxStatus, the annotations of `spec.dump`";
        hostname: Reported "the host keeps its name, `spec.dump` has no `hostname`; containers find it in the variable `HOSTNAME`";
        log_directory: Applied "ContainerStatus.log_path";
        dns_config: Reported "containers have the host's resolv.conf";
        port_mappings: Reported "containers share the host's network, so nothing is mapped";
        labels: Applied "PodSandboxStatus";
        annotations: Applied "PodSandboxStatus; those of fake-cri are read";
        linux: Nested "";
        windows: Refused "";
    }
    LinuxPodSandboxConfig {
        cgroup_parent: Reported "containers stay in fake-cri's cgroup; `spec.dump` has no `cgroupsPath`";
        security_context: Nested "";
        sysctls: Refused "they would change the host";
        overhead: Reported "no cgroup is made";
        resources: Reported "no cgroup is made";
    }
    LinuxSandboxSecurityContext {
        namespace_options: Nested "";
        selinux_options: Reported "a sandbox has no process";
        run_as_user: Reported "a sandbox has no process; containers have a user of their own";
        run_as_group: Reported "as `run_as_user`; without it InvalidArgument";
        readonly_rootfs: Reported "a sandbox has no root file system";
        supplemental_groups: Reported "a sandbox has no process";
        supplemental_groups_policy: Reported "a sandbox has no process";
        privileged: Reported "a sandbox has no process";
        seccomp: Reported "a sandbox has no process";
        apparmor: Reported "a sandbox has no process";
        seccomp_profile_path: Reported "a sandbox has no process";
    }
    NamespaceOption {
        network: Reported "containers are in the host's namespaces, `spec.dump` lists none; PodSandboxStatus.linux.namespaces is what was asked for";
        pid: Reported "as `network`";
        ipc: Reported "as `network`";
        target_id: Reported "as `network`";
        userns_options: Refused "the mode NODE, which is none of its own, is taken";
    }
    ContainerConfig {
        metadata: Applied "ContainerStatus, the annotations of `spec.dump`";
        image: Applied "ContainerStatus";
        command: Applied "`spec.dump`";
        args: Applied "`spec.dump`";
        working_dir: Applied "`spec.dump`; the workload passes over one that the host lacks";
        envs: Applied "`spec.dump`";
        mounts: Reported "nothing is mounted, so ContainerStatus and `spec.dump` list none; a host path that does not exist is InvalidArgument";
        devices: Reported "containers have the host's devices; one that does not exist is InvalidArgument";
        labels: Applied "ContainerStatus";
        annotations: Applied "ContainerStatus; those of fake-cri are read";
        log_path: Applied "ContainerStatus";
        stdin: Applied "it stays open; there is no Attach";
        stdin_once: Reported "there is no Attach";
        tty: Applied "`spec.dump`";
        linux: Nested "";
        windows: Refused "";
        CDI_devices: Reported "no device is injected";
        stop_signal: Applied "ContainerStatus";
    }
    LinuxContainerConfig {
        resources: Nested "";
        security_context: Nested "";
    }
    LinuxContainerSecurityContext {
        capabilities: Reported "root keeps fake-cri's capabilities, other users lose them by exec; `spec.dump` lists none";
        privileged: Reported "as `capabilities`";
        namespace_options: Nested "";
        selinux_options: Reported "no label is set";
        run_as_user: Applied "ContainerStatus.user, `spec.dump`: the one that runs; FailedPrecondition where fake-cri may not";
        run_as_group: Applied "as `run_as_user`; without a user InvalidArgument";
        run_as_username: Applied "as `run_as_user`; a name that the host does not know, or one beside `run_as_user`, is InvalidArgument";
        readonly_rootfs: Reported "`spec.dump` says that root is writable";
        supplemental_groups: Applied "as `run_as_user`";
        supplemental_groups_policy: Applied "as `run_as_user`";
        no_new_privs: Applied "`spec.dump`";
        masked_paths: Reported "`spec.dump` lists none";
        readonly_paths: Reported "`spec.dump` lists none";
        seccomp: Reported "no filter is set, `spec.dump` has none";
        apparmor: Reported "no profile is set";
        apparmor_profile: Reported "no profile is set";
        seccomp_profile_path: Reported "no filter is set";
    }
    LinuxContainerResources {
        cpu_period: Reported "no cgroup is made and `spec.dump` has none; ContainerStatus.resources is the configuration, as UpdateContainerResources left it";
        cpu_quota: Reported "as `cpu_period`";
        cpu_shares: Reported "as `cpu_period`";
        memory_limit_in_bytes: Reported "as `cpu_period`; statistics count against it";
        oom_score_adj: Reported "as `cpu_period`";
        cpuset_cpus: Reported "as `cpu_period`";
        cpuset_mems: Reported "as `cpu_period`";
        hugepage_limits: Reported "as `cpu_period`";
        unified: Reported "as `cpu_period`";
        memory_swap_limit_in_bytes: Reported "as `cpu_period`";
    }
};

/// Which fields the log has named already: each once in the life of a fake-cri.
#[derive(Debug, Default)]
pub(crate) struct ReportedFields(Mutex<BTreeSet<String>>);

impl ReportedFields {
    /// Goes through a config: refuses what is refused, and has the log name what is not applied.
    ///
    /// # Errors
    ///
    /// `Precondition`, naming the field and what to do.
    pub(crate) fn check<T: StoredMessage>(&self, config: &T, accept: bool) -> Result<(), RuntimeError> {
        let config = to_dynamic(config)
            .map_err(|error| RuntimeError::Internal(format!("failed to read {}: {error}", T::NAME)))?;
        let mut unapplied = Vec::new();
        collect_unapplied(&config, T::NAME, &mut unapplied);
        let refused_paths: Vec<_> = unapplied
            .iter()
            .filter(|(_, field)| field.treatment == FieldTreatment::Refused)
            .map(|(path, _)| path.as_str())
            .collect();
        if !refused_paths.is_empty() && !accept {
            return Err(RuntimeError::FailedPrecondition(format!(
                "{} cannot be applied by fake-cri; leave it out, or start fake-cri with --allow-unapplied-fields to go on without it",
                refused_paths.join(", ")
            )));
        }
        let mut reported = self.0.lock().expect("no holder of this lock panics");
        for (path, field) in unapplied {
            if reported.insert(path.clone()) {
                tracing::info!(field = path, "not applied: {}", field.note);
            }
        }
        Ok(())
    }
}

/// Collects the fields that are set and not applied, by their paths.
fn collect_unapplied(message: &DynamicMessage, path: &str, unapplied: &mut Vec<(String, &'static Field)>) {
    let descriptor = message.descriptor();
    for (field_descriptor, value) in message.fields() {
        let Some(field) = find_field(descriptor.name(), field_descriptor.name()) else {
            continue;
        };
        let path = format!("{path}.{}", field_descriptor.name());
        match (field.treatment, value) {
            (FieldTreatment::Applied, _) => {}
            (FieldTreatment::Nested, Value::Message(nested)) => collect_unapplied(nested, &path, unapplied),
            (_, Value::Message(options)) if field_descriptor.name() == "userns_options" && is_node_mode(options) => {}
            _ => unapplied.push((path, field)),
        }
    }
}

/// Whether a user namespace is the node's.
fn is_node_mode(options: &DynamicMessage) -> bool {
    let mode = options.get_field_by_name("mode");
    mode.and_then(|mode| mode.as_enum_number()) == Some(v1::NamespaceMode::Node as i32)
}

fn find_field(message: &str, field: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|row| row.message == message && row.field == field)
}

/// Checks that what is to be mounted and passed in is there.
///
/// # Errors
///
/// `Invalid`, naming the first that is not. containerd makes a directory for a mount that is missing; nothing would be mounted there
/// by fake-cri, so the host is left as it is.
pub(crate) fn check_host_paths(config: &v1::ContainerConfig) -> Result<(), RuntimeError> {
    let check_exists = |field: &str, path: &str| match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(RuntimeError::InvalidArgument(format!(
            "{field} {path:?} cannot be used: {error}"
        ))),
    };
    for mount in &config.mounts {
        // An image volume has no path of the host.
        if mount.image.is_none() {
            check_exists("host_path of a mount", &mount.host_path)?;
        }
    }
    for device in &config.devices {
        check_exists("host_path of a device", &device.host_path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as Markdown.
    fn markdown() -> String {
        let mut text = "| field | what becomes of it | what is said |\n|---|---|---|\n".to_owned();
        for row in FIELDS {
            let treatment = match row.treatment {
                FieldTreatment::Applied => "applied",
                FieldTreatment::Nested => "its fields decide",
                FieldTreatment::Refused => "refused",
                FieldTreatment::Reported => "reported",
            };
            text += &format!("| `{}.{}` | {treatment} | {} |\n", row.message, row.field, row.note);
        }
        text
    }

    #[test]
    fn every_config_field_has_one_row() {
        let pool = prost_reflect::DescriptorPool::decode(cri_proto::DESCRIPTOR_SET).unwrap();
        let messages: BTreeSet<_> = FIELDS.iter().map(|row| row.message).collect();
        assert_eq!(messages.len(), 8);
        let mut fields = 0;
        for message in messages {
            let descriptor = pool.get_message_by_name(&format!("runtime.v1.{message}")).unwrap();
            for field in descriptor.fields() {
                let rows = FIELDS
                    .iter()
                    .filter(|row| row.message == message && row.field == field.name());
                assert_eq!(
                    rows.count(),
                    1,
                    "{message}.{}: decide in FIELDS what becomes of it",
                    field.name()
                );
                fields += 1;
                let row = find_field(message, field.name()).unwrap();
                let within = field
                    .kind()
                    .as_message()
                    .is_some_and(|kind| FIELDS.iter().any(|row| row.message == kind.name()));
                let single = row.treatment == FieldTreatment::Nested;
                assert!(!single || within, "{message}.{} has no rows of its own", field.name());
            }
        }
        assert_eq!(fields, FIELDS.len(), "a row names no field");
    }

    #[test]
    fn documentation_has_the_field_table() {
        let page = include_str!("../../../docs/CRI-FIELDS.md");
        let table = markdown();
        assert!(page.contains(&table), "docs/CRI-FIELDS.md lacks this table:\n{table}");
    }

    #[test]
    fn refused_fields_fail_and_reported_fields_are_logged_once() {
        let config = v1::PodSandboxConfig {
            dns_config: Some(v1::DnsConfig::default()),
            linux: Some(v1::LinuxPodSandboxConfig {
                sysctls: [("net.core.somaxconn".to_owned(), "1".to_owned())].into(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        userns_options: Some(v1::UserNamespace::default()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let reported = ReportedFields::default();
        let error = reported.check(&config, false).unwrap_err().to_string();
        for field in [
            "linux.sysctls",
            "linux.security_context.namespace_options.userns_options",
        ] {
            assert!(error.contains(&format!("PodSandboxConfig.{field}")), "{error}");
        }
        assert!(reported.0.lock().unwrap().is_empty());
        reported.check(&config, true).unwrap();
        reported.check(&config, true).unwrap();
        assert_eq!(reported.0.lock().unwrap().len(), 3);
    }

    #[test]
    fn node_user_namespace_mode_is_accepted() {
        let config = v1::ContainerConfig {
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        userns_options: Some(v1::UserNamespace {
                            mode: v1::NamespaceMode::Node as i32,
                            ..Default::default()
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        ReportedFields::default().check(&config, false).unwrap();
    }

    #[test]
    fn host_paths_must_exist() {
        let mut config = v1::ContainerConfig::default();
        config.mounts.push(v1::Mount {
            host_path: "/tmp".to_owned(),
            ..Default::default()
        });
        check_host_paths(&config).unwrap();
        config.devices.push(v1::Device {
            host_path: "/dev/nosuch".to_owned(),
            ..Default::default()
        });
        let error = check_host_paths(&config).unwrap_err().to_string();
        assert!(error.contains("device") && error.contains("/dev/nosuch"), "{error}");
        config.mounts[0].host_path = "/no/such".to_owned();
        let error = check_host_paths(&config).unwrap_err().to_string();
        assert!(error.contains("mount") && error.contains("/no/such"), "{error}");
    }
}
