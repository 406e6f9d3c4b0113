//! The container's log in the archive.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::{archive::Archive, cancel::CancelToken, dump_log::DumpLog, error::Error};

/// The container's log, opened during the freeze, so that a later rotation has no effect.
pub(crate) struct ContainerLog(Option<(File, u64)>);

impl ContainerLog {
    /// Opens the log and records its size. If the log cannot be opened, the checkpoint continues and `dump.log` reports
    /// it.
    pub(crate) fn open(path: Option<&Path>, log: &mut DumpLog) -> Self {
        let Some(path) = path else {
            return Self(None);
        };
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path)
            .and_then(|file| {
                let metadata = file.metadata()?;
                match metadata.is_file() {
                    true => Ok((file, metadata.len())),
                    false => Err(io::Error::other("not a regular file")),
                }
            });
        match opened {
            Ok(opened) => Self(Some(opened)),
            Err(error) => {
                log.unsupported(format_args!("the container's log {}: {error}", path.display()));
                Self(None)
            }
        }
    }

    /// Writes the log up to its size at the freeze.
    pub(crate) fn write(
        self,
        name: &str,
        archive: &mut Archive,
        cancel: &CancelToken<'_>,
        log: &mut DumpLog,
    ) -> Result<(), Error> {
        let Some((mut file, size)) = self.0 else {
            return archive.add_member(name, &[]);
        };
        archive.begin_member(name, size)?;
        let missing_bytes = archive.copy_from(&mut file, cancel)?;
        if missing_bytes > 0 {
            log.unsupported(format_args!(
                "{missing_bytes} bytes of the container's log, which was truncated meanwhile"
            ));
        }
        archive.end_member()
    }
}
