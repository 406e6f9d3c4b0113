//! Open files: descriptors, working directories and mappings must refer to files in the archive.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::{message::FdTypes, vma_status};

use super::preconditions::{
    ArchiveCase, Problems, pass_unless, process_tree_case, require_optional_document, require_process_tree,
};
use crate::{
    archive::{Images, InspectedArchive, OpenFile},
    engine::{CaseResult, Level, NonPass, case, check, fail, pass, skip},
    suites::authority,
};

/// The `shmid` of such a mapping is the id of a file.
const VMA_FILE_MASK: u32 = vma_status::FILE_PRIVATE | vma_status::FILE_SHARED;
/// Mappings with these flags and a flag of their own: sockets, asynchronous I/O, memfd.
const VMA_OTHER_KIND_MASK: u32 = vma_status::SOCKET | vma_status::AIORING | vma_status::MEMFD;

pub(super) const CASES: &[ArchiveCase] = &[
    process_tree_case("archive/open-files/files-image", Level::Reference)
        .requirement("The archive must contain the open files, in files.img or in one image per type.")
        .authority(
            authority::CHECKPOINTCTL
                .with_section("checkpointctl --files; CRIU before 3.4 wrote an image for each kind of file"),
        )
        .expected("files.img, or reg-files.img and the images of the other types")
        .check(|archive| match &require_process_tree(archive)?.files {
            Some(files) => pass(format!("{} files", files.len())),
            None => fail("no files.img"),
        }),
    case("archive/open-files/unique-ids", Level::Reference)
        .requirement("Every open file must have a unique id other than zero.")
        .authority(authority::criu_file("images/fdinfo.proto"))
        .expected("unique ids")
        .depends_on(&["archive/open-files/files-image"])
        .check(|archive| {
            let (_, files) = require_files(archive)?;
            let mut unique = BTreeSet::new();
            let duplicates = files.iter().filter(|file| file.id == 0 || !unique.insert(file.id));
            pass_unless(
                duplicates.map(|file| format!("id {}", file.id)),
                format!("{} files", files.len()),
            )
        }),
    case("archive/open-files/entry-variant", Level::Reference)
        .requirement("Every open file must have exactly the entry of its type, with the file's own id.")
        .authority(authority::criu_file("images/fdinfo.proto"))
        .expected("the entry of the file's type")
        .depends_on(&["archive/open-files/files-image"])
        .check(|archive| {
            let (_, files) = require_files(archive)?;
            let mismatched = files
                .iter()
                .filter(|file| file.kind_entry_id != Some(file.id) || file.foreign_entries > 0);
            pass_unless(
                mismatched.map(|file| format!("file {} of type {}", file.id, file.kind_name())),
                format!("{} files", files.len()),
            )
        }),
    case("archive/open-files/descriptors-resolve", Level::Reference)
        .requirement("Every descriptor must refer to an open file of its type.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --files"))
        .expected("ids and types of files.img")
        .depends_on(&["archive/open-files/files-image"])
        .check(descriptors),
    case("archive/open-files/unique-fd-numbers", Level::Reference)
        .requirement("A descriptor table must not have the same fd twice.")
        .authority(authority::criu_file("images/fdinfo.proto"))
        .expected("unique fds")
        .depends_on(&["archive/open-files/files-image"])
        .check(|archive| {
            let (images, _) = require_files(archive)?;
            let mut problems = Problems::default();
            for (table, descriptors) in &images.fdinfo {
                let mut unique = BTreeSet::new();
                for descriptor in descriptors.iter().filter(|descriptor| !unique.insert(descriptor.fd)) {
                    problems.add(|| format!("fdinfo-{table}.img: fd {}", descriptor.fd));
                }
            }
            problems.into_result(format!("{} tables", images.fdinfo.len()))
        }),
    case("archive/open-files/references-resolve", Level::Reference)
        .requirement("Working directories, roots, executables and mapped files must refer to open files of the table.")
        .authority(authority::criu_file(
            "images/fs.proto, images/mm.proto, images/vma.proto",
        ))
        .expected("ids of files.img")
        .depends_on(&["archive/open-files/files-image"])
        .check(file_references),
    case("archive/open-files/epoll-targets-open", Level::Reference)
        .requirement(
            "Every target of an epoll instance must be open in a process that has the instance, as the same \
            file.",
        )
        .authority(authority::criu_file(
            "criu/eventpoll.c: a restore adds each target by the number of its descriptor",
        ))
        .expected("a descriptor with this fd and file in a table with the instance")
        .depends_on(&["archive/open-files/files-image"])
        .check(epoll_targets),
    case("archive/open-files/append-only-without-size", Level::Reference)
        .requirement(
            "A file opened for appending only, such as a log, must have no size, because a restore fails if \
            the file has grown since.",
        )
        .authority(authority::criu_file("criu/files-reg.c, should_check_size"))
        .expected("no size for append-only files")
        .depends_on(&["archive/open-files/files-image"])
        .check(append_only),
    case("archive/open-files/standard-streams", Level::Reference)
        .requirement(
            "The pipes that descriptors.json names must be open in the processes, because a restore finds \
            them by these names.",
        )
        .authority(authority::RUNC)
        .expected("a named pipe among the open files")
        .depends_on(&["archive/open-files/files-image"])
        .may_depend_on(&[
            "archive/processes/fdinfo-images",
            "archive/metadata/descriptors-json-valid",
        ])
        .check(standard_streams),
];

