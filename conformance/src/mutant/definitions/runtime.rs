//! The mutants of the runtime suite: fake-cri alone, by a preset that is in force from its start.

use super::{
    Definition,
    Wrong::{Runtime, RuntimeRules},
    caught,
};

/// Every one.
pub(super) const ALL: &[Definition] = &[
    // Whether a checkpoint can be had, and what comes of it.
    caught(Runtime("unimplemented"), &["runtime/checkpoint/ok"]),
    caught(Runtime("partial-archive"), &["runtime/checkpoint/ok"]),
    caught(Runtime("no-archive"), &["runtime/checkpoint/archive"]),
    caught(Runtime("empty-archive"), &["runtime/checkpoint/archive"]),
    caught(Runtime("answers-early"), &["runtime/checkpoint/when-done"]),
    caught(Runtime("second-fails-after-success"), &["runtime/checkpoint/second"]),
    caught(Runtime("earlier-images"), &["runtime/checkpoint/own-images"]),
    caught(
        Runtime("earlier-archive"),
        &["runtime/checkpoint/own-images", "runtime/checkpoint/own-time"],
    ),
    // The container after a success.
    caught(Runtime("left-frozen"), &["runtime/state/left-frozen"]),
    caught(Runtime("container-killed"), &["runtime/state/same-process"]),
    caught(Runtime("misreported-after-success"), &["runtime/state/status"]),
    caught(Runtime("exec-broken"), &["runtime/state/exec"]),
    caught(Runtime("log-broken"), &["runtime/state/log"]),
    caught(Runtime("execs-killed"), &["runtime/state/exec-in-flight"]),
    caught(Runtime("neighbours-frozen"), &["runtime/state/neighbour"]),
    // The archive.
    caught(Runtime("truncated-archive"), &["runtime/archive/tar"]),
    caught(Runtime("corrupt-archive"), &["runtime/archive/tar"]),
    caught(
        Runtime("world-readable-archive"),
        &[
            "runtime/archive/mode",
            "runtime/archive/suite",
            "runtime/place/location-mode",
        ],
    ),
    caught(
        Runtime("missing-inventory"),
        &[
            "runtime/archive/members",
            "runtime/archive/suite",
            "runtime/restore/goes-on",
        ],
    ),
    caught(
        Runtime("missing-spec-dump"),
        &["runtime/archive/members", "runtime/archive/suite"],
    ),
    caught(
        Runtime("missing-config-dump"),
        &["runtime/archive/members", "runtime/archive/suite"],
    ),
    caught(
        Runtime("missing-pstree"),
        &["runtime/archive/suite", "runtime/restore/goes-on"],
    ),
    caught(
        Runtime("log-missing"),
        &["runtime/archive/log", "runtime/archive/suite"],
    ),
    caught(Runtime("log-copied-late"), &["runtime/archive/consistent"]),
    caught(Runtime("other-documents"), &["runtime/archive/id"]),
    caught(
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
    caught(
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
    caught(Runtime("heap-missing"), &["runtime/memory/heap"]),
    caught(Runtime("environment-missing"), &["runtime/memory/environment"]),
    caught(Runtime("stack-missing"), &["runtime/memory/stack"]),
    caught(Runtime("thread-stacks-missing"), &["runtime/memory/thread"]),
    caught(Runtime("shared-memory-missing"), &["runtime/memory/shared"]),
    caught(Runtime("init-only"), &["runtime/processes/all"]),
    caught(Runtime("thread-missing"), &["runtime/processes/threads"]),
    // Containers that go on from an archive.
    caught(Runtime("restored-refused"), &["runtime/restore/checkpoint"]),
    // A Pod whose sandbox ran out of time.
    caught(
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
    caught(Runtime("unknown-accepted"), &["runtime/answer/unknown"]),
    caught(Runtime("unknown-is-internal"), &["runtime/answer/unknown-code"]),
    caught(Runtime("exited-accepted"), &["runtime/answer/exited"]),
    caught(Runtime("created-accepted"), &["runtime/answer/created"]),
    caught(Runtime("short-id-refused"), &["runtime/answer/short-id"]),
    caught(Runtime("empty-id-accepted"), &["runtime/answer/empty-id"]),
    // The location.
    caught(Runtime("stale-tail"), &["runtime/place/location-longer"]),
    caught(Runtime("old-mode-kept"), &["runtime/place/location-mode"]),
    caught(Runtime("symlink-followed"), &["runtime/place/location-symlink"]),
    caught(
        Runtime("in-place"),
        &[
            "runtime/place/location-longer",
            "runtime/place/location-mode",
            "runtime/place/location-symlink",
        ],
    ),
    caught(Runtime("relative-location"), &["runtime/place/location-relative"]),
    caught(Runtime("empty-location-accepted"), &["runtime/place/location-empty"]),
    caught(Runtime("folder-accepted"), &["runtime/place/location-folder"]),
    caught(Runtime("missing-folder-accepted"), &["runtime/place/folder-missing"]),
    caught(Runtime("missing-folder-created"), &["runtime/place/folder-not-made"]),
    caught(Runtime("unwritable-accepted"), &["runtime/place/folder-unwritable"]),
    caught(Runtime("full-disk-ignored"), &["runtime/place/disk-full"]),
    caught(Runtime("partial-after-error"), &["runtime/place/disk-full-partial"]),
    caught(Runtime("temporary-after-error"), &["runtime/place/disk-full-beside"]),
    // The request's timeout.
    caught(Runtime("zero-timeout-is-now"), &["runtime/timeout/zero"]),
    caught(Runtime("timeout-in-milliseconds"), &["runtime/timeout/seconds"]),
    caught(Runtime("timeout-overflows"), &["runtime/timeout/largest"]),
    caught(Runtime("ignores-timeout"), &["runtime/timeout/counts"]),
    // Checkpoints that fail, by the way they do.
    caught(Runtime("frozen-after-deadline"), &["runtime/deadline/left-frozen"]),
    caught(Runtime("killed-after-deadline"), &["runtime/deadline/same-process"]),
    caught(Runtime("misreported-after-deadline"), &["runtime/deadline/status"]),
    caught(
        Runtime("second-fails-after-deadline"),
        &["runtime/deadline/second-works"],
    ),
    caught(Runtime("partial-after-deadline"), &["runtime/deadline/no-partial"]),
    caught(Runtime("frozen-after-timeout"), &["runtime/timeout/left-frozen"]),
    caught(Runtime("killed-after-timeout"), &["runtime/timeout/same-process"]),
    caught(Runtime("misreported-after-timeout"), &["runtime/timeout/status"]),
    caught(Runtime("second-fails-after-timeout"), &["runtime/timeout/second-works"]),
    caught(Runtime("partial-after-timeout"), &["runtime/timeout/no-partial"]),
    caught(Runtime("frozen-after-cancel"), &["runtime/cancel/left-frozen"]),
    caught(Runtime("killed-after-cancel"), &["runtime/cancel/same-process"]),
    caught(Runtime("misreported-after-cancel"), &["runtime/cancel/status"]),
    caught(Runtime("second-fails-after-cancel"), &["runtime/cancel/second-works"]),
    caught(Runtime("partial-after-cancel"), &["runtime/cancel/no-partial"]),
    caught(Runtime("frozen-after-error"), &["runtime/error/left-frozen"]),
    caught(Runtime("killed-after-error"), &["runtime/error/same-process"]),
    caught(Runtime("misreported-after-error"), &["runtime/error/status"]),
    caught(Runtime("second-fails-after-error"), &["runtime/error/second-works"]),
    caught(Runtime("ignores-deadline"), &["runtime/deadline/no-late-archive"]),
    caught(Runtime("ignores-cancel"), &["runtime/cancel/no-late-archive"]),
    // Several at once.
    caught(Runtime("concurrent-spoilt"), &["runtime/concurrency/one-container"]),
    caught(Runtime("parallel-refused"), &["runtime/concurrency/many"]),
    caught(Runtime("one-at-a-time"), &["runtime/concurrency/no-waiting"]),
];
