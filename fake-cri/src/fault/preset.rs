//! Faults named after what real runtimes did.

use super::rule::{Rule, Selector, Trigger};

/// A named fault, with what it stands for and where that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name, after `preset:`.
    pub name: &'static str,
    /// The rules it stands for, in the grammar.
    pub rule_texts: &'static [&'static str],
    /// What the real software did.
    pub summary: &'static str,
    /// Where it was seen.
    pub source: &'static str,
}

macro_rules! presets {
    ($($name:literal = [$($rule:literal),+], $summary:literal, $source:literal;)+) => {
        &[$(Preset { name: $name, rule_texts: &[$($rule),+], summary: $summary, source: $source }),+]
    };
}

impl Preset {
    /// Every preset.
    pub const ALL: &'static [Preset] = presets! {
        "unimplemented" = ["CheckpointContainer:before=unimplemented"],
            "The runtime has the call in its API and not in its code.",
            "containerd 1.x; one of the four messages that Kubernetes' own test accepts";
        "unimplemented-unknown-method" = ["CheckpointContainer:before=unknown-method"],
            "The runtime is older than the call.",
            "runtimes built against a CRI before 1.25; one of the four messages that Kubernetes' own test accepts";
        "checkpoint-disabled" = [
            "CheckpointContainer:before=error(Unknown,\"checkpoint/restore support not available\")"
        ],
            "The operator has not switched checkpoints on.",
            "CRI-O with enable_criu_support = false; one of the four messages that Kubernetes' own test accepts";
        "checkpoint-disabled-containerd" = [
            "CheckpointContainer:before=error(Unknown,\"criu support is disabled by configuration\")"
        ],
            "The operator has switched checkpoints off.",
            "containerd 2.2 and later";
        "criu-missing" = [
            "CheckpointContainer:before=error(Unknown,\"criu binary not found in shim path or system PATH\")"
        ],
            "CRIU is not installed on the node.",
            "containerd 2.2 and later";
        "criu-too-old" = [
            "CheckpointContainer:before=error(Unknown,\"CRIU binary not found or too old (<31600). Failed to checkpoint container\")"
        ],
            "CRIU on the node is older than the runtime needs.",
            "older containerd; one of the four messages that Kubernetes' own test accepts";
        "disk-full" = ["CheckpointContainer:write=no-space(64KiB)"],
            "The disk below the kubelet's checkpoints folder fills up while the archive is written.",
            "CVE-2025-0426: checkpoints through the read-only port filled nodes' disks";
        "disk-io-error" = ["CheckpointContainer:write=io-error(64KiB)"],
            "The disk below the kubelet's checkpoints folder fails while the archive is written.",
            "worn disks and network disks that are gone: write(2) answers EIO";
        "slow-disk" = ["CheckpointContainer:finish=delay(5s)"],
            "The archive takes seconds to appear, while the container already runs on.",
            "network disks; large containers";
        "slow-freeze" = ["CheckpointContainer:capture=delay(2s)"],
            "The container stands still for seconds before it runs on.",
            "containerd 2.4 freezes a 64 MiB container for about 0.25 s, and the time grows with its memory";
        "hang" = ["CheckpointContainer:before=hang"],
            "The runtime takes the call and never answers.",
            "a runtime whose shim is stuck: only the caller's deadline ends the call";
        "hang-frozen" = ["CheckpointContainer:capture=hang"],
            "The checkpoint stops halfway with the container frozen, until the caller gives up.",
            "containerd 2.4: a 600 MiB container under a deadline of 1 s";
        "left-frozen" = ["CheckpointContainer:finish=leave-frozen"],
            "The container stays frozen for good, while its status says that it runs.",
            "containerd 2.4 after a deadline passed";
        "container-killed" = ["CheckpointContainer:finish=kill-container"],
            "The checkpoint ends the container that it should leave running.",
            "runc checkpoint without --leave-running";
        "partial-archive" = ["CheckpointContainer:write=partial-archive(50%)"],
            "The copy fails halfway, and half an archive stays at the location.",
            "containerd 2.x writes in place, without a rename";
        "truncated-archive" = ["CheckpointContainer:write=truncated-archive(50%)"],
            "The call succeeds, and the archive ends in the middle.",
            "a write cache lost with its node's power: containerd and CRI-O do not flush";
        "corrupt-archive" = ["CheckpointContainer:write=corrupt-archive"],
            "The call succeeds, and the archive's bytes are wrong.",
            "failing disks; the stale tail of an earlier archive, which containerd and CRI-O do not truncate";
        "empty-archive" = ["CheckpointContainer:write=empty-archive"],
            "The call succeeds, and the archive is a file of no bytes.",
            "a node that lost power before its files were flushed";
        "no-archive" = ["CheckpointContainer:write=no-archive"],
            "The call succeeds, and there is no archive.",
            "CRI-O with an empty location";
        "world-readable-archive" = ["CheckpointContainer:write=mode(0644)"],
            "Everyone on the node can read the memory of the container.",
            "containerd and CRI-O keep the mode of a file that is already at the location";
        "missing-inventory" = ["CheckpointContainer:write=omit(\"checkpoint/inventory.img\")"],
            "The archive lacks CRIU's inventory, so nothing can restore it.",
            "a member that Kubernetes' own test demands";
        "missing-pstree" = ["CheckpointContainer:write=omit(\"checkpoint/pstree.img\")"],
            "The archive lacks the process tree.",
            "checkpointctl#213";
        "missing-spec-dump" = ["CheckpointContainer:write=omit(\"spec.dump\")"],
            "The archive lacks the OCI configuration of the container.",
            "a member that Kubernetes' own test demands";
        "missing-config-dump" = ["CheckpointContainer:write=omit(\"config.dump\")"],
            "The archive lacks the engine's description of the container.",
            "a member that Kubernetes' own test demands";
        "missing-pages" = ["CheckpointContainer:write=omit(\"checkpoint/pages-*.img\")"],
            "The archive lacks the memory that its page maps tell of.",
            "archives with images of an earlier or failed attempt (cri-o#7355, cri-o#9692)";
        "next-checkpoint-fails" = [
            "CheckpointContainer(nth=2):before=error(Unknown,\"open /run/containerd/io.containerd.grpc.v1.cri/containers/ctrd-checkpoint/status: no such file or directory\")"
        ],
            "The checkpoint after one that ran out of time fails on what the first left behind.",
            "containerd 2.4 on a 256 MiB container with a deadline of 2 s";
        "sandbox-name-reserved" = ["RunPodSandbox:before=error(Unknown,\"failed to reserve sandbox name: name is reserved\")"],
            "The sandbox of an earlier try that ran out of time still holds the name.",
            "containerd and CRI-O when RunPodSandbox runs into its deadline and the kubelet tries again";
        "slow-sandbox" = ["RunPodSandbox:after=delay(5m)"],
            "The sandbox is made, and the answer comes after the caller's deadline.",
            "what leads to sandbox-name-reserved";
        "connection-lost" = ["CheckpointContainer:before=disconnect"],
            "The connection ends in the middle of the call.",
            "a runtime that was restarted: the kubelet reports Unavailable";
        "crash" = ["CheckpointContainer:write=crash"],
            "The runtime is killed while the archive is written.",
            "the kernel's out-of-memory killer on containerd or CRI-O; containers live on in their shims";
        "runtime-down" = ["*:before=error(Unavailable,\"connection error: desc = \\\"transport: Error while dialing: connection refused\\\"\")"],
            "No call reaches the runtime.",
            "a runtime that is stopped or restarts";
        "ignores-deadline" = ["CheckpointContainer:before=ignore-deadline"],
            "The call ends at its deadline, the work goes on, and the archive appears after all.",
            "CRI-O: the dump goes on after the caller gave up";
        "ignores-cancel" = ["CheckpointContainer:before=ignore-cancel"],
            "The caller goes away, the work goes on, and the archive appears after all.",
            "CRI-O: the dump goes on after the caller gave up";
        "ignores-timeout" = ["CheckpointContainer:before=ignore-timeout"],
            "The request's timeout is not read; only the call's own deadline counts.",
            "containerd and CRI-O";
        "timeout-in-milliseconds" = ["CheckpointContainer:before=timeout-in-milliseconds"],
            "The request's timeout is taken for milliseconds.",
            "a field of seconds without a unit in its name";
        "zero-timeout-expires-at-once" = ["CheckpointContainer:before=zero-timeout-expires-at-once"],
            "A timeout of zero, which asks for the default, is over at once.",
            "what a deadline of now plus zero does";
        "timeout-overflows" = ["CheckpointContainer:before=timeout-overflows"],
            "A timeout of very many seconds wraps around and is over at once.",
            "seconds multiplied into nanoseconds in 64 bits";
        "unknown-container-accepted" = ["CheckpointContainer:before=accept-unknown-container"],
            "A checkpoint of a container that is not there succeeds.",
            "an error that is logged and not returned";
        "unknown-container-is-internal" = ["CheckpointContainer:before=unknown-container-is-internal"],
            "A container that is not there is Internal, which tells the caller to try again, not NotFound.",
            "errors passed on without their code";
        "exited-container-accepted" = ["CheckpointContainer:before=accept-exited-container"],
            "A checkpoint of a container that has exited succeeds, and there is no archive.",
            "an error that is logged and not returned";
        "created-container-accepted" = ["CheckpointContainer:before=accept-created-container"],
            "A checkpoint of a container that was not started succeeds, and there is no archive.",
            "an error that is logged and not returned";
        "id-prefix-rejected" = ["CheckpointContainer:before=reject-id-prefix"],
            "The beginning of an id, which every other call takes, is not found.",
            "containerd#12759";
        "empty-id-accepted" = ["CheckpointContainer:before=accept-empty-id"],
            "A checkpoint of no container at all succeeds.",
            "a lookup by prefix that takes the empty one";
        "empty-location-accepted" = ["CheckpointContainer:before=accept-empty-location"],
            "A checkpoint to nowhere succeeds, and there is no archive.",
            "CRI-O with an empty location";
        "relative-location-accepted" = ["CheckpointContainer:before=resolve-relative-location"],
            "A relative location counts from the runtime's working directory.",
            "containerd and CRI-O";
        "missing-directory-accepted" = ["CheckpointContainer:before=accept-missing-directory"],
            "The folder of the location is missing, the call succeeds, and there is no archive.",
            "an error that is logged and not returned";
        "missing-directory-created" = ["CheckpointContainer:before=create-directory"],
            "The folder of the location is missing; it is made, and then the call fails.",
            "a step that is not taken back when a later one fails";
        "unwritable-location-accepted" = ["CheckpointContainer:before=accept-unwritable-location"],
            "Nothing can be written at the location, the call succeeds, and there is no archive.",
            "an error that is logged and not returned";
        "directory-location-accepted" = ["CheckpointContainer:before=accept-directory-location"],
            "The location is a folder, and the archive appears within.",
            "a rename or copy that takes folders for targets";
        "symlink-followed" = ["CheckpointContainer:before=follow-symlink"],
            "A symlink at the location is followed: the runtime, which is root, writes wherever it points.",
            "containerd and CRI-O";
        "existing-file-not-truncated" = ["CheckpointContainer:before=no-truncate"],
            "A longer file at the location is not truncated: its end stays behind the archive.",
            "containerd and CRI-O: a 5,000,000-byte file stayed 5,000,000 bytes long";
        "existing-mode-kept" = ["CheckpointContainer:before=keep-mode"],
            "A file at the location that everyone may read stays one that everyone may read.",
            "containerd and CRI-O: a 0644 file stayed 0644";
        "in-place" = [
            "CheckpointContainer:before=no-truncate",
            "CheckpointContainer:before=keep-mode",
            "CheckpointContainer:before=follow-symlink"
        ],
            "The archive is written into whatever is at the location: no truncation, no new mode, links followed.",
            "containerd and CRI-O: open without O_TRUNC and O_NOFOLLOW";
        "no-space-ignored" = ["CheckpointContainer:before=ignore-no-space"],
            "The disk is full, the call succeeds, and the archive is cut off.",
            "a write whose error is not looked at";
        "responds-early" = ["CheckpointContainer:before=respond-early"],
            "Success is answered before the archive is there.",
            "a copy that goes on in the background";
        "other-container" = ["CheckpointContainer:before=other-container"],
            "The archive is another container's.",
            "ids that are mixed up";
        "other-metadata" = ["CheckpointContainer:before=other-metadata"],
            "The archive's documents are another container's.",
            "ids that are mixed up";
        "earlier-images" = ["CheckpointContainer:before=earlier-images"],
            "The archive holds the images of an earlier checkpoint.",
            "cri-o#7355, cri-o#9692";
        "earlier-archive" = ["CheckpointContainer:before=earlier-archive"],
            "The archive is the one of an earlier checkpoint.",
            "cri-o#7355, cri-o#9692";
        "log-copied-late" = ["CheckpointContainer:before=copy-log-late"],
            "The container runs on before its files are copied, so they are newer than its memory.",
            "cri-o#6977";
        "init-only" = ["CheckpointContainer:before=init-process-only"],
            "Only the container's first process is in the archive.",
            "a dump of one process instead of its tree";
        "thread-missing" = ["CheckpointContainer:before=omit-thread"],
            "Of a process with several threads one is not in the archive.",
            "a list of threads that was read once while they come and go";
        "heap-zeroed" = ["CheckpointContainer:before=zero-memory(heap)"],
            "The heap is zero in the archive.",
            "memory that a dump takes for another's or for unused";
        "stack-zeroed" = ["CheckpointContainer:before=zero-memory(stack)"],
            "The first thread's stack is zero in the archive.",
            "memory that a dump takes for another's or for unused";
        "environment-zeroed" = ["CheckpointContainer:before=zero-memory(environment)"],
            "The environment is zero in the archive.",
            "memory that a dump takes for another's or for unused";
        "thread-stacks-zeroed" = ["CheckpointContainer:before=zero-memory(threads)"],
            "The stacks of all threads but the first are zero in the archive.",
            "memory that a dump takes for another's or for unused";
        "shared-memory-zeroed" = ["CheckpointContainer:before=zero-memory(shared)"],
            "Shared memory is zero in the archive.",
            "memory that a dump takes for another's or for unused";
        "frozen-after-deadline" = ["CheckpointContainer:before=after(deadline,leave-frozen)"],
            "After a checkpoint whose deadline passed the container stays frozen, while its status says that it runs.",
            "containerd 2.4: it pauses the container, and its context is over when it should resume it";
        "frozen-after-timeout" = ["CheckpointContainer:before=after(timeout,leave-frozen)"],
            "After a checkpoint whose own timeout passed the container stays frozen, while its status says that it runs.",
            "containerd 2.4: it pauses the container, and its context is over when it should resume it";
        "frozen-after-cancel" = ["CheckpointContainer:before=after(cancel,leave-frozen)"],
            "After a checkpoint whose caller went away the container stays frozen, while its status says that it runs.",
            "containerd 2.4: it pauses the container, and its context is over when it should resume it";
        "frozen-after-error" = ["CheckpointContainer:before=after(error,leave-frozen)"],
            "After a failed checkpoint the container stays frozen, while its status says that it runs.",
            "a pause that is not taken back on every way out";
        "killed-after-deadline" = ["CheckpointContainer:before=after(deadline,kill-container)"],
            "After a checkpoint whose deadline passed the container is dead.",
            "CRIU's dump without --leave-running, ended halfway";
        "killed-after-timeout" = ["CheckpointContainer:before=after(timeout,kill-container)"],
            "After a checkpoint whose own timeout passed the container is dead.",
            "CRIU's dump without --leave-running, ended halfway";
        "killed-after-cancel" = ["CheckpointContainer:before=after(cancel,kill-container)"],
            "After a checkpoint whose caller went away the container is dead.",
            "CRIU's dump without --leave-running, ended halfway";
        "killed-after-error" = ["CheckpointContainer:before=after(error,kill-container)"],
            "After a failed checkpoint the container is dead.",
            "CRIU's dump without --leave-running, ended halfway";
        "partial-after-deadline" = ["CheckpointContainer:before=after(deadline,keep-partial)"],
            "After a checkpoint whose deadline passed what was written so far stays at the location.",
            "containerd 2.x writes in place, without a rename";
        "partial-after-timeout" = ["CheckpointContainer:before=after(timeout,keep-partial)"],
            "After a checkpoint whose own timeout passed what was written so far stays at the location.",
            "containerd 2.x writes in place, without a rename";
        "partial-after-cancel" = ["CheckpointContainer:before=after(cancel,keep-partial)"],
            "After a checkpoint whose caller went away what was written so far stays at the location.",
            "containerd 2.x writes in place, without a rename";
        "partial-after-error" = ["CheckpointContainer:before=after(error,keep-partial)"],
            "After a failed checkpoint what was written so far stays at the location.",
            "containerd 2.x writes in place, without a rename";
        "temporary-after-error" = ["CheckpointContainer:before=after(error,keep-temporary)"],
            "After a failed checkpoint what was written so far stays beside the location.",
            "a temporary file that nobody removes";
        "next-checkpoint-fails-after-success" = ["CheckpointContainer:before=after(success,fail-next-checkpoint)"],
            "The checkpoint after a successful one fails on what that one left behind.",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-deadline" = ["CheckpointContainer:before=after(deadline,fail-next-checkpoint)"],
            "The checkpoint after one whose deadline passed fails on what that one left behind.",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-timeout" = ["CheckpointContainer:before=after(timeout,fail-next-checkpoint)"],
            "The checkpoint after one whose own timeout passed fails on what that one left behind.",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-cancel" = ["CheckpointContainer:before=after(cancel,fail-next-checkpoint)"],
            "The checkpoint after one whose caller went away fails on what that one left behind.",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "next-checkpoint-fails-after-error" = ["CheckpointContainer:before=after(error,fail-next-checkpoint)"],
            "The checkpoint after a failed one fails on what that one left behind.",
            "containerd 2.4-beta: `open .../ctrd-checkpoint/status: no such file or directory`";
        "exited-status-after-success" = ["CheckpointContainer:before=after(success,report-exited)"],
            "After a checkpoint ContainerStatus says that the container, which runs, has exited.",
            "runc's exit event of a dump, taken for the container's";
        "exited-status-after-deadline" = ["CheckpointContainer:before=after(deadline,report-exited)"],
            "After a checkpoint whose deadline passed ContainerStatus says that the container, which runs, has exited.",
            "runc's exit event of a dump, taken for the container's";
        "exited-status-after-timeout" = ["CheckpointContainer:before=after(timeout,report-exited)"],
            "After a checkpoint whose own timeout passed ContainerStatus says that the container, which runs, has exited.",
            "runc's exit event of a dump, taken for the container's";
        "exited-status-after-cancel" = ["CheckpointContainer:before=after(cancel,report-exited)"],
            "After a checkpoint whose caller went away ContainerStatus says that the container, which runs, has exited.",
            "runc's exit event of a dump, taken for the container's";
        "exited-status-after-error" = ["CheckpointContainer:before=after(error,report-exited)"],
            "After a failed checkpoint ContainerStatus says that the container, which runs, has exited.",
            "runc's exit event of a dump, taken for the container's";
        "exec-broken" = ["CheckpointContainer:before=after(success,break-exec)"],
            "After a checkpoint no command can be run in the container any more.",
            "a shim that takes a checkpointed container for a stopped one";
        "log-broken" = ["CheckpointContainer:before=after(success,break-log)"],
            "After a checkpoint the container's log ends.",
            "standard streams that belong to a task that was replaced";
        "siblings-frozen" = ["CheckpointContainer:before=after(success,freeze-siblings)"],
            "After a checkpoint the other containers of the Pod stand still.",
            "a pause of the Pod's cgroup instead of the container's";
        "concurrent-truncated" = ["CheckpointContainer:before=truncate-concurrent"],
            "Of two checkpoints of a container at once one makes an archive that ends in its middle.",
            "a work folder that is named after the container alone";
        "concurrent-refused" = ["CheckpointContainer:before=refuse-concurrent"],
            "A checkpoint that begins during one of another container fails.",
            "one work folder for all containers";
        "one-at-a-time" = ["CheckpointContainer:before=one-at-a-time"],
            "A checkpoint waits until those of all other containers have ended.",
            "a lock of the whole runtime held for the dump";
        "restored-container-rejected" = ["CheckpointContainer:before=reject-restored-container"],
            "A container that was restored cannot be checkpointed again.",
            "cri-o#6374";
        "execs-killed" = ["CheckpointContainer:before=kill-execs"],
            "A checkpoint ends the commands that ExecSync has under way in the container.",
            "a dump of all processes in the container's cgroup";
        "log-missing" = ["CheckpointContainer:write=omit(\"container.log\")"],
            "The archive lacks the container's log.",
            "engines that copy it only when it is a plain file";
    };

    /// The preset of this name.
    pub fn by_name(name: &str) -> Option<&'static Preset> {
        Preset::ALL.iter().find(|preset| preset.name == name)
    }

    /// Its rules, narrowed by selectors.
    ///
    /// # Errors
    /// When the preset itself already says what a selector says.
    pub(super) fn rules(&self, selector: &Selector, trigger: &Trigger) -> Result<Vec<Rule>, String> {
        self.rule_texts
            .iter()
            .map(|text| {
                let mut rule: Rule = text.parse().expect("a test parses every preset");
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
            return Err(format!("preset `{}` sets `{key}` itself", self.name));
        }
        if preset_value.is_none() {
            preset_value.clone_from(requested);
        }
        Ok(())
    }
}

/// Every preset as a table in Markdown, for the docs.
pub fn presets_markdown() -> String {
    let mut table = "| preset | what it stands for | what happens | seen in |\n|---|---|---|---|\n".to_owned();
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
