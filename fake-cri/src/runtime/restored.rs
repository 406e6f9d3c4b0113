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

use super::{Pod, delay::annotated, error::Error, image::Image};
use crate::checkpoint::{self, Caller, RestoreError};

/// The annotation that names an archive.
pub(super) const ANNOTATION: &str = "fake-cri.dev/restore-from";

/// The annotation by which a container is restored although its file locks are lost; with `.NAME` of the container behind it too.
pub(super) const WITHOUT_LOCKS: &str = "fake-cri.dev/restore-without-file-locks";

/// What is kept of the archive that a container goes on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// What may be lost.
    #[serde(default)]
    pub options: checkpoint::Options,
    /// What the dump could not carry, a line each; the last one counts those that are left out.
    #[serde(default)]
    pub not_carried: Vec<String>,
    /// What the container ran as, by the archive's `spec.dump`.
    #[serde(default)]
    pub spec: Option<Box<SpecDump>>,
}

/// Where an archive was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// As the image.
    Image(PathBuf),
    /// By an annotation.
    Annotation(PathBuf),
}

impl Source {
    pub(super) fn into_path(self) -> PathBuf {
        match self {
            Self::Image(path) | Self::Annotation(path) => path,
        }
    }
}

/// The archive that a container goes on from, if it does, and what is kept of it. `folder` is where a checkpoint image may be
/// unpacked for a look, as long as the caller waits.
///
/// # Errors
///
/// `Invalid`, with what is wrong with it or what of it cannot be restored; `Deadline` when the caller gave up.
pub(super) fn source(
    folder: &Path,
    pod: &Pod,
    config: &v1::ContainerConfig,
    image: &str,
    caller: &Caller,
) -> Result<Option<(Source, Restored)>, Error> {
    let Some(source) = named(pod, config, image) else {
        return Ok(None);
    };
    let (Source::Image(path) | Source::Annotation(path)) = &source;
    if !path.is_absolute() {
        return Err(Error::Invalid(format!(
            "annotation {ANNOTATION} names {path:?}: the absolute path of a checkpoint archive is needed"
        )));
    }
    let options = options(pod, config)?;
    let found = checkpoint::restorable_here(path, folder, options, caller)
        .and_then(|found| caller.check().map(|()| found))
        .map_err(|error| {
            let message = format!("failed to restore a container: {error}");
            match error {
                RestoreError::Cancelled => Error::Deadline(message),
                _ => Error::Invalid(message),
            }
        })?;
    let mut not_carried = found.lost.lines;
    if found.lost.more > 0 {
        not_carried.push(format!("{} more lines of its dump.log", found.lost.more));
    }
    let spec = found.spec.and_then(|text| {
        let spec = serde_json::from_slice(&text);
        if spec.is_err() {
            not_carried.push("spec.dump, which is no OCI runtime specification".to_owned());
        }
        spec.ok()
    });
    let restored = Restored {
        options,
        not_carried,
        spec,
    };
    Ok(Some((source, restored)))
}

/// What may be lost, as the annotations say.
fn options(pod: &Pod, config: &v1::ContainerConfig) -> Result<checkpoint::Options, Error> {
    let name = config.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let said = annotated(WITHOUT_LOCKS, &pod.config.annotations, &config.annotations, name);
    let without_file_locks = match said {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(Error::Invalid(format!(
                "annotation {WITHOUT_LOCKS} is {other:?}: \"true\" or \"false\" is needed"
            )));
        }
    };
    Ok(checkpoint::Options { without_file_locks })
}

fn named(pod: &Pod, config: &v1::ContainerConfig, image: &str) -> Option<Source> {
    let name = config.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let annotated = annotated(ANNOTATION, &pod.config.annotations, &config.annotations, name);
    match annotated {
        Some(path) => Some(Source::Annotation(path.into())),
        None => image.starts_with('/').then(|| Source::Image(image.into())),
    }
}

/// What stands for the image of a container whose image is an archive.
pub(super) fn image(archive: &Path) -> Image {
    let digest = Sha256::digest(archive.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Image {
        id: format!("sha256:{hex}"),
        repo_tags: Vec::new(),
        ..Image::default()
    }
}