fn require_files(archive: &InspectedArchive) -> Result<(&Images, &[OpenFile]), NonPass> {
    let images = require_process_tree(archive)?;
    let files = images
        .files
        .as_deref()
        .ok_or(NonPass::Blocked("archive/open-files/files-image"))?;
    Ok((images, files))
}

fn descriptors(archive: &InspectedArchive) -> CaseResult {
    let (images, files) = require_files(archive)?;
    let kinds: BTreeMap<_, _> = files.iter().map(|file| (file.id, file.type_number)).collect();
    let mut count = 0;
    let mut problems = Problems::default();
    for (table, descriptors) in &images.fdinfo {
        count += descriptors.len();
        for descriptor in descriptors
            .iter()
            .filter(|descriptor| kinds.get(&descriptor.id) != Some(&descriptor.r#type))
        {
            problems.add(|| format!("fdinfo-{table}.img fd {}: file {}", descriptor.fd, descriptor.id));
        }
    }
    problems.into_result(format!("{count} descriptors"))
}

fn file_references(archive: &InspectedArchive) -> CaseResult {
    let (images, files) = require_files(archive)?;
    let ids: BTreeSet<_> = files.iter().map(|file| u64::from(file.id)).collect();
    let mut count = 0;
    let mut problems = Problems::default();
    let mut refers = |id: u64, description: &dyn Fn() -> String| {
        count += 1;
        if !ids.contains(&id) {
            problems.add(|| format!("{} refers to file {id}", description()));
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
            .filter(|vma| vma.status & VMA_FILE_MASK != 0 && vma.status & VMA_OTHER_KIND_MASK == 0);
        for vma in mapped {
            refers(vma.shmid, &|| format!("mapping {:#x} of process {pid}", vma.start));
        }
        refers(mm.exe_file_id.into(), &|| format!("executable of process {pid}"));
    }
    problems.into_result(format!("{count} references"))
}

fn epoll_targets(archive: &InspectedArchive) -> CaseResult {
    let (images, files) = require_files(archive)?;
    let instances: BTreeMap<_, _> = files
        .iter()
        .filter(|file| !file.epoll_targets.is_empty())
        .map(|file| (file.id, file))
        .collect();
    if instances.is_empty() {
        return skip("requires an epoll instance that watches a file");
    }
    let inodes: BTreeMap<_, _> = files.iter().filter_map(|file| Some((file.id, file.inode?))).collect();
    // The problems of each instance in the table with the fewest problems; `None` for an instance that is in no table.
    let mut fewest_problems: BTreeMap<u32, Option<(usize, String)>> = instances.keys().map(|id| (*id, None)).collect();
    for (table, descriptors) in &images.fdinfo {
        let id_by_fd: BTreeMap<_, _> = descriptors
            .iter()
            .map(|descriptor| (descriptor.fd, descriptor.id))
            .collect();
        let instances_here: BTreeSet<_> = descriptors
            .iter()
            .map(|descriptor| descriptor.id)
            .filter(|id| instances.contains_key(id))
            .collect();
        for id in instances_here {
            let mut first = String::new();
            let mut count = 0;
            for watch in instances[&id].epoll_targets.iter() {
                let file = id_by_fd.get(&watch.fd);
                let inode = file.and_then(|file| inodes.get(file));
                let changed_inode = watch.inode.zip(inode).filter(|(watched, inode)| watched != *inode);
                let reason = match (file, changed_inode) {
                    (None, _) => format!("fd {} is not open", watch.fd),
                    (Some(file), Some((watched, inode))) => {
                        format!("fd {} is file {file} of inode {inode}, not {watched}", watch.fd)
                    }
                    (Some(_), None) => continue,
                };
                count += 1;
                if first.is_empty() {
                    first = format!("epoll file {id} in fdinfo-{table}.img: {reason}");
                }
            }
            let fewest = fewest_problems.entry(id).or_default();
            if fewest.as_ref().is_none_or(|(before, _)| count < *before) {
                *fewest = Some((count, first));
            }
        }
    }
    let mut problems = Problems::default();
    for (count, first) in fewest_problems.into_values().flatten().filter(|(count, _)| *count > 0) {
        problems.add(|| format!("{first} ({count} in all)"));
    }
    problems.into_result(format!("{} instances", instances.len()))
}

fn append_only(archive: &InspectedArchive) -> CaseResult {
    let (_, files) = require_files(archive)?;
    let appended: Vec<_> = files
        .iter()
        .filter_map(|file| Some((file, file.append_size?)))
        .collect();
    if appended.is_empty() {
        return skip("requires an open file that is append-only");
    }
    let sized = appended.iter().filter_map(|(file, size)| {
        let path = file.path.as_deref().unwrap_or_default();
        Some(format!("file {} ({path:?}) has {} bytes", file.id, (*size)?))
    });
    pass_unless(sized, format!("{} files without a size", appended.len()))
}

fn standard_streams(archive: &InspectedArchive) -> CaseResult {
    let (images, files) = require_files(archive)?;
    let documents = &archive.documents;
    let name = "archive/metadata/descriptors-json-valid";
    let named = require_optional_document(archive, &documents.descriptors, "checkpoint/descriptors.json", name)?;
    // The root of the tree is the container's first process, whose streams runc records.
    let root = images.pstree.first().and_then(|root| images.ids.get(&root.pid));
    let Some(table) = root.and_then(|ids| images.fdinfo.get(&ids.files_id)) else {
        return Err(NonPass::Blocked("archive/processes/fdinfo-images"));
    };
    let streams = table.iter().filter(|descriptor| descriptor.fd < 3);
    let pipes: Vec<_> = streams
        .filter(|descriptor| descriptor.r#type == i32::from(FdTypes::Pipe))
        .collect();
    let open: BTreeSet<_> = files
        .iter()
        .filter_map(|file| Some(format!("pipe:[{}]", file.pipe_id?)))
        .collect();
    let named: Vec<_> = named.iter().filter(|stream| stream.starts_with("pipe:")).collect();
    if pipes.is_empty() || named.is_empty() {
        return skip("requires a stream of the first process that is a pipe, now and at its start");
    }
    // runc records the names at the start of the container. A process may have replaced the descriptors since, as a
    // shell does for a redirection, but then the original pipe is open at another descriptor.
    let open_pipes = named.iter().filter(|stream| open.contains(stream.as_str())).count();
    check(
        open_pipes > 0,
        format!("{open_pipes} of {named:?} among the open files"),
    )
}
