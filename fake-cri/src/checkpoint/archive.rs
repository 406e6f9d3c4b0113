//! The archive: a tar stream that is written to a temporary file beside the location and then renamed.
//!
//! The temporary is a new file (never opened through a link) with mode 0600 from the start. Drop of [`Archive`] removes
//! it unless [`Archive::persist`] succeeded, so the location has a complete archive or no file. The size of every
//! member is known when its header is written, because the page maps are read before the pages. Small members go
//! through one buffer. For a large member, [`Archive::reserve_member`] reserves a range of the file, and any thread
//! writes at any offset with [`Archive::write_at`]. Ways to fail: no space, no directory, no permission.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read},
    os::{
        fd::BorrowedFd,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use nix::errno::Errno;
use tar::{EntryType, Header};

use super::{
    cancel::CancelToken,
    error::Error,
    location,
    sink::{FileSink, Sink},
};

/// The mode of the archive and of its temporary.
const ARCHIVE_MODE: u32 = 0o600;
/// The buffer size for small members.
const BUFFER_BYTES: usize = 256 << 10;
/// Members of at least this size are allocated when they are reserved.
const MIN_ALLOCATE_BYTES: u64 = 4 << 20;
const TAR_BLOCK_BYTES: u64 = 512;

/// A member whose content is written in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReservedMember {
    offset: u64,
}

#[cfg(test)]
impl ReservedMember {
    pub(crate) fn from_offset(at: u64) -> Self {
        Self { offset: at }
    }
}

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    sink: Box<dyn Sink>,
    path: PathBuf,
    buffer: Vec<u8>,
    buffered_bytes: usize,
    flushed_bytes: u64,
    member_bytes_left: u64,
    mtime: u64,
    persisted: bool,
}

