//! Every process that stands is asked about itself, and copies itself behind its answers, where that harms nobody.
//!
//! ```text
//!   begin     each process is given its calls, the last of which is a clone     --> runs through them
//!             the tracer reads what else there is                                   each copy waits at its birth
//!   end       answers; each copy closes descriptors and unmaps what is shared, while its original is put back
//! ```
//!
//! Where a copy could be noticed, or could make the container fail, none is made, and the container stands still until all is
//! read: [`Unfit`] says why.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    time::Duration,
};

use nix::{errno::Errno, unistd::gettid};

use super::{
    Host,
    capture::{Answers, Found, Node, Space, Talk, unasked},
    error::Error,
    freeze::Frozen,
    headroom::{self, Short},
    log::DumpLog,
    outlook::Outlook,
    twin::{self, Sequence, Twin, Twins, failed},
};
use crate::process::{
    ProcessId, family,
    inject::{Area, Call, Gate, InjectError, Injection, UnderWay},
    proc,
};

/// More shared mappings than this are not unmapped one by one while the container stands. With what a process is asked they fit
/// into one list.
const MOST_SHARED: usize = 224;
const _: () = assert!(MOST_SHARED + Talk::MOST_CALLS < Area::ROOM);
/// More bytes of private memory that a fork does not carry are not held while the container runs on.
const MOST_UNFORKED: u64 = 16 << 20;

/// Why the container is not copied but stands still until all is read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("that was asked for")]
    Asked,
    #[error("a fault or a delay wants it to stand still")]
    Modelled,
    #[error("{0}")]
    Short(#[from] Short),
    #[error("process {pid}: {source}")]
    Inject { pid: i32, source: InjectError },
    #[error("process {pid}: {call}: {errno}")]
    Call { pid: i32, call: &'static str, errno: Errno },
    #[error("process {0} handles page faults of its own (userfaultfd), and may be told of a fork")]
    Userfault(i32),
    #[error("process {0} has its children begin in another namespace")]
    Namespace(i32),
    #[error("process {0} has {1} shared mappings")]
    Shared(i32, usize),
    #[error("process {0} cannot be made to call the kernel")]
    NoGate(i32),
    #[error("{0} bytes of private memory are not for forks (MADV_DONTFORK, MADV_WIPEONFORK, huge pages)")]
    Unforked(u64),
}

/// A process that answers.
struct Asked {
    original: ProcessId,
    window: i32,
    gate: Option<Gate>,
    talk: Talk,
    sequences: Vec<Sequence>,
    /// What its copy has to do.
    of_copy: Vec<Call>,
}

/// What all processes are asked is under way. Dropped, they stand as they stood, and no copy is left.
pub(crate) struct Copying<'a> {
    asked: Vec<Asked>,
    unfit: Option<Unfit>,
    twins: Option<Twins<'a>>,
    /// The container's processes.
    members: BTreeSet<i32>,
}

/// What the processes said, by the thread that each is seen through, and their copies, or why there are none.
pub(crate) type Heard<'a> = (HashMap<i32, Answers>, Result<Twins<'a>, Unfit>);

impl<'a> Copying<'a> {
    /// Begins to ask every process. Without an outlook none is copied, for this reason. An original that runs again later has to
    /// stand within the bound.
    ///
    /// # Errors
    ///
    /// A process that ended meanwhile, or that could not be put back.
    pub(crate) fn begin(
        host: &'a dyn Host,
        frozen: &Frozen<'_>,
        found: &Found<'_>,
        outlook: Result<Outlook, Unfit>,
        bound: Duration,
        log: &mut DumpLog,
    ) -> Result<Self, Error> {
        let mut copying = Self {
            asked: Vec::new(),
            unfit: outlook.and_then(|outlook| fits(found, &outlook)).err(),
            twins: Some(Twins::none(host, bound)),
            members: frozen.processes().map(|process| process.pid()).collect(),
        };
        if copying.unfit.is_none() {
            host.copying();
        }
        for (node, space) in found.processes() {
            copying.ask(node, space, log)?;
        }
        Ok(copying)
    }

