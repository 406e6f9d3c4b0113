//! Wire formats and file formats, without behaviour.
//!
//! [`runtime::v1`] is the CRI, [`control::v1`] fake-cri's control API, [`criu`] the images of CRIU, [`document`] the
//! JSON documents of a checkpoint archive.

/// The Container Runtime Interface.
pub mod runtime {
    /// The messages, clients and servers of `runtime.v1`.
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
    /// The messages, client and server of `fakecri.control.v1`.
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
