//! The archive: one tar stream into a temporary file beside its place, then renamed in.
//!
//! The temporary is made new (never through a link), 0600 from its first byte, and is removed when [`Archive`] is dropped before
//! [`Archive::place`] succeeded: so a file is at the location whole or not at all. Every member's size is known when it begins,
//! because the page maps are read before the pages. Small members go through one buffer; the place of a large one is reserved
//! ([`Archive::reserve`]) and filled from any thread at any offset ([`Archive::fill`]). Ways to fail: no space, no folder, no
//! permission.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use globset::GlobMatcher;
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use tar::{EntryType, Header};

use super::{cancel::CancelToken, error::Error, location};

/// The mode of the archive and of its temporary.
const ARCHIVE_MODE: u32 = 0o600;
/// How much of small members is written at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// From this size on a member's place is allocated before it is filled.
const MIN_ALLOCATE_BYTES: u64 = 4 << 20;
/// A tar's unit.
const TAR_BLOCK_BYTES: u64 = 512;

/// Where a member lies in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MemberSpan {
    header_offset: u64,
    size: u64,
}

/// The place of a member in the archive that is filled in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReservedMember {
    offset: u64,
}

#[cfg(test)]
impl ReservedMember {
    /// A place that no archive gave out.
    pub(crate) fn from_offset(at: u64) -> Self {
        Self { offset: at }
    }
}

/// A fault: where the disk ends, and how it says so.
#[derive(Clone, Copy, Debug)]
struct WriteLimit {
    bytes: u64,
    errno: Errno,
}

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    buffered_bytes: usize,
    flushed_bytes: u64,
    members: Vec<MemberSpan>,
    member_bytes_left: u64,
    mtime: u64,
    persisted: bool,
    /// A fault: members that are left out.
    omitted_members: Vec<GlobMatcher>,
    /// A fault: from where on no write succeeds.
    write_limit: Option<WriteLimit>,
    /// A fault: that none are left is not noticed.
    ignores_no_space: bool,
}

