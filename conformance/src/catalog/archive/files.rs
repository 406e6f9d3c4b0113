//! Of the open files: descriptors, working directories and mappings refer to what is there.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::message::FdTypes;

use super::given::{ArchiveCase, Complaints, case, none, optional, tree};
use crate::{
    archive::{Images, Inspected, OpenFile},
    case::{Judgement, Stop, fail, judge, pass},
};

/// `VMA_FILE_PRIVATE` and `VMA_FILE_SHARED` of CRIU's `image.h`: the mapping's `shmid` is a file's id.
const OF_A_FILE: u32 = 1 << 6 | 1 << 7;
/// Mappings that have those flags beside their own: sockets, asynchronous I/O, memfd.
const OF_ANOTHER_KIND: u32 = 1 << 11 | 1 << 13 | 1 << 14;

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "files/table",
        Reference,
        "checkpointctl --files; CRIU before 3.4 wrote an image for each kind of file",
        "The open files must be in the archive, in files.img or in an image for each kind.",
        "files.img, or reg-files.img and its like",
        |archive| match &tree(archive)?.files {
            Some(files) => pass(format!("{} files", files.len())),
            None => fail("no files.img"),
        }
    ),
    case!(
        "files/unique",
        Reference,
        "CRIU images/fdinfo.proto",
        "Every open file has an id of its own, other than zero.",
        "unique ids",
        |archive| {
            let (_, files) = files(archive)?;
            let mut seen = BTreeSet::new();
            let twice = files.iter().filter(|file| file.id == 0 || !seen.insert(file.id));
            none(
                twice.map(|file| format!("id {}", file.id)),
                format!("{} files", files.len()),
            )
        }
    ),
    case!(
        "files/parts",
        Reference,
        "CRIU images/fdinfo.proto",
        "Every open file has the part of its kind, with its own id, and no other.",
        "the part of its kind",
        |archive| {
            let (_, files) = files(archive)?;
            let odd = files
                .iter()
                .filter(|file| file.inner_id != Some(file.id) || file.strange_parts > 0);
            none(
                odd.map(|file| format!("file {} of kind {}", file.id, file.kind_name())),
                format!("{} files", files.len()),
            )
        }
    ),
    case!(
        "files/descriptors",
        Reference,
        "checkpointctl --files",
        "Every descriptor refers to an open file of its kind.",
        "ids and kinds of files.img",
        descriptors
    ),
    case!(
        "files/numbers",
        Reference,
        "CRIU images/fdinfo.proto",
        "A table of descriptors has every number once.",
        "unique numbers",
        |archive| {
            let (images, _) = files(archive)?;
            let mut bad = Complaints::default();
            for (table, descriptors) in &images.fdinfo {
                let mut seen = BTreeSet::new();
                for one in descriptors.iter().filter(|one| !seen.insert(one.fd)) {
                    bad.add(|| format!("fdinfo-{table}.img: {}", one.fd));
                }
            }
            bad.judge(format!("{} tables", images.fdinfo.len()))
        }
    ),
    case!(
        "files/references",
        Reference,
        "CRIU images/fs.proto, images/mm.proto, images/vma.proto",
        "Working directories, roots, executables and mapped files are open files of the table.",
        "ids of files.img",
        references
    ),
    case!(
        "files/epoll-targets",
        Reference,
        "CRIU criu/eventpoll.c: a restore adds each target by the number of its descriptor",
        "What an epoll instance watches must be an open descriptor of a process that has the instance, and the same file as before.",
        "a descriptor of this number and file in a table with the instance",
        epoll_targets
    ),
    case!(
        "files/append-only",
        Reference,
        "CRIU criu/files-reg.c, should_check_size",
        "A file that is only appended to, as a log, has no size: it grows on after the dump, and a restore fails on a size that is no longer right.",
        "no size for a file that is only appended to",
        append_only
    ),
    case!(
        "files/standard-streams",
        Reference,
        "runc; checkpoint/descriptors.json",
        "The pipes that descriptors.json names are those that the processes have open: a restore finds them by these names.",
        "a named pipe among the open files",
        standard_streams
    ),
];

fn files(archive: &Inspected) -> Result<(&Images, &[OpenFile]), Stop> {
    let images = tree(archive)?;
    let files = images.files.as_deref().ok_or(Stop::Blocked("archive/files/table"))?;
    Ok((images, files))
}

