//! An entry of `files.img`, reduced to what the cases need. A decoded entry takes kilobytes.

use cri_proto::criu::{
    Kind,
    message::{
        EventfdFileEntry, EventpollFileEntry, ExtFileEntry, FanotifyFileEntry, FdTypes, FifoEntry, FileEntry,
        InetSkEntry, InotifyFileEntry, NetlinkSkEntry, NsFileEntry, PacketSockEntry, PipeEntry, RegFileEntry,
        SignalfdEntry, TimerfdEntry, TtyFileEntry, TunfileEntry, UnixSkEntry,
    },
};
use prost::Message as _;

/// From `open(2)`, as CRIU images store them.
const O_ACCMODE: u32 = 3;
const O_WRONLY: u32 = 1;
const O_APPEND: u32 = 0o2000;

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// The id that descriptors, mappings and working directories refer to.
    pub id: u32,
    /// The value of the entry's `type` field.
    pub type_number: i32,
    /// The id in the sub-message for this type; `None` if that sub-message is missing.
    pub kind_entry_id: Option<u32>,
    /// The number of sub-messages for other types.
    pub foreign_entries: usize,
    /// For a pipe: the pipe's id, which is its inode number.
    pub pipe_id: Option<u32>,
    /// For a regular file: the path.
    pub path: Option<Box<str>>,
    /// For a regular file opened with O_WRONLY and O_APPEND: the recorded size, if any.
    pub append_size: Option<Option<u64>>,
    /// For pipes and sockets: the inode number, if the image contains it.
    pub inode: Option<u64>,
    /// For an epoll instance: the watched files.
    pub epoll_targets: Box<[EpollTarget]>,
}

/// A file that an epoll instance watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollTarget {
    /// The watched fd.
    pub fd: u32,
    /// The inode number, in images of CRIU 3.14 and later.
    pub inode: Option<u64>,
}

impl OpenFile {
    pub(crate) fn memory_cost(wire: usize) -> usize {
        // A watched file takes at least ten bytes in an image.
        size_of::<Self>() + 3 * wire
    }

