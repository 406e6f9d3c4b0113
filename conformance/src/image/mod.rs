//! Writes the workload's container image, for runtimes other than fake-cri: an OCI archive for `ctr images import`.
//!
//! ```text
//!  OUT.tar
//!    oci-layout  index.json  blobs/sha256/..   the OCI image layout, for containerd, CRI-O and podman
//!    manifest.json                             the same image for readers of `docker save` archives only
//!  the single layer
//!    test-workload                             a static executable: the image contains no libc
//!    checkpoint-conformance                    with --include-harness
//!    dev etc proc run sys tmp var              mount points
//! ```
//!
//! The image is reproducible: it depends only on the executables, not on the time or the machine. An executable that is
//! not static is an error that names the build command; in the image it would fail with `no such file or directory`.

mod executable;
mod oci_archive;

use std::path::PathBuf;

pub use executable::{Architecture, Executable, find_workload};
pub use oci_archive::{ImageContent, write};

/// The command that builds static executables for this machine.
pub const BUILD_COMMAND: &str =
    "RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target x86_64-unknown-linux-gnu";

/// No image was written.
#[derive(Debug, thiserror::Error)]
pub enum OciImageError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The file is not an executable that the image can contain.
    #[error("{}: {reason}", path.display())]
    Executable {
        /// The path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// No static test workload was found.
    #[error("no static test workload found ({tried}); build it: {BUILD_COMMAND} -p fake-cri --bin test-workload")]
    NoWorkload {
        /// The candidates, each with its reason.
        tried: String,
    },
    /// The harness is not static.
    #[error("{reason}; build a static harness, and write the image with it: {BUILD_COMMAND} -p checkpoint-conformance")]
    Harness {
        /// The reason.
        reason: String,
    },
    /// The name is not a valid image name.
    #[error(
        "{name} is not a valid image name: expected REGISTRY/PATH:TAG in lower case, such as {}",
        crate::targets::runtime::WORKLOAD_IMAGE
    )]
    Name {
        /// The rejected name.
        name: String,
    },
    /// A JSON document of the image could not be created.
    #[error("failed to create a document of the image: {0}")]
    Spec(#[from] oci_spec::OciSpecError),
}

impl OciImageError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> OciImageError {
        let path = path.into();
        move |source| OciImageError::File { path, source }
    }
}
