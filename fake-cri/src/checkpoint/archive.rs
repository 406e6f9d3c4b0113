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

use super::{error::Error, location, watch::Watch};

/// The mode of the archive and of its temporary.
const MODE: u32 = 0o600;
/// How much of small members is written at a time.
const BUFFER: usize = 256 << 10;
/// From this size on a member's place is allocated before it is filled.
const WORTH_ALLOCATING: u64 = 4 << 20;
/// A tar's unit.
const BLOCK: u64 = 512;

/// Where a member lies in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    header: u64,
    size: u64,
}

/// The place of a member in the archive that is filled in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slab {
    at: u64,
}

#[cfg(test)]
impl Slab {
    /// A place that no archive gave out.
    pub(crate) fn at(at: u64) -> Self {
        Self { at }
    }
}

/// A fault: where the disk ends, and how it says so.
#[derive(Clone, Copy, Debug)]
struct Limit {
    bytes: u64,
    errno: Errno,
}

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    filled: usize,
    flushed: u64,
    members: Vec<Place>,
    member_left: u64,
    mtime: u64,
    placed: bool,
    /// A fault: members that are left out.
    omitted: Vec<GlobMatcher>,
    /// A fault: from where on no write succeeds.
    limit: Option<Limit>,
    /// A fault: that none are left is not noticed.
    blind: bool,
}

