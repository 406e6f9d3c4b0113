//! Wire and file formats, no behaviour.
//!
//! [`runtime::v1`] is the CRI, [`control::v1`] fake-cri's control API, [`criu`] CRIU's images, [`document`] the JSON
//! documents of a checkpoint archive.

/// The Container Runtime Interface.
pub mod runtime {
    /// `runtime.v1`, whole.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated from the .proto files, whose comments are the docs"
    )]
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// fake-cri's control API.
pub mod control {
    /// `fakecri.control.v1`.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated from the .proto files, whose comments are the docs"
    )]
    pub mod v1 {
        tonic::include_proto!("fakecri.control.v1");
    }
}

/// The encoded `FileDescriptorSet` of the CRI and of the control API, for gRPC reflection and dynamic messages.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod criu;
pub mod document;
