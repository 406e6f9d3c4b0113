//! The kinds of target, with the capabilities of each: what can be tested where, without starting anything.

use crate::engine::{Capability, Suite};

/// A kind of target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// The reference kubelet over fake-cri, both started by the harness.
    Embedded,
    /// A kubelet that the harness starts over fake-cri.
    KubeletBinary,
    /// A running kubelet.
    Url,
    /// The kubelet of a node, reached directly.
    Node,
    /// The kubelet of a node, reached through the API server's node proxy.
    NodeProxy,
    /// A fake-cri that the harness starts.
    EmbeddedRuntime,
    /// A running container runtime.
    Runtime,
    /// An archive file.
    Archive,
}

/// Whether a kind of target has a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Every target of the kind has it.
    Always,
    /// A target has it with this option or under this condition.
    With(&'static str),
    /// No target of the kind has it.
    Never,
}

impl TargetKind {
    /// All kinds.
    pub const ALL: [TargetKind; 8] = [
        TargetKind::Embedded,
        TargetKind::KubeletBinary,
        TargetKind::Url,
        TargetKind::Node,
        TargetKind::NodeProxy,
        TargetKind::EmbeddedRuntime,
        TargetKind::Runtime,
        TargetKind::Archive,
    ];

    /// The name on the command line and in lists.
    pub fn as_str(self) -> &'static str {
        match self {
            TargetKind::Embedded => "embedded",
            TargetKind::KubeletBinary => "kubelet-binary",
            TargetKind::Url => "url",
            TargetKind::Node => "node",
            TargetKind::NodeProxy => "node-proxy",
            TargetKind::EmbeddedRuntime => "embedded-runtime",
            TargetKind::Runtime => "runtime",
            TargetKind::Archive => "archive",
        }
    }

    /// The command line that tests a target of this kind.
    pub fn command(self) -> &'static str {
        match self {
            TargetKind::Embedded => "checkpoint-conformance",
            TargetKind::KubeletBinary => "checkpoint-conformance kubelet --kubelet-binary PATH",
            TargetKind::Url => "checkpoint-conformance kubelet --kubelet-url URL --container NS/POD/NAME",
            TargetKind::Node => "checkpoint-conformance kubelet --kubeconfig FILE --node NAME",
            TargetKind::NodeProxy => "checkpoint-conformance kubelet --kubeconfig FILE --node NAME --node-proxy",
            TargetKind::EmbeddedRuntime => "checkpoint-conformance runtime",
            TargetKind::Runtime => "checkpoint-conformance runtime --runtime-endpoint SOCKET",
            TargetKind::Archive => "checkpoint-conformance archive FILE",
        }
    }

    /// The suite that tests targets of this kind.
    pub fn suite(self) -> Suite {
        match self {
            TargetKind::EmbeddedRuntime | TargetKind::Runtime => Suite::Runtime,
            TargetKind::Archive => Suite::Archive,
            _ => Suite::Kubelet,
        }
    }

    /// Whether targets of this kind have a capability.
    pub fn offer(self, capability: Capability) -> Offer {
        match self {
            TargetKind::Embedded => offer_of_started_kubelet(capability, true),
            TargetKind::KubeletBinary => offer_of_started_kubelet(capability, false),
            TargetKind::Url | TargetKind::Node | TargetKind::NodeProxy => self.offer_of_running_kubelet(capability),
            TargetKind::EmbeddedRuntime => match capability {
                Capability::FakeCriControl | Capability::TestWorkload | Capability::SlowCheckpoint => Offer::Always,
                Capability::Root => Offer::With("root"),
                _ => Offer::Never,
            },
            TargetKind::Runtime => match capability {
                Capability::FakeCriControl => Offer::With("--fake-cri-control"),
                Capability::TestWorkload | Capability::SlowCheckpoint => Offer::With("the test workload's image"),
                Capability::Root => Offer::With("root"),
                _ => Offer::Never,
            },
            TargetKind::Archive => match capability {
                Capability::ArchiveFile => Offer::Always,
                Capability::KnownMemory => Offer::With("--expect-in-memory"),
                Capability::KnownSecret => Offer::With("--secret, or a secret in the environment of the container"),
                _ => Offer::Never,
            },
        }
    }

    fn offer_of_running_kubelet(self, capability: Capability) -> Offer {
        match capability {
            Capability::FakeCriControl => Offer::With("--fake-cri-control"),
            Capability::ReadArchives => Offer::With("--checkpoints-dir"),
            Capability::Load => Offer::With("--include-load"),
            Capability::DirectConnection if self != TargetKind::NodeProxy => Offer::Always,
            Capability::BearerToken if self == TargetKind::Url => Offer::With("--token-file"),
            Capability::BearerToken => Offer::With("a token in the kubeconfig"),
            Capability::DeniedUser if self == TargetKind::Url => Offer::With("--denied-token-file"),
            Capability::SiblingContainer
            | Capability::ExitedContainer
            | Capability::FinishedInitContainer
            | Capability::CrashLoopContainer
            | Capability::SidecarContainer
            | Capability::EphemeralContainer => Offer::With("--include-siblings"),
            _ => Offer::Never,
        }
    }
}

/// The harness chooses the Pod, the users and the configuration. Only the reference kubelet reads an ephemeral container
/// from a manifest.
fn offer_of_started_kubelet(capability: Capability, reference: bool) -> Offer {
    match capability {
        Capability::EphemeralContainer if !reference => Offer::Never,
        Capability::TestWorkload
        | Capability::SlowCheckpoint
        | Capability::Root
        | Capability::ArchiveFile
        | Capability::KnownMemory
        | Capability::KnownSecret => Offer::Never,
        _ => Offer::Always,
    }
}

impl std::str::FromStr for TargetKind {
    type Err = String;

    fn from_str(name: &str) -> Result<TargetKind, String> {
        let found = TargetKind::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| format!("expected one of {}", TargetKind::ALL.map(TargetKind::as_str).join(", ")))
    }
}
