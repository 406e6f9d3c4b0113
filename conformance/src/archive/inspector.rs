//! Reads an archive and passes each member to the reader of its kind.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    io,
};

use cri_proto::{
    criu::{ImageFile, Kind as Image},
    document::{CONTAINER_LOG, CRIO_LOG, DUMP_LOG, PODMAN_LOG, ROOTFS_DIFF, SPEC_DUMP},
};

use super::{
    Expectations, InspectError, Limits,
    compressed_blocks::{self, Segment},
    decompress::Compression,
    documents::{self, Documents},
    images::Images,
    input_kind::InputHints,
    member_reader::MemberReader,
    model::{FileMetadata, InputKind, InspectedArchive, Layout, Member, NameIssue, canonical_name},
    search::NeedleSearch,
    source::ArchiveSource,
    tar_reader::{self, MemberKind, Next, TarEnd, TarEntry, TarReader},
};

pub(super) struct Inspector {
    limits: Limits,
    memory: Option<NeedleSearch>,
    secrets: Vec<NeedleSearch>,
    /// Hashes of the names so far. The names themselves may be long.
    name_hashes: HashSet<u64>,
    hasher: RandomState,
    name_bytes: usize,
    layout: Option<Layout>,
    /// The segments of pages files that an earlier read found too late.
    segments: BTreeMap<u32, Vec<Segment>>,
    hints: InputHints,
}

/// The maximum number of secrets: each costs a search through all members.
const MAX_SECRETS: usize = 64;

impl Inspector {
    pub(super) fn new(expected: &Expectations, limits: Limits) -> Self {
        Self {
            limits,
            memory: expected.memory.as_deref().map(NeedleSearch::new),
            secrets: expected
                .secrets
                .iter()
                .take(MAX_SECRETS)
                .map(|secret| NeedleSearch::new(secret))
                .collect(),
            name_hashes: HashSet::new(),
            hasher: RandomState::new(),
            name_bytes: 0,
            layout: expected.layout,
            segments: BTreeMap::new(),
            hints: InputHints::default(),
        }
    }

    /// Sets the segments of pages files whose page maps follow them in the archive.
    pub(super) fn with_segments(mut self, stored: BTreeMap<u32, Vec<Segment>>) -> Self {
        self.segments = stored;
        self
    }

    pub(super) fn run(
        mut self,
        source: ArchiveSource<'_>,
        file: Option<FileMetadata>,
    ) -> Result<InspectedArchive, InspectError> {
        let compression = source.compression();
        let mut reader = TarReader::new(source);
        let mut inspected = InspectedArchive {
            file,
            input: InputKind::Unread,
            end: TarEnd::Empty,
            trailing_data: None,
            compression: None,
            members: Vec::new(),
            documents: Documents::default(),
            images: Images::default(),
            container_log: None,
            dump_log: None,
            rootfs_diff: None,
            memory: None,
            secret_leaks: None,
            layout: self.layout,
        };
        inspected.end = loop {
            let entry = match reader.next_member()? {
                Next::Item(entry) => entry,
                Next::End(end) => break end,
            };
            self.name_bytes += entry.name.len() + entry.link.len();
            if inspected.members.len() >= self.limits.members || self.name_bytes > self.limits.name_bytes {
                let limit = format!(
                    "{} members with {} bytes of names",
                    inspected.members.len(),
                    self.name_bytes
                );
                break TarEnd::LimitReached {
                    offset: entry.offset,
                    limit,
                };
            }
            let member = self.describe_member(&entry);
            self.hints.add_name(canonical_name(&entry.name));
            // A duplicate is reported by its name. Its content is not read, since it would replace that of the first
            // member.
            let duplicate = member.name_issues.contains(&NameIssue::Duplicate);
            inspected.members.push(member);
            if entry.kind == MemberKind::File && !duplicate {
                self.read_content(&mut reader, &entry, &mut inspected)?;
            }
        };
        if inspected.end == TarEnd::Marker {
            inspected.trailing_data = Some(reader.read_trailing_data()?);
        }
        inspected.compression = compression.or_else(|| Compression::detect(reader.first_bytes()));
        inspected.input = InputKind::classify(&inspected, reader.first_bytes(), &self.hints);
        inspected.memory = self.memory.map(|search| search.first_match().cloned());
        if !self.secrets.is_empty() {
            inspected.secret_leaks = Some(
                self.secrets
                    .iter()
                    .filter_map(|search| search.first_match().cloned())
                    .collect(),
            );
        }
        Ok(inspected)
    }

