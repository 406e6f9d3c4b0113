//! Named faults: each reproduces a failure of a real runtime.

use super::rule::{Rule, Selector, Trigger};

/// A named set of rules that reproduces a failure of a real runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The name, used as `preset:NAME`.
    pub name: &'static str,
    /// The rules, in the fault grammar.
    pub rule_texts: &'static [&'static str],
    /// The failure, as a clause in lower case without a full stop.
    pub summary: &'static str,
    /// The software that failed in this way, and the conditions.
    pub source: &'static str,
}

macro_rules! presets {
    ($($name:literal = [$($rule:literal),+], $summary:literal, $source:literal;)+) => {
        &[$(Preset { name: $name, rule_texts: &[$($rule),+], summary: $summary, source: $source }),+]
    };
}

impl Preset {
    /// All presets, in the order of the documentation.
    pub const ALL: &'static [Preset] = presets! {
        "unimplemented" = ["CheckpointContainer:before=unimplemented"],
            "the runtime has the call in its API but does not implement it",
            "containerd 1.x; one of the four messages that the Kubernetes e2e test accepts";
        "unimplemented-unknown-method" = ["CheckpointContainer:before=unknown-method"],
            "the CRI of the runtime is older than the call",
            "runtimes built against a CRI before 1.25; one of the four messages that the Kubernetes e2e test accepts";
        "checkpoint-disabled" = [
            "CheckpointContainer:before=error(Unknown,\"checkpoint/restore support not available\")"
        ],
            "checkpoints are not enabled in the configuration",
            "CRI-O with enable_criu_support = false; one of the four messages that the Kubernetes e2e test accepts";
        "checkpoint-disabled-containerd" = [
            "CheckpointContainer:before=error(Unknown,\"criu support is disabled by configuration\")"
        ],
            "checkpoints are disabled in the configuration",
            "containerd 2.2 and later";
        "criu-missing" = [
            "CheckpointContainer:before=error(Unknown,\"criu binary not found in shim path or system PATH\")"
        ],
            "CRIU is not installed on the node",
            "containerd 2.2 and later";
        "criu-too-old" = [
            "CheckpointContainer:before=error(Unknown,\"CRIU binary not found or too old (<31600). Failed to checkpoint container\")"
        ],
            "the version of CRIU on the node is too old for the runtime",
            "older containerd; one of the four messages that the Kubernetes e2e test accepts";
        "disk-full" = ["CheckpointContainer:write=no-space(64KiB)"],
            "the disk with the kubelet's checkpoint directory fills up while the archive is written",
            "CVE-2025-0426: checkpoints through the read-only port filled nodes' disks";
        "disk-io-error" = ["CheckpointContainer:write=io-error(64KiB)"],
            "the disk with the kubelet's checkpoint directory fails while the archive is written",
            "worn disks and lost network disks: write(2) returns EIO";
        "slow-disk" = ["CheckpointContainer:finish=delay(5s)"],
            "the archive appears seconds after the container was thawed",
            "network disks; large containers";
        "slow-freeze" = ["CheckpointContainer:capture=delay(2s)"],
            "the container is frozen for seconds",
            "containerd 2.4 freezes a 64 MiB container for about 0.25 s, and the time grows with its memory";
        "hang" = ["CheckpointContainer:before=hang"],
            "the runtime accepts the call and never responds",
            "a runtime whose shim is stuck: only the caller's deadline ends the call";
        "hang-frozen" = ["CheckpointContainer:capture=hang"],
            "the checkpoint hangs while the container is frozen, until the caller cancels",
            "containerd 2.4: a 600 MiB container under a deadline of 1 s";
        "left-frozen" = ["CheckpointContainer:finish=leave-frozen"],
            "the container stays frozen, while its status is running",
            "containerd 2.4 after a deadline passed";
        "container-killed" = ["CheckpointContainer:finish=kill-container"],
            "the checkpoint kills the container, which should keep running",
            "runc checkpoint without --leave-running";
        "partial-archive" = ["CheckpointContainer:write=partial-archive(50%)"],
            "writing the archive fails, and half of the archive stays at the location",
            "containerd 2.x writes in place, without a rename";
        "truncated-archive" = ["CheckpointContainer:write=truncated-archive(50%)"],
            "the call succeeds, and the archive is truncated",
            "power loss before the page cache was written: containerd and CRI-O do not flush";
        "corrupt-archive" = ["CheckpointContainer:write=corrupt-archive"],
            "the call succeeds, and the archive is corrupt",
            "failing disks; the tail of an earlier archive, which containerd and CRI-O do not truncate";
        "empty-archive" = ["CheckpointContainer:write=empty-archive"],
            "the call succeeds, and the archive is an empty file",
            "power loss before the file was flushed";
        "no-archive" = ["CheckpointContainer:write=no-archive"],
            "the call succeeds, and no archive exists",
            "CRI-O with an empty location";
        "world-readable-archive" = ["CheckpointContainer:write=mode(0644)"],
            "every user of the node can read the archive, which holds the memory of the container",
            "containerd and CRI-O keep the mode of an existing file at the location";
        "missing-inventory" = ["CheckpointContainer:write=omit(\"checkpoint/inventory.img\")"],
            "the archive lacks CRIU's inventory, so it cannot be restored",
            "a member that the Kubernetes e2e test requires";
        "missing-pstree" = ["CheckpointContainer:write=omit(\"checkpoint/pstree.img\")"],
            "the archive lacks the process tree",
            "checkpointctl#213";
        "missing-spec-dump" = ["CheckpointContainer:write=omit(\"spec.dump\")"],
            "the archive lacks the OCI configuration of the container",
            "a member that the Kubernetes e2e test requires";
        "missing-config-dump" = ["CheckpointContainer:write=omit(\"config.dump\")"],
            "the archive lacks the engine's description of the container",
            "a member that the Kubernetes e2e test requires";
        "missing-pages" = ["CheckpointContainer:write=omit(\"checkpoint/pages-*.img\")"],
            "the archive lacks the memory pages that its pagemap images list",
            "archives with images of an earlier or failed attempt (cri-o#7355, cri-o#9692)";
        "next-checkpoint-fails" = [
            "CheckpointContainer(nth=2):before=error(Unknown,\"open /run/containerd/io.containerd.grpc.v1.cri/containers/ctrd-checkpoint/status: no such file or directory\")"
        ],
            "the checkpoint after one that timed out fails because of a leftover of the first",
            "containerd 2.4 on a 256 MiB container with a deadline of 2 s";
        "sandbox-name-reserved" = ["RunPodSandbox:before=error(Unknown,\"failed to reserve sandbox name: name is reserved\")"],
            "an earlier attempt that timed out still reserves the sandbox name",
            "containerd and CRI-O, when RunPodSandbox exceeds its deadline and the kubelet retries";
        "slow-sandbox" = ["RunPodSandbox:after=delay(5m)"],
            "the sandbox is created, and the response comes after the caller's deadline",
            "the cause of sandbox-name-reserved";
        "connection-lost" = ["CheckpointContainer:before=disconnect"],
            "the connection closes during the call",
            "a runtime that was restarted: the kubelet reports Unavailable";
        "crash" = ["CheckpointContainer:write=crash"],
            "the runtime is killed while the archive is written",
            "the OOM killer on containerd or CRI-O; the containers keep running in their shims";
        "runtime-down" = ["*:before=error(Unavailable,\"connection error: desc = \\\"transport: Error while dialing: connection refused\\\"\")"],
            "no call reaches the runtime",
            "a runtime that is stopped or restarting";
        "ignores-deadline" = ["CheckpointContainer:before=ignore-deadline"],
            "the call ends at its deadline, but the checkpoint continues, and the archive appears later",
            "CRI-O: the dump continues after the caller has cancelled";
        "ignores-cancel" = ["CheckpointContainer:before=ignore-cancel"],
            "the caller cancels, but the checkpoint continues, and the archive appears later",
            "CRI-O: the dump continues after the caller has cancelled";
        "ignores-timeout" = ["CheckpointContainer:before=ignore-timeout"],
            "the timeout of the request is ignored; only the gRPC deadline counts",
            "containerd and CRI-O";
        "timeout-in-milliseconds" = ["CheckpointContainer:before=timeout-in-milliseconds"],
            "the timeout of the request is interpreted as milliseconds",
            "a field in seconds without a unit in its name";
        "zero-timeout-expires-at-once" = ["CheckpointContainer:before=zero-timeout-expires-at-once"],
            "a timeout of zero, which requests the default, expires at once",
            "a deadline computed as now plus zero";
        "timeout-overflows" = ["CheckpointContainer:before=timeout-overflows"],
            "a very large timeout overflows and expires at once",
            "seconds converted to nanoseconds in 64 bits";
        "unknown-container-accepted" = ["CheckpointContainer:before=accept-unknown-container"],
            "a checkpoint of an unknown container succeeds",
            "an error that is logged and not returned";
        "unknown-container-is-internal" = ["CheckpointContainer:before=unknown-container-is-internal"],
            "an unknown container gives Internal, which suggests a retry, instead of NotFound",
            "errors wrapped without their gRPC code";
        "exited-container-accepted" = ["CheckpointContainer:before=accept-exited-container"],
            "a checkpoint of an exited container succeeds, and no archive exists",
            "an error that is logged and not returned";
        "created-container-accepted" = ["CheckpointContainer:before=accept-created-container"],
            "a checkpoint of a created container that was never started succeeds, and no archive exists",
            "an error that is logged and not returned";
        "id-prefix-rejected" = ["CheckpointContainer:before=reject-id-prefix"],
            "a prefix of an id, which every other call accepts, gives NotFound",
            "containerd#12759";
        "empty-id-accepted" = ["CheckpointContainer:before=accept-empty-id"],
            "a checkpoint with an empty container id succeeds",
            "a lookup by prefix that accepts the empty prefix";
        "empty-location-accepted" = ["CheckpointContainer:before=accept-empty-location"],
            "a checkpoint with an empty location succeeds, and no archive exists",
            "CRI-O with an empty location";
        "relative-location-accepted" = ["CheckpointContainer:before=resolve-relative-location"],
            "a relative location is resolved against the working directory of the runtime",
            "containerd and CRI-O";
        "missing-directory-accepted" = ["CheckpointContainer:before=accept-missing-directory"],
            "the directory of the location is missing, the call succeeds, and no archive exists",
            "an error that is logged and not returned";
        "missing-directory-created" = ["CheckpointContainer:before=create-directory"],
            "the missing directory of the location is created, and then the call fails",
            "a step that is not undone when a later step fails";
        "unwritable-location-accepted" = ["CheckpointContainer:before=accept-unwritable-location"],
            "the location is not writable, the call succeeds, and no archive exists",
            "an error that is logged and not returned";
        "directory-location-accepted" = ["CheckpointContainer:before=accept-directory-location"],
            "the location is a directory, and the archive appears inside the directory",
            "a copy or move whose target may be a directory";
        "symlink-followed" = ["CheckpointContainer:before=follow-symlink"],
            "a symlink at the location is followed: the runtime writes to its target as root",
            "containerd and CRI-O";
        "existing-file-not-truncated" = ["CheckpointContainer:before=no-truncate"],
            "a longer file at the location is not truncated: its tail remains after the archive",
            "containerd and CRI-O: a 5,000,000-byte file stayed 5,000,000 bytes long";
        "existing-mode-kept" = ["CheckpointContainer:before=keep-mode"],
            "a world-readable file at the location stays world-readable",
            "containerd and CRI-O: a 0644 file stayed 0644";
        "in-place" = [
            "CheckpointContainer:before=no-truncate",
            "CheckpointContainer:before=keep-mode",
            "CheckpointContainer:before=follow-symlink"
        ],
            "the archive is written into the existing file: no truncation, no new mode, symlinks followed",
            "containerd and CRI-O: open without O_TRUNC and O_NOFOLLOW";
        "no-space-ignored" = ["CheckpointContainer:before=ignore-no-space"],
            "the disk is full, the call succeeds, and the archive is truncated",
            "a write whose error is ignored";
        "responds-early" = ["CheckpointContainer:before=respond-early"],
            "the call succeeds before the archive exists",
            "a copy that continues in the background";
        "other-container" = ["CheckpointContainer:before=other-container"],
            "the archive is that of another container",
            "confused ids";
        "other-metadata" = ["CheckpointContainer:before=other-metadata"],
            "`config.dump` and `spec.dump` are those of another container",
            "confused ids";
        "earlier-images" = ["CheckpointContainer:before=earlier-images"],
            "the archive holds the images of an earlier checkpoint",
            "cri-o#7355, cri-o#9692";
        "earlier-archive" = ["CheckpointContainer:before=earlier-archive"],
            "the archive is that of an earlier checkpoint",
            "cri-o#7355, cri-o#9692";
        "log-copied-late" = ["CheckpointContainer:before=copy-log-late"],
            "the container is thawed before its log is copied, so the log is newer than the memory",
            "cri-o#6977";
        "init-only" = ["CheckpointContainer:before=init-process-only"],
            "the archive contains only the init process of the container",
            "a dump of one process instead of the process tree";
        "thread-missing" = ["CheckpointContainer:before=omit-thread"],
            "one thread of each multithreaded process is missing in the archive",
            "a thread list that was read only once, while threads start and exit";
        "heap-zeroed" = ["CheckpointContainer:before=zero-memory(heap)"],
            "the heap is zero in the archive",
            "memory that a dump treats as unused or as owned by another process";
        "stack-zeroed" = ["CheckpointContainer:before=zero-memory(stack)"],
            "the stack of the main thread is zero in the archive",
            "memory that a dump treats as unused or as owned by another process";
        "environment-zeroed" = ["CheckpointContainer:before=zero-memory(environment)"],
            "the environment is zero in the archive",
            "memory that a dump treats as unused or as owned by another process";
        "thread-stacks-zeroed" = ["CheckpointContainer:before=zero-memory(threads)"],
            "the stacks of all threads except the main thread are zero in the archive",
            "memory that a dump treats as unused or as owned by another process";
        "shared-memory-zeroed" = ["CheckpointContainer:before=zero-memory(shared)"],
            "shared memory is zero in the archive",
            "memory that a dump treats as unused or as owned by another process";
        "frozen-after-deadline" = ["CheckpointContainer:before=after(deadline,leave-frozen)"],
            "after a checkpoint whose gRPC deadline passed, the container stays frozen, while its status is running",
            "containerd 2.4: the context has expired when containerd should resume the paused container";
        "frozen-after-timeout" = ["CheckpointContainer:before=after(timeout,leave-frozen)"],
            "after a checkpoint whose requested timeout passed, the container stays frozen, while its status is running",
            "containerd 2.4: the context has expired when containerd should resume the paused container";
        "frozen-after-cancel" = ["CheckpointContainer:before=after(cancel,leave-frozen)"],
            "after a checkpoint that the caller cancelled, the container stays frozen, while its status is running",
            "containerd 2.4: the context has expired when containerd should resume the paused container";
        "frozen-after-error" = ["CheckpointContainer:before=after(error,leave-frozen)"],
            "after a failed checkpoint, the container stays frozen, while its status is running",
            "an error path that does not resume the container";
        "killed-after-deadline" = ["CheckpointContainer:before=after(deadline,kill-container)"],
            "after a checkpoint whose gRPC deadline passed, the container is dead",
            "a CRIU dump without --leave-running that was interrupted";
        "killed-after-timeout" = ["CheckpointContainer:before=after(timeout,kill-container)"],
            "after a checkpoint whose requested timeout passed, the container is dead",
            "a CRIU dump without --leave-running that was interrupted";
        "killed-after-cancel" = ["CheckpointContainer:before=after(cancel,kill-container)"],
            "after a checkpoint that the caller cancelled, the container is dead",
            "a CRIU dump without --leave-running that was interrupted";
        "killed-after-error" = ["CheckpointContainer:before=after(error,kill-container)"],
            "after a failed checkpoint, the container is dead",
            "a CRIU dump without --leave-running that was interrupted";
        "partial-after-deadline" = ["CheckpointContainer:before=after(deadline,keep-partial)"],
            "after a checkpoint whose gRPC deadline passed, a partial archive stays at the location",
            "containerd 2.x writes in place, without a rename";
        "partial-after-timeout" = ["CheckpointContainer:before=after(timeout,keep-partial)"],
            "after a checkpoint whose requested timeout passed, a partial archive stays at the location",
            "containerd 2.x writes in place, without a rename";
        "partial-after-cancel" = ["CheckpointContainer:before=after(cancel,keep-partial)"],
            "after a checkpoint that the caller cancelled, a partial archive stays at the location",
            "containerd 2.x writes in place, without a rename";
        "partial-after-error" = ["CheckpointContainer:before=after(error,keep-partial)"],
            "after a failed checkpoint, a partial archive stays at the location",
            "containerd 2.x writes in place, without a rename";
        "temporary-after-error" = ["CheckpointContainer:before=after(error,keep-temporary)"],
            "after a failed checkpoint, a partial temporary file stays beside the location",
            "a temporary file that is not removed";
        "next-checkpoint-fails-after-success" = ["CheckpointContainer:before=after(success,fail-next-checkpoint)"],
            "the checkpoint after a successful one fails because of a leftover",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-deadline" = ["CheckpointContainer:before=after(deadline,fail-next-checkpoint)"],
            "the checkpoint after one whose gRPC deadline passed fails because of a leftover",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-timeout" = ["CheckpointContainer:before=after(timeout,fail-next-checkpoint)"],
            "the checkpoint after one whose requested timeout passed fails because of a leftover",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-cancel" = ["CheckpointContainer:before=after(cancel,fail-next-checkpoint)"],
            "the checkpoint after one that the caller cancelled fails because of a leftover",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-error" = ["CheckpointContainer:before=after(error,fail-next-checkpoint)"],
            "the checkpoint after a failed one fails because of a leftover",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "exited-status-after-success" = ["CheckpointContainer:before=after(success,report-exited)"],
            "after a checkpoint, ContainerStatus reports the container as exited",
            "an exit event of runc's dump that is attributed to the container";
        "exited-status-after-deadline" = ["CheckpointContainer:before=after(deadline,report-exited)"],
            "after a checkpoint whose gRPC deadline passed, ContainerStatus reports the container as exited",
            "an exit event of runc's dump that is attributed to the container";
        "exited-status-after-timeout" = ["CheckpointContainer:before=after(timeout,report-exited)"],
            "after a checkpoint whose requested timeout passed, ContainerStatus reports the container as exited",
            "an exit event of runc's dump that is attributed to the container";
        "exited-status-after-cancel" = ["CheckpointContainer:before=after(cancel,report-exited)"],
            "after a checkpoint that the caller cancelled, ContainerStatus reports the container as exited",
            "an exit event of runc's dump that is attributed to the container";
        "exited-status-after-error" = ["CheckpointContainer:before=after(error,report-exited)"],
            "after a failed checkpoint, ContainerStatus reports the container as exited",
            "an exit event of runc's dump that is attributed to the container";
        "exec-broken" = ["CheckpointContainer:before=after(success,break-exec)"],
            "after a checkpoint, ExecSync in the container fails",
            "a shim that treats a checkpointed container as stopped";
        "log-broken" = ["CheckpointContainer:before=after(success,break-log)"],
            "after a checkpoint, the log of the container ends",
            "standard streams of a task that was replaced";
        "siblings-frozen" = ["CheckpointContainer:before=after(success,freeze-siblings)"],
            "after a checkpoint, the other containers of the Pod stay frozen",
            "the cgroup of the Pod frozen instead of that of the container";
        "concurrent-truncated" = ["CheckpointContainer:before=truncate-concurrent"],
            "of two concurrent checkpoints of one container, one writes a truncated archive",
            "a work directory named only after the container";
        "concurrent-refused" = ["CheckpointContainer:before=refuse-concurrent"],
            "a checkpoint that begins during a checkpoint of another container fails",
            "one work directory for all containers";
        "one-at-a-time" = ["CheckpointContainer:before=one-at-a-time"],
            "a checkpoint waits until the checkpoints of all other containers have ended",
            "a global lock held during the dump";
        "restored-container-rejected" = ["CheckpointContainer:before=reject-restored-container"],
            "a restored container cannot be checkpointed",
            "cri-o#6374";
        "execs-killed" = ["CheckpointContainer:before=kill-execs"],
            "a checkpoint kills the commands that ExecSync runs in the container",
            "a dump of all processes in the cgroup of the container";
        "log-missing" = ["CheckpointContainer:write=omit(\"container.log\")"],
            "the archive lacks the container's log",
            "engines that copy the log only if it is a regular file";
    };

    /// Returns the preset with this name.
    pub fn by_name(name: &str) -> Option<&'static Preset> {
        Preset::ALL.iter().find(|preset| preset.name == name)
    }

    /// Returns the rules of the preset with these selectors added.
    ///
    /// # Errors
    /// A selector is already set by the preset, or the conditions exclude each other.
    pub(super) fn rules(&self, selector: &Selector, trigger: &Trigger) -> Result<Vec<Rule>, String> {
        self.rule_texts
            .iter()
            .map(|text| {
                let mut rule: Rule = text.parse().expect("tests parse all presets");
                self.narrow_selector("pod", &mut rule.selector.pod, &selector.pod)?;
                self.narrow_selector("namespace", &mut rule.selector.namespace, &selector.namespace)?;
                self.narrow_selector("container", &mut rule.selector.container, &selector.container)?;
                self.narrow_selector("nth", &mut rule.trigger.nth, &trigger.nth)?;
                self.narrow_selector("every", &mut rule.trigger.every, &trigger.every)?;
                self.narrow_selector("p", &mut rule.trigger.probability, &trigger.probability)?;
                self.narrow_selector("seed", &mut rule.trigger.seed, &trigger.seed)?;
                self.narrow_selector("times", &mut rule.trigger.times, &trigger.times)?;
                match rule.trigger.contradiction() {
                    Some(message) => Err(format!("in preset `{}`: {message}", self.name)),
                    None => Ok(rule),
                }
            })
            .collect()
    }

    fn narrow_selector<T: Clone>(
        &self,
        key: &str,
        preset_value: &mut Option<T>,
        requested: &Option<T>,
    ) -> Result<(), String> {
        if preset_value.is_some() && requested.is_some() {
            return Err(format!("preset `{}` already sets `{key}`", self.name));
        }
        if preset_value.is_none() {
            preset_value.clone_from(requested);
        }
        Ok(())
    }
}

/// Returns all presets as a Markdown table for `docs/FAULTS.md`.
pub fn presets_markdown() -> String {
    let mut table = "| preset | rules | failure | seen in |\n|---|---|---|---|\n".to_owned();
    for preset in Preset::ALL {
        let rules: Vec<_> = preset
            .rule_texts
            .iter()
            .map(|rule| format!("`{}`", rule.replace('|', "\\|")))
            .collect();
        let (name, summary, source) = (preset.name, preset.summary, preset.source);
        table += &format!("| `{name}` | {} | {summary} | {source} |\n", rules.join("<br>"));
    }
    table
}
