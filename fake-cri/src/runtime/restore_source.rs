//! Which containers go on from a checkpoint archive instead of being started.
//!
//! | what CreateContainer says | then |
//! |---|---|
//! | the image is an absolute path | the archive, or the checkpoint image (an OCI layout or a tar of one), there |
//! | the annotation `fake-cri.dev/restore-from`, or that with `.NAME` of the container behind it, on the container or its pod | the same at that path; the image is what a kubelet pulled |
//!
//! Archives are read when the container is made, so that its caller hears what is wrong, and again when it is started. What the
//! archive says of the container is kept in its record: what its dump could not carry is shown, and its `spec.dump` is what a
//! checkpoint of the restored container says again.

use std::path::{Path, PathBuf};

use cri_proto::{document::SpecDump, runtime::v1};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Pod, delay::find_annotation, error::RuntimeError, image::Image};
use crate::checkpoint::{self, CancelFlag, RestoreError};

/// The annotation that names an archive.
pub(super) const RESTORE_FROM_ANNOTATION: &str = "fake-cri.dev/restore-from";

/// The annotation by which a container is restored although its file locks are lost; with `.NAME` of the container behind it too.
pub(super) const WITHOUT_FILE_LOCKS_ANNOTATION: &str = "fake-cri.dev/restore-without-file-locks";

/// What is kept of the archive that a container goes on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// What may be lost.
    #[serde(default)]
    pub options: checkpoint::RestoreOptions,
    /// What the dump could not carry, a line each; the last one counts those that are left out.
    #[serde(default)]
    pub unsupported_state: Vec<String>,
    /// What the container ran as, by the archive's `spec.dump`.
    #[serde(default)]
    pub spec: Option<Box<SpecDump>>,
}

/// Where an archive was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ArchiveSource {
    /// As the image.
    Image(PathBuf),
    /// By an annotation.
    Annotation(PathBuf),
}

impl ArchiveSource {
    pub(super) fn into_path(self) -> PathBuf {
        match self {
            Self::Image(path) | Self::Annotation(path) => path,
        }
    }
}

/// The archive that a container goes on from, if it does, and what is kept of it. `scratch_dir` is where a checkpoint image may be
/// unpacked for a look, as long as the caller waits.
///
/// # Errors
///
/// `Invalid`, with what is wrong with it or what of it cannot be restored; `Deadline` when the caller gave up.
pub(super) fn restore_source(
    scratch_dir: &Path,
    pod: &Pod,
    config: &v1::ContainerConfig,
    image: &str,
    caller: &CancelFlag,
) -> Result<Option<(ArchiveSource, RestoreRecord)>, RuntimeError> {
    let Some(source) = archive_source(pod, config, image) else {
        return Ok(None);
    };
    let (ArchiveSource::Image(path) | ArchiveSource::Annotation(path)) = &source;
    if !path.is_absolute() {
        return Err(RuntimeError::InvalidArgument(format!(
            "annotation {RESTORE_FROM_ANNOTATION} names {path:?}: the absolute path of a checkpoint archive is needed"
        )));
    }
    let options = restore_options(pod, config)?;
    let archive = checkpoint::check_restorable_here(path, scratch_dir, options, caller)
        .and_then(|archive| caller.check().map(|()| archive))
        .map_err(|error| {
            let message = format!("failed to restore a container: {error}");
            match error {
                RestoreError::Cancelled => RuntimeError::DeadlineExceeded(message),
                _ => RuntimeError::InvalidArgument(message),
            }
        })?;
    let mut unsupported = archive.unsupported.lines;
    if archive.unsupported.omitted > 0 {
        unsupported.push(format!("{} more lines of its dump.log", archive.unsupported.omitted));
    }
    let spec = archive.spec.and_then(|text| {
        let spec = serde_json::from_slice(&text);
        if spec.is_err() {
            unsupported.push("spec.dump, which is no OCI runtime specification".to_owned());
        }
        spec.ok()
    });
    let restored = RestoreRecord {
        options,
        unsupported_state: unsupported,
        spec,
    };
    Ok(Some((source, restored)))
}

/// What may be lost, as the annotations say.
fn restore_options(pod: &Pod, config: &v1::ContainerConfig) -> Result<checkpoint::RestoreOptions, RuntimeError> {
    let name = config.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let annotation = find_annotation(
        WITHOUT_FILE_LOCKS_ANNOTATION,
        &pod.config.annotations,
        &config.annotations,
        name,
    );
    let without_file_locks = match annotation {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(RuntimeError::InvalidArgument(format!(
                "annotation {WITHOUT_FILE_LOCKS_ANNOTATION} is {other:?}: \"true\" or \"false\" is needed"
            )));
        }
    };
    Ok(checkpoint::RestoreOptions { without_file_locks })
}

fn archive_source(pod: &Pod, config: &v1::ContainerConfig, image: &str) -> Option<ArchiveSource> {
    let name = config.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let annotation = find_annotation(
        RESTORE_FROM_ANNOTATION,
        &pod.config.annotations,
        &config.annotations,
        name,
    );
    match annotation {
        Some(path) => Some(ArchiveSource::Annotation(path.into())),
        None => image.starts_with('/').then(|| ArchiveSource::Image(image.into())),
    }
}

/// What stands for the image of a container whose image is an archive.
pub(super) fn archive_image(archive: &Path) -> Image {
    let digest = Sha256::digest(archive.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Image {
        id: format!("sha256:{hex}"),
        repo_tags: Vec::new(),
        ..Image::default()
    }
}
