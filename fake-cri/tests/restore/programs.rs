//! The programs, built, and their containers.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use cri_proto::runtime::v1;
use tonic::Status;

use crate::{
    corpus::{self, STEP_COUNT},
    cri::{Cri, Pod, annotated, builder, container_config},
};

/// Why nothing can be restored here, if nothing can.
pub(crate) fn skip_reason() -> Option<&'static str> {
    static MISSING: LazyLock<Option<&str>> = LazyLock::new(|| {
        if !nix::unistd::geteuid().is_root() {
            return Some("a pid namespace takes root");
        }
        let runs = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.is_ok_and(|output| output.status.success())
        };
        let namespace = ["--pid", "--fork", "--mount-proc", "true"];
        [
            (runs("unshare", &namespace), "no pid namespace can be made"),
            (runs("cc", &["--version"]), "there is no C compiler"),
            (runs("python3", &["--version"]), "there is no Python"),
        ]
        .into_iter()
        .find_map(|(available, why)| (!available).then_some(why))
    });
    *MISSING
}

/// A program with a folder for its files.
pub(crate) struct TestProgram {
    command: Vec<String>,
    pub(crate) files: PathBuf,
    pub(crate) archive: PathBuf,
}

impl TestProgram {
    /// Builds one with these options of the C compiler, or takes Python for one.
    pub(crate) fn build(source: &str, options: &[&str], dir: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut command: Vec<_> = corpus::program_command(source, options, dir)
            .iter()
            .map(|part| text(part))
            .collect();
        let files = dir.join("files");
        std::fs::create_dir(&files).expect("a folder");
        command.push(text(&files));
        Self {
            command,
            files,
            archive: dir.join("checkpoint.tar"),
        }
    }

    /// One in Python, given whole; it has the folder for its files as its argument.
    pub(crate) fn python(text: &str, dir: &Path) -> Self {
        let source = dir.join("program.py");
        std::fs::write(&source, text).expect("a file");
        Self::build(&source.to_string_lossy(), &[], dir)
    }

    /// None, but an archive.
    pub(crate) fn from_archive(archive: &Path) -> Self {
        Self {
            command: Vec::new(),
            files: PathBuf::new(),
            archive: archive.to_owned(),
        }
    }

    /// Its container.
    pub(crate) fn config(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            command: self.command.clone(),
            ..container_config(name)
        }
    }

    /// A container that goes on from its archive, named as its image.
    pub(crate) fn restored_by_image(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            image: Some(crate::cri::image(&self.archive.to_string_lossy())),
            ..container_config(name)
        }
    }

    /// The same, named by an annotation.
    pub(crate) fn restored_by_annotation(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            annotations: annotated(&[("restore-from", &self.archive.to_string_lossy())]),
            ..container_config(name)
        }
    }

    /// Lets it go beyond the step at which it waits.
    pub(crate) fn release(&self) {
        std::fs::write(self.files.join("go"), "").expect("a file");
    }

    /// Checkpoints its container and ends it as it stood then; how many steps it has stdout_lines.
    pub(crate) async fn checkpoint_and_stop(&self, pod: &Pod<'_>, id: &str, name: &str) -> u64 {
        checkpoint(pod.cri, id, &self.archive).await.expect("a checkpoint");
        // It was left stopped, so nothing comes after; its log is whole when it has ended.
        pod.cri.stop(id, 0).await.expect("it ends");
        pod.cri.wait_exited(id).await;
        stdout_lines(pod, name).len() as u64
    }
}

/// A fake-cri that runs commands of the host_exec_cri, and leaves what it checkpoints stopped.
pub(crate) async fn host_exec_cri() -> Cri {
    Cri::start_with(builder().exec_host().fault("CheckpointContainer:freeze=leave-frozen")).await
}

pub(crate) async fn checkpoint(cri: &Cri, id: &str, archive: &Path) -> Result<(), Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: archive.to_string_lossy().into_owned(),
        timeout: 0,
    };
    cri.runtime().checkpoint_container(request).await.map(drop)
}

/// What a container has said on its standard output, by its log.
pub(crate) fn stdout_lines(pod: &Pod<'_>, name: &str) -> Vec<String> {
    let log = std::fs::read_to_string(pod.logs.path().join(name).join("0.log")).unwrap_or_default();
    log.lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ').skip(1);
            let (stream, _tag) = (parts.next(), parts.next());
            assert_eq!(stream, Some("stdout"), "{line}");
            parts.next().unwrap_or_default().to_owned()
        })
        .collect()
}

/// What it should say from this step on.
pub(crate) fn remaining_steps(last_step: u64) -> Vec<String> {
    let steps = (last_step + 1..=STEP_COUNT).map(|step| format!("step {step}"));
    steps.chain(["done".to_owned()]).collect()
}