    fn ask(&mut self, node: &Node<'_>, space: &Space, log: &mut DumpLog) -> Result<(), Error> {
        let (original, window) = (space.process, space.window);
        let pid = original.pid;
        let (mut sequences, mut of_copy, mut clone) = (Vec::new(), Vec::new(), None);
        if self.unfit.is_none() {
            sequences = Sequence::of(&node.threads).map_err(|errno| Error::capture(pid, "rseq", errno))?;
            of_copy = prepares(space);
            clone = Some((flags(node, window), of_copy.as_slice()));
        }
        match Talk::begin(node, space, clone, log)? {
            Ok(talk) => self.asked.push(Asked {
                original,
                window,
                gate: space.gate,
                talk,
                sequences,
                of_copy,
            }),
            Err(error) => {
                unasked(pid, &error, log);
                self.unfit.get_or_insert(match error {
                    InjectError::NoGate => Unfit::NoGate(pid),
                    source => Unfit::Inject { pid, source },
                });
            }
        }
        Ok(())
    }

    /// Waits for the answers, and until the copies have let go of all that others could notice.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub(crate) fn end(mut self, log: &mut DumpLog) -> Result<Heard<'a>, Error> {
        let mut answers = HashMap::new();
        let mut preparing = Vec::new();
        // What fails on the way finds everything in its place, to be put back and removed.
        let Self {
            asked, unfit, twins, ..
        } = &mut self;
        let twins = twins.as_mut().expect("they are taken at the end");
        for asked in &mut *asked {
            let pid = asked.original.pid;
            let heard = asked.talk.hear(log);
            let copy = adopt(asked, twins);
            let (answer, copied) = heard?;
            answers.insert(asked.window, answer);
            match (copied, copy) {
                (None, _) => {}
                (Some(Err(errno)), _) => {
                    let call = "clone";
                    unfit.get_or_insert(Unfit::Call { pid, call, errno });
                }
                (Some(Ok(_)), None) => return Err(Error::capture(pid, "the event of its copy", Errno::EPROTO)),
                (Some(Ok(inner)), Some(twin)) => {
                    twin.inner = Some(inner);
                    match prepare(&asked.talk, twin, &asked.of_copy) {
                        Ok((injection, under_way)) => preparing.push((twin.copy, injection, under_way)),
                        Err(error) => *unfit = Some(judge(pid, error)?),
                    }
                }
            }
        }
        twins.tell();
        for asked in asked {
            asked.talk.leave()?;
        }
        for (copy, injection, under_way) in preparing {
            let Some(twin) = twins.all().find(|twin| twin.copy == copy) else {
                continue;
            };
            match prepared(twin, injection, under_way) {
                Ok(None) => {}
                Ok(Some(reason)) => *unfit = Some(reason),
                Err(error) => *unfit = Some(judge(twin.original.pid, error)?),
            }
        }
        let twins = self.twins.take().expect("nobody took them");
        Ok((answers, self.unfit.take().map_or(Ok(twins), Err)))
    }
}

impl Copying<'_> {
    /// Ends the copies that nobody told of, since their originals were killed on the way back from making them. Who is traced by
    /// this thread and is none of the container's can be nothing else.
    fn remove_strays(&self, twins: &mut Twins<'_>) {
        let known: BTreeSet<i32> = twins.all().map(|twin| twin.copy).collect();
        let tracer = gettid().as_raw();
        let all = family::everyone().unwrap_or_default().into_iter();
        let others = all
            .map(|kin| kin.id.pid)
            .filter(|pid| !self.members.contains(pid) && !known.contains(pid));
        for stray in others.filter(|pid| family::tracer(*pid) == tracer) {
            twin::remove(stray);
        }
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        let Some(mut twins) = self.twins.take() else { return };
        for asked in &mut self.asked {
            // Whatever failed before says why.
            let _ = asked.talk.leave();
            adopt(asked, &mut twins);
        }
        self.remove_strays(&mut twins);
    }
}

/// Adds the copy that a process made, if it made one.
fn adopt<'t>(asked: &mut Asked, twins: &'t mut Twins<'_>) -> Option<&'t mut Twin> {
    let copy = asked.talk.copy()?;
    Some(twins.add(Twin {
        original: asked.original,
        window: asked.window,
        gate: asked.gate?,
        copy,
        inner: None,
        sequences: std::mem::take(&mut asked.sequences),
        area: None,
    }))
}

