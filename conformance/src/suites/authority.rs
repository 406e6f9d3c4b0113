//! The documents that cases cite, each with a section. The sections of the Kubelet Checkpoint API, of KEP-2008 and of
//! the files of Kubernetes, containerd and CRI-O that `documented` and `reference` cases cite were read at their URLs.
//! The pages of CWE, gRPC, Go, OCI and runc are cited by their titles.

use crate::engine::Authority;

macro_rules! page {
    ($section:literal, $anchor:literal) => {
        Authority {
            title: "Kubelet Checkpoint API",
            section: $section,
            url: concat!(
                "https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/",
                $anchor
            ),
        }
    };
}

macro_rules! kep {
    ($section:literal, $anchor:literal) => {
        Authority {
            title: "KEP-2008: Forensic Container Checkpointing",
            section: $section,
            url: concat!(
                "https://github.com/kubernetes/enhancements/blob/master/keps/sig-node/2008-forensic-container-checkpointing/README.md#",
                $anchor
            ),
        }
    };
}

macro_rules! kubernetes {
    ($file:literal) => {
        Authority {
            title: "kubernetes v1.36.3",
            section: $file,
            url: concat!("https://github.com/kubernetes/kubernetes/blob/v1.36.3/", $file),
        }
    };
}

macro_rules! cri {
    ($section:literal) => {
        Authority {
            title: "CRI API runtime.v1",
            section: $section,
            url: "https://github.com/kubernetes/cri-api/blob/v0.36.3/pkg/apis/runtime/v1/api.proto",
        }
    };
}

macro_rules! containerd {
    ($section:literal, $file:literal) => {
        Authority {
            title: "containerd 2.4 (CRI-O 1.37 does the same)",
            section: $section,
            url: concat!("https://github.com/containerd/containerd/blob/v2.4.0-beta.0/", $file),
        }
    };
}

macro_rules! criu {
    ($section:literal, $file:literal) => {
        Authority {
            title: "CRIU 4.2",
            section: $section,
            url: concat!("https://github.com/checkpoint-restore/criu/blob/v4.2/", $file),
        }
    };
}

macro_rules! weakness {
    ($number:literal, $name:literal) => {
        Authority {
            title: concat!("CWE-", $number),
            section: $name,
            url: concat!("https://cwe.mitre.org/data/definitions/", $number, ".html"),
        }
    };
}

/// States that a checkpoint is a stateful copy of a running container, and that only root may access archives.
pub(super) const API_INTRODUCTION: Authority = page!("introduction", "");
/// States the name, location and format of the archive.
pub(super) const API_OPERATIONS: Authority = page!("Operations", "#operations");
/// States the query parameter `timeout`.
pub(super) const API_PARAMETERS: Authority = page!("Parameters", "#post-checkpoint-params");
/// Lists the response codes.
pub(super) const API_RESPONSE: Authority = page!("Response", "#post-checkpoint-response");

/// States that a checkpoint is a snapshot of a running container.
pub(super) const KEP_MOTIVATION: Authority = kep!("Motivation", "motivation");
/// States that single containers are checkpointed.
pub(super) const KEP_GOALS: Authority = kep!("Goals", "goals");
/// States that the timeout of the request cancels a request that takes longer.
pub(super) const KEP_IMPLEMENTATION: Authority = kep!("Implementation", "implementation");
/// States that the container continues to run without knowing about the checkpoint.
pub(super) const KEP_USER_STORIES: Authority = kep!("User Stories", "user-stories");
/// States that a failed checkpoint has no effect on the workload.
pub(super) const KEP_FAILED: Authority = kep!(
    "Monitoring Requirements: reasonable SLOs (a failed checkpoint has no effects on the workload)",
    "what-are-the-reasonable-slos-service-level-objectives-for-the-enhancement"
);

pub(super) const CRI_REQUEST: Authority = cri!("message CheckpointContainerRequest");
pub(super) const CRI_CALL: Authority = cri!("rpc CheckpointContainer");
pub(super) const CRI_STATUS: Authority = cri!("rpc ContainerStatus; message ContainerStatus, state");

pub(super) const KUBELET_SERVER: Authority = kubernetes!("pkg/kubelet/server/server.go");
/// Authentication and authorization of the kubelet's server.
pub(super) const KUBELET_AUTH: Authority = kubernetes!("pkg/kubelet/server/auth.go");
pub(super) const KUBELET: Authority = kubernetes!("pkg/kubelet/kubelet.go");
pub(super) const KUBELET_METRICS: Authority = kubernetes!("pkg/kubelet/metrics/metrics.go");
pub(super) const KUBE_FEATURES: Authority = kubernetes!("pkg/features/kube_features.go");
/// The full names of static Pods.
pub(super) const STATIC_PODS: Authority = kubernetes!("pkg/kubelet/config/common.go");
pub(super) const CRI_CLIENT: Authority = kubernetes!("staging/src/k8s.io/cri-client/pkg/remote_runtime.go");
/// The e2e test of the endpoint in Kubernetes.
pub(super) const KUBERNETES_E2E: Authority = kubernetes!("test/e2e_node/checkpoint_container.go");

