//! Cases that no mutant fails, with the reason: the list is to shrink, and a case that a mutant names must leave it.

/// No embedded target can be made wrong in this way yet.
const NOT_YET: &str = "the reference kubelet cannot be told to be wrong in this way yet";

/// Cases of level documented or reference that no mutant fails, each with the reason why none does.
pub const UNNAMED: &[(&str, &str)] = &[
    (
        "archive/file/owner",
        "only root can make a file that is neither root's nor its own",
    ),
    ("kubelet/200/trailing-slash", NOT_YET),
    ("kubelet/401/before-lookup", NOT_YET),
    ("kubelet/401/body", NOT_YET),
    ("kubelet/403/body", NOT_YET),
    ("kubelet/404/container-unknown-body", NOT_YET),
    ("kubelet/404/gate-off-body", NOT_YET),
    ("kubelet/404/gate-off-without-credentials", NOT_YET),
    ("kubelet/404/namespace-unknown-body", NOT_YET),
    ("kubelet/404/path-too-long", NOT_YET),
    ("kubelet/404/path-too-short", NOT_YET),
    ("kubelet/404/pod-unknown-body", NOT_YET),
    ("kubelet/405/allow", NOT_YET),
    ("kubelet/406/accept", NOT_YET),
    ("kubelet/500/every-code", NOT_YET),
    ("kubelet/500/runtime-error-body", NOT_YET),
    ("kubelet/timeout/absent", NOT_YET),
    ("kubelet/timeout/field", NOT_YET),
    ("kubelet/timeout/last-value", NOT_YET),
    ("kubelet/timeout/negative", NOT_YET),
    (
        "runtime/deadline/left-frozen",
        "fake-cri cannot be told yet to leave a container frozen after a deadline alone",
    ),
];
