//! Archives as the kubelet and runtime suites read them: from their location, on a blocking thread.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    archive::{self, Expectations, InspectedArchive, Limits, MatchPosition},
    engine::{CaseResult, NonPass, pass_if},
    suites::archive::record_archive,
    targets::FileSnapshot,
};

/// Whether an archive lists at least one member and was read to its end.
pub(super) fn is_complete_tar(archive: &InspectedArchive) -> bool {
    archive.is_complete() && !archive.members.is_empty()
}

/// Checks that an archive in CRIU's format has the members that every consumer needs.
pub(super) fn has_required_members(archive: &InspectedArchive, required: [&str; 3]) -> CaseResult {
    let missing = required.iter().copied().filter(|name| archive.member(name).is_none());
    let missing: Vec<_> = missing.collect();
    pass_if(
        missing.is_empty(),
        required.join(", "),
        format!("missing: {}", missing.join(", ")),
    )
}

/// Inspects an archive.
pub(super) async fn inspect(path: &Path) -> Result<InspectedArchive, NonPass> {
    inspect_with(path, Expectations::default()).await
}

/// Inspects an archive, and searches it for what is expected.
pub(super) async fn inspect_with(path: &Path, expected: Expectations) -> Result<InspectedArchive, NonPass> {
    let path = path.to_owned();
    let archive = blocking(move || archive::inspect_file(&path, &expected, Limits::default())).await?;
    record_archive(&archive);
    Ok(archive)
}

/// Searches the memory pages of an archive.
pub(super) async fn find_in_archive(path: &Path, bytes: Vec<u8>) -> Result<Option<MatchPosition>, NonPass> {
    let path = path.to_owned();
    blocking(move || archive::find_in_pages(&path, &bytes)).await
}

/// Runs work that blocks.
pub(super) async fn blocking<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, NonPass> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| NonPass::error(&error))?
        .map_err(|error| NonPass::error(&error))
}

/// Waits at most `timeout` for a file.
pub(super) async fn wait_for_file(path: &Path, timeout: Duration) -> std::io::Result<FileSnapshot> {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    let started = Instant::now();
    loop {
        match FileSnapshot::read(path) {
            Err(_) if started.elapsed() < timeout => tokio::time::sleep(POLL_INTERVAL).await,
            result => return result,
        }
    }
}
