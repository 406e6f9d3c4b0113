//! The calls that faults can name: all rpcs of the CRI, read from its descriptor.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};

/// Only services of this package have faults; health, reflection and the control API have none.
const CRI_PACKAGE: &str = "runtime.v1";

static RPCS: LazyLock<Vec<Rpc>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(cri_proto::DESCRIPTOR_SET).expect("the descriptor set from the build is valid");
    pool.services()
        .filter(|service| service.package_name() == CRI_PACKAGE)
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(Rpc::new)
        .collect()
});

/// One rpc of the CRI.
#[derive(Clone, Debug)]
pub struct Rpc {
    name: String,
    service: String,
    path: String,
    method: MethodDescriptor,
}

impl Rpc {
    fn new(method: MethodDescriptor) -> Rpc {
        let service = method.parent_service();
        Rpc {
            name: method.name().to_owned(),
            service: service.full_name().to_owned(),
            path: format!("/{}/{}", service.full_name(), method.name()),
            method,
        }
    }

    /// All rpcs of the CRI, those of RuntimeService first.
    pub fn all() -> &'static [Rpc] {
        &RPCS
    }

    /// The rpc with this HTTP/2 path, such as `/runtime.v1.RuntimeService/Version`.
    pub fn by_path(path: &str) -> Option<&'static Rpc> {
        RPCS.iter().find(|rpc| rpc.path == path)
    }

    /// The rpc with this name. Names are unique across the services of the CRI.
    pub fn by_name(name: &str) -> Option<&'static Rpc> {
        RPCS.iter().find(|rpc| rpc.name == name)
    }

    /// The method name, such as `CheckpointContainer`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The full service name, such as `runtime.v1.RuntimeService`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The HTTP/2 path, such as `/runtime.v1.RuntimeService/CheckpointContainer`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The name in the journal, such as `RuntimeService/CheckpointContainer`.
    pub fn short_path(&self) -> &str {
        self.path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(CRI_PACKAGE))
            .and_then(|path| path.strip_prefix('.'))
            .unwrap_or(&self.path)
    }

    /// The type of the request.
    pub fn input(&self) -> MessageDescriptor {
        self.method.input()
    }

    /// The type of the response.
    pub fn output(&self) -> MessageDescriptor {
        self.method.output()
    }

    /// Whether the response is a stream.
    pub fn is_server_streaming(&self) -> bool {
        self.method.is_server_streaming()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_43_rpcs_are_found_by_name_and_path() {
        assert_eq!(Rpc::all().len(), 43);
        for rpc in Rpc::all() {
            assert_eq!(Rpc::by_name(rpc.name()).map(Rpc::path), Some(rpc.path()));
            assert_eq!(Rpc::by_path(rpc.path()).map(Rpc::name), Some(rpc.name()));
        }
        let checkpoint = Rpc::by_name("CheckpointContainer").expect("an rpc of the CRI");
        assert_eq!(checkpoint.short_path(), "RuntimeService/CheckpointContainer");
        assert!(!checkpoint.is_server_streaming());
        assert!(Rpc::by_name("GetContainerEvents").is_some_and(Rpc::is_server_streaming));
    }
}
