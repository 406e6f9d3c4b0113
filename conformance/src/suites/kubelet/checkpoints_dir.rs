//! The folder `checkpoints` and what lies in it: made at the kubelet's start, and left alone by it ever after.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::session::KubeletSession;
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check, fail, pass},
    suites::authority,
    targets::{FileSnapshot, KubeletConfig},
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: "kubelet/archive/earlier-archives-unchanged",
            requirement: "the kubelet neither deletes nor changes an archive that is there when it makes another one",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "the same file, of the same length and mode",
        },
        |s| Box::pin(archive_unchanged(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/checkpoint/trusts-runtime",
            requirement: "the kubelet takes the word of the runtime: it does not look whether there is an archive",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "200 when the runtime says ok and has written nothing",
        },
        |s| Box::pin(archive_not_verified(s)),
    ),
];

/// What makes a checkpoint and restarts the kubelet.
pub(super) const KUBELET_RESTART_CASES: &[Case<KubeletSession>] = &[Case::new(
    CaseInfo {
        id: "kubelet/archive/survives-restart",
        requirement: "archives outlive a restart of the kubelet",
        authority: authority::KUBELET,
        motivation: "",
        level: Level::Reference,
        expected: "the same file, of the same length and mode",
    },
    |s| Box::pin(kept_at_restart(s)),
)];

/// What restarts the kubelet without its folder.
pub(super) const MISSING_DIR_CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: "kubelet/checkpoints-dir/created-at-start",
            requirement: "the folder `checkpoints` is made when the kubelet starts, before anyone asks for a checkpoint",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "there",
        },
        |s| Box::pin(created_at_start(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/checkpoints-dir/absent-with-gate-disabled",
            requirement: "with the gate off the folder `checkpoints` is not made",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "not there",
        },
        |s| Box::pin(not_created_with_gate_off(s)),
    ),
];

/// The archive of one more checkpoint, where it can be looked at.
async fn new_archive(s: &KubeletSession) -> Result<FileSnapshot, NonPass> {
    // Whether there is one at all is judged of the first.
    s.require_archive_file().await?;
    s.require_checkpointable().await?;
    match s.checkpoint(s.container_under_test()).await?.file {
        Ok(file) => Ok(file),
        Err(_) => Err(NonPass::Blocked(super::session::ARCHIVE_CASE)),
    }
}

fn is_unchanged(before: &FileSnapshot) -> CaseResult {
    match FileSnapshot::read(&before.path) {
        Ok(after) if after == *before => pass(format!("{} bytes, as before", after.length)),
        Ok(after) => fail(format!(
            "{} bytes, mode {:04o}; before {} bytes, mode {:04o}, or another file",
            after.length, after.mode, before.length, before.mode
        )),
        Err(error) => fail(format!("{}: {error}", before.path.display())),
    }
}

async fn archive_unchanged(s: &KubeletSession) -> CaseResult {
    // One of its own: others may have been made in the second of the first one, over it.
    let before = new_archive(s).await?;
    s.wait_for_unused_name(s.container_under_test()).await;
    let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    if response.status != 200 {
        return Err(NonPass::Blocked("kubelet/checkpoint/repeatable"));
    }
    is_unchanged(&before)
}

async fn archive_not_verified(s: &KubeletSession) -> CaseResult {
    s.require_archive_file().await?;
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    // Where there is another container, no second has to pass until an archive of its has a new name.
    let container = s.kubelet.siblings.running.as_ref().unwrap_or(s.container_under_test());
    control
        .add_rules(&[&super::fault_rule(container, "write", "no-archive")])
        .await?;
    s.wait_for_unused_name(container).await;
    let response = s.kubelet.checkpoint(container, "").await?;
    check(response.status == 200, response.summary())
}

/// The folder, of a kubelet that can be restarted from here.
fn require_own_checkpoints_dir(s: &KubeletSession) -> Result<&Path, NonPass> {
    let reason = "needs a kubelet that is started here";
    let dir = s
        .kubelet
        .checkpoints_dir
        .as_deref()
        .filter(|_| s.kubelet.lifecycle.is_some());
    dir.ok_or_else(|| NonPass::Skip(reason.to_owned()))
}

async fn restart(s: &KubeletSession, variation: KubeletConfig) -> Result<(), NonPass> {
    s.require_usable()?;
    Ok(s.kubelet.restart(variation).await.unwrap_or(Ok(()))?)
}

async fn kept_at_restart(s: &KubeletSession) -> CaseResult {
    require_own_checkpoints_dir(s)?;
    let before = new_archive(s).await?;
    restart(s, KubeletConfig::Default).await?;
    is_unchanged(&before)
}

/// The folder, moved out of the kubelet's sight. Put back when this is dropped, also when the case is cut short.
struct HiddenDir<'a> {
    original: &'a Path,
    moved_to: PathBuf,
}

impl HiddenDir<'_> {
    fn hide(dir: &Path) -> Result<HiddenDir<'_>, NonPass> {
        let moved_to = dir.with_extension("aside");
        fs::rename(dir, &moved_to).map_err(|error| NonPass::Error(format!("{}: {error}", dir.display())))?;
        Ok(HiddenDir {
            original: dir,
            moved_to,
        })
    }
}

impl Drop for HiddenDir<'_> {
    fn drop(&mut self) {
        // What was made meanwhile holds no archive; the one of before has all that the other cases look at.
        let _ = fs::remove_dir_all(self.original);
        let _ = fs::rename(&self.moved_to, self.original);
    }
}

async fn created_at_start(s: &KubeletSession) -> CaseResult {
    let dir = require_own_checkpoints_dir(s)?;
    s.require_endpoint().await?;
    let _hidden = HiddenDir::hide(dir)?;
    restart(s, KubeletConfig::Default).await?;
    let created = dir.is_dir();
    check(created, if created { "there" } else { "not there" })
}

async fn not_created_with_gate_off(s: &KubeletSession) -> CaseResult {
    let dir = require_own_checkpoints_dir(s)?;
    s.require_endpoint().await?;
    let _hidden = HiddenDir::hide(dir)?;
    restart(s, KubeletConfig::GateOff).await?;
    let created = dir.exists();
    check(!created, if created { "there" } else { "not there" })
}
