//! Command, environment and working directory of a container, from its config and its image.

use std::path::PathBuf;

use super::{Config, ContainerRecord, ExecMode, Pod, error::RuntimeError};
use crate::{
    shim::{LaunchProgram, LaunchSpec},
    workload,
};

const DEFAULT_PATH_ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The argv of a container by the rules of Kubernetes: `command` replaces the image's entrypoint and cmd, and `args`
/// replaces the image's cmd. A restored container has the arguments in `spec.dump`.
pub(crate) fn argv(record: &ContainerRecord) -> Vec<String> {
    if let Some(args) = record.restored_process().and_then(|process| process.args().as_ref()) {
        return args.clone();
    }
    let (config, image) = (&record.config, &record.image);
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    command.iter().chain(args).cloned().collect()
}

/// The environment: a default PATH, the pod's HOSTNAME, the image's variables, the container's variables. Of variables
/// with the same name the last value wins, at the position of the first. A restored container has the environment in
/// `spec.dump`.
pub(crate) fn env(record: &ContainerRecord, pod: &Pod) -> Vec<(String, String)> {
    if let Some(env) = record.restored_process().and_then(|process| process.env().as_ref()) {
        let pairs = env.iter().filter_map(|pair| pair.split_once('='));
        return pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    }
    let hostname = format!("HOSTNAME={}", pod.config.hostname);
    let image = record.image.env.iter().map(String::as_str);
    let container_env = record
        .config
        .envs
        .iter()
        .map(|pair| (pair.key.clone(), String::from_utf8_lossy(&pair.value).into_owned()));
    let base_env = std::iter::once(DEFAULT_PATH_ENV)
        .chain((!pod.config.hostname.is_empty()).then_some(hostname.as_str()))
        .chain(image)
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut env: Vec<(String, String)> = Vec::new();
    for (key, value) in base_env.chain(container_env) {
        match env.iter_mut().find(|(existing_key, _)| *existing_key == key) {
            Some(pair) => pair.1 = value,
            None => env.push((key, value)),
        }
    }
    env
}

/// The working directory of the config or the image. A restored container has the directory in `spec.dump`.
pub(crate) fn cwd(record: &ContainerRecord) -> Option<PathBuf> {
    if let Some(process) = record.restored_process() {
        return Some(process.cwd().clone());
    }
    [&record.config.working_dir, &record.image.working_dir]
        .into_iter()
        .find(|cwd| !cwd.is_empty())
        .map(PathBuf::from)
}

/// Reads the options of the test workload from the annotations of the pod and the container.
///
/// # Errors
///
/// `InvalidArgument`, which names the annotation.
pub(crate) fn workload_options(record: &ContainerRecord, pod: &Pod) -> Result<workload::WorkloadOptions, RuntimeError> {
    workload::WorkloadOptions::from_annotations(&pod.config.annotations, &record.config.annotations, record.name())
        .map_err(|error| RuntimeError::InvalidArgument(error.to_string()))
}

/// Creates the launch specification for the shim.
///
/// # Errors
///
/// `InvalidArgument` if there is no command or an annotation is invalid.
pub(crate) fn launch_spec(
    config: &Config,
    record: &ContainerRecord,
    pod: &Pod,
    dir: PathBuf,
) -> Result<LaunchSpec, RuntimeError> {
    let mut argv = argv(record);
    let program = match (&record.restore, config.exec) {
        (Some(archive), _) => LaunchProgram::Restore {
            archive: archive.clone(),
            options: record.restored.options,
        },
        (None, ExecMode::TestWorkload) => {
            if argv.is_empty() {
                argv.push("test-workload".to_owned());
            }
            LaunchProgram::Workload(workload_options(record, pod)?)
        }
        (None, ExecMode::Host) if argv.is_empty() => {
            return Err(RuntimeError::InvalidArgument("no command specified".to_owned()));
        }
        (None, ExecMode::Host) => LaunchProgram::Host,
    };
    Ok(LaunchSpec {
        container_id: record.id.clone(),
        dir,
        argv,
        env: env(record, pod),
        cwd: cwd(record),
        log: record.log.clone(),
        stdin: record.config.stdin,
        stdin_once: record.config.stdin_once,
        tty: record.config.tty,
        identity: record.identity.clone(),
        program,
    })
}