impl Archive {
    /// Creates the temporary. `sink` makes the sink of its file.
    ///
    /// # Errors
    ///
    /// [`Error::DirectoryMissing`] if its directory does not exist, [`Error::Location`] if the location cannot take an
    /// archive, [`Error::Write`] otherwise.
    pub(crate) fn create(
        path: &Path,
        location: &Path,
        sink: impl FnOnce(FileSink) -> Box<dyn Sink>,
    ) -> Result<Self, Error> {
        let parent_of = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        // The location is checked first: it is the path that the caller gave. The temporary should be in the same
        // directory.
        for path in [location, path] {
            match fs::metadata(parent_of(path)) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(Error::DirectoryMissing(path.to_owned())),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Err(Error::DirectoryMissing(path.to_owned()));
                }
                Err(error) => return Err(Error::write("check the directory of", path, error)),
            }
        }
        location::check(location).map_err(Error::Location)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .mode(ARCHIVE_MODE)
            .open(path)
            .map_err(|error| Error::write("create", path, error))?;
        let file = Arc::new(file);
        let archive = Self {
            sink: sink(FileSink(Arc::clone(&file))),
            file,
            path: path.to_owned(),
            buffer: vec![0; BUFFER_BYTES],
            buffered_bytes: 0,
            flushed_bytes: 0,
            member_bytes_left: 0,
            mtime: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            persisted: false,
        };
        // The umask may have cleared bits of the mode.
        archive
            .file
            .set_permissions(Permissions::from_mode(ARCHIVE_MODE))
            .map_err(|error| Error::write("set the mode of", path, error))?;
        Ok(archive)
    }

    fn written_bytes(&self) -> u64 {
        self.flushed_bytes + self.buffered_bytes as u64
    }

    /// Writes a directory entry. `name` ends with a slash.
    pub(crate) fn add_directory(&mut self, name: &str) -> Result<(), Error> {
        self.begin_entry(name, EntryType::Directory, 0o700, 0)
    }

    /// Writes a member whose content is in memory.
    pub(crate) fn add_member(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.begin_member(name, content.len() as u64)?;
        self.append(content)?;
        self.end_member()
    }

    /// Begins a member of this size.
    pub(crate) fn begin_member(&mut self, name: &str, size: u64) -> Result<(), Error> {
        self.begin_entry(name, EntryType::Regular, ARCHIVE_MODE, size)
    }

    /// Writes the header of a member and reserves its range for [`Archive::write_at`]. Bytes that are not written are
    /// zero. A large range is allocated: this costs little, makes the writes faster, and reports a full disk before the
    /// first byte.
    pub(crate) fn reserve_member(&mut self, name: &str, size: u64) -> Result<ReservedMember, Error> {
        self.begin_member(name, size)?;
        self.flush_buffer()?;
        let reserved = ReservedMember {
            offset: self.flushed_bytes,
        };
        if size >= MIN_ALLOCATE_BYTES {
            match self.sink.allocate(reserved.offset, size) {
                // Filesystems without fallocate only lose the speed-up.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINTR) => {}
                Err(errno) => return Err(Error::write("allocate", &self.path, errno.into())),
            }
        }
        self.member_bytes_left = 0;
        self.flushed_bytes += size.next_multiple_of(TAR_BLOCK_BYTES);
        Ok(reserved)
    }

    /// Writes bytes at an offset of a reserved member.
    pub(crate) fn write_at(&self, reserved: ReservedMember, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write_all_at_offset(reserved.offset + offset, bytes)
    }

    /// Moves bytes from a pipe to an offset of a reserved member, as [`Sink::splice_from`].
    pub(crate) fn splice_from(
        &self,
        pipe: BorrowedFd<'_>,
        reserved: ReservedMember,
        offset: u64,
        length: usize,
    ) -> nix::Result<usize> {
        self.sink.splice_from(pipe, reserved.offset + offset, length)
    }

    /// The error for a failed write to a reserved member.
    pub(crate) fn write_error(&self, error: io::Error) -> Error {
        Error::write("write", &self.path, error)
    }

    /// Free buffer space for the current member, limited by `max_bytes` and by the remaining size of the member. Bytes
    /// in it count after [`Archive::commit`].
    pub(crate) fn buffer_mut(&mut self, max_bytes: usize) -> Result<&mut [u8], Error> {
        if self.buffered_bytes == self.buffer.len() {
            self.flush_buffer()?;
        }
        let length = max_bytes
            .min(self.buffer.len() - self.buffered_bytes)
            .min(usize::try_from(self.member_bytes_left).unwrap_or(usize::MAX));
        Ok(&mut self.buffer[self.buffered_bytes..self.buffered_bytes + length])
    }

    /// Counts bytes that were put into [`Archive::buffer_mut`].
    pub(crate) fn commit(&mut self, bytes: usize) {
        debug_assert!(self.buffered_bytes + bytes <= self.buffer.len() && bytes as u64 <= self.member_bytes_left);
        self.buffered_bytes += bytes;
        self.member_bytes_left -= bytes as u64;
    }

    /// Writes bytes of the current member.
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let buffer = self.buffer_mut(bytes.len())?;
            let (head, tail) = bytes.split_at(buffer.len());
            buffer.copy_from_slice(head);
            self.commit(head.len());
            bytes = tail;
        }
        Ok(())
    }

    /// Copies the rest of the current member from a file. If the file was truncated meanwhile, the rest is filled with
    /// zeros, because the header already has the size. Returns the number of missing bytes.
    pub(crate) fn copy_from(&mut self, source: &mut File, cancel: &CancelToken<'_>) -> Result<u64, Error> {
        let mut missing_bytes = 0;
        while self.member_bytes_left > 0 {
            cancel.check()?;
            let buffer = self.buffer_mut(BUFFER_BYTES)?;
            let mut read = source.read(buffer).unwrap_or(0);
            if read == 0 {
                buffer.fill(0);
                read = buffer.len();
                missing_bytes += read as u64;
            }
            self.commit(read);
        }
        Ok(missing_bytes)
    }

    /// Pads the current member.
    pub(crate) fn end_member(&mut self) -> Result<(), Error> {
        debug_assert_eq!(self.member_bytes_left, 0);
        let padding = (TAR_BLOCK_BYTES - self.written_bytes() % TAR_BLOCK_BYTES) % TAR_BLOCK_BYTES;
        self.member_bytes_left = padding;
        self.append(&[0; TAR_BLOCK_BYTES as usize][..padding as usize])
    }

    /// Writes the end of the tar.
    pub(crate) fn end_archive(&mut self) -> Result<(), Error> {
        self.member_bytes_left = 2 * TAR_BLOCK_BYTES;
        self.append(&[0; 2 * TAR_BLOCK_BYTES as usize])?;
        self.flush_buffer()
    }

    /// Renames the archive to its location, in place of a regular file or of nothing.
    pub(crate) fn persist(&mut self, location: &Path, fsync: bool) -> Result<u64, Error> {
        let flush = |directory: &Path| File::open(directory).and_then(|dir| dir.sync_all());
        self.persist_with(location, fsync, flush)
    }

    fn persist_with(
        &mut self,
        location: &Path,
        fsync: bool,
        sync_directory: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<u64, Error> {
        let metadata = self.file.metadata();
        let bytes = metadata
            .map_err(|error| Error::write("inspect", &self.path, error))?
            .len();
        if fsync {
            self.file
                .sync_all()
                .map_err(|error| Error::write("flush", &self.path, error))?;
        }
        location::rename_into_place(&self.path, location).map_err(Error::Location)?;
        self.persisted = true;
        if fsync {
            let directory = location.parent().unwrap_or(Path::new("/"));
            if let Err(error) = sync_directory(directory) {
                // After an error there must be no archive, and no name that could be gone after a crash. The replaced
                // file is lost, as with every archive.
                let _ = location::remove_if_same_file(location, &self.file);
                return Err(Error::write(
                    "flush the directory (the archive was removed again)",
                    directory,
                    error,
                ));
            }
        }
        Ok(bytes)
    }

    /// Writes the header of a member.
    fn begin_entry(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> Result<(), Error> {
        let mut header = Header::new_gnu();
        header
            .set_path(name)
            .map_err(|error| Error::write("name a member of", &self.path, error))?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(nix::unistd::geteuid().as_raw()));
        header.set_gid(u64::from(nix::unistd::getegid().as_raw()));
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        self.member_bytes_left = TAR_BLOCK_BYTES;
        self.append(header.as_bytes())?;
        self.member_bytes_left = size;
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<(), Error> {
        self.write_all_at_offset(self.flushed_bytes, &self.buffer[..self.buffered_bytes])?;
        self.flushed_bytes += self.buffered_bytes as u64;
        self.buffered_bytes = 0;
        Ok(())
    }

    fn write_all_at_offset(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.sink
            .write_at(bytes, offset)
            .map_err(|error| self.write_error(error))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if !self.persisted {
            // The error cannot be reported. fake-cri removes the temporaries of its record at its next start.
            let _ = location::remove_if_same_file(&self.path, &self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_directory_sync_removes_the_archive() {
        let directory = tempfile::tempdir().unwrap();
        let (temporary, location) = (directory.path().join("temporary"), directory.path().join("archive"));
        let write_archive = || {
            let mut archive = Archive::create(&temporary, &location, |file| Box::new(file)).unwrap();
            archive.add_member("member", b"content").unwrap();
            archive.end_archive().unwrap();
            archive
        };
        let failing_sync = |asked: &Path| {
            assert_eq!(asked, directory.path());
            assert!(location.exists());
            Err(io::Error::from_raw_os_error(libc::EIO))
        };
        let error = write_archive()
            .persist_with(&location, true, failing_sync)
            .expect_err("the directory sync fails");
        let message = error.to_string();
        assert!(
            message.contains("removed again") && message.contains("os error 5"),
            "{message}"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        write_archive()
            .persist_with(&location, false, |_| panic!("sync without fsync"))
            .unwrap();
        write_archive().persist(&location, true).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