/// How Go's HTTP server cleans and routes paths.
pub(super) const GO_MUX: Authority = Authority {
    title: "Go net/http",
    section: "ServeMux",
    url: "https://pkg.go.dev/net/http#ServeMux",
};
/// How Go's HTTP server parses request lines.
pub(super) const GO_REQUEST: Authority = Authority {
    title: "Go net/http",
    section: "ReadRequest",
    url: "https://pkg.go.dev/net/http#ReadRequest",
};

/// CheckpointContainer in containerd and CRI-O.
pub(super) const COMMON_RUNTIMES: Authority = containerd!(
    "CheckpointContainer",
    "internal/cri/server/container_checkpoint_linux.go"
);
/// How containerd and CRI-O find a container by an id prefix.
pub(super) const RUNTIMES_SHORT_ID: Authority = containerd!(
    "the container store finds a container by an id prefix",
    "internal/cri/store/container/container.go"
);
pub(super) const CRIO_RESTORE: Authority = Authority {
    title: "CRI-O 1.37 (f954a17)",
    section: "server/container_restore.go, CRImportCheckpoint",
    url: "https://github.com/cri-o/cri-o/blob/f954a17e50/server/container_restore.go",
};

pub(super) const CRIU_TREE: Authority = criu!("images/pstree.proto", "images/pstree.proto");

/// A file of CRIU's sources, with the section that a case names.
pub(super) const fn criu_file(section: &'static str) -> Authority {
    Authority {
        title: "CRIU 4.2",
        section,
        url: "https://github.com/checkpoint-restore/criu/tree/v4.2",
    }
}

/// Compressed pages, from CRIU 4.3 on.
pub(super) const CRIU_COMPRESSION: Authority = Authority {
    title: "CRIU pull request 2895",
    section: "images/pagemap.proto",
    url: "https://github.com/checkpoint-restore/criu/pull/2895",
};

pub(super) const CRI_METADATA: Authority = cri!("message ContainerMetadata");
pub(super) const CRI_LOGS: Authority = Authority {
    title: "Kubernetes design proposals",
    section: "CRI: Log management for container stdout/stderr streams",
    url: "https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md",
};
pub(super) const OCI: Authority = Authority {
    title: "OCI runtime specification",
    section: "",
    url: "https://github.com/opencontainers/runtime-spec/blob/main/config.md",
};
pub(super) const CHECKPOINTCTL: Authority = Authority {
    title: "checkpointctl v1.6.0",
    section: "",
    url: "https://github.com/checkpoint-restore/checkpointctl/tree/v1.6.0",
};
pub(super) const CONTAINERD_STATUS: Authority = containerd!(
    "internal/cri/store/container/status.go",
    "internal/cri/store/container/status.go"
);
/// The OCI runtime below containerd and CRI-O.
pub(super) const RUNC: Authority = Authority {
    title: "runc",
    section: "libcontainer/criu_linux.go",
    url: "https://github.com/opencontainers/runc/blob/main/libcontainer/criu_linux.go",
};
pub(super) const CWE_PATH_TRAVERSAL: Authority =
    weakness!("22", "Improper Limitation of a Pathname to a Restricted Directory");

/// A server must stop the work of a call that its client has cancelled.
pub(super) const GRPC_CANCELLATION: Authority = Authority {
    title: "gRPC",
    section: "Cancellation",
    url: "https://grpc.io/docs/guides/cancellation/",
};

pub(super) const CWE_INPUT_VALIDATION: Authority = weakness!("20", "Improper Input Validation");
pub(super) const CWE_LINK_FOLLOWING: Authority = weakness!("59", "Improper Link Resolution Before File Access");
pub(super) const CWE_INTEGER_OVERFLOW: Authority = weakness!("190", "Integer Overflow or Wraparound");
pub(super) const CWE_RESOURCE_REUSE: Authority =
    weakness!("226", "Sensitive Information in Resource Not Removed Before Reuse");
pub(super) const CWE_RACE: Authority = weakness!(
    "362",
    "Concurrent Execution using Shared Resource with Improper Synchronization"
);
pub(super) const CWE_UNBOUNDED_ALLOCATION: Authority =
    weakness!("770", "Allocation of Resources Without Limits or Throttling");
pub(super) const CWE_INCOMPLETE_CLEANUP: Authority = weakness!("459", "Incomplete Cleanup");
