//! Compiled test programs and their containers.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use cri_proto::runtime::v1;
use tonic::Status;

use crate::{
    cri::{Cri, Pod, annotated, builder, container_config},
    program_sources::{self, STEP_COUNT},
};

/// The reason why restores are not possible here, if there is one.
pub(crate) fn skip_reason() -> Option<&'static str> {
    static MISSING: LazyLock<Option<&str>> = LazyLock::new(|| {
        if !nix::unistd::geteuid().is_root() {
            return Some("creating a pid namespace requires root");
        }
        let runs = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.is_ok_and(|output| output.status.success())
        };
        let namespace = ["--pid", "--fork", "--mount-proc", "true"];
        [
            (runs("unshare", &namespace), "cannot create a pid namespace"),
            (runs("cc", &["--version"]), "no C compiler is installed"),
            (runs("python3", &["--version"]), "Python is not installed"),
        ]
        .into_iter()
        .find_map(|(available, why)| (!available).then_some(why))
    });
    *MISSING
}

/// A program with a directory for its files.
pub(crate) struct TestProgram {
    command: Vec<String>,
    pub(crate) files: PathBuf,
    pub(crate) archive: PathBuf,
}

impl TestProgram {
    /// Compiles a program; Python programs are not compiled.
    pub(crate) fn build(source: &str, options: &[&str], dir: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut command: Vec<_> = program_sources::program_command(source, options, dir)
            .iter()
            .map(|part| text(part))
            .collect();
        let files = dir.join("files");
        std::fs::create_dir(&files).expect("a directory");
        command.push(text(&files));
        Self {
            command,
            files,
            archive: dir.join("checkpoint.tar"),
        }
    }

    /// A Python program. Its argument is the directory for its files.
    pub(crate) fn python(text: &str, dir: &Path) -> Self {
        let source = dir.join("program.py");
        std::fs::write(&source, text).expect("the file is writable");
        Self::build(&source.to_string_lossy(), &[], dir)
    }

    /// An archive without a program.
    pub(crate) fn from_archive(archive: &Path) -> Self {
        Self {
            command: Vec::new(),
            files: PathBuf::new(),
            archive: archive.to_owned(),
        }
    }

    /// The container configuration of the program.
    pub(crate) fn config(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            command: self.command.clone(),
            ..container_config(name)
        }
    }

    /// A container that is restored from the archive, which is named as the image.
    pub(crate) fn restored_by_image(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            image: Some(crate::cri::image(&self.archive.to_string_lossy())),
            ..container_config(name)
        }
    }

    /// A container that is restored from the archive, which is named in an annotation.
    pub(crate) fn restored_by_annotation(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            annotations: annotated(&[("restore-from", &self.archive.to_string_lossy())]),
            ..container_config(name)
        }
    }

    /// Lets the program continue after the step at which it waits.
    pub(crate) fn release(&self) {
        std::fs::write(self.files.join("go"), "").expect("the file is writable");
    }

    /// Checkpoints and stops the container. Returns the number of steps that the program has printed.
    pub(crate) async fn checkpoint_and_stop(&self, pod: &Pod<'_>, id: &str, name: &str) -> u64 {
        checkpoint(pod.cri, id, &self.archive)
            .await
            .expect("the checkpoint succeeds");
        // The checkpoint left the container frozen, so it prints nothing more. The log is complete after the exit.
        pod.cri.stop(id, 0).await.expect("the container stops");
        pod.cri.wait_exited(id).await;
        stdout_lines(pod, name).len() as u64
    }
}

/// A fake-cri that runs host commands and leaves checkpointed containers frozen.
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

/// The lines that a container printed on standard output, from its log.
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

/// The expected output after this step.
pub(crate) fn remaining_steps(last_step: u64) -> Vec<String> {
    let steps = (last_step + 1..=STEP_COUNT).map(|step| format!("step {step}"));
    steps.chain(["done".to_owned()]).collect()
}
