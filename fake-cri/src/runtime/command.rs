//! What a container's process is started with: the container's config over its image.

use std::path::PathBuf;

use super::{Config, Exec, Pod, Record, error::Error};
use crate::{
    shim::{LaunchSpec, Program},
    stand_in,
};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command with its arguments, as Kubernetes joins them: a command drops the image's entrypoint and arguments, and
/// arguments drop the image's.
pub(crate) fn argv(record: &Record) -> Vec<String> {
    let (config, image) = (&record.config, &record.image);
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    command.iter().chain(args).cloned().collect()
}

/// The environment: a default PATH and the pod's host name, then the image's, then the container's. The last of a name
/// wins and keeps the first one's place.
pub(crate) fn env(record: &Record, pod: &Pod) -> Vec<(String, String)> {
    let hostname = format!("HOSTNAME={}", pod.config.hostname);
    let image = record.image.env.iter().map(String::as_str);
    let own = record
        .config
        .envs
        .iter()
        .map(|pair| (pair.key.clone(), String::from_utf8_lossy(&pair.value).into_owned()));
    let base = std::iter::once(PATH)
        .chain((!pod.config.hostname.is_empty()).then_some(hostname.as_str()))
        .chain(image)
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut env: Vec<(String, String)> = Vec::new();
    for (key, value) in base.chain(own) {
        match env.iter_mut().find(|(known, _)| *known == key) {
            Some(pair) => pair.1 = value,
            None => env.push((key, value)),
        }
    }
    env
}

/// The working directory that was asked for.
pub(crate) fn cwd(record: &Record) -> Option<PathBuf> {
    [&record.config.working_dir, &record.image.working_dir]
        .into_iter()
        .find(|cwd| !cwd.is_empty())
        .map(PathBuf::from)
}

/// What the annotations of the pod and of the container choose about a stand-in.
///
/// # Errors
///
/// `Invalid`, naming the annotation.
pub(crate) fn stand_in_options(record: &Record, pod: &Pod) -> Result<stand_in::Options, Error> {
    stand_in::Options::from_annotations(&pod.config.annotations, &record.config.annotations, record.name())
        .map_err(|error| Error::Invalid(error.to_string()))
}

/// What the shim is told.
///
/// # Errors
///
/// `Invalid` when there is no command to run, or an annotation is wrong.
pub(crate) fn launch_spec(config: &Config, record: &Record, pod: &Pod, dir: PathBuf) -> Result<LaunchSpec, Error> {
    let mut argv = argv(record);
    let program = match config.exec {
        Exec::StandIn => {
            if argv.is_empty() {
                argv.push("stand-in".to_owned());
            }
            Program::StandIn(stand_in_options(record, pod)?)
        }
        Exec::Host if argv.is_empty() => return Err(Error::Invalid("no command specified".to_owned())),
        Exec::Host => Program::Host,
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
        program,
    })
}
