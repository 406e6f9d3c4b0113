//! What a target must offer for a case, and what a target offers.
//!
//! A case declares the capabilities that it requires, and the runner skips the case if the target lacks one of them. A
//! condition that only a running case can observe, such as an archive without some image, is not a capability.

use std::collections::BTreeSet;

use super::SkipKind;

macro_rules! capabilities {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $reason:literal;)+) => {
        /// A capability of a target, or of the machine on which the harness runs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Capability {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Capability {
            /// All capabilities.
            pub const ALL: &[Capability] = &[$(Capability::$variant),+];

            /// The name in lists.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Capability::$variant => $name,)+
                }
            }

            /// The reason of a skip.
            pub fn reason(self) -> &'static str {
                match self {
                    $(Capability::$variant => $reason,)+
                }
            }
        }
    };
}

capabilities! {
    /// The runtime's journal can be read, and faults can be injected.
    FakeCriControl = "fake-cri-control",
        "requires the runtime's faults and journal: a fake-cri with --fake-cri-control";
    /// The directory with the kubelet's archives can be read.
    ReadArchives = "read-archives",
        "requires the kubelet's archives: --checkpoints-dir names the directory that holds them";
    /// The harness can restart the kubelet with another configuration.
    RestartKubelet = "restart-kubelet",
        "requires a kubelet that the harness starts and can restart with another configuration";
    /// The harness can kill and restart the runtime.
    RestartRuntime = "restart-runtime", "requires a runtime that the harness starts: fake-cri";
    /// No proxy is between the harness and the kubelet.
    DirectConnection = "direct-connection",
        "requires a direct connection to the kubelet: the API server's node proxy authenticates, rewrites and routes \
         requests itself";
    /// The harness may put the target under load.
    Load = "load", "makes 32 concurrent checkpoints; on a kubelet in use this requires --include-load";
    /// A bearer token of a user who may checkpoint.
    BearerToken = "bearer-token", "requires a bearer token of a user who may create nodes/checkpoint";
    /// Credentials of an authenticated user who may not checkpoint.
    DeniedUser = "denied-user",
        "requires a user whom the kubelet authenticates and who may not create nodes/checkpoint";
    /// Credentials of a user who may create nodes/proxy and not checkpoint.
    NodeProxyUser = "node-proxy-user", "requires a user who may create nodes/proxy and not nodes/checkpoint";
    /// The harness can issue client certificates of the kubelet's client CA.
    ClientAuthority = "client-authority",
        "requires the key of the kubelet's client CA: a kubelet that the harness starts";
    /// The kubelet has a read-only port.
    ReadOnlyPort = "read-only-port", "requires a kubelet with a read-only port";
    /// The container under test is in a static Pod of the harness.
    StaticPod = "static-pod", "requires a static Pod of the harness";
    /// Other Pods have containers with the name of the container under test.
    NamesakePods = "namesake-pods",
        "requires Pods of the harness with equal names: a kubelet that the harness starts over fake-cri";
    /// The Pod has a second running container that may be checkpointed.
    SiblingContainer = "sibling-container", "requires a second running container in the Pod";
    /// The Pod has a container that has exited and is not restarted.
    ExitedContainer = "exited-container", "requires a container that has exited";
    /// The Pod has an init container that has finished.
    FinishedInitContainer = "finished-init-container", "requires an init container that has finished";
    /// The Pod has a container that was created and never started.
    CreatedContainer = "created-container", "requires a container that was created and never started";
    /// The Pod has a container in CrashLoopBackOff.
    CrashLoopContainer = "crash-loop-container", "requires a container that crashes repeatedly";
    /// The Pod has a running init container.
    SidecarContainer = "sidecar-container", "requires a running init container";
    /// The Pod has an ephemeral container.
    EphemeralContainer = "ephemeral-container",
        "requires an ephemeral container, which only an API server can add to a Pod";
    /// The containers run the test workload, whose size and shape can be configured.
    TestWorkload = "test-workload",
        "requires the test workload: the image of `checkpoint-conformance image` instead of this --image";
    /// The harness can make a checkpoint slow, by a delay of fake-cri or by the memory of the test workload.
    SlowCheckpoint = "slow-checkpoint",
        "requires a fake-cri, or the test workload: the image of `checkpoint-conformance image` instead of this \
         --image";
    /// The harness runs as root.
    Root = "root", "requires root, to restore processes or to mount a small tmpfs";
    /// The archive is a file and not a stream.
    ArchiveFile = "archive-file", "requires a file: a stream has no owner and no mode";
    /// Bytes of the container's memory are known.
    KnownMemory = "known-memory", "requires known bytes of the container's memory";
    /// A secret of the container is known.
    KnownSecret = "known-secret", "requires a known secret of the container";
}

impl Capability {
    /// The kind of a skip for want of this capability.
    pub fn skip_kind(self) -> SkipKind {
        match self {
            Capability::Load => SkipKind::Excluded,
            _ => SkipKind::MissingCapability,
        }
    }
}

/// The capabilities of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(BTreeSet<Capability>);

impl Capabilities {
    /// Adds `capability` if `offered`.
    #[must_use]
    pub fn with(mut self, capability: Capability, offered: bool) -> Capabilities {
        if offered {
            self.0.insert(capability);
        }
        self
    }

    /// Whether the target offers this capability.
    pub fn contains(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// The first of `required` that is missing.
    pub fn first_missing(&self, required: &[Capability]) -> Option<Capability> {
        required.iter().copied().find(|capability| !self.contains(*capability))
    }

    /// The capabilities, in the order of [`Capability::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = Capability> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Capabilities {
        Capabilities(capabilities.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_capability_decides() {
        let offered = Capabilities::default()
            .with(Capability::Root, true)
            .with(Capability::Load, false);
        assert_eq!(
            offered.first_missing(&[Capability::Root, Capability::Load, Capability::ReadOnlyPort]),
            Some(Capability::Load)
        );
        assert_eq!(offered.first_missing(&[Capability::Root]), None);
    }

    #[test]
    fn names_and_reasons_are_unique() {
        let names: BTreeSet<_> = Capability::ALL.iter().map(|capability| capability.as_str()).collect();
        let reasons: BTreeSet<_> = Capability::ALL.iter().map(|capability| capability.reason()).collect();
        assert_eq!(
            (names.len(), reasons.len()),
            (Capability::ALL.len(), Capability::ALL.len())
        );
    }
}
