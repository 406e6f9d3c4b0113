//! The mutants of the runtime suite: fake-cri alone, by a preset that is in force from its start.

use super::{
    MutantDefect::{Runtime, RuntimeRules},
    MutantDefinition, define,
};

/// Every one.
pub(super) const MUTANTS: &[MutantDefinition] = &[
    // Whether a checkpoint can be had, and what comes of it.
    define(Runtime("unimplemented"), &["runtime/checkpoint/ok"]),
    define(Runtime("partial-archive"), &["runtime/checkpoint/ok"]),
    define(Runtime("no-archive"), &["runtime/checkpoint/archive"]),
    define(Runtime("empty-archive"), &["runtime/checkpoint/archive"]),
    define(Runtime("answers-early"), &["runtime/checkpoint/when-done"]),
    define(Runtime("second-fails-after-success"), &["runtime/checkpoint/second"]),
    define(Runtime("earlier-images"), &["runtime/checkpoint/own-images"]),
    define(
        Runtime("earlier-archive"),
        &["runtime/checkpoint/own-images", "runtime/checkpoint/own-time"],
    ),
    // The container after a success.
    define(Runtime("left-frozen"), &["runtime/state/left-frozen"]),
    define(Runtime("container-killed"), &["runtime/state/same-process"]),
    define(Runtime("misreported-after-success"), &["runtime/state/status"]),
    define(Runtime("exec-broken"), &["runtime/state/exec"]),
    define(Runtime("log-broken"), &["runtime/state/log"]),
    define(Runtime("execs-killed"), &["runtime/state/exec-in-flight"]),
    define(Runtime("neighbours-frozen"), &["runtime/state/neighbour"]),
    // The archive.
    define(Runtime("truncated-archive"), &["runtime/archive/tar"]),
    define(Runtime("corrupt-archive"), &["runtime/archive/tar"]),
    define(
        Runtime("world-readable-archive"),
        &[
            "runtime/archive/mode",
            "runtime/archive/suite",
            "runtime/place/location-mode",
        ],
    ),
    define(
        Runtime("missing-inventory"),
        &[
            "runtime/archive/members",
            "runtime/archive/suite",
            "runtime/restore/goes-on",
        ],
    ),
    define(
        Runtime("missing-spec-dump"),
        &["runtime/archive/members", "runtime/archive/suite"],
    ),
    define(
        Runtime("missing-config-dump"),
        &["runtime/archive/members", "runtime/archive/suite"],
    ),
    define(
        Runtime("missing-pstree"),
        &["runtime/archive/suite", "runtime/restore/goes-on"],
    ),
    define(
        Runtime("log-missing"),
        &["runtime/archive/log", "runtime/archive/suite"],
    ),
    define(Runtime("log-copied-late"), &["runtime/archive/consistent"]),
    define(Runtime("other-documents"), &["runtime/archive/id"]),
    define(
        Runtime("other-container"),
        &[
            "runtime/archive/id",
            "runtime/answer/exited",
            "runtime/answer/created",
            "runtime/memory/heap",
            "runtime/memory/environment",
            "runtime/memory/stack",
            "runtime/memory/thread",
            "runtime/memory/shared",
            "runtime/processes/threads",
            "runtime/processes/all",
        ],
    ),
    // What of the container is in it.
    define(
        Runtime("missing-pages"),
        &[
            "runtime/archive/suite",
            "runtime/memory/heap",
            "runtime/memory/environment",
            "runtime/memory/stack",
            "runtime/memory/thread",
            "runtime/memory/shared",
        ],
    ),
    define(Runtime("heap-missing"), &["runtime/memory/heap"]),
    define(Runtime("environment-missing"), &["runtime/memory/environment"]),
    define(Runtime("stack-missing"), &["runtime/memory/stack"]),
    define(Runtime("thread-stacks-missing"), &["runtime/memory/thread"]),
    define(Runtime("shared-memory-missing"), &["runtime/memory/shared"]),
    define(Runtime("init-only"), &["runtime/processes/all"]),
    define(Runtime("thread-missing"), &["runtime/processes/threads"]),
    // Containers that go on from an archive.
    define(Runtime("restored-refused"), &["runtime/restore/checkpoint"]),
    // A Pod whose sandbox ran out of time.
    define(
        RuntimeRules {
            name: "name-stays-reserved",
            summary: "A sandbox whose caller ran out of time keeps its name, and is not listed.",
            rules: &[
                "RunPodSandbox(namespace=checkpoint-conformance-retry,times=1):before=hang",
                "RunPodSandbox(namespace=checkpoint-conformance-retry):before=error(Unknown,\"failed to reserve sandbox \
                 name: name is reserved\")",
            ],
        },
        &["runtime/sandbox/asked-again"],
    ),
    // Requests that name no running container.
    define(Runtime("unknown-accepted"), &["runtime/answer/unknown"]),
    define(Runtime("unknown-is-internal"), &["runtime/answer/unknown-code"]),
    define(Runtime("exited-accepted"), &["runtime/answer/exited"]),
    define(Runtime("created-accepted"), &["runtime/answer/created"]),
    define(Runtime("short-id-refused"), &["runtime/answer/short-id"]),
    define(Runtime("empty-id-accepted"), &["runtime/answer/empty-id"]),
    // The location.
    define(Runtime("stale-tail"), &["runtime/place/location-longer"]),
    define(Runtime("old-mode-kept"), &["runtime/place/location-mode"]),
    define(Runtime("symlink-followed"), &["runtime/place/location-symlink"]),
    define(
        Runtime("in-place"),
        &[
            "runtime/place/location-longer",
            "runtime/place/location-mode",
            "runtime/place/location-symlink",
        ],
    ),
    define(Runtime("relative-location"), &["runtime/place/location-relative"]),
    define(Runtime("empty-location-accepted"), &["runtime/place/location-empty"]),
    define(Runtime("folder-accepted"), &["runtime/place/location-folder"]),
    define(Runtime("missing-folder-accepted"), &["runtime/place/folder-missing"]),
    define(Runtime("missing-folder-created"), &["runtime/place/folder-not-made"]),
    define(Runtime("unwritable-accepted"), &["runtime/place/folder-unwritable"]),
    define(Runtime("full-disk-ignored"), &["runtime/place/disk-full"]),
    define(Runtime("partial-after-error"), &["runtime/place/disk-full-partial"]),
    define(Runtime("temporary-after-error"), &["runtime/place/disk-full-beside"]),
    // The request's timeout.
    define(Runtime("zero-timeout-is-now"), &["runtime/timeout/zero"]),
    define(Runtime("timeout-in-milliseconds"), &["runtime/timeout/seconds"]),
    define(Runtime("timeout-overflows"), &["runtime/timeout/largest"]),
    define(Runtime("ignores-timeout"), &["runtime/timeout/counts"]),
    // Checkpoints that fail, by the way they do.
    define(Runtime("frozen-after-deadline"), &["runtime/deadline/left-frozen"]),
    define(Runtime("killed-after-deadline"), &["runtime/deadline/same-process"]),
    define(Runtime("misreported-after-deadline"), &["runtime/deadline/status"]),
    define(
        Runtime("second-fails-after-deadline"),
        &["runtime/deadline/second-works"],
    ),
    define(Runtime("partial-after-deadline"), &["runtime/deadline/no-partial"]),
    define(Runtime("frozen-after-timeout"), &["runtime/timeout/left-frozen"]),
    define(Runtime("killed-after-timeout"), &["runtime/timeout/same-process"]),
    define(Runtime("misreported-after-timeout"), &["runtime/timeout/status"]),
    define(Runtime("second-fails-after-timeout"), &["runtime/timeout/second-works"]),
    define(Runtime("partial-after-timeout"), &["runtime/timeout/no-partial"]),
    define(Runtime("frozen-after-cancel"), &["runtime/cancel/left-frozen"]),
    define(Runtime("killed-after-cancel"), &["runtime/cancel/same-process"]),
    define(Runtime("misreported-after-cancel"), &["runtime/cancel/status"]),
    define(Runtime("second-fails-after-cancel"), &["runtime/cancel/second-works"]),
    define(Runtime("partial-after-cancel"), &["runtime/cancel/no-partial"]),
    define(Runtime("frozen-after-error"), &["runtime/error/left-frozen"]),
    define(Runtime("killed-after-error"), &["runtime/error/same-process"]),
    define(Runtime("misreported-after-error"), &["runtime/error/status"]),
    define(Runtime("second-fails-after-error"), &["runtime/error/second-works"]),
    define(Runtime("ignores-deadline"), &["runtime/deadline/no-late-archive"]),
    define(Runtime("ignores-cancel"), &["runtime/cancel/no-late-archive"]),
    // Several at once.
    define(Runtime("concurrent-spoilt"), &["runtime/concurrency/one-container"]),
    define(Runtime("parallel-refused"), &["runtime/concurrency/many"]),
    define(Runtime("one-at-a-time"), &["runtime/concurrency/no-waiting"]),
];
