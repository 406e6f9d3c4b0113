//! Which containers go on from a checkpoint archive instead of being started.
//!
//! | what CreateContainer says | then |
//! |---|---|
//! | the image is an absolute path | the archive, or the checkpoint image (an OCI layout or a tar of one), there |
//! | the annotation `fake-cri.dev/restore-from`, or that with `.NAME` of the container behind it, on the container or its pod | the same at that path; the image is what a kubelet pulled |
//!
//! Archives are read when the container is made, so that its caller hears what is wrong, and again when it is started.

use std::path::{Path, PathBuf};

use cri_proto::runtime::v1;
use sha2::{Digest as _, Sha256};

use super::{Pod, delay::annotated, error::Error, image::Image};
use crate::checkpoint;

/// The annotation that names an archive.
pub(super) const ANNOTATION: &str = "fake-cri.dev/restore-from";

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

/// The archive that a container goes on from, if it does. `folder` is where a checkpoint image may be unpacked for a look.
///
/// # Errors
///
/// `Invalid`, with what is wrong with it or what of it cannot be restored.
pub(super) fn source(
    folder: &Path,
    pod: &Pod,
    config: &v1::ContainerConfig,
    image: &str,
) -> Result<Option<Source>, Error> {
    let Some(source) = named(pod, config, image) else {
        return Ok(None);
    };
    let (Source::Image(path) | Source::Annotation(path)) = &source;
    if !path.is_absolute() {
        return Err(Error::Invalid(format!(
            "annotation {ANNOTATION} names {path:?}: the absolute path of a checkpoint archive is needed"
        )));
    }
    checkpoint::restorable(path, folder)
        .map_err(|error| Error::Invalid(format!("failed to restore a container: {error}")))?;
    Ok(Some(source))
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