    fn describe_member(&mut self, entry: &TarEntry) -> Member {
        let name = canonical_name(&entry.name);
        let mut name_issues = Vec::new();
        let components = || name.split(|byte| *byte == b'/');
        if entry.name.starts_with(b"/") {
            name_issues.push(NameIssue::Absolute);
        }
        if components().any(|component| component == b"..") {
            name_issues.push(NameIssue::ParentComponent);
        }
        if !self.name_hashes.insert(self.hasher.hash_one(name)) {
            name_issues.push(NameIssue::Duplicate);
        }
        let odd_component = components().skip(usize::from(entry.name.starts_with(b"/")));
        let odd_component = odd_component
            .into_iter()
            .any(|component| matches!(component, b"" | b"."));
        let has_control = name.iter().any(|byte| byte.is_ascii_control());
        // tar writes the root directory as `./`.
        let is_root = matches!(entry.name.as_slice(), b"." | b"./");
        let is_too_long =
            name.len() > nix::libc::PATH_MAX as usize || components().any(|component| component.len() > 255);
        if !is_root && (odd_component || has_control || is_too_long || std::str::from_utf8(name).is_err()) {
            name_issues.push(NameIssue::Malformed);
        }
        Member {
            name: tar_reader::display_name(&entry.name),
            offset: entry.offset,
            kind: entry.kind,
            mode: entry.mode & 0o7777,
            size: entry.size,
            mtime: entry.mtime,
            link: tar_reader::display_name(&entry.link),
            name_issues,
        }
    }

    fn read_content(
        &mut self,
        reader: &mut TarReader<'_>,
        entry: &TarEntry,
        inspected: &mut InspectedArchive,
    ) -> io::Result<()> {
        let Ok(name) = std::str::from_utf8(canonical_name(&entry.name)) else {
            return Ok(());
        };
        let image = match name {
            "stats-dump" => ImageFile::from_name(name),
            _ => name
                .strip_prefix(cri_proto::criu::IMAGE_DIR)
                .filter(|name| !name.contains('/'))
                .and_then(ImageFile::from_name),
        };
        let is_pages = matches!(image, Some(ImageFile::Pages(_)));
        // Members that may contain secrets are not searched for them.
        let exempt =
            is_pages || name == SPEC_DUMP || matches!(image, Some(ImageFile::Image(kind, _)) if may_hold_secrets(kind));
        let mut payload = MemberReader {
            tar: reader,
            name,
            memory: self.memory.as_mut().filter(|_| is_pages),
            secrets: if exempt { &mut [] } else { &mut self.secrets },
            truncated: false,
        };
        payload.begin_searches();
        match image {
            Some(ImageFile::Pages(id)) => {
                inspected.images.pages_file_bytes.insert(id, entry.size);
                let segments = self.segments.get(&id).map(Vec::as_slice);
                match segments.or_else(|| inspected.images.segments_of(id)) {
                    Some(stored) => {
                        let mut search = payload.memory.take();
                        let problem = compressed_blocks::decompress(&mut payload, stored, |pages| {
                            search.iter_mut().for_each(|search| search.feed(name, pages));
                        })?;
                        if let Some(problem) = problem {
                            inspected.images.corrupt_blocks.push(name, || problem);
                        }
                    }
                    None => drop(inspected.images.unread_pages.insert(id)),
                }
            }
            Some(ImageFile::Image(kind, id)) => {
                let counts_before = inspected.images.problem_counts();
                let file = name.rsplit('/').next().unwrap_or(name);
                inspected.images.read(file, kind, id, &mut payload)?;
                if payload.truncated {
                    // The tar is truncated; the image itself may be intact.
                    inspected.images.roll_back(counts_before);
                }
            }
            Some(ImageFile::ToolOutput) => {}
            None if documents::DOCUMENT_NAMES.contains(&name) => {
                let content = payload.read_document(entry.size)?;
                if !payload.truncated {
                    inspected.documents.add(name, content.as_deref());
                }
            }
            None if name == CONTAINER_LOG || name == CRIO_LOG || name == PODMAN_LOG => {
                inspected.container_log = Some((name.to_owned(), payload.read_log()?));
            }
            None if name == DUMP_LOG => inspected.dump_log = Some(payload.read_log()?),
            None if name == ROOTFS_DIFF => inspected.rootfs_diff = Some(payload.read_nested()?),
            None if name == CIPHER_IMAGE => inspected.images.encrypted = true,
            None if self.hints.should_read(name, entry.size) => {
                let content = payload.read_document(entry.size)?.unwrap_or_default();
                self.hints.add_document(&content);
            }
            None => {
                if let Some(name) = name
                    .strip_prefix(cri_proto::criu::IMAGE_DIR)
                    .filter(|name| name.ends_with(".img") && !name.contains('/'))
                {
                    inspected
                        .images
                        .unknown_names
                        .push(name, || unknown_name_reason(name).to_owned());
                }
            }
        }
        payload.drain()
    }
}

/// The member of encrypted images with the key (checkpoint-restore/criu#2297).
const CIPHER_IMAGE: &str = "checkpoint/cipher.img";

fn unknown_name_reason(name: &str) -> &'static str {
    if name.starts_with("pages-") && name.ends_with(".comp.img") {
        "pages compressed by CRaC's fork of CRIU, which upstream CRIU cannot read"
    } else {
        "no image of CRIU has this name"
    }
}

/// Whether an image contains data that processes sent, wrote or received, besides the pages.
fn may_hold_secrets(kind: Image) -> bool {
    matches!(
        kind,
        Image::PipesData
            | Image::FifoData
            | Image::SkQueues
            | Image::TcpStream
            | Image::GhostFile
            | Image::TtyData
            | Image::IpcnsShm
            | Image::IpcnsMsg
    )
}