#[cfg(test)]
mod tests {
    use cri_proto::runtime::v1;
    use rstest::rstest;

    use super::*;
    use crate::runtime::{ContainerState, image::Image};

    fn split_words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn record(config: v1::ContainerConfig, image: Image) -> ContainerRecord {
        ContainerRecord {
            id: "c".repeat(64),
            pod_id: "p".repeat(64),
            config,
            resources: v1::LinuxContainerResources::default(),
            image,
            restore: None,
            identity: None,
            restored: Default::default(),
            log: None,
            created_at: 1,
            state: ContainerState::Created,
        }
    }

    fn pod() -> Pod {
        Pod {
            id: "p".repeat(64),
            config: v1::PodSandboxConfig {
                hostname: "web".to_owned(),
                ..Default::default()
            },
            runtime_handler: String::new(),
            ready: true,
            created_at: 1,
        }
    }

    #[rstest]
    #[case("", "", "entry point image args")]
    #[case("", "x y", "entry point x y")]
    #[case("run", "", "run")]
    #[case("run", "x", "run x")]
    fn container_command_overrides_the_image(#[case] command: &str, #[case] args: &str, #[case] expected: &str) {
        let config = v1::ContainerConfig {
            command: split_words(command),
            args: split_words(args),
            ..Default::default()
        };
        let image = Image {
            entrypoint: split_words("entry point"),
            cmd: split_words("image args"),
            ..Image::default()
        };
        assert_eq!(argv(&record(config, image)), split_words(expected));
    }

    #[test]
    fn the_last_of_a_name_wins_and_keeps_its_place() {
        let variable = |key: &str, value: &str| v1::KeyValue {
            key: key.to_owned(),
            value: value.into(),
        };
        let config = v1::ContainerConfig {
            envs: vec![variable("B", "own"), variable("A", "1=2"), variable("B", "last")],
            ..Default::default()
        };
        let image = Image {
            env: split_words("PATH=/image B=image"),
            ..Image::default()
        };
        let env = env(&record(config, image), &pod());
        let pairs: Vec<_> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(pairs, ["PATH=/image", "HOSTNAME=web", "B=last", "A=1=2"]);
    }

    #[test]
    fn container_working_dir_overrides_the_image() {
        let config = |working_dir: &str| v1::ContainerConfig {
            working_dir: working_dir.to_owned(),
            ..Default::default()
        };
        let image = Image {
            working_dir: "/image".to_owned(),
            ..Image::default()
        };
        assert_eq!(cwd(&record(config("/own"), image.clone())), Some("/own".into()));
        assert_eq!(cwd(&record(config(""), image)), Some("/image".into()));
        assert_eq!(cwd(&record(config(""), Image::default())), None);
    }

    #[test]
    fn documents_have_the_fields_of_checkpointctl() {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "app".to_owned(),
                attempt: 0,
            }),
            ..Default::default()
        };
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let documents =
            crate::runtime::documents::documents(Default::default(), &record(config, Image::default()), &pod(), now)
                .unwrap();
        let names: Vec<_> = documents.iter().map(|document| document.name.as_str()).collect();
        assert_eq!(names, ["config.dump", "spec.dump", "status", "status.dump"]);
        let json = |index: usize| -> serde_json::Value { serde_json::from_str(&documents[index].content).unwrap() };
        assert_eq!(json(0)["checkpointedTime"], "2026-01-02T03:04:05Z");
        assert_eq!(json(0)["restoredTime"], "0001-01-01T00:00:00Z");
        assert_eq!(json(1)["annotations"]["io.kubernetes.cri.container-name"], "app");
        assert_eq!(json(1)["process"]["env"][1], "HOSTNAME=web");
        assert_eq!(json(2)["Version"], "v1");
        assert_eq!(json(3)["id"], "c".repeat(64));
    }
}
