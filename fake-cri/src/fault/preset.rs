//! Faults named after what real runtimes did.

use super::rule::{Rule, Scope, When};

/// A named fault, with what it stands for and where that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name, after `preset:`.
    pub name: &'static str,
    /// The rules it stands for, in the grammar.
    pub grammar: &'static [&'static str],
    /// What the real software did.
    pub summary: &'static str,
    /// Where it was seen.
    pub source: &'static str,
}

macro_rules! presets {
    ($($name:literal = [$($rule:literal),+], $summary:literal, $source:literal;)+) => {
        &[$(Preset { name: $name, grammar: &[$($rule),+], summary: $summary, source: $source }),+]
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
            "CheckpointContainer:before=error(Unknown,\"CRIU binary not found or too old (<31600)\")"
        ],
            "CRIU on the node is older than the runtime needs.",
            "older containerd; one of the four messages that Kubernetes' own test accepts";
        "disk-full" = ["CheckpointContainer:write=no-space(64KiB)"],
            "The disk below the kubelet's checkpoints folder fills up while the archive is written.",
            "CVE-2025-0426: checkpoints through the read-only port filled nodes' disks";
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
        "second-fails" = [
            "CheckpointContainer(nth=2):before=error(Unknown,\"open /run/containerd/io.containerd.grpc.v1.cri/containers/ctrd-checkpoint/status: no such file or directory\")"
        ],
            "The checkpoint after one that ran out of time fails on what the first left behind.",
            "containerd 2.4 on a 256 MiB container with a deadline of 2 s";
        "name-reserved" = ["RunPodSandbox:before=error(Unknown,\"failed to reserve sandbox name: name is reserved\")"],
            "The sandbox of an earlier try that ran out of time still holds the name.",
            "containerd and CRI-O when RunPodSandbox runs into its deadline and the kubelet tries again";
        "slow-sandbox" = ["RunPodSandbox:after=delay(5m)"],
            "The sandbox is made, and the answer comes after the caller's deadline.",
            "what leads to name-reserved";
        "connection-lost" = ["CheckpointContainer:before=drop"],
            "The connection ends in the middle of the call.",
            "a runtime that was restarted: the kubelet reports Unavailable";
        "crash" = ["CheckpointContainer:write=crash"],
            "The runtime is killed while the archive is written.",
            "the kernel's out-of-memory killer on containerd or CRI-O; containers live on in their shims";
        "runtime-down" = ["*:before=error(Unavailable,\"connection error: desc = \\\"transport: Error while dialing: connection refused\\\"\")"],
            "No call reaches the runtime.",
            "a runtime that is stopped or restarts";
    };

    /// The preset of this name.
    pub fn by_name(name: &str) -> Option<&'static Preset> {
        Preset::ALL.iter().find(|preset| preset.name == name)
    }

    /// Its rules, narrowed by selectors.
    ///
    /// # Errors
    /// When the preset itself already says what a selector says.
    pub(super) fn rules(&self, scope: &Scope, when: &When) -> Result<Vec<Rule>, String> {
        self.grammar
            .iter()
            .map(|text| {
                let mut rule: Rule = text.parse().expect("a test parses every preset");
                self.narrow("pod", &mut rule.scope.pod, &scope.pod)?;
                self.narrow("namespace", &mut rule.scope.namespace, &scope.namespace)?;
                self.narrow("container", &mut rule.scope.container, &scope.container)?;
                self.narrow("nth", &mut rule.when.nth, &when.nth)?;
                self.narrow("every", &mut rule.when.every, &when.every)?;
                self.narrow("p", &mut rule.when.probability, &when.probability)?;
                self.narrow("seed", &mut rule.when.seed, &when.seed)?;
                self.narrow("times", &mut rule.when.times, &when.times)?;
                match rule.when.contradiction() {
                    Some(message) => Err(format!("in preset `{}`: {message}", self.name)),
                    None => Ok(rule),
                }
            })
            .collect()
    }

    fn narrow<T: Clone>(&self, key: &str, own: &mut Option<T>, given: &Option<T>) -> Result<(), String> {
        if own.is_some() && given.is_some() {
            return Err(format!("preset `{}` sets `{key}` itself", self.name));
        }
        if own.is_none() {
            own.clone_from(given);
        }
        Ok(())
    }
}

/// Every preset as a table in Markdown, for the docs.
pub fn presets_markdown() -> String {
    let mut table = "| preset | what it stands for | what happens | seen in |\n|---|---|---|---|\n".to_owned();
    for preset in Preset::ALL {
        let rules: Vec<_> = preset
            .grammar
            .iter()
            .map(|rule| format!("`{}`", rule.replace('|', "\\|")))
            .collect();
        let (name, summary, source) = (preset.name, preset.summary, preset.source);
        table += &format!("| `{name}` | {} | {summary} | {source} |\n", rules.join("<br>"));
    }
    table
}
