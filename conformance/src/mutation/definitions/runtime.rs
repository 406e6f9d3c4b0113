//! The mutants of the runtime suite: fake-cri alone, with a preset that is active from its start.

use super::{
    MutantDefect::{Runtime, RuntimeRules},
    MutantDefinition, define,
};

pub(super) const MUTANTS: &[MutantDefinition] = &[
    // Success of a checkpoint, and its archive.
    define(Runtime("unimplemented"), &["runtime/checkpoint/succeeds"]),
    define(Runtime("partial-archive"), &["runtime/checkpoint/succeeds"]),
    define(Runtime("no-archive"), &["runtime/checkpoint/archive-at-location"]),
    define(Runtime("empty-archive"), &["runtime/checkpoint/archive-at-location"]),
    define(Runtime("responds-early"), &["runtime/checkpoint/complete-at-return"]),
    define(
        Runtime("next-checkpoint-fails-after-success"),
        &["runtime/checkpoint/repeatable"],
    ),
    define(Runtime("earlier-images"), &["runtime/checkpoint/fresh-images"]),
    define(
        Runtime("earlier-archive"),
        &["runtime/checkpoint/fresh-images", "runtime/checkpoint/fresh-timestamp"],
    ),
    // The container after a success.
    define(Runtime("left-frozen"), &["runtime/success/keeps-running"]),
    define(Runtime("container-killed"), &["runtime/success/same-process"]),
    define(
        Runtime("exited-status-after-success"),
        &["runtime/success/status-running"],
    ),
    define(Runtime("exec-broken"), &["runtime/success/exec-works"]),
    define(Runtime("log-broken"), &["runtime/success/log-continues"]),
    define(Runtime("execs-killed"), &["runtime/success/exec-in-flight-completes"]),
    define(Runtime("siblings-frozen"), &["runtime/success/siblings-keep-running"]),
    // The archive.
    define(Runtime("truncated-archive"), &["runtime/archive/tar"]),
    define(Runtime("corrupt-archive"), &["runtime/archive/tar"]),
    define(
        Runtime("world-readable-archive"),
        &[
            "runtime/archive/owner-only",
            "runtime/archive/passes-archive-suite",
            "runtime/location/existing-file-owner-only",
        ],
    ),
    define(
        Runtime("missing-inventory"),
        &[
            "runtime/archive/required-members",
            "runtime/archive/passes-archive-suite",
            "runtime/restore/resumes-at-checkpoint",
        ],
    ),
    define(
        Runtime("missing-spec-dump"),
        &[
            "runtime/archive/required-members",
            "runtime/archive/passes-archive-suite",
        ],
    ),
    define(
        Runtime("missing-config-dump"),
        &[
            "runtime/archive/required-members",
            "runtime/archive/passes-archive-suite",
        ],
    ),
    define(
        Runtime("missing-pstree"),
        &[
            "runtime/archive/passes-archive-suite",
            "runtime/restore/resumes-at-checkpoint",
        ],
    ),
    define(
        Runtime("log-missing"),
        &["runtime/archive/container-log", "runtime/archive/passes-archive-suite"],
    ),
    define(
        Runtime("log-copied-late"),
        &["runtime/archive/log-not-newer-than-memory"],
    ),
    define(Runtime("other-metadata"), &["runtime/archive/container-id"]),
    define(
        Runtime("other-container"),
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
    define(
        Runtime("missing-pages"),
        &[
            "runtime/archive/passes-archive-suite",
            "runtime/memory/heap",
            "runtime/memory/environment",
            "runtime/memory/stack",
            "runtime/memory/thread-stack",
            "runtime/memory/shared-anonymous",
        ],
    ),
    define(Runtime("heap-zeroed"), &["runtime/memory/heap"]),
    define(Runtime("environment-zeroed"), &["runtime/memory/environment"]),
    define(Runtime("stack-zeroed"), &["runtime/memory/stack"]),
    define(Runtime("thread-stacks-zeroed"), &["runtime/memory/thread-stack"]),
    define(Runtime("shared-memory-zeroed"), &["runtime/memory/shared-anonymous"]),
    define(Runtime("init-only"), &["runtime/processes/all"]),
    define(Runtime("thread-missing"), &["runtime/processes/threads"]),
    // Restore.
    define(
        Runtime("restored-container-rejected"),
        &["runtime/restore/can-checkpoint-again"],
    ),
    // A sandbox whose RunPodSandbox call exceeded its deadline.
    define(
        RuntimeRules {
            name: "sandbox-name-stays-reserved",
            summary: "keeps the name of a sandbox whose RunPodSandbox call exceeded its deadline, and does not list \
                the sandbox",
            rules: &[
                "RunPodSandbox(namespace=checkpoint-conformance-retry,times=1):before=hang",
                "RunPodSandbox(namespace=checkpoint-conformance-retry):before=error(Unknown,\"failed to reserve sandbox \
                 name: name is reserved\")",
            ],
        },
        &["runtime/sandbox/retry-after-timeout"],
    ),
    // Requests that name no running container.
    define(
        Runtime("unknown-container-accepted"),
        &["runtime/container-id/unknown-rejected"],
    ),
    define(
        Runtime("unknown-container-is-internal"),
        &["runtime/container-id/unknown-is-not-found"],
    ),
    define(
        Runtime("exited-container-accepted"),
        &["runtime/container-state/exited-rejected"],
    ),
    define(
        Runtime("created-container-accepted"),
        &["runtime/container-state/created-rejected"],
    ),
    define(Runtime("id-prefix-rejected"), &["runtime/container-id/prefix-accepted"]),
    define(Runtime("empty-id-accepted"), &["runtime/container-id/empty-rejected"]),
    // The location.
    define(
        Runtime("existing-file-not-truncated"),
        &["runtime/location/existing-file-replaced"],
    ),
    define(
        Runtime("existing-mode-kept"),
        &["runtime/location/existing-file-owner-only"],
    ),
    define(Runtime("symlink-followed"), &["runtime/location/symlink-not-followed"]),
    define(
        Runtime("in-place"),
        &[
            "runtime/location/existing-file-replaced",
            "runtime/location/existing-file-owner-only",
            "runtime/location/symlink-not-followed",
        ],
    ),
    define(
        Runtime("relative-location-accepted"),
        &["runtime/location/relative-rejected"],
    ),
    define(Runtime("empty-location-accepted"), &["runtime/location/empty-rejected"]),
    define(
        Runtime("directory-location-accepted"),
        &["runtime/location/directory-rejected"],
    ),
    define(
        Runtime("missing-directory-accepted"),
        &["runtime/location/missing-directory-rejected"],
    ),
    define(
        Runtime("missing-directory-created"),
        &["runtime/location/missing-directory-not-created"],
    ),
    define(
        Runtime("unwritable-location-accepted"),
        &["runtime/location/below-file-rejected"],
    ),
    define(Runtime("no-space-ignored"), &["runtime/disk-full/error-returned"]),
    define(
        Runtime("partial-after-error"),
        &["runtime/disk-full/no-partial-archive"],
    ),
    define(
        Runtime("temporary-after-error"),
        &["runtime/disk-full/no-temporary-file"],
    ),
    // The timeout of the request.
    define(
        Runtime("zero-timeout-expires-at-once"),
        &["runtime/timeout/zero-uses-default"],
    ),
    define(Runtime("timeout-in-milliseconds"), &["runtime/timeout/unit-is-seconds"]),
    define(Runtime("timeout-overflows"), &["runtime/timeout/no-overflow"]),
    define(Runtime("ignores-timeout"), &["runtime/timeout/enforced"]),
    // Failed checkpoints, by failure mode.
    define(Runtime("frozen-after-deadline"), &["runtime/deadline/keeps-running"]),
    define(Runtime("killed-after-deadline"), &["runtime/deadline/same-process"]),
    define(
        Runtime("exited-status-after-deadline"),
        &["runtime/deadline/status-running"],
    ),
    define(
        Runtime("next-checkpoint-fails-after-deadline"),
        &["runtime/deadline/can-checkpoint-again"],
    ),
    define(
        Runtime("partial-after-deadline"),
        &["runtime/deadline/no-partial-archive"],
    ),
    define(Runtime("frozen-after-timeout"), &["runtime/timeout/keeps-running"]),
    define(Runtime("killed-after-timeout"), &["runtime/timeout/same-process"]),
    define(
        Runtime("exited-status-after-timeout"),
        &["runtime/timeout/status-running"],
    ),
    define(
        Runtime("next-checkpoint-fails-after-timeout"),
        &["runtime/timeout/can-checkpoint-again"],
    ),
    define(
        Runtime("partial-after-timeout"),
        &["runtime/timeout/no-partial-archive"],
    ),
    define(Runtime("frozen-after-cancel"), &["runtime/cancellation/keeps-running"]),
    define(Runtime("killed-after-cancel"), &["runtime/cancellation/same-process"]),
    define(
        Runtime("exited-status-after-cancel"),
        &["runtime/cancellation/status-running"],
    ),
    define(
        Runtime("next-checkpoint-fails-after-cancel"),
        &["runtime/cancellation/can-checkpoint-again"],
    ),
    define(
        Runtime("partial-after-cancel"),
        &["runtime/cancellation/no-partial-archive"],
    ),
    define(Runtime("frozen-after-error"), &["runtime/error/keeps-running"]),
    define(Runtime("killed-after-error"), &["runtime/error/same-process"]),
    define(Runtime("exited-status-after-error"), &["runtime/error/status-running"]),
    define(
        Runtime("next-checkpoint-fails-after-error"),
        &["runtime/error/can-checkpoint-again"],
    ),
    define(Runtime("ignores-deadline"), &["runtime/deadline/no-late-archive"]),
    define(Runtime("ignores-cancel"), &["runtime/cancellation/no-late-archive"]),
    // Concurrent checkpoints.
    define(Runtime("concurrent-truncated"), &["runtime/concurrency/same-container"]),
    define(
        Runtime("concurrent-refused"),
        &["runtime/concurrency/several-containers"],
    ),
    define(
        Runtime("one-at-a-time"),
        &["runtime/concurrency/containers-independent"],
    ),
];
