//! The image of the workload, for runtimes other than fake-cri: an OCI archive that `ctr images import` takes.
//!
//! ```text
//!  OUT.tar
//!    oci-layout  index.json  blobs/sha256/..   the OCI image layout: what containerd, CRI-O and podman read
//!    manifest.json                             the same for those that only know `docker save`
//!  its one layer
//!    test-workload                             a static executable: there is no libc in the image
//!    checkpoint-conformance                    with --include-harness
//!    dev etc proc run sys tmp var              where a runtime mounts
//! ```
//!
//! The same executable makes the same bytes: nothing in it depends on the time or the machine. What is not static is
//! refused, with the command that builds it: in an image it would end with `no such file or directory`.

mod executable;
mod oci_archive;

use std::path::PathBuf;

pub use executable::{Architecture, Executable, find_workload};
pub use oci_archive::{ImageContent, write};

/// The command that builds what an image needs, for this machine.
pub const BUILD_COMMAND: &str =
    "RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target x86_64-unknown-linux-gnu";

/// Why no image was written.
#[derive(Debug, thiserror::Error)]
pub enum OciImageError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no executable that an image can hold.
    #[error("{}: {reason}", path.display())]
    Executable {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// There is no static test workload.
    #[error("no static test workload was found ({tried}); build it: {BUILD_COMMAND} -p fake-cri --bin test-workload")]
    NoWorkload {
        /// Where it was looked for, and what was there.
        tried: String,
    },
    /// The harness is not static.
    #[error("{reason}; build a static harness, and write the image with it: {BUILD_COMMAND} -p checkpoint-conformance")]
    Harness {
        /// What it is.
        reason: String,
    },
    /// The name of the image cannot be one.
    #[error(
        "{name} is no name of an image: expected REGISTRY/PATH:TAG in lower case, such as {}",
        crate::targets::runtime::WORKLOAD_IMAGE
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A document of the image could not be made.
    #[error("failed to describe the image: {0}")]
    Spec(#[from] oci_spec::OciSpecError),
}

impl OciImageError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> OciImageError {
        let path = path.into();
        move |source| OciImageError::File { path, source }
    }
}
