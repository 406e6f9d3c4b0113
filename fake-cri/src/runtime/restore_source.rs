//! Containers that are restored from a checkpoint archive instead of started.
//!
//! | CreateContainerRequest | restored from |
//! |---|---|
//! | the image is an absolute path | the archive or checkpoint image (an OCI layout or a tar of one) at that path |
//! | the annotation `fake-cri.dev/restore-from` or `fake-cri.dev/restore-from.NAME`, on the container or its pod | the archive or checkpoint image at that path; the kubelet has pulled the image of the container |
//!
//! An archive is read at the creation of the container, so that the caller of CreateContainer gets the errors, and
//! again at the start. The record of the container keeps two parts of the archive: the unsupported state that its dump
//! lists, for ContainerStatus, and its `spec.dump`, from which a checkpoint of the restored container writes its own.

use std::path::{Path, PathBuf};

use cri_proto::{document::SpecDump, runtime::v1};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Pod, delay::find_annotation, error::RuntimeError, image::Image};
use crate::checkpoint::{self, CancelFlag, RestoreError};

pub(super) const RESTORE_FROM_ANNOTATION: &str = "fake-cri.dev/restore-from";

/// The annotation (also as `KEY.NAME`) that allows a restore although the file locks of the container are lost.
pub(super) const WITHOUT_FILE_LOCKS_ANNOTATION: &str = "fake-cri.dev/restore-without-file-locks";

/// The data that the record of a restored container keeps from its archive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// Which state the restore may lose.
    #[serde(default)]
    pub options: checkpoint::RestoreOptions,
    /// The unsupported state, one line per item. If lines are omitted, the last line has their count.
    #[serde(default)]
    pub unsupported_state: Vec<String>,
    /// The archive's `spec.dump`.
    #[serde(default)]
    pub spec: Option<Box<SpecDump>>,
}

/// The field of the request that names the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ArchiveSource {
    Image(PathBuf),
    Annotation(PathBuf),
}

impl ArchiveSource {
    pub(super) fn into_path(self) -> PathBuf {
        match self {
            Self::Image(path) | Self::Annotation(path) => path,
        }
    }
}

/// Finds and checks the archive of a container that is to be restored. Returns `None` for other containers. A
/// checkpoint image may be unpacked temporarily in `scratch_dir`. The check stops when `caller` is cancelled.
///
/// # Errors
///
/// `InvalidArgument` if the archive is invalid or holds state that cannot be restored; `DeadlineExceeded` if the caller
/// cancelled.
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
            "annotation {RESTORE_FROM_ANNOTATION} is {path:?}: must be the absolute path of a checkpoint archive"
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
        unsupported.push(format!("{} more lines in dump.log", archive.unsupported.omitted));
    }
    let spec = archive.spec.and_then(|text| {
        let spec = serde_json::from_slice(&text);
        if spec.is_err() {
            unsupported.push("spec.dump, which is not an OCI runtime specification".to_owned());
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
                "annotation {WITHOUT_FILE_LOCKS_ANNOTATION} is {other:?}: must be \"true\" or \"false\""
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

/// A placeholder for the image of a container whose image field is the path of an archive.
pub(super) fn archive_image(archive: &Path) -> Image {
    let digest = Sha256::digest(archive.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Image {
        id: format!("sha256:{hex}"),
        repo_tags: Vec::new(),
        ..Image::default()
    }
}