/// Has a new copy make its calls.
fn prepare(talk: &Talk, twin: &mut Twin, of_copy: &[Call]) -> Result<(Injection, UnderWay), InjectError> {
    let (mut injection, area, behind) = talk.follow(twin.copy)?;
    twin.area = area;
    let under_way = injection.follow(twin.area.as_mut(), behind, of_copy.to_vec())?;
    Ok((injection, under_way))
}

/// Waits until a copy has made its calls and stands; which failed.
fn prepared(twin: &mut Twin, mut injection: Injection, under_way: UnderWay) -> Result<Option<Unfit>, InjectError> {
    let answers = injection.end(twin.area.as_mut(), under_way)?;
    injection.leave()?;
    let calls = ["close_range"].into_iter().chain(std::iter::repeat("munmap"));
    let refused = answers.iter().zip(calls).find_map(|(answer, call)| {
        answer.result.err().map(|errno| Unfit::Call {
            pid: twin.original.pid,
            call,
            errno,
        })
    });
    Ok(refused)
}

/// What a copy has to let go of, since others could notice it.
fn prepares(space: &Space) -> Vec<Call> {
    let all = u64::from(u32::MAX);
    // MADV_DONTFORK mappings are not there to be unmapped, which is no error of munmap.
    let unmapped = space.shared().map(|range| {
        let length = range.end - range.start;
        Call::new(libc::SYS_munmap, [range.start, length, 0, 0, 0, 0])
    });
    let closed = Call::new(libc::SYS_close_range, [0, all, 0, 0, 0, 0]);
    [closed].into_iter().chain(unmapped).collect()
}

/// How a process makes its copy: a child of ours makes a child of ours. The first process of a namespace may not.
fn flags(node: &Node<'_>, window: i32) -> u64 {
    let is_ours = node.stat.ppid.cast_unsigned() == std::process::id();
    match is_ours && !node.is_first_of_namespace(window) {
        true => libc::CLONE_PARENT as u64,
        false => 0,
    }
}

/// What of the failure of a copy makes its process unfit, and what ends the checkpoint.
fn judge(pid: i32, error: InjectError) -> Result<Unfit, Error> {
    match error {
        InjectError::Ended | InjectError::Stuck(_) => Err(failed(pid, error)),
        source => Ok(Unfit::Inject { pid, source }),
    }
}

/// Whether copies of all processes harm nobody.
fn fits(found: &Found<'_>, outlook: &Outlook) -> Result<(), Unfit> {
    if let Some(pid) = found.userfault() {
        return Err(Unfit::Userfault(pid));
    }
    let unforked = found.processes().flat_map(|(_, space)| space.unforked());
    let bytes = unforked.map(|run| run.range.end - run.range.start).sum();
    if bytes > MOST_UNFORKED {
        return Err(Unfit::Unforked(bytes));
    }
    let count = found.processes().count() as u64;
    found
        .processes()
        .try_for_each(|(_, space)| fits_one(space, count, outlook))
}

/// Whether a copy of this process, one of so many, harms nobody.
fn fits_one(space: &Space, copies: u64, outlook: &Outlook) -> Result<(), Unfit> {
    let (pid, window) = (space.process.pid, space.window);
    let shared = space.shared().count();
    if shared > MOST_SHARED {
        return Err(Unfit::Shared(pid, shared));
    }
    if !outlook.knows(space.process) {
        // It came just before the freeze, and was not looked at then.
        let status = proc::status(window).ok();
        let bytes = status.map_or(0, |status| status.rssanon.unwrap_or(0) + status.vmswap.unwrap_or(0));
        headroom::look(pid, copies, bytes * 1024)?;
    }
    for (own, children) in [("pid", "pid_for_children"), ("time", "time_for_children")] {
        let namespace = |name: &str| fs::read_link(format!("/proc/{window}/ns/{name}")).ok();
        // A namespace that has no process yet cannot be read, which is no name of the own one either.
        if namespace(own).is_some() && namespace(own) != namespace(children) {
            return Err(Unfit::Namespace(pid));
        }
    }
    Ok(())
}