fn descriptors(archive: &Inspected) -> Judgement {
    let (images, files) = files(archive)?;
    let kinds: BTreeMap<_, _> = files.iter().map(|file| (file.id, file.kind)).collect();
    let mut count = 0;
    let mut bad = Complaints::default();
    for (table, descriptors) in &images.fdinfo {
        count += descriptors.len();
        for one in descriptors.iter().filter(|one| kinds.get(&one.id) != Some(&one.r#type)) {
            bad.add(|| format!("fdinfo-{table}.img: {} is file {}", one.fd, one.id));
        }
    }
    bad.judge(format!("{count} descriptors"))
}

fn references(archive: &Inspected) -> Judgement {
    let (images, files) = files(archive)?;
    let ids: BTreeSet<_> = files.iter().map(|file| u64::from(file.id)).collect();
    let mut count = 0;
    let mut bad = Complaints::default();
    let mut refers = |id: u64, what: &dyn Fn() -> String| {
        count += 1;
        if !ids.contains(&id) {
            bad.add(|| format!("{} is file {id}", what()));
        }
    };
    for (pid, fs) in &images.fs {
        refers(fs.cwd_id.into(), &|| format!("working directory of process {pid}"));
        refers(fs.root_id.into(), &|| format!("root of process {pid}"));
    }
    for (pid, mm) in &images.mms {
        let mapped = mm
            .vmas
            .iter()
            .filter(|vma| vma.status & OF_A_FILE != 0 && vma.status & OF_ANOTHER_KIND == 0);
        for vma in mapped {
            refers(vma.shmid, &|| format!("mapping {:#x} of process {pid}", vma.start));
        }
        refers(mm.exe_file_id.into(), &|| format!("executable of process {pid}"));
    }
    bad.judge(format!("{count} references"))
}

fn epoll_targets(archive: &Inspected) -> Judgement {
    let (images, files) = files(archive)?;
    let instances: BTreeMap<_, _> = files
        .iter()
        .filter(|file| !file.watches.is_empty())
        .map(|file| (file.id, file))
        .collect();
    if instances.is_empty() {
        return Err(Stop::Skip("no epoll instance watches a file".to_owned()));
    }
    let inodes: BTreeMap<_, _> = files.iter().filter_map(|file| Some((file.id, file.inode?))).collect();
    // What is wrong with each instance in the table where least is; `None` for one that no table has.
    let mut least: BTreeMap<u32, Option<(usize, String)>> = instances.keys().map(|id| (*id, None)).collect();
    for (table, descriptors) in &images.fdinfo {
        let of_number: BTreeMap<_, _> = descriptors.iter().map(|one| (one.fd, one.id)).collect();
        let here: BTreeSet<_> = descriptors
            .iter()
            .map(|one| one.id)
            .filter(|id| instances.contains_key(id))
            .collect();
        for id in here {
            let mut first = String::new();
            let mut count = 0;
            for watch in instances[&id].watches.iter() {
                let file = of_number.get(&watch.fd);
                let inode = file.and_then(|file| inodes.get(file));
                let moved = watch.inode.zip(inode).filter(|(watched, inode)| watched != *inode);
                let why = match (file, moved) {
                    (None, _) => format!("descriptor {} is not open", watch.fd),
                    (Some(file), Some((watched, inode))) => {
                        format!("descriptor {} is file {file} of inode {inode}, not {watched}", watch.fd)
                    }
                    (Some(_), None) => continue,
                };
                count += 1;
                if first.is_empty() {
                    first = format!("epoll file {id} in fdinfo-{table}.img: {why}");
                }
            }
            let known = least.entry(id).or_default();
            if known.as_ref().is_none_or(|(before, _)| count < *before) {
                *known = Some((count, first));
            }
        }
    }
    let mut bad = Complaints::default();
    for (count, first) in least.into_values().flatten().filter(|(count, _)| *count > 0) {
        bad.add(|| format!("{first} ({count} in all)"));
    }
    bad.judge(format!("{} instances", instances.len()))
}

fn append_only(archive: &Inspected) -> Judgement {
    let (_, files) = files(archive)?;
    let appended: Vec<_> = files.iter().filter_map(|file| Some((file, file.appended?))).collect();
    if appended.is_empty() {
        return Err(Stop::Skip("no open file is only appended to".to_owned()));
    }
    let sized = appended.iter().filter_map(|(file, size)| {
        let path = file.path.as_deref().unwrap_or_default();
        Some(format!("file {} ({path:?}) has {} bytes", file.id, (*size)?))
    });
    none(sized, format!("{} files without a size", appended.len()))
}

fn standard_streams(archive: &Inspected) -> Judgement {
    let (images, files) = files(archive)?;
    let documents = &archive.documents;
    let name = "archive/documents/descriptors";
    let named = optional(archive, &documents.descriptors, "checkpoint/descriptors.json", name)?;
    // The tree's root is the container's first process, whose streams runc looks at.
    let root = images.pstree.first().and_then(|root| images.ids.get(&root.pid));
    let Some(table) = root.and_then(|ids| images.fdinfo.get(&ids.files_id)) else {
        return Err(Stop::Blocked("archive/process/fdinfo"));
    };
    let streams = table.iter().filter(|descriptor| descriptor.fd < 3);
    let pipes: Vec<_> = streams
        .filter(|descriptor| descriptor.r#type == i32::from(FdTypes::Pipe))
        .collect();
    let open: BTreeSet<_> = files
        .iter()
        .filter_map(|file| Some(format!("pipe:[{}]", file.pipe?)))
        .collect();
    let named: Vec<_> = named.iter().filter(|stream| stream.starts_with("pipe:")).collect();
    if pipes.is_empty() || named.is_empty() {
        return Err(Stop::Skip(
            "no stream of the first process is a pipe, now or at its start".to_owned(),
        ));
    }
    // runc wrote the names at the start. A process may have put other files there since, as a shell does for a
    // redirection, but then what it talks to the runtime by is open elsewhere.
    let found = named.iter().filter(|stream| open.contains(stream.as_str())).count();
    judge(found > 0, format!("{found} of {named:?} among the open files"))
}
