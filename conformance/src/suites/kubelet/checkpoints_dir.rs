//! The directory `checkpoints` and its archives: the kubelet creates the directory at its start and keeps the archives.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::session::{ARCHIVE_CASE, KEEPS_RUNNING_CASE, KubeletSession, WHEN_DONE_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, Stage, case, check, fail, pass},
    suites::authority,
    targets::{FileSnapshot, KubeletConfig},
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/checkpoint/trusts-runtime", Level::Reference)
        .requirement(
            "The kubelet must report success when the runtime reports success, without a check of the \
            archive.",
        )
        .authority(authority::KUBELET)
        .expected("200 although the runtime wrote no archive")
        .requires(&[Capability::FakeCriControl, Capability::ReadArchives])
        .depends_on(&[KEEPS_RUNNING_CASE, ARCHIVE_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(archive_not_verified(s))),
    case("kubelet/archive/survives-restart", Level::Reference)
        .requirement("Archives must survive a restart of the kubelet.")
        .authority(authority::KUBELET)
        .expected("the same file with the same length and mode")
        .requires(&[Capability::ReadArchives, Capability::RestartKubelet])
        .depends_on(&[KEEPS_RUNNING_CASE, ARCHIVE_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .stage(Stage::Late)
        .run(|s| Box::pin(kept_at_restart(s))),
    case("kubelet/checkpoints-dir/created-at-start", Level::Reference)
        .requirement(
            "The kubelet must create the directory `checkpoints` at its start, before the first checkpoint \
            request.",
        )
        .authority(authority::KUBELET)
        .expected("directory exists")
        .requires(&[Capability::ReadArchives, Capability::RestartKubelet])
        .may_depend_on(&[WHEN_DONE_CASE])
        .stage(Stage::Restarting)
        .run(|s| Box::pin(created_at_start(s))),
    case("kubelet/checkpoints-dir/absent-with-gate-disabled", Level::Reference)
        .requirement("The kubelet must not create the directory `checkpoints` when the feature gate is off.")
        .authority(authority::KUBELET)
        .expected("directory does not exist")
        .requires(&[Capability::ReadArchives, Capability::RestartKubelet])
        .may_depend_on(&[WHEN_DONE_CASE])
        .stage(Stage::Restarting)
        .run(|s| Box::pin(not_created_with_gate_off(s))),
];

/// The archive of one more checkpoint, if the harness can read it.
async fn new_archive(s: &KubeletSession) -> Result<FileSnapshot, NonPass> {
    // The cases about the first checkpoint check whether there is an archive at all.
    s.require_archive_file().await?;
    s.require_checkpointable().await?;
    match s.checkpoint(s.container_under_test()).await?.file {
        Ok(file) => Ok(file),
        Err(_) => Err(NonPass::Blocked(super::session::ARCHIVE_CASE)),
    }
}

fn is_unchanged(before: &FileSnapshot) -> CaseResult {
    match FileSnapshot::read(&before.path) {
        Ok(after) if after == *before => pass(format!("{} bytes, unchanged", after.length)),
        Ok(after) => fail(format!(
            "{} bytes, mode {:04o}; before {} bytes, mode {:04o}, or another file",
            after.length, after.mode, before.length, before.mode
        )),
        Err(error) => fail(format!("{}: {error}", before.path.display())),
    }
}

async fn archive_not_verified(s: &KubeletSession) -> CaseResult {
    s.require_archive_file().await?;
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    // With a second container, its next archive has an unused name at once, without a wait for the next second.
    let container = s.kubelet.siblings.running.as_ref().unwrap_or(s.container_under_test());
    control.inject(container, "write", "no-archive").await?;
    s.wait_for_unused_name(container).await;
    let response = s.kubelet.checkpoint(container, "").await?;
    check(response.status == 200, response.summary())
}

async fn restart(s: &KubeletSession, config: KubeletConfig) -> Result<(), NonPass> {
    s.require_usable()?;
    let restarted = s.kubelet.restart(config).await;
    Ok(restarted.ok_or(NonPass::Missing(Capability::RestartKubelet))??)
}

async fn kept_at_restart(s: &KubeletSession) -> CaseResult {
    let before = new_archive(s).await?;
    restart(s, KubeletConfig::Default).await?;
    is_unchanged(&before)
}

/// Renames the directory, so that the kubelet does not find it. Drop restores the directory, also when the case times
/// out.
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
        // A directory that the kubelet created meanwhile holds no archive. The original holds everything that other
        // cases need.
        let _ = fs::remove_dir_all(self.original);
        let _ = fs::rename(&self.moved_to, self.original);
    }
}

async fn created_at_start(s: &KubeletSession) -> CaseResult {
    let dir = s.require_checkpoints_dir()?;
    s.require_endpoint().await?;
    let _hidden = HiddenDir::hide(dir)?;
    restart(s, KubeletConfig::Default).await?;
    let created = dir.is_dir();
    check(
        created,
        if created {
            "directory exists"
        } else {
            "directory does not exist"
        },
    )
}

async fn not_created_with_gate_off(s: &KubeletSession) -> CaseResult {
    let dir = s.require_checkpoints_dir()?;
    s.require_endpoint().await?;
    let _hidden = HiddenDir::hide(dir)?;
    restart(s, KubeletConfig::GateOff).await?;
    let created = dir.exists();
    check(
        !created,
        if created {
            "directory exists"
        } else {
            "directory does not exist"
        },
    )
}
