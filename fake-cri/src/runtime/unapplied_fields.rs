//! The treatment of each field of PodSandboxConfig and ContainerConfig: applied, refused, or reported as not applied.
//!
//! Each field has a row in [`FIELDS`]. A test compares the rows with the CRI's descriptor, so that a new field cannot
//! be overlooked. `docs/CRI-FIELDS.md` contains this table.

use std::{collections::BTreeSet, fs, sync::Mutex};

use cri_proto::runtime::v1;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{
    RuntimeError,
    message::{StoredMessage, to_dynamic},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldTreatment {
    /// The field takes effect, or is data that is stored and returned.
    Applied,
    /// The fields of the message have rows of their own.
    Nested,
    /// The call fails. With `--allow-unapplied-fields` the field is reported instead.
    Refused,
    /// The field has no effect. The log names the field once.
    Reported,
}

/// A field, its treatment, and how statuses and archives show it.
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
        hostname: Reported "the hostname of the host does not change, `spec.dump` has no `hostname`; containers have the variable `HOSTNAME`";
        log_directory: Applied "ContainerStatus.log_path";
        dns_config: Reported "containers have the host's resolv.conf";
        port_mappings: Reported "containers share the host's network, so nothing is mapped";
        labels: Applied "PodSandboxStatus";
        annotations: Applied "PodSandboxStatus; fake-cri reads its own annotations";
        linux: Nested "";
        windows: Refused "";
    }
    LinuxPodSandboxConfig {
        cgroup_parent: Reported "containers stay in fake-cri's cgroup; `spec.dump` has no `cgroupsPath`";
        security_context: Nested "";
        sysctls: Refused "sysctls would change the host";
        overhead: Reported "no cgroup is created";
        resources: Reported "no cgroup is created";
    }
    LinuxSandboxSecurityContext {
        namespace_options: Nested "";
        selinux_options: Reported "a sandbox has no process";
        run_as_user: Reported "a sandbox has no process; containers have their own user";
        run_as_group: Reported "as `run_as_user`; InvalidArgument without a user";
        readonly_rootfs: Reported "a sandbox has no root file system";
        supplemental_groups: Reported "a sandbox has no process";
        supplemental_groups_policy: Reported "a sandbox has no process";
        privileged: Reported "a sandbox has no process";
        seccomp: Reported "a sandbox has no process";
        apparmor: Reported "a sandbox has no process";
        seccomp_profile_path: Reported "a sandbox has no process";
    }
    NamespaceOption {
        network: Reported "containers run in the host's namespaces, `spec.dump` lists none; PodSandboxStatus.linux.namespaces returns the request";
        pid: Reported "as `network`";
        ipc: Reported "as `network`";
        target_id: Reported "as `network`";
        userns_options: Refused "mode NODE (no user namespace) is accepted";
    }
    ContainerConfig {
        metadata: Applied "ContainerStatus, the annotations of `spec.dump`";
        image: Applied "ContainerStatus";
        command: Applied "`spec.dump`";
        args: Applied "`spec.dump`";
        working_dir: Applied "`spec.dump`; the test workload runs in `/` if the host does not have the directory";
        envs: Applied "`spec.dump`";
        mounts: Reported "nothing is mounted, so ContainerStatus and `spec.dump` list none; a host path that does not exist is InvalidArgument";
        devices: Reported "containers have the host's devices; a host path that does not exist is InvalidArgument";
        labels: Applied "ContainerStatus";
        annotations: Applied "ContainerStatus; fake-cri reads its own annotations";
        log_path: Applied "ContainerStatus";
        stdin: Applied "stdin stays open; Attach is not implemented";
        stdin_once: Reported "Attach is not implemented";
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
        capabilities: Reported "root has fake-cri's capabilities, other users lose them at execve; `spec.dump` lists none";
        privileged: Reported "as `capabilities`";
        namespace_options: Nested "";
        selinux_options: Reported "no label is set";
        run_as_user: Applied "ContainerStatus.user and `spec.dump` have the effective user; FailedPrecondition without the privilege";
        run_as_group: Applied "as `run_as_user`; InvalidArgument without a user";
        run_as_username: Applied "as `run_as_user`; InvalidArgument for a name that the host does not have, or together with `run_as_user`";
        readonly_rootfs: Reported "in `spec.dump` the root file system is writable";
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
        cpu_period: Reported "no cgroup is created, `spec.dump` has no limits; ContainerStatus.resources returns the config or the last UpdateContainerResources";
        cpu_quota: Reported "as `cpu_period`";
        cpu_shares: Reported "as `cpu_period`";
        memory_limit_in_bytes: Reported "as `cpu_period`; ContainerStats.memory.available_bytes refers to the limit";
        oom_score_adj: Reported "as `cpu_period`";
        cpuset_cpus: Reported "as `cpu_period`";
        cpuset_mems: Reported "as `cpu_period`";
        hugepage_limits: Reported "as `cpu_period`";
        unified: Reported "as `cpu_period`";
        memory_swap_limit_in_bytes: Reported "as `cpu_period`";
    }
};

/// The fields that the log has named. Each is logged once per fake-cri process.
#[derive(Debug, Default)]
pub(crate) struct ReportedFields(Mutex<BTreeSet<String>>);

impl ReportedFields {
    /// Checks the fields of a config and logs those that are not applied.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition`, which names the refused fields, unless `accept` is set.
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
                "{} cannot be applied by fake-cri; omit it, or start fake-cri with --allow-unapplied-fields to ignore it",
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

/// Whether the mode of a user namespace is NODE, which requests no namespace.
fn is_node_mode(options: &DynamicMessage) -> bool {
    let mode = options.get_field_by_name("mode");
    mode.and_then(|mode| mode.as_enum_number()) == Some(v1::NamespaceMode::Node as i32)
}

fn find_field(message: &str, field: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|row| row.message == message && row.field == field)
}

/// Checks that the host paths of mounts and devices exist.
///
/// # Errors
///
/// `InvalidArgument`, which names the first missing path. containerd creates a directory for the missing source of a
/// mount; fake-cri mounts nothing and therefore does not change the host.
pub(crate) fn check_host_paths(config: &v1::ContainerConfig) -> Result<(), RuntimeError> {
    let check_exists = |field: &str, path: &str| match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(RuntimeError::InvalidArgument(format!(
            "{field} {path:?} cannot be used: {error}"
        ))),
    };
    for mount in &config.mounts {
        // An image volume has no host path.
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

    fn markdown() -> String {
        let mut text = "| field | treatment | details |\n|---|---|---|\n".to_owned();
        for row in FIELDS {
            let treatment = match row.treatment {
                FieldTreatment::Applied => "applied",
                FieldTreatment::Nested => "see its fields",
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
                    "{message}.{} must have one row in FIELDS",
                    field.name()
                );
                fields += 1;
                let row = find_field(message, field.name()).unwrap();
                let within = field
                    .kind()
                    .as_message()
                    .is_some_and(|kind| FIELDS.iter().any(|row| row.message == kind.name()));
                let single = row.treatment == FieldTreatment::Nested;
                assert!(
                    !single || within,
                    "{message}.{} is nested, but its fields have no rows",
                    field.name()
                );
            }
        }
        assert_eq!(fields, FIELDS.len(), "a row of FIELDS names an unknown field");
    }

    #[test]
    fn documentation_has_the_field_table() {
        let page = include_str!("../../../docs/CRI-FIELDS.md");
        let table = markdown();
        assert!(
            page.contains(&table),
            "docs/CRI-FIELDS.md must contain this table:\n{table}"
        );
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
