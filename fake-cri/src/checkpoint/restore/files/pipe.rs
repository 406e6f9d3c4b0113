//! Restores pipes and FIFOs with their unread data, and replaces pipes that lead out of the container with the new
//! container's streams.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use cri_proto::criu::{
    Kind,
    message::{FileEntry, PipeDataEntry, PipeEntry},
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{
    OPEN_FLAGS,
    path::{ExpectedKind, find_checked},
};
use crate::checkpoint::restore::{RestoreError, plan::RestorePlan, reopen::reopen};

const MAX_UNREAD_BYTES: u32 = 16 << 20;

/// Unread data and buffer size, by pipe id.
type UnreadData = HashMap<u32, (u32, Vec<u8>)>;

/// Pipes and FIFOs, by pipe id.
pub(super) struct RestoredPipes<'a> {
    streams: HashMap<u32, BorrowedFd<'a>>,
    pipes: HashMap<u32, (File, File)>,
    fifos: HashMap<u32, File>,
    pipe_data: UnreadData,
    fifo_data: UnreadData,
}

impl<'a> RestoredPipes<'a> {
    /// Reads the unread data, and finds the pipes that lead out of the container.
    pub(super) fn new(plan: &RestorePlan, streams: [BorrowedFd<'a>; 3]) -> Result<Self, RestoreError> {
        let first_task = plan.tasks.first().and_then(|task| task.live.as_ref());
        let descriptors = first_task.map_or(&[][..], |live| &live.descriptors);
        let mut replaced = HashMap::new();
        for (fd, stream) in (0..).zip(streams) {
            let pipe = descriptors
                .iter()
                .find(|descriptor| descriptor.fd == fd)
                .and_then(|descriptor| plan.files[&descriptor.id].pipe.as_ref());
            let Some(pipe) = pipe else { continue };
            let has_end = |access: i32| {
                let pipes = plan.files.values().filter_map(|entry| entry.pipe.as_ref());
                pipes
                    .filter(|other| other.pipe_id == pipe.pipe_id)
                    .any(|other| other.flags.cast_signed() & libc::O_ACCMODE == access)
            };
            // A pipe with both ends in the container is not a standard stream of the container.
            if !(has_end(libc::O_RDONLY) && has_end(libc::O_WRONLY)) {
                replaced.entry(pipe.pipe_id).or_insert(stream);
            }
        }
        Ok(Self {
            streams: replaced,
            pipes: HashMap::new(),
            fifos: HashMap::new(),
            pipe_data: read_unread(plan, Kind::PipesData)?,
            fifo_data: read_unread(plan, Kind::FifoData)?,
        })
    }

    /// Opens one end of a pipe, or a FIFO, as a new open file description.
    pub(super) fn open(&mut self, entry: &FileEntry, files: &HashMap<u32, FileEntry>) -> Result<OwnedFd, RestoreError> {
        let malformed = || RestoreError::malformed("files.img", format!("file {} is not a pipe or FIFO", entry.id));
        let step_error = |error: io::Error| RestoreError::step("create a pipe", error);
        if let Some(fifo) = &entry.fifo {
            let path = fifo
                .regf_id
                .and_then(|id| files.get(&id)?.reg.as_ref())
                .ok_or_else(malformed)?;
            let fifo_file = match self.fifos.entry(fifo.pipe_id) {
                Entry::Occupied(existing) => existing.into_mut(),
                Entry::Vacant(vacant) => {
                    let path_fd = find_checked(path, ExpectedKind::Fifo)?;
                    // O_RDWR does not wait for the other end (fifo(7)).
                    let fifo_file = reopen(path_fd.as_fd(), libc::O_RDWR | libc::O_NONBLOCK).map_err(step_error)?;
                    if let Some((size, unread)) = self.fifo_data.remove(&fifo.pipe_id) {
                        fill(&fifo_file, size, &unread).map_err(step_error)?;
                    }
                    vacant.insert(fifo_file)
                }
            };
            let flags = path.flags.cast_signed() & OPEN_FLAGS;
            return Ok(reopen(fifo_file.as_fd(), flags).map_err(step_error)?.into());
        }
        let pipe = entry.pipe.as_ref().ok_or_else(malformed)?;
        let flags = pipe.flags.cast_signed() & OPEN_FLAGS;
        if let Some(stream) = self.streams.get(&pipe.pipe_id) {
            return Ok(reopen(*stream, flags).map_err(step_error)?.into());
        }
        let (read, write) = match self.pipes.entry(pipe.pipe_id) {
            Entry::Occupied(existing) => existing.into_mut(),
            Entry::Vacant(vacant) => {
                let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
                let (read, write) = nix::unistd::pipe2(flags).map_err(|errno| step_error(errno.into()))?;
                let (read, write) = (File::from(read), File::from(write));
                // Without F_SETOWN the fown fields hold the owner of the pipe (dump/files/pipes.rs); CRIU leaves them
                // 0.
                if pipe.fown.pid == 0 && (pipe.fown.uid, pipe.fown.euid) != (0, 0) {
                    let owner = nix::unistd::Uid::from_raw(pipe.fown.uid);
                    let group = nix::unistd::Gid::from_raw(pipe.fown.euid);
                    nix::unistd::fchown(&read, Some(owner), Some(group))
                        .map_err(|errno| RestoreError::step("set the owner of a pipe", errno))?;
                }
                if let Some((size, unread)) = self.pipe_data.remove(&pipe.pipe_id) {
                    fill(&write, size, &unread).map_err(step_error)?;
                }
                vacant.insert((read, write))
            }
        };
        let end = if flags & libc::O_ACCMODE == libc::O_RDONLY {
            read
        } else {
            write
        };
        Ok(reopen(end.as_fd(), flags).map_err(step_error)?.into())
    }
}

/// Checks that the unread data of pipes and FIFOs can be decoded.
pub(super) fn check(plan: &RestorePlan) -> Result<(), RestoreError> {
    read_unread(plan, Kind::PipesData)?;
    read_unread(plan, Kind::FifoData).map(drop)
}

/// Checks that a pipe can be created.
pub(super) fn check_pipe(pipe: &PipeEntry) -> Result<(), RestoreError> {
    match pipe.flags.cast_signed() & libc::O_DIRECT {
        0 => Ok(()),
        _ => Err(RestoreError::Unsupported("a pipe in packet mode (O_DIRECT)".to_owned())),
    }
}

/// Sets the buffer size of a pipe and writes the unread data.
fn fill(pipe: &File, size: u32, unread: &[u8]) -> io::Result<()> {
    if size > 0 {
        let size = i32::try_from(size).map_err(io::Error::other)?;
        fcntl(pipe, FcntlArg::F_SETPIPE_SZ(size))?;
    }
    // The pipe is non-blocking, so data that does not fit is an error.
    let mut pipe = pipe;
    pipe.write_all(unread)
}

fn read_unread(plan: &RestorePlan, kind: Kind) -> Result<UnreadData, RestoreError> {
    let name = kind.file_name(None);
    let mut data_by_id = HashMap::new();
    if !plan.images.has(&name) {
        return Ok(data_by_id);
    }
    let mut decoder = plan.images.decoder(&name, kind)?;
    while let Some(entry) = decoder.message::<PipeDataEntry>()? {
        if entry.bytes > MAX_UNREAD_BYTES {
            let detail = format!("pipe {} holds {} bytes", entry.pipe_id, entry.bytes);
            return Err(RestoreError::malformed(&name, detail));
        }
        let mut bytes = Vec::new();
        decoder.copy_payload(entry.bytes.into(), &mut bytes)?;
        data_by_id.insert(entry.pipe_id, (entry.size.unwrap_or(0), bytes));
    }
    Ok(data_by_id)
}