impl Archive {
    /// Makes the temporary.
    ///
    /// # Errors
    ///
    /// [`Error::FolderMissing`] when its folder does not exist, [`Error::Location`] when the archive cannot be at its location,
    /// [`Error::Write`] otherwise.
    pub(crate) fn create(path: &Path, location: &Path) -> Result<Self, Error> {
        let folder = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        // The folder of the location is what the caller named; the temporary should be in the same.
        for path in [location, path] {
            match fs::metadata(folder(path)) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(Error::FolderMissing(path.to_owned())),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Err(Error::FolderMissing(path.to_owned()));
                }
                Err(error) => return Err(failed("look at the folder of", path, error)),
            }
        }
        location::check(location).map_err(Error::Location)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .mode(MODE)
            .open(path)
            .map_err(|error| failed("create", path, error))?;
        let archive = Self {
            file,
            path: path.to_owned(),
            buffer: vec![0; BUFFER],
            filled: 0,
            flushed: 0,
            members: Vec::new(),
            member_left: 0,
            mtime: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            placed: false,
            omitted: Vec::new(),
            limit: None,
            blind: false,
        };
        // The umask may have taken bits away, never added any.
        archive
            .file
            .set_permissions(Permissions::from_mode(MODE))
            .map_err(|error| failed("set the mode of", path, error))?;
        Ok(archive)
    }

    /// A fault: leaves out the members that match.
    pub(crate) fn omit(&mut self, glob: GlobMatcher) {
        self.omitted.push(glob);
    }

    /// A fault: writes behind so many bytes fail with this error. Of several limits the nearest holds.
    pub(crate) fn limit(&mut self, bytes: u64, errno: Errno) {
        if self.limit.is_none_or(|limit| bytes < limit.bytes) {
            self.limit = Some(Limit { bytes, errno });
        }
    }

    /// A fault: what finds no space is lost without a word.
    pub(crate) fn ignore_no_space(&mut self) {
        self.blind = true;
    }

    /// The bytes written so far.
    pub(crate) fn length(&self) -> u64 {
        self.flushed + self.filled as u64
    }

    /// Writes a directory entry; its name ends in a slash.
    pub(crate) fn directory(&mut self, name: &str) -> Result<(), Error> {
        self.header(name, EntryType::Directory, 0o700, 0).map(drop)
    }

    /// Writes a member that is in memory.
    pub(crate) fn member(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        if self.begin(name, content.len() as u64)? {
            self.bytes(content)?;
            self.end()?;
        }
        Ok(())
    }

    /// Begins a member of this size; false when a fault leaves it out.
    pub(crate) fn begin(&mut self, name: &str, size: u64) -> Result<bool, Error> {
        self.header(name, EntryType::Regular, MODE, size)
    }

    /// Writes the header of a member and leaves its place for [`Archive::fill`]; `None` when a fault leaves it out. What is not
    /// filled is zero. A large place is allocated, which costs little and makes writing it faster, and a disk that is too full
    /// is known before the first byte.
    pub(crate) fn reserve(&mut self, name: &str, size: u64) -> Result<Option<Slab>, Error> {
        if !self.begin(name, size)? {
            return Ok(None);
        }
        self.flush()?;
        let slab = Slab { at: self.flushed };
        if size >= WORTH_ALLOCATING && self.limit.is_none() && !self.blind {
            let (at, size) = (slab.at.cast_signed(), size.cast_signed());
            match fallocate(&self.file, FallocateFlags::empty(), at, size) {
                // File systems that cannot allocate only lose the gain.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINTR) => {}
                Err(errno) => return Err(failed("allocate", &self.path, errno.into())),
            }
        }
        self.member_left = 0;
        self.flushed += size.next_multiple_of(BLOCK);
        Ok(Some(slab))
    }

    /// Writes bytes into a reserved place.
    pub(crate) fn fill(&self, slab: Slab, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write_at(slab.at + offset, bytes)
    }

    /// The file, for who moves bytes into a reserved place without having them; `None` where a fault limits what is written.
    pub(crate) fn file(&self) -> Option<&File> {
        (self.limit.is_none() && !self.blind).then_some(&self.file)
    }

    /// Where a reserved place is in the file.
    pub(crate) fn position(&self, slab: Slab, offset: u64) -> u64 {
        slab.at + offset
    }

    /// The failure of a write into a reserved place.
    pub(crate) fn not_written(&self, error: io::Error) -> Error {
        failed("write", &self.path, error)
    }

    /// Room for bytes of the member under way, at most as many as asked for and as it still lacks. What is put there counts
    /// once [`Archive::advance`] is called.
    pub(crate) fn room(&mut self, wanted: usize) -> Result<&mut [u8], Error> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        let room = wanted
            .min(self.buffer.len() - self.filled)
            .min(usize::try_from(self.member_left).unwrap_or(usize::MAX));
        Ok(&mut self.buffer[self.filled..self.filled + room])
    }

    /// Counts bytes that were put into the room.
    pub(crate) fn advance(&mut self, bytes: usize) {
        debug_assert!(self.filled + bytes <= self.buffer.len() && bytes as u64 <= self.member_left);
        self.filled += bytes;
        self.member_left -= bytes as u64;
    }

    /// Writes bytes of the member under way.
    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len())?;
            let (now, later) = bytes.split_at(room.len());
            room.copy_from_slice(now);
            self.advance(now.len());
            bytes = later;
        }
        Ok(())
    }

    /// Copies the rest of the member under way from a file. What the file lacks (it was cut meanwhile) is filled with zeroes,
    /// because the size is already written; answers how much that was.
    pub(crate) fn copy(&mut self, source: &mut File, watch: &Watch<'_>) -> Result<u64, Error> {
        let mut lacking = 0;
        while self.member_left > 0 {
            watch.check()?;
            let room = self.room(BUFFER)?;
            let mut read = source.read(room).unwrap_or(0);
            if read == 0 {
                room.fill(0);
                read = room.len();
                lacking += read as u64;
            }
            self.advance(read);
        }
        Ok(lacking)
    }

    /// Ends the member under way.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        debug_assert_eq!(self.member_left, 0);
        let padding = (BLOCK - self.length() % BLOCK) % BLOCK;
        self.member_left = padding;
        self.bytes(&[0; BLOCK as usize][..padding as usize])
    }

    /// Ends the tar.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.member_left = 2 * BLOCK;
        self.bytes(&[0; 2 * BLOCK as usize])?;
        self.flush()
    }

    /// A fault: cuts the archive.
    pub(crate) fn cut(&mut self, percent: u8) -> Result<(), Error> {
        let length = (u128::from(self.flushed) * u128::from(percent.min(100)) / 100) as u64;
        self.flushed = length;
        self.file
            .set_len(length)
            .map_err(|error| failed("cut", &self.path, error))
    }

    /// A fault: spoils the checksum of every header and a byte in the middle of every member.
    pub(crate) fn corrupt(&mut self) -> Result<(), Error> {
        /// Where a header holds its checksum.
        const CHECKSUM: u64 = 148;
        for member in &self.members {
            let middle = (member.size > 0).then_some(member.header + BLOCK + member.size / 2);
            for offset in [Some(member.header + CHECKSUM), middle].into_iter().flatten() {
                self.file
                    .write_all_at(b"\xff", offset)
                    .map_err(|error| failed("write", &self.path, error))?;
            }
        }
        Ok(())
    }

    /// A fault: another mode.
    pub(crate) fn set_mode(&mut self, mode: u32) -> Result<(), Error> {
        self.file
            .set_permissions(Permissions::from_mode(mode & 0o7777))
            .map_err(|error| failed("set the mode of", &self.path, error))
    }

    /// Makes the archive appear at its location, in place of a regular file or of nothing.
    pub(crate) fn place(&mut self, location: &Path, fsync: bool) -> Result<u64, Error> {
        let flush = |folder: &Path| File::open(folder).and_then(|folder| folder.sync_all());
        self.place_and(location, fsync, flush)
    }

    fn place_and(
        &mut self,
        location: &Path,
        fsync: bool,
        flush_folder: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<u64, Error> {
        if fsync {
            self.file
                .sync_all()
                .map_err(|error| failed("flush", &self.path, error))?;
        }
        location::put(&self.path, location).map_err(Error::Location)?;
        self.placed = true;
        if fsync {
            let folder = location.parent().unwrap_or(Path::new("/"));
            if let Err(error) = flush_folder(folder) {
                // A caller that hears of a failure finds no archive, and no name that may be gone after a crash. What it took
                // the place of is lost, as it is by any archive.
                let _ = location::remove_own(location, &self.file);
                return Err(failed(
                    "flush the folder (the archive was removed again)",
                    folder,
                    error,
                ));
            }
        }
        Ok(self.flushed)
    }

    /// A fault: leaves what was written so far at this path.
    pub(crate) fn leave_at(&mut self, path: &Path) {
        // As much of it as there is room for: that the rest is missing is the point.
        let _ = self.flush();
        self.placed = location::put(&self.path, path).is_ok();
    }

    /// Starts a member.
    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> Result<bool, Error> {
        if self
            .omitted
            .iter()
            .any(|glob| glob.is_match(name.trim_end_matches('/')))
        {
            return Ok(false);
        }
        let mut header = Header::new_gnu();
        header
            .set_path(name)
            .map_err(|error| failed("name a member of", &self.path, error))?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(nix::unistd::geteuid().as_raw()));
        header.set_gid(u64::from(nix::unistd::getegid().as_raw()));
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        self.members.push(Place {
            header: self.length(),
            size,
        });
        self.member_left = BLOCK;
        self.bytes(header.as_bytes())?;
        self.member_left = size;
        Ok(true)
    }

    /// Writes what is buffered.
    fn flush(&mut self) -> Result<(), Error> {
        self.write_at(self.flushed, &self.buffer[..self.filled])?;
        self.flushed += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Writes bytes at a place of the file, as many as a fault lets fit.
    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let fits = |limit: &Limit| usize::try_from(limit.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let exceeded = self.limit.filter(|limit| fits(limit) < bytes.len());
        let now = exceeded.as_ref().map_or(bytes.len(), fits);
        let mut result = self.file.write_all_at(&bytes[..now], at);
        if let (Ok(()), Some(limit)) = (&result, exceeded) {
            result = Err(limit.errno.into());
        }
        let no_space = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        if self.blind && result.as_ref().is_err_and(no_space) {
            return Ok(());
        }
        result.map_err(|error| failed("write", &self.path, error))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if !self.placed {
            // Nobody is left to tell: fake-cri removes the temporaries of its record at its next start.
            let _ = location::remove_own(&self.path, &self.file);
        }
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Write {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_whose_folder_cannot_be_flushed_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (temporary, location) = (folder.path().join("temporary"), folder.path().join("archive"));
        let make = || {
            let mut archive = Archive::create(&temporary, &location).unwrap();
            archive.member("member", b"content").unwrap();
            archive.finish().unwrap();
            archive
        };
        let refused = |asked: &Path| {
            assert_eq!(asked, folder.path());
            assert!(location.exists());
            Err(io::Error::from_raw_os_error(libc::EIO))
        };
        let error = make().place_and(&location, true, refused).expect_err("the folder");
        let message = error.to_string();
        assert!(
            message.contains("removed again") && message.contains("os error 5"),
            "{message}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        make().place_and(&location, false, |_| panic!("nobody asked")).unwrap();
        make().place(&location, true).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