impl Archive {
    /// Makes the temporary.
    ///
    /// # Errors
    ///
    /// [`Error::FolderMissing`] when its folder does not exist, [`Error::Location`] when the archive cannot be at its location,
    /// [`Error::Write`] otherwise.
    pub(crate) fn create(path: &Path, location: &Path) -> Result<Self, Error> {
        let parent_of = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        // The folder of the location is what the caller named; the temporary should be in the same.
        for path in [location, path] {
            match fs::metadata(parent_of(path)) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(Error::DirectoryMissing(path.to_owned())),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Err(Error::DirectoryMissing(path.to_owned()));
                }
                Err(error) => return Err(io_error("look at the folder of", path, error)),
            }
        }
        location::check(location).map_err(Error::Location)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .mode(ARCHIVE_MODE)
            .open(path)
            .map_err(|error| io_error("create", path, error))?;
        let archive = Self {
            file,
            path: path.to_owned(),
            buffer: vec![0; BUFFER_BYTES],
            buffered_bytes: 0,
            flushed_bytes: 0,
            members: Vec::new(),
            member_bytes_left: 0,
            mtime: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            persisted: false,
            omitted_members: Vec::new(),
            write_limit: None,
            ignores_no_space: false,
        };
        // The umask may have taken bits away, never added any.
        archive
            .file
            .set_permissions(Permissions::from_mode(ARCHIVE_MODE))
            .map_err(|error| io_error("set the mode of", path, error))?;
        Ok(archive)
    }

    /// A fault: leaves out the members that match.
    pub(crate) fn omit_members(&mut self, glob: GlobMatcher) {
        self.omitted_members.push(glob);
    }

    /// A fault: writes behind so many bytes fail with this error. Of several limits the nearest holds.
    pub(crate) fn limit_writes(&mut self, bytes: u64, errno: Errno) {
        if self.write_limit.is_none_or(|limit| bytes < limit.bytes) {
            self.write_limit = Some(WriteLimit { bytes, errno });
        }
    }

    /// A fault: what finds no space is lost without a word.
    pub(crate) fn ignore_no_space(&mut self) {
        self.ignores_no_space = true;
    }

    /// The bytes written so far.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.flushed_bytes + self.buffered_bytes as u64
    }

    /// Writes a directory entry; its name ends in a slash.
    pub(crate) fn add_directory(&mut self, name: &str) -> Result<(), Error> {
        self.begin_entry(name, EntryType::Directory, 0o700, 0).map(drop)
    }

    /// Writes a member that is in memory.
    pub(crate) fn add_member(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        if self.begin_member(name, content.len() as u64)? {
            self.append(content)?;
            self.end_member()?;
        }
        Ok(())
    }

    /// Begins a member of this size; false when a fault leaves it out.
    pub(crate) fn begin_member(&mut self, name: &str, size: u64) -> Result<bool, Error> {
        self.begin_entry(name, EntryType::Regular, ARCHIVE_MODE, size)
    }

    /// Writes the header of a member and leaves its place for [`Archive::fill`]; `None` when a fault leaves it out. What is not
    /// filled is zero. A large place is allocated, which costs little and makes writing it faster, and a disk that is too full
    /// is known before the first byte.
    pub(crate) fn reserve_member(&mut self, name: &str, size: u64) -> Result<Option<ReservedMember>, Error> {
        if !self.begin_member(name, size)? {
            return Ok(None);
        }
        self.flush_buffer()?;
        let reserved = ReservedMember {
            offset: self.flushed_bytes,
        };
        if size >= MIN_ALLOCATE_BYTES && self.write_limit.is_none() && !self.ignores_no_space {
            let (offset, size) = (reserved.offset.cast_signed(), size.cast_signed());
            match fallocate(&self.file, FallocateFlags::empty(), offset, size) {
                // File systems that cannot allocate only lose the gain.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINTR) => {}
                Err(errno) => return Err(io_error("allocate", &self.path, errno.into())),
            }
        }
        self.member_bytes_left = 0;
        self.flushed_bytes += size.next_multiple_of(TAR_BLOCK_BYTES);
        Ok(Some(reserved))
    }

    /// Writes bytes into a reserved place.
    pub(crate) fn write_at(&self, reserved: ReservedMember, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write_all_at_offset(reserved.offset + offset, bytes)
    }

    /// The file, for who moves bytes into a reserved place without having them; `None` where a fault limits what is written.
    pub(crate) fn splice_target(&self) -> Option<&File> {
        (self.write_limit.is_none() && !self.ignores_no_space).then_some(&self.file)
    }

    /// Where a reserved place is in the file.
    pub(crate) fn file_offset(&self, reserved: ReservedMember, offset: u64) -> u64 {
        reserved.offset + offset
    }

    /// The failure of a write into a reserved place.
    pub(crate) fn write_error(&self, error: io::Error) -> Error {
        io_error("write", &self.path, error)
    }

    /// Room for bytes of the member under way, at most as many as asked for and as it still lacks. What is put there counts
    /// once [`Archive::advance`] is called.
    pub(crate) fn buffer_mut(&mut self, max_bytes: usize) -> Result<&mut [u8], Error> {
        if self.buffered_bytes == self.buffer.len() {
            self.flush_buffer()?;
        }
        let length = max_bytes
            .min(self.buffer.len() - self.buffered_bytes)
            .min(usize::try_from(self.member_bytes_left).unwrap_or(usize::MAX));
        Ok(&mut self.buffer[self.buffered_bytes..self.buffered_bytes + length])
    }

    /// Counts bytes that were put into the room.
    pub(crate) fn commit(&mut self, bytes: usize) {
        debug_assert!(self.buffered_bytes + bytes <= self.buffer.len() && bytes as u64 <= self.member_bytes_left);
        self.buffered_bytes += bytes;
        self.member_bytes_left -= bytes as u64;
    }

    /// Writes bytes of the member under way.
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

    /// Copies the rest of the member under way from a file. What the file lacks (it was cut meanwhile) is filled with zeroes,
    /// because the size is already written; answers how much that was.
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

    /// Ends the member under way.
    pub(crate) fn end_member(&mut self) -> Result<(), Error> {
        debug_assert_eq!(self.member_bytes_left, 0);
        let padding = (TAR_BLOCK_BYTES - self.written_bytes() % TAR_BLOCK_BYTES) % TAR_BLOCK_BYTES;
        self.member_bytes_left = padding;
        self.append(&[0; TAR_BLOCK_BYTES as usize][..padding as usize])
    }

    /// Ends the tar.
    pub(crate) fn end_archive(&mut self) -> Result<(), Error> {
        self.member_bytes_left = 2 * TAR_BLOCK_BYTES;
        self.append(&[0; 2 * TAR_BLOCK_BYTES as usize])?;
        self.flush_buffer()
    }

    /// A fault: cuts the archive.
    pub(crate) fn truncate(&mut self, percent: u8) -> Result<(), Error> {
        let length = (u128::from(self.flushed_bytes) * u128::from(percent.min(100)) / 100) as u64;
        self.flushed_bytes = length;
        self.file
            .set_len(length)
            .map_err(|error| io_error("cut", &self.path, error))
    }

    /// A fault: spoils the checksum of every header and a byte in the middle of every member.
    pub(crate) fn corrupt(&mut self) -> Result<(), Error> {
        /// Where a header holds its checksum.
        const CHECKSUM_OFFSET: u64 = 148;
        for member in &self.members {
            let middle = (member.size > 0).then_some(member.header_offset + TAR_BLOCK_BYTES + member.size / 2);
            for offset in [Some(member.header_offset + CHECKSUM_OFFSET), middle]
                .into_iter()
                .flatten()
            {
                self.file
                    .write_all_at(b"\xff", offset)
                    .map_err(|error| io_error("write", &self.path, error))?;
            }
        }
        Ok(())
    }

    /// A fault: another mode.
    pub(crate) fn set_file_mode(&mut self, mode: u32) -> Result<(), Error> {
        self.file
            .set_permissions(Permissions::from_mode(mode & 0o7777))
            .map_err(|error| io_error("set the mode of", &self.path, error))
    }

    /// Makes the archive appear at its location, in place of a regular file or of nothing.
    pub(crate) fn persist(&mut self, location: &Path, fsync: bool) -> Result<u64, Error> {
        let flush = |directory: &Path| File::open(directory).and_then(|folder| folder.sync_all());
        self.persist_with(location, fsync, flush)
    }

    fn persist_with(
        &mut self,
        location: &Path,
        fsync: bool,
        sync_directory: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<u64, Error> {
        if fsync {
            self.file
                .sync_all()
                .map_err(|error| io_error("flush", &self.path, error))?;
        }
        location::rename_into_place(&self.path, location).map_err(Error::Location)?;
        self.persisted = true;
        if fsync {
            let directory = location.parent().unwrap_or(Path::new("/"));
            if let Err(error) = sync_directory(directory) {
                // A caller that hears of a failure finds no archive, and no name that may be gone after a crash. What it took
                // the place of is lost, as it is by any archive.
                let _ = location::remove_if_same_file(location, &self.file);
                return Err(io_error(
                    "flush the folder (the archive was removed again)",
                    directory,
                    error,
                ));
            }
        }
        Ok(self.flushed_bytes)
    }

    /// A fault: leaves what was written so far at this path.
    pub(crate) fn persist_partial(&mut self, path: &Path) {
        // As much of it as there is room for: that the rest is missing is the point.
        let _ = self.flush_buffer();
        self.persisted = location::rename_into_place(&self.path, path).is_ok();
    }

    /// Starts a member.
    fn begin_entry(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> Result<bool, Error> {
        if self
            .omitted_members
            .iter()
            .any(|glob| glob.is_match(name.trim_end_matches('/')))
        {
            return Ok(false);
        }
        let mut header = Header::new_gnu();
        header
            .set_path(name)
            .map_err(|error| io_error("name a member of", &self.path, error))?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(nix::unistd::geteuid().as_raw()));
        header.set_gid(u64::from(nix::unistd::getegid().as_raw()));
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        self.members.push(MemberSpan {
            header_offset: self.written_bytes(),
            size,
        });
        self.member_bytes_left = TAR_BLOCK_BYTES;
        self.append(header.as_bytes())?;
        self.member_bytes_left = size;
        Ok(true)
    }

    /// Writes what is buffered.
    fn flush_buffer(&mut self) -> Result<(), Error> {
        self.write_all_at_offset(self.flushed_bytes, &self.buffer[..self.buffered_bytes])?;
        self.flushed_bytes += self.buffered_bytes as u64;
        self.buffered_bytes = 0;
        Ok(())
    }

    /// Writes bytes at a place of the file, as many as a fault lets fit.
    fn write_all_at_offset(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let fits = |limit: &WriteLimit| usize::try_from(limit.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let hit_limit = self.write_limit.filter(|limit| fits(limit) < bytes.len());
        let allowed = hit_limit.as_ref().map_or(bytes.len(), fits);
        let mut result = self.file.write_all_at(&bytes[..allowed], at);
        if let (Ok(()), Some(limit)) = (&result, hit_limit) {
            result = Err(limit.errno.into());
        }
        let no_space = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        if self.ignores_no_space && result.as_ref().is_err_and(no_space) {
            return Ok(());
        }
        result.map_err(|error| io_error("write", &self.path, error))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if !self.persisted {
            // Nobody is left to tell: fake-cri removes the temporaries of its record at its next start.
            let _ = location::remove_if_same_file(&self.path, &self.file);
        }
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Write {
        action,
        path: path.to_owned(),
        source,
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
            let mut archive = Archive::create(&temporary, &location).unwrap();
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
            .expect_err("the folder");
        let message = error.to_string();
        assert!(
            message.contains("removed again") && message.contains("os error 5"),
            "{message}"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        write_archive()
            .persist_with(&location, false, |_| panic!("nobody asked"))
            .unwrap();
        write_archive().persist(&location, true).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
