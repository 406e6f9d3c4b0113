//! The location of the archive: existing files, locations that cannot be written, invalid locations.
//!
//! The runtime is root and writes to any path that the caller names. It must write nowhere else: not through a symlink,
//! not below its own working directory, and it must not leave a partial archive when the checkpoint fails.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use super::session::{
    AMPLE_TIMEOUT_SECS, ARCHIVE_CASE, KEEPS_RUNNING_CASE, RuntimeAttempt, RuntimeSession, TAR_CASE, WHEN_DONE_CASE,
};
use crate::{
    archive::TrailingData,
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, fail, pass, pass_if, skip},
    evidence::Memo,
    suites::{
        authority,
        inspection::{inspect, is_complete_tar},
    },
    targets::runtime::{CheckpointCall, CheckpointOutcome},
};

const DIR_MISSING_CASE: &str = "runtime/location/missing-directory-rejected";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/location/existing-file-replaced", Level::Robust)
        .requirement("The archive must replace a longer file at the location completely.")
        .authority(authority::CWE_RESOURCE_REUSE)
        .motivation("containerd 2.4 and CRI-O 1.37 open the location without O_TRUNC and O_NOFOLLOW")
        .expected("an archive with no data after its end, or an error")
        .depends_on(&[TAR_CASE, KEEPS_RUNNING_CASE, WHEN_DONE_CASE])
        .shared()
        .run(|s| Box::pin(replaces_longer_file(s))),
    case("runtime/location/existing-file-owner-only", Level::Robust)
        .requirement(
            "The archive must not be readable for everyone when the location holds a file that everyone may \
            read.",
        )
        .authority(authority::API_INTRODUCTION)
        .motivation("containerd 2.4 and CRI-O 1.37 open the location without O_TRUNC and O_NOFOLLOW")
        .expected("no permissions for group and others, or an error")
        .depends_on(&[KEEPS_RUNNING_CASE, WHEN_DONE_CASE])
        .shared()
        .run(|s| Box::pin(existing_file_mode(s))),
    case("runtime/location/symlink-not-followed", Level::Robust)
        .requirement("The runtime must not follow a symlink at the location.")
        .authority(authority::CWE_LINK_FOLLOWING)
        .motivation("containerd 2.4 and CRI-O 1.37 open the location without O_TRUNC and O_NOFOLLOW")
        .expected("an unchanged link target")
        .depends_on(&[KEEPS_RUNNING_CASE, WHEN_DONE_CASE])
        .shared()
        .run(|s| Box::pin(symlink_not_followed(s))),
    case("runtime/location/relative-rejected", Level::Robust)
        .requirement("CheckpointContainer must fail for a relative location, which only the runtime could resolve.")
        .authority(authority::KUBELET)
        .motivation("containerd 2.4 and CRI-O 1.37 resolve a relative location against the daemon's working directory")
        .expected("an error, and no archive")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(relative_location(s))),
    case("runtime/location/empty-rejected", Level::Robust)
        .requirement("CheckpointContainer must fail for an empty location.")
        .authority(authority::CWE_INPUT_VALIDATION)
        .motivation("CRI-O 1.37: success, and no archive")
        .expected("an error")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(empty_location(s))),
    case("runtime/location/directory-rejected", Level::Robust)
        .requirement("CheckpointContainer must fail for a location that is a directory and leave the directory empty.")
        .authority(authority::CWE_INPUT_VALIDATION)
        .expected("an error, and an empty directory")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(directory_location(s))),
    case("runtime/location/missing-directory-rejected", Level::Reference)
        .requirement("CheckpointContainer must fail for a location in a directory that does not exist.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("an error")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(dir_missing(s))),
    case("runtime/location/missing-directory-not-created", Level::Robust)
        .requirement("A call that fails because of a missing directory must not create the directory.")
        .authority(authority::CWE_INCOMPLETE_CLEANUP)
        .expected("directory does not exist")
        .depends_on(&["runtime/location/missing-directory-rejected"])
        .shared()
        .run(|s| Box::pin(dir_not_created(s))),
    case("runtime/location/below-file-rejected", Level::Reference)
        .requirement("CheckpointContainer must fail for a location below a regular file, where no file can be created.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("an error")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(dir_unwritable(s))),
    case("runtime/disk-full/error-returned", Level::Reference)
        .requirement("CheckpointContainer must fail when the disk has no space for the archive.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("an error")
        .requires(&[Capability::Root])
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(disk_full(s))),
    case("runtime/disk-full/no-partial-archive", Level::Robust)
        .requirement("The runtime must not leave a partial archive at the location when the disk is full.")
        .authority(authority::CWE_INCOMPLETE_CLEANUP)
        .motivation("CRI-O 1.37: a part of the archive remains and keeps the disk full")
        .expected("no file at the location")
        .requires(&[Capability::Root])
        .depends_on(&["runtime/disk-full/error-returned"])
        .shared()
        .run(|s| Box::pin(disk_full_partial(s))),
    case("runtime/disk-full/no-temporary-file", Level::Robust)
        .requirement("The runtime must not leave files beside the location when the disk is full.")
        .authority(authority::CWE_INCOMPLETE_CLEANUP)
        .expected("no other files in the directory of the location")
        .requires(&[Capability::Root])
        .depends_on(&["runtime/disk-full/error-returned"])
        .shared()
        .run(|s| Box::pin(disk_full_other_files(s))),
];

const FOREIGN_CONTENT: &[u8] = b"not an archive\n";
/// The size of the disk that is full, far below the size of any archive.
const SMALL_DISK_BYTES: u64 = 16 << 10;

async fn checkpoint_to(s: &RuntimeSession, location: &str) -> Result<CheckpointOutcome, NonPass> {
    s.require_container_unharmed().await?;
    let container = s.disposable_container().await?;
    let call = CheckpointCall::to(location).timeout(AMPLE_TIMEOUT_SECS);
    Ok(s.runtime.checkpoint(&container, &call).await)
}

async fn attempt_to(s: &RuntimeSession, location: PathBuf) -> Result<RuntimeAttempt, NonPass> {
    let container = s.disposable_container().await?;
    s.checkpoint_to(&container, &location).await
}

async fn replaces_longer_file(s: &RuntimeSession) -> CaseResult {
    s.require_archive_at_return().await?;
    s.require_tar().await?;
    let (_, file) = s.require_archive_file().await?;
    let location = s.runtime.location("longer");
    let long = vec![b'x'; usize::try_from(file.length * 2).unwrap_or(1 << 24)];
    write(&location, &long, 0o600)?;
    let attempt = attempt_to(s, location.clone()).await?;
    if !attempt.response.is_ok() {
        return pass("an error");
    }
    if let Err(reason) = &attempt.file {
        return fail(format!("success, and no archive: {reason}"));
    }
    let archive = inspect(&location).await?;
    match archive.trailing_data {
        _ if !is_complete_tar(&archive) => fail(format!("success, and no complete tar: {:?}", archive.end)),
        Some(TrailingData::NonZero(_)) => fail("success, and data of the earlier file after the archive's end"),
        _ => pass("an archive with no data after its end"),
    }
}

async fn existing_file_mode(s: &RuntimeSession) -> CaseResult {
    s.require_archive_at_return().await?;
    let location = s.runtime.location("mode");
    write(&location, FOREIGN_CONTENT, 0o644)?;
    let attempt = attempt_to(s, location).await?;
    match attempt.file {
        _ if !attempt.response.is_ok() => pass("an error"),
        Ok(file) => check(file.mode & 0o077 == 0, format!("{:04o}", file.mode)),
        Err(reason) => fail(format!("success, and no archive: {reason}")),
    }
}

async fn symlink_not_followed(s: &RuntimeSession) -> CaseResult {
    s.require_archive_at_return().await?;
    let location = s.runtime.location("symlink");
    let target = location.with_extension("target");
    write(&target, FOREIGN_CONTENT, 0o600)?;
    symlink(&target, &location).map_err(|error| NonPass::error(&error))?;
    let response = checkpoint_to(s, &location.to_string_lossy()).await?;
    let content = fs::read(&target).map_err(|error| NonPass::error(&error))?;
    let outcome = if response.is_ok() { "success" } else { "an error" };
    pass_if(
        content == FOREIGN_CONTENT,
        format!("{outcome}, and an unchanged link target"),
        format!("{outcome}, and the archive in the link target"),
    )
}

async fn relative_location(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    // With enough `../` the path is the same from any working directory, so this case can check and clean up.
    let location = s.runtime.location("relative");
    let path = format!("{}{}", "../".repeat(64).trim_end_matches('/'), location.display());
    let response = checkpoint_to(s, &path).await?;
    let leftover = fs::symlink_metadata(&location).is_ok();
    let _ = fs::remove_file(&location);
    match (response.is_ok(), leftover) {
        (false, false) => pass("an error, and no archive"),
        (false, true) => fail("an error, and an archive"),
        (true, true) => fail("success, and an archive relative to the runtime's working directory"),
        (true, false) => fail("success, and no archive at the resolved path"),
    }
}

async fn empty_location(s: &RuntimeSession) -> CaseResult {
    is_error(&checkpoint_to(s, "").await?)
}

async fn directory_location(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    let location = s.runtime.location("directory");
    fs::create_dir(&location).map_err(|error| NonPass::error(&error))?;
    let response = checkpoint_to(s, &location.to_string_lossy()).await?;
    let inside = fs::read_dir(&location).map(Iterator::count);
    match (response.is_ok(), inside) {
        (false, Ok(0)) => pass("an error, and an empty directory"),
        (true, Ok(0)) => fail("success, and no archive"),
        (ok, Ok(_)) => fail(format!(
            "{}, and a file in the directory",
            if ok { "success" } else { "an error" }
        )),
        (_, Err(error)) => fail(format!("cannot read the directory any more: {error}")),
    }
}

async fn dir_missing(s: &RuntimeSession) -> CaseResult {
    let location = s.runtime.location("missing-directory").join("a.tar");
    is_error(&checkpoint_to(s, &location.to_string_lossy()).await?)
}

async fn dir_not_created(s: &RuntimeSession) -> CaseResult {
    let dir = s.runtime.location("uncreated-directory");
    let response = checkpoint_to(s, &dir.join("a.tar").to_string_lossy()).await?;
    if response.is_ok() {
        return Err(NonPass::Blocked(DIR_MISSING_CASE));
    }
    pass_if(
        !dir.exists(),
        "directory does not exist",
        "an error, and the directory exists",
    )
}

async fn dir_unwritable(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    let file = s.runtime.location("unwritable");
    write(&file, FOREIGN_CONTENT, 0o600)?;
    is_error(&checkpoint_to(s, &file.join("a.tar").to_string_lossy()).await?)
}

#[derive(Clone, Debug)]
struct FullDiskAttempt {
    response: CheckpointOutcome,
    leftover_bytes: Option<u64>,
    other_files: Vec<String>,
}

async fn full_disk_attempt(s: &RuntimeSession) -> Result<FullDiskAttempt, NonPass> {
    let attempt = s.topics.get::<Memo<FullDiskAttempt>>();
    attempt.get_or_try_init(|| checkpoint_to_full_disk(s)).await.cloned()
}

async fn checkpoint_to_full_disk(s: &RuntimeSession) -> Result<FullDiskAttempt, NonPass> {
    s.require_container_unharmed().await?;
    let disk = SmallDisk::mount(s.runtime.location("disk"))?;
    let location = disk.mount_point.join("a.tar");
    let response = checkpoint_to(s, &location.to_string_lossy()).await?;
    let leftover = fs::symlink_metadata(&location).ok().map(|metadata| metadata.len());
    // No wait is needed: the runtime must have cleaned up when the call returns.
    let entries = fs::read_dir(&disk.mount_point).map_err(|error| NonPass::error(&error))?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let other_files = names.filter(|name| name != "a.tar").collect();
    Ok(FullDiskAttempt {
        response,
        leftover_bytes: leftover,
        other_files,
    })
}

async fn disk_full(s: &RuntimeSession) -> CaseResult {
    is_error(&full_disk_attempt(s).await?.response)
}

async fn disk_full_partial(s: &RuntimeSession) -> CaseResult {
    let full = failed_full_disk_attempt(s).await?;
    match full.leftover_bytes {
        None => pass("no file at the location"),
        Some(_) => fail("a partial archive at the location, which fills the disk"),
    }
}

async fn disk_full_other_files(s: &RuntimeSession) -> CaseResult {
    let full = failed_full_disk_attempt(s).await?;
    pass_if(
        full.other_files.is_empty(),
        "no other files in the directory of the location",
        format!(
            "{} other files in the directory of the location",
            full.other_files.len()
        ),
    )
}

async fn failed_full_disk_attempt(s: &RuntimeSession) -> Result<FullDiskAttempt, NonPass> {
    let full = full_disk_attempt(s).await?;
    if full.response.is_ok() {
        return Err(NonPass::Blocked("runtime/disk-full/error-returned"));
    }
    Ok(full)
}

fn is_error(response: &CheckpointOutcome) -> CaseResult {
    // The message names files of this run. The evidence of the case contains it.
    let error = format!("an error, {:?}", response.code);
    pass_if(!response.is_ok(), error, "success")
}

fn write(path: &std::path::Path, content: &[u8], mode: u32) -> Result<(), NonPass> {
    let permissions = fs::Permissions::from_mode(mode);
    let written = fs::write(path, content).and_then(|()| fs::set_permissions(path, permissions));
    written.map_err(|error| NonPass::error(&error))
}

/// A tmpfs of a few pages, unmounted on drop.
struct SmallDisk {
    mount_point: PathBuf,
}

impl SmallDisk {
    fn mount(dir: PathBuf) -> Result<SmallDisk, NonPass> {
        use nix::mount::{MsFlags, mount};
        fs::create_dir(&dir).map_err(|error| NonPass::error(&error))?;
        let options = format!("size={SMALL_DISK_BYTES},mode=0700");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mounted = mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, Some(options.as_str()));
        match mounted {
            Ok(()) => Ok(SmallDisk { mount_point: dir }),
            Err(errno) => skip(format!("requires root to mount a small tmpfs: {}", errno.desc())),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount, because the runtime may still have a file open there.
        let _ = nix::mount::umount2(&self.mount_point, nix::mount::MntFlags::MNT_DETACH);
    }
}
