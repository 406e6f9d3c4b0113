//! The mutants of the runtime suite: fake-cri alone, with a preset that is active from its start.

use super::{Defect, Mutant};
use crate::engine::Suite;

const fn preset(name: &'static str, must_fail: &'static [&'static str]) -> Mutant {
    Mutant::preset(Suite::Runtime, name, must_fail)
}

pub(super) const MUTANTS: &[Mutant] = &[
    // Success of a checkpoint, and its archive.
    preset("unimplemented", &["runtime/checkpoint/succeeds"]),
    preset("partial-archive", &["runtime/checkpoint/succeeds"]),
    preset("no-archive", &["runtime/checkpoint/archive-at-location"]),
    preset("empty-archive", &["runtime/checkpoint/archive-at-location"]),
    preset("responds-early", &["runtime/checkpoint/complete-at-return"]),
    preset(
        "next-checkpoint-fails-after-success",
        &["runtime/checkpoint/repeatable"],
    ),
    preset("earlier-images", &["runtime/checkpoint/fresh-images"]),
    preset(
        "earlier-archive",
        &["runtime/checkpoint/fresh-images", "runtime/checkpoint/fresh-timestamp"],
    ),
    // The container after a success.
    preset("left-frozen", &["runtime/success/keeps-running"]),
    preset("container-killed", &["runtime/success/same-process"]),
    preset("exited-status-after-success", &["runtime/success/status-running"]),
    preset("exec-broken", &["runtime/success/exec-works"]),
    preset("log-broken", &["runtime/success/log-continues"]),
    preset("execs-killed", &["runtime/success/exec-in-flight-completes"]),
    preset("siblings-frozen", &["runtime/success/siblings-keep-running"]),
    // The archive.
    preset("truncated-archive", &["runtime/archive/tar"]),
    preset("corrupt-archive", &["runtime/archive/tar"]),
    preset(
        "world-readable-archive",
        &[
            "runtime/archive/owner-only",
            "runtime/archive/passes-archive-suite",
            "runtime/location/existing-file-owner-only",
        ],
    ),
    preset(
        "missing-inventory",
        &[
            "runtime/archive/required-members",
            "runtime/archive/passes-archive-suite",
            "runtime/restore/resumes-at-checkpoint",
        ],
    ),
    preset(
        "missing-spec-dump",
        &[
            "runtime/archive/required-members",
            "runtime/archive/passes-archive-suite",
        ],
    ),
    preset(
        "missing-config-dump",
        &[
            "runtime/archive/required-members",
            "runtime/archive/passes-archive-suite",
        ],
    ),
    preset(
        "missing-pstree",
        &[
            "runtime/archive/passes-archive-suite",
            "runtime/restore/resumes-at-checkpoint",
        ],
    ),
    preset(
        "log-missing",
        &["runtime/archive/container-log", "runtime/archive/passes-archive-suite"],
    ),
    preset("log-copied-late", &["runtime/archive/log-not-newer-than-memory"]),
    preset("other-metadata", &["runtime/archive/container-id"]),
    preset(
        "other-container",
        &[
            "runtime/archive/container-id",
            "runtime/container-state/exited-rejected",
            "runtime/container-state/created-rejected",
            "runtime/memory/heap",
            "runtime/memory/environment",
            "runtime/memory/stack",
            "runtime/memory/thread-stack",
            "runtime/memory/shared-anonymous",
            "runtime/processes/threads",
            "runtime/processes/all",
        ],
    ),
    // Completeness of the archive.
    preset(
        "missing-pages",
        &[
            "runtime/archive/passes-archive-suite",
            "runtime/memory/heap",
            "runtime/memory/environment",
            "runtime/memory/stack",
            "runtime/memory/thread-stack",
            "runtime/memory/shared-anonymous",
        ],
    ),
    preset("heap-zeroed", &["runtime/memory/heap"]),
    preset("environment-zeroed", &["runtime/memory/environment"]),
    preset("stack-zeroed", &["runtime/memory/stack"]),
    preset("thread-stacks-zeroed", &["runtime/memory/thread-stack"]),
    preset("shared-memory-zeroed", &["runtime/memory/shared-anonymous"]),
    preset("init-only", &["runtime/processes/all"]),
    preset("thread-missing", &["runtime/processes/threads"]),
    // Restore.
    preset("restored-container-rejected", &["runtime/restore/can-checkpoint-again"]),
    // A sandbox whose RunPodSandbox call exceeded its deadline.
    Mutant {
        suite: Suite::Runtime,
        name: "sandbox-name-stays-reserved",
        defect: Defect::Rules {
            summary: "keeps the name of a sandbox whose RunPodSandbox call exceeded its deadline, and does not list \
                the sandbox",
            rules: &[
                "RunPodSandbox(namespace=checkpoint-conformance-retry,times=1):before=hang",
                "RunPodSandbox(namespace=checkpoint-conformance-retry):before=error(Unknown,\"failed to reserve sandbox \
                 name: name is reserved\")",
            ],
        },
        must_fail: &["runtime/sandbox/retry-after-timeout"],
    },
    // Requests that name no running container.
    preset("unknown-container-accepted", &["runtime/container-id/unknown-rejected"]),
    preset(
        "unknown-container-is-internal",
        &["runtime/container-id/unknown-is-not-found"],
    ),
    preset(
        "exited-container-accepted",
        &["runtime/container-state/exited-rejected"],
    ),
    preset(
        "created-container-accepted",
        &["runtime/container-state/created-rejected"],
    ),
    preset("id-prefix-rejected", &["runtime/container-id/prefix-accepted"]),
    preset("empty-id-accepted", &["runtime/container-id/empty-rejected"]),
    // The location.
    preset(
        "existing-file-not-truncated",
        &["runtime/location/existing-file-replaced"],
    ),
    preset("existing-mode-kept", &["runtime/location/existing-file-owner-only"]),
    preset("symlink-followed", &["runtime/location/symlink-not-followed"]),
    preset(
        "in-place",
        &[
            "runtime/location/existing-file-replaced",
            "runtime/location/existing-file-owner-only",
            "runtime/location/symlink-not-followed",
        ],
    ),
    preset("relative-location-accepted", &["runtime/location/relative-rejected"]),
    preset("empty-location-accepted", &["runtime/location/empty-rejected"]),
    preset("directory-location-accepted", &["runtime/location/directory-rejected"]),
    preset(
        "missing-directory-accepted",
        &["runtime/location/missing-directory-rejected"],
    ),
    preset(
        "missing-directory-created",
        &["runtime/location/missing-directory-not-created"],
    ),
    preset(
        "unwritable-location-accepted",
        &["runtime/location/below-file-rejected"],
    ),
    preset("no-space-ignored", &["runtime/disk-full/error-returned"]),
    preset("partial-after-error", &["runtime/disk-full/no-partial-archive"]),
    preset("temporary-after-error", &["runtime/disk-full/no-temporary-file"]),
    // The timeout of the request.
    preset("zero-timeout-expires-at-once", &["runtime/timeout/zero-uses-default"]),
    preset("timeout-in-milliseconds", &["runtime/timeout/unit-is-seconds"]),
    preset("timeout-overflows", &["runtime/timeout/no-overflow"]),
    preset("ignores-timeout", &["runtime/timeout/enforced"]),
    // Failed checkpoints, by failure mode.
    preset("frozen-after-deadline", &["runtime/deadline/keeps-running"]),
    preset("killed-after-deadline", &["runtime/deadline/same-process"]),
    preset("exited-status-after-deadline", &["runtime/deadline/status-running"]),
    preset(
        "next-checkpoint-fails-after-deadline",
        &["runtime/deadline/can-checkpoint-again"],
    ),
    preset("partial-after-deadline", &["runtime/deadline/no-partial-archive"]),
    preset("frozen-after-timeout", &["runtime/timeout/keeps-running"]),
    preset("killed-after-timeout", &["runtime/timeout/same-process"]),
    preset("exited-status-after-timeout", &["runtime/timeout/status-running"]),
    preset(
        "next-checkpoint-fails-after-timeout",
        &["runtime/timeout/can-checkpoint-again"],
    ),
    preset("partial-after-timeout", &["runtime/timeout/no-partial-archive"]),
    preset("frozen-after-cancel", &["runtime/cancellation/keeps-running"]),
    preset("killed-after-cancel", &["runtime/cancellation/same-process"]),
    preset("exited-status-after-cancel", &["runtime/cancellation/status-running"]),
    preset(
        "next-checkpoint-fails-after-cancel",
        &["runtime/cancellation/can-checkpoint-again"],
    ),
    preset("partial-after-cancel", &["runtime/cancellation/no-partial-archive"]),
    preset("frozen-after-error", &["runtime/error/keeps-running"]),
    preset("killed-after-error", &["runtime/error/same-process"]),
    preset("exited-status-after-error", &["runtime/error/status-running"]),
    preset(
        "next-checkpoint-fails-after-error",
        &["runtime/error/can-checkpoint-again"],
    ),
    preset("ignores-deadline", &["runtime/deadline/no-late-archive"]),
    preset("ignores-cancel", &["runtime/cancellation/no-late-archive"]),
    // Concurrent checkpoints.
    preset("concurrent-truncated", &["runtime/concurrency/same-container"]),
    preset("concurrent-refused", &["runtime/concurrency/several-containers"]),
    preset("one-at-a-time", &["runtime/concurrency/containers-independent"]),
];