    pub(crate) fn new(entry: &FileEntry) -> Self {
        let kind_entries = kind_entries(entry);
        let matching_entry = kind_entries
            .iter()
            .find(|(kind, _)| kinds_sharing_entry(*kind).contains(&entry.r#type));
        Self {
            id: entry.id,
            type_number: entry.r#type,
            kind_entry_id: matching_entry.and_then(|(_, id)| *id),
            foreign_entries: kind_entries
                .iter()
                .filter(|(kind, id)| id.is_some() && !kinds_sharing_entry(*kind).contains(&entry.r#type))
                .count(),
            pipe_id: entry.pipe.as_ref().map(|pipe| pipe.pipe_id),
            path: entry.reg.as_ref().map(|file| file.name.as_str().into()),
            append_size: entry
                .reg
                .as_ref()
                .filter(|file| file.flags & O_ACCMODE == O_WRONLY && file.flags & O_APPEND != 0)
                .map(|file| file.size),
            inode: inode(entry),
            epoll_targets: entry
                .epfd
                .iter()
                .flat_map(|epoll| &epoll.tfd)
                .map(|target| EpollTarget {
                    fd: target.tfd,
                    inode: target.inode,
                })
                .collect(),
        }
    }

    /// The name of the type.
    pub fn kind_name(&self) -> &'static str {
        FdTypes::try_from(self.type_number).map_or("unknown", |kind| kind.as_str_name())
    }
}

fn inode(entry: &FileEntry) -> Option<u64> {
    let pipe = entry.pipe.as_ref().map(|pipe| pipe.pipe_id);
    let unix = entry.usk.as_ref().map(|socket| socket.ino);
    let inet = entry.isk.as_ref().map(|socket| socket.ino);
    pipe.or(unix).or(inet).map(u64::from)
}

/// Whether the image contains open files of a single type. CRIU before 3.4 wrote such images; later versions write all
/// types to `files.img`.
pub(crate) fn is_single_kind_image(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::RegFiles
            | Kind::ExtFiles
            | Kind::NsFiles
            | Kind::Pipes
            | Kind::Fifo
            | Kind::Unixsk
            | Kind::Inetsk
            | Kind::Packetsk
            | Kind::NetlinkSk
            | Kind::EventfdFile
            | Kind::EventpollFile
            | Kind::Signalfd
            | Kind::InotifyFile
            | Kind::FanotifyFile
            | Kind::TtyFiles
            | Kind::Tunfile
            | Kind::Timerfd
    )
}

/// Converts an entry of such an image to the form of `files.img`.
pub(crate) fn decode_single_kind(kind: Kind, entry: &[u8]) -> Option<FileEntry> {
    macro_rules! part {
        ($message:ident, $kind:ident, $field:ident) => {{
            let part = $message::decode(entry).ok()?;
            FileEntry {
                r#type: FdTypes::$kind.into(),
                id: part.id,
                $field: Some(part),
                ..FileEntry::default()
            }
        }};
    }
    Some(match kind {
        Kind::RegFiles => part!(RegFileEntry, Reg, reg),
        Kind::ExtFiles => part!(ExtFileEntry, Ext, ext),
        Kind::NsFiles => part!(NsFileEntry, Ns, nsf),
        Kind::Pipes => part!(PipeEntry, Pipe, pipe),
        Kind::Fifo => part!(FifoEntry, Fifo, fifo),
        Kind::Unixsk => part!(UnixSkEntry, Unixsk, usk),
        Kind::Inetsk => part!(InetSkEntry, Inetsk, isk),
        Kind::Packetsk => part!(PacketSockEntry, Packetsk, psk),
        Kind::NetlinkSk => part!(NetlinkSkEntry, Netlinksk, nlsk),
        Kind::EventfdFile => part!(EventfdFileEntry, Eventfd, efd),
        Kind::EventpollFile => part!(EventpollFileEntry, Eventpoll, epfd),
        Kind::Signalfd => part!(SignalfdEntry, Signalfd, sgfd),
        Kind::InotifyFile => part!(InotifyFileEntry, Inotify, ify),
        Kind::FanotifyFile => part!(FanotifyFileEntry, Fanotify, ffy),
        Kind::TtyFiles => part!(TtyFileEntry, Tty, tty),
        Kind::Tunfile => part!(TunfileEntry, Tunf, tunf),
        Kind::Timerfd => part!(TimerfdEntry, Timerfd, tfd),
        _ => return None,
    })
}

/// The types that use the same sub-message. An autofs pipe has the one of a pipe.
fn kinds_sharing_entry(kind: FdTypes) -> Vec<i32> {
    match kind {
        FdTypes::Pipe => vec![kind.into(), FdTypes::AutofsPipe.into()],
        FdTypes::Tty => vec![kind.into(), FdTypes::CtlTty.into()],
        _ => vec![kind.into()],
    }
}

/// All sub-messages that an entry can have: the type, and the id if the sub-message is present.
fn kind_entries(entry: &FileEntry) -> [(FdTypes, Option<u32>); 20] {
    macro_rules! id {
        ($part:ident) => {
            entry.$part.as_ref().map(|part| part.id)
        };
    }
    [
        (FdTypes::Reg, id!(reg)),
        (FdTypes::Inetsk, id!(isk)),
        (FdTypes::Ns, id!(nsf)),
        (FdTypes::Packetsk, id!(psk)),
        (FdTypes::Netlinksk, id!(nlsk)),
        (FdTypes::Eventfd, id!(efd)),
        (FdTypes::Eventpoll, id!(epfd)),
        (FdTypes::Signalfd, id!(sgfd)),
        (FdTypes::Tunf, id!(tunf)),
        (FdTypes::Timerfd, id!(tfd)),
        (FdTypes::Inotify, id!(ify)),
        (FdTypes::Fanotify, id!(ffy)),
        (FdTypes::Ext, id!(ext)),
        (FdTypes::Unixsk, id!(usk)),
        (FdTypes::Fifo, id!(fifo)),
        (FdTypes::Pipe, id!(pipe)),
        (FdTypes::Tty, id!(tty)),
        (FdTypes::Memfd, id!(memfd)),
        (FdTypes::Bpfmap, id!(bpf)),
        (FdTypes::Pidfd, id!(pidfd)),
    ]
}
