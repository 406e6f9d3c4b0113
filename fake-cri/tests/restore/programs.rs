//! The programs, built, and their containers.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use cri_proto::runtime::v1;
use tonic::Status;

use crate::{
    corpus::{self, STEPS},
    cri::{Cri, Pod, annotated, builder, container_config},
};

/// Why nothing can be restored here, if nothing can.
pub(crate) fn missing() -> Option<&'static str> {
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
        .find_map(|(there, why)| (!there).then_some(why))
    });
    *MISSING
}

/// A program with a folder for its files.
pub(crate) struct Program {
    command: Vec<String>,
    pub(crate) files: PathBuf,
    pub(crate) archive: PathBuf,
}

impl Program {
    /// Builds one with these options of the C compiler, or takes Python for one.
    pub(crate) fn build(source: &str, options: &[&str], folder: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut command: Vec<_> = corpus::command(source, options, folder)
            .iter()
            .map(|part| text(part))
            .collect();
        let files = folder.join("files");
        std::fs::create_dir(&files).expect("a folder");
        command.push(text(&files));
        Self {
            command,
            files,
            archive: folder.join("checkpoint.tar"),
        }
    }

    /// One in Python, given whole; it has the folder for its files as its argument.
    pub(crate) fn python(text: &str, folder: &Path) -> Self {
        let source = folder.join("program.py");
        std::fs::write(&source, text).expect("a file");
        Self::build(&source.to_string_lossy(), &[], folder)
    }

    /// None, but an archive.
    pub(crate) fn of_archive(archive: &Path) -> Self {
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
    pub(crate) fn restored(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            image: Some(crate::cri::image(&self.archive.to_string_lossy())),
            ..container_config(name)
        }
    }

    /// The same, named by an annotation.
    pub(crate) fn annotated(&self, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            annotations: annotated(&[("restore-from", &self.archive.to_string_lossy())]),
            ..container_config(name)
        }
    }

    /// Lets it go beyond the step at which it waits.
    pub(crate) fn go(&self) {
        std::fs::write(self.files.join("go"), "").expect("a file");
    }

    /// Checkpoints its container and ends it as it stood then; how many steps it has said.
    pub(crate) async fn checkpoint_and_end(&self, pod: &Pod<'_>, id: &str, name: &str) -> u64 {
        checkpoint(pod.cri, id, &self.archive).await.expect("a checkpoint");
        // It was left stopped, so nothing comes after; its log is whole when it has ended.
        pod.cri.stop(id, 0).await.expect("it ends");
        pod.cri.ended(id).await;
        said(pod, name).len() as u64
    }
}

/// A fake-cri that runs commands of the host, and leaves what it checkpoints stopped.
pub(crate) async fn host() -> Cri {
    Cri::with(builder().exec_host().fault("CheckpointContainer:freeze=leave-frozen")).await
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
pub(crate) fn said(pod: &Pod<'_>, name: &str) -> Vec<String> {
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
pub(crate) fn rest(after: u64) -> Vec<String> {
    let steps = (after + 1..=STEPS).map(|step| format!("step {step}"));
    steps.chain(["done".to_owned()]).collect()
}
