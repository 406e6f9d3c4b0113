//! The location: what stands there already, what cannot be written to, what is no location.
//!
//! The runtime is root and writes where it is told, so it should write nowhere else: not through a link, not below its own
//! working directory, and not a part of an archive where none was to be had.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use super::session::{AMPLE, Attempt, RuntimeSession, inspect, is_tar};
use crate::{
    archive::Tail,
    case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass},
    catalog::authority,
    target::runtime::{Checkpoint, CheckpointAnswer},
};

/// The case that judges whether a missing folder is an error.
const FOLDER_MISSING: &str = "runtime/place/folder-missing";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: "runtime/place/location-longer",
            clause: "a file at the location that is longer than the archive is replaced: nothing of it stays behind",
            authority: authority::REUSE,
            motivation: "containerd 2.4 and CRI-O 1.37 open the location without O_TRUNC and O_NOFOLLOW",
            level: Level::Robust,
            expected: "a tar with nothing behind its end, or an error",
        },
        |s| Box::pin(longer(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/location-mode",
            clause: "a file at the location that everyone may read does not become an archive that everyone may read",
            authority: authority::INTRODUCTION,
            motivation: "containerd 2.4 and CRI-O 1.37 open the location without O_TRUNC and O_NOFOLLOW",
            level: Level::Robust,
            expected: "no permission for group and others, or an error",
        },
        |s| Box::pin(mode(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/location-symlink",
            clause: "a symlink at the location is not followed: what it points at stays as it was",
            authority: authority::LINK,
            motivation: "containerd 2.4 and CRI-O 1.37 open the location without O_TRUNC and O_NOFOLLOW",
            level: Level::Robust,
            expected: "the same bytes in the file that the link points at",
        },
        |s| Box::pin(link(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/location-relative",
            clause: "a relative location, which only the runtime could resolve, is an error",
            authority: authority::KUBELET,
            motivation: "containerd 2.4 and CRI-O 1.37 take a relative location from the daemon's working directory",
            level: Level::Robust,
            expected: "an error, and no archive",
        },
        |s| Box::pin(relative(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/location-empty",
            clause: "an empty location is an error",
            authority: authority::INPUT,
            motivation: "CRI-O 1.37: success, and no archive",
            level: Level::Robust,
            expected: "an error",
        },
        |s| Box::pin(empty(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/location-folder",
            clause: "a location that is a folder is an error, and nothing appears in the folder",
            authority: authority::INPUT,
            motivation: "",
            level: Level::Robust,
            expected: "an error, and an empty folder",
        },
        |s| Box::pin(folder(s)),
    ),
    Case::new(
        Clause {
            id: FOLDER_MISSING,
            clause: "a location whose folder is missing is an error",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "an error",
        },
        |s| Box::pin(folder_missing(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/folder-not-made",
            clause: "a call that fails for a missing folder does not leave the folder behind",
            authority: authority::CLEANUP,
            motivation: "",
            level: Level::Robust,
            expected: "no folder",
        },
        |s| Box::pin(folder_not_made(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/folder-unwritable",
            clause: "a location at which nobody can write, since it lies below a file, is an error",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "an error",
        },
        |s| Box::pin(folder_unwritable(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/disk-full",
            clause: "an archive for which there is no space is an error",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "an error",
        },
        |s| Box::pin(disk_full(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/disk-full-partial",
            clause: "when the disk is full, no part of an archive stays at the location: it would keep the disk full",
            authority: authority::CLEANUP,
            motivation: "CRI-O 1.37: a part of the archive stays when the disk is full",
            level: Level::Robust,
            expected: "nothing at the location",
        },
        |s| Box::pin(disk_full_partial(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/place/disk-full-beside",
            clause: "when the disk is full, nothing stays beside the location either",
            authority: authority::CLEANUP,
            motivation: "",
            level: Level::Robust,
            expected: "nothing in the location's folder but what was there",
        },
        |s| Box::pin(disk_full_beside(s)),
    ),
];

/// What a file holds that somebody else has made.
const PRECIOUS: &[u8] = b"this is nobody's archive\n";
/// The size of the disk that is full: far less than any archive.
const DISK: u64 = 16 << 10;

/// One checkpoint of a container of its own to this location.
async fn ask(s: &RuntimeSession, location: &str) -> Result<CheckpointAnswer, Stop> {
    s.intact().await?;
    let container = s.victim().await?;
    let call = Checkpoint::to(location).timeout(AMPLE);
    Ok(s.runtime.checkpoint(&container, &call).await)
}

/// The same, where success must be had with an archive.
async fn attempt(s: &RuntimeSession, location: PathBuf) -> Result<Attempt, Stop> {
    let container = s.victim().await?;
    s.attempt_at(&container, &location).await
}

async fn longer(s: &RuntimeSession) -> Judgement {
    s.prompt().await?;
    s.archive().await?;
    let (_, file) = s.file().await?;
    let location = s.runtime.location("longer");
    let long = vec![b'x'; usize::try_from(file.length * 2).unwrap_or(1 << 24)];
    write(&location, &long, 0o600)?;
    let attempt = attempt(s, location.clone()).await?;
    if !attempt.answer.is_ok() {
        return pass("an error");
    }
    if let Err(why) = &attempt.file {
        return fail(format!("success, and no archive: {why}"));
    }
    let archive = inspect(&location).await?;
    match archive.tail {
        _ if !is_tar(&archive) => fail(format!("success, and no whole tar: {:?}", archive.end)),
        Some(Tail::Bytes(_)) => fail("success, and bytes of the former file behind the archive's end"),
        _ => pass("an archive with nothing behind its end"),
    }
}

async fn mode(s: &RuntimeSession) -> Judgement {
    s.prompt().await?;
    let location = s.runtime.location("mode");
    write(&location, PRECIOUS, 0o644)?;
    let attempt = attempt(s, location).await?;
    match attempt.file {
        _ if !attempt.answer.is_ok() => pass("an error"),
        Ok(file) => judge(file.mode & 0o077 == 0, format!("{:04o}", file.mode)),
        Err(why) => fail(format!("success, and no archive: {why}")),
    }
}

async fn link(s: &RuntimeSession) -> Judgement {
    s.prompt().await?;
    let location = s.runtime.location("symlink");
    let target = location.with_extension("target");
    write(&target, PRECIOUS, 0o600)?;
    symlink(&target, &location).map_err(|error| Stop::error(&error))?;
    let answer = ask(s, &location.to_string_lossy()).await?;
    let now = fs::read(&target).map_err(|error| Stop::error(&error))?;
    let word = if answer.is_ok() { "success" } else { "an error" };
    match now == PRECIOUS {
        true => pass(format!("{word}, and the other file is as it was")),
        false => fail(format!(
            "{word}, and the archive is in the file that the link points at"
        )),
    }
}

async fn relative(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    // From whichever folder it counts, it ends where this case can look and clean up.
    let location = s.runtime.location("relative");
    let path = format!("{}{}", "../".repeat(64).trim_end_matches('/'), location.display());
    let answer = ask(s, &path).await?;
    let left = fs::symlink_metadata(&location).is_ok();
    let _ = fs::remove_file(&location);
    match (answer.is_ok(), left) {
        (false, false) => pass("an error, and no archive"),
        (false, true) => fail("an error, and an archive"),
        (true, true) => fail("success, and the archive where the runtime's working directory leads"),
        (true, false) => fail("success, and no archive where it could be looked for"),
    }
}

async fn empty(s: &RuntimeSession) -> Judgement {
    is_error(&ask(s, "").await?)
}

async fn folder(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    let location = s.runtime.location("folder");
    fs::create_dir(&location).map_err(|error| Stop::error(&error))?;
    let answer = ask(s, &location.to_string_lossy()).await?;
    let inside = fs::read_dir(&location).map(Iterator::count);
    match (answer.is_ok(), inside) {
        (false, Ok(0)) => pass("an error, and an empty folder"),
        (true, Ok(0)) => fail("success, and no archive"),
        (ok, Ok(_)) => fail(format!(
            "{}, and something in the folder",
            if ok { "success" } else { "an error" }
        )),
        (_, Err(error)) => fail(format!("the folder is no longer one: {error}")),
    }
}

async fn folder_missing(s: &RuntimeSession) -> Judgement {
    let location = s.runtime.location("folder-missing").join("a.tar");
    is_error(&ask(s, &location.to_string_lossy()).await?)
}

async fn folder_not_made(s: &RuntimeSession) -> Judgement {
    let folder = s.runtime.location("folder-not-made");
    let answer = ask(s, &folder.join("a.tar").to_string_lossy()).await?;
    if answer.is_ok() {
        return Err(Stop::Blocked(FOLDER_MISSING));
    }
    match folder.exists() {
        false => pass("no folder"),
        true => fail("an error, and the folder is there"),
    }
}

async fn folder_unwritable(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    let file = s.runtime.location("unwritable");
    write(&file, PRECIOUS, 0o600)?;
    is_error(&ask(s, &file.join("a.tar").to_string_lossy()).await?)
}

/// What came of a checkpoint to a disk that is too small.
#[derive(Clone, Debug)]
pub(super) struct FullDisk {
    answer: CheckpointAnswer,
    /// How many bytes are at the location.
    left: Option<u64>,
    /// What else is in its folder.
    beside: Vec<String>,
}

async fn full(s: &RuntimeSession) -> Result<&FullDisk, Stop> {
    s.full_disk.get_or_try_init(|| fill_disk(s)).await
}

async fn fill_disk(s: &RuntimeSession) -> Result<FullDisk, Stop> {
    s.intact().await?;
    let disk = SmallDisk::mount(s.runtime.location("disk"))?;
    let location = disk.folder.join("a.tar");
    let answer = ask(s, &location.to_string_lossy()).await?;
    let left = fs::symlink_metadata(&location).ok().map(|metadata| metadata.len());
    // What may still be under way has nothing to wait for: the answer is the end of the call.
    let entries = fs::read_dir(&disk.folder).map_err(|error| Stop::error(&error))?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let beside = names.filter(|name| name != "a.tar").collect();
    Ok(FullDisk { answer, left, beside })
}

async fn disk_full(s: &RuntimeSession) -> Judgement {
    is_error(&full(s).await?.answer)
}

async fn disk_full_partial(s: &RuntimeSession) -> Judgement {
    let full = failed(s).await?;
    match full.left {
        None => pass("nothing at the location"),
        Some(_) => fail("an error, and a part of the archive at the location, which fills the disk"),
    }
}

async fn disk_full_beside(s: &RuntimeSession) -> Judgement {
    let full = failed(s).await?;
    match full.beside.is_empty() {
        true => pass("nothing beside the location"),
        false => fail(format!("an error, and {} files beside the location", full.beside.len())),
    }
}

async fn failed(s: &RuntimeSession) -> Result<&FullDisk, Stop> {
    let full = full(s).await?;
    if full.answer.is_ok() {
        return Err(Stop::Blocked("runtime/place/disk-full"));
    }
    Ok(full)
}

fn is_error(answer: &CheckpointAnswer) -> Judgement {
    match answer.is_ok() {
        true => fail("success"),
        // The message names files of this run; it is shown with the case's calls.
        false => pass(format!("an error, {:?}", answer.code)),
    }
}

fn write(path: &std::path::Path, content: &[u8], mode: u32) -> Result<(), Stop> {
    let permissions = fs::Permissions::from_mode(mode);
    let written = fs::write(path, content).and_then(|()| fs::set_permissions(path, permissions));
    written.map_err(|error| Stop::error(&error))
}

/// A tmpfs of a few pages, which goes with the value.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    fn mount(folder: PathBuf) -> Result<SmallDisk, Stop> {
        use nix::mount::{MsFlags, mount};
        fs::create_dir(&folder).map_err(|error| Stop::error(&error))?;
        let options = format!("size={DISK},mode=0700");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mounted = mount(Some("tmpfs"), &folder, Some("tmpfs"), flags, Some(options.as_str()));
        match mounted {
            Ok(()) => Ok(SmallDisk { folder }),
            Err(errno) => Err(Stop::Skip(format!(
                "needs a small disk, and mounting a tmpfs takes root: {}",
                errno.desc()
            ))),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached, so that a runtime which still holds a file there does not keep the mount.
        let _ = nix::mount::umount2(&self.folder, nix::mount::MntFlags::MNT_DETACH);
    }
}
