//! Classifies an input: a checkpoint archive, or something else, with advice for the user.
//!
//! The Kubelet Checkpoint API writes a tar of checkpoint data. An input given by mistake (an image, an unpacked
//! directory, an archive within another one) must not pass only because no case applies to its members.

use std::path::Path;

use super::{
    model::{ForeignInput, InputKind, InspectedArchive, Layout},
    tar_reader::{MemberKind, TarEnd},
};

const REMEDY_GIVE_ARCHIVE: &str = "give the tar that CheckpointContainer or the kubelet's checkpoint endpoint wrote";
const REMEDY_DECOMPRESS: &str = "decompress it first, the API's archive is a plain tar";
const REMEDY_DECRYPT: &str = "decrypt it first";
const REMEDY_PACK_IMAGES: &str =
    "pack checkpoint/ with its images together with config.dump and spec.dump, as the engines do";

/// Hints from the names and small documents of a tar.
#[derive(Clone, Debug, Default)]
pub(super) struct InputHints {
    marker_names: Vec<&'static str>,
    first_name: Option<String>,
    /// The top-level directory of all members, while there is only one. The inner `None`: there are several.
    common_dir: Option<Option<String>>,
    /// Whether an engine's document is one directory too deep.
    nested_document: bool,
    image_markers: Vec<&'static str>,
    document_count: usize,
}

const MARKER_NAMES: [&str; 10] = [
    "oci-layout",
    "index.json",
    "manifest.json",
    "repositories",
    "inventory.img",
    "pstree.img",
    "pod.dump",
    "pod.options",
    "checkpoint.img",
    "pages_meta.img",
];
/// Strings in the documents of an image that identify the kind of the image.
const IMAGE_MARKERS: [&str; 5] = [
    "application/vnd.containerd.container.criu.checkpoint",
    "org.criu.checkpoint.",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "io.podman.annotations.checkpoint.name",
    "+encrypted",
];
/// The size limit of an image's document that is read for hints, in bytes, and the number of such documents.
const MAX_HINT_DOCUMENT_BYTES: u64 = 64 << 10;
const MAX_HINT_DOCUMENTS: usize = 64;

impl InputHints {
    pub(super) fn add_name(&mut self, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        if let Some(marker) = MARKER_NAMES.iter().find(|marker| **marker == name)
            && !self.marker_names.contains(marker)
        {
            self.marker_names.push(marker);
        }
        self.first_name.get_or_insert_with(|| display_name(name));
        let top = name.split_once('/').map(|(top, _)| top);
        let rest = name.split_once('/').map_or("", |(_, rest)| rest);
        self.nested_document |= matches!(rest, "config.dump" | "spec.dump" | "checkpoint/inventory.img");
        match &self.common_dir {
            None => self.common_dir = Some(Some(display_name(top.unwrap_or(name)))),
            Some(Some(one)) if *one != display_name(top.unwrap_or(name)) => self.common_dir = Some(None),
            Some(_) => {}
        }
    }

    /// Whether a member of this name and size is read for hints.
    pub(super) fn should_read(&self, name: &str, size: u64) -> bool {
        let is_image_document = matches!(name, "index.json" | "manifest.json") || name.starts_with("blobs/sha256/");
        is_image_document && size <= MAX_HINT_DOCUMENT_BYTES && self.document_count < MAX_HINT_DOCUMENTS
    }

    pub(super) fn add_document(&mut self, content: &[u8]) {
        self.document_count += 1;
        let new_markers = IMAGE_MARKERS
            .iter()
            .filter(|marker| memchr::memmem::find(content, marker.as_bytes()).is_some());
        for marker in new_markers {
            if !self.image_markers.contains(marker) {
                self.image_markers.push(marker);
            }
        }
    }

    fn has_name(&self, name: &str) -> bool {
        self.marker_names.contains(&name)
    }

    fn has_image_marker(&self, marker: &str) -> bool {
        self.image_markers.iter().any(|found| found.contains(marker))
    }
}

impl InputKind {
    pub(super) fn classify(archive: &InspectedArchive, first: &[u8], hints: &InputHints) -> Self {
        match &archive.end {
            TarEnd::Empty if archive.compression.is_none() => {
                return foreign_input("an empty file", REMEDY_GIVE_ARCHIVE);
            }
            TarEnd::Empty | TarEnd::Corrupt(_) if archive.members.is_empty() => {
                return Self::classify_bytes(archive, first);
            }
            _ if !archive.is_complete() || archive.members.is_empty() => return Self::Unread,
            _ => {}
        }
        if let Some(foreign) = describe_other_tar(archive, hints) {
            return Self::Foreign(foreign);
        }
        let layout = archive.expected_layout();
        match archive.compression.filter(|_| layout != Layout::Podman) {
            Some(compression) => foreign_input(
                format!(
                    "a checkpoint archive of {}, compressed by {compression}",
                    layout.as_str()
                ),
                REMEDY_DECOMPRESS,
            ),
            None => Self::Archive(layout),
        }
    }

    pub(super) fn classify_path(path: &Path, kind: &'static str) -> Self {
        let contains = |name: &str| path.join(name).symlink_metadata().is_ok();
        if kind != "directory" {
            return foreign_input(format!("a {kind}"), REMEDY_GIVE_ARCHIVE);
        }
        if contains("config.dump") || contains("spec.dump") {
            return foreign_input(
                "a directory, a checkpoint archive that was unpacked",
                "pack it: tar -C DIRECTORY -cf ARCHIVE .",
            );
        }
        if contains("inventory.img") || contains("checkpoint/inventory.img") {
            return foreign_input("a directory of CRIU's images", REMEDY_PACK_IMAGES);
        }
        foreign_input("a directory", REMEDY_GIVE_ARCHIVE)
    }

    /// Classifies an input that does not begin with a tar header.
    fn classify_bytes(archive: &InspectedArchive, first: &[u8]) -> Self {
        let compression = archive.compression;
        if let Some(compression) = compression.filter(|compression| !compression.is_decompressed()) {
            return foreign_input(format!("data compressed by {compression}"), REMEDY_DECOMPRESS);
        }
        // Data with a ustar magic is a tar, even if damaged.
        if first.get(257..262) == Some(b"ustar") || archive.end == TarEnd::Empty && compression.is_none() {
            return Self::Unread;
        }
        if let Some(compression) = compression.filter(|_| first.is_empty()) {
            let description = match archive.end {
                TarEnd::Empty => format!("empty data, compressed by {compression}"),
                _ => format!("damaged {compression} data"),
            };
            return foreign_input(description, REMEDY_GIVE_ARCHIVE);
        }
        let suffix = compression.map_or_else(String::new, |compression| format!(", compressed by {compression}"));
        let (description, remedy) = describe_magic(first);
        foreign_input(format!("{description}{suffix}"), remedy)
    }
}

fn foreign_input(description: impl Into<String>, remedy: &'static str) -> InputKind {
    InputKind::Foreign(ForeignInput {
        description: description.into(),
        remedy,
    })
}

fn describe_magic(first: &[u8]) -> (&'static str, &'static str) {
    const MAGICS: &[(&[u8], &str, &str)] = &[
        (b"\x7fELF", "an ELF program or core dump", REMEDY_GIVE_ARCHIVE),
        (b"PK\x03\x04", "a zip file", REMEDY_GIVE_ARCHIVE),
        (b"Salted__", "data encrypted by OpenSSL", REMEDY_DECRYPT),
        (b"age-encryption.org/", "data encrypted by age", REMEDY_DECRYPT),
        (b"-----BEGIN PGP MESSAGE", "data encrypted by OpenPGP", REMEDY_DECRYPT),
        (
            b"-----BEGIN AGE ENCRYPTED FILE",
            "data encrypted by age",
            REMEDY_DECRYPT,
        ),
        (b"LUKS\xba\xbe", "an encrypted volume (LUKS)", REMEDY_DECRYPT),
        (b"7z\xbc\xaf\x27\x1c", "a 7z file", REMEDY_GIVE_ARCHIVE),
        (b"070701", "a cpio archive", REMEDY_GIVE_ARCHIVE),
        (b"!<arch>", "an ar archive", REMEDY_GIVE_ARCHIVE),
        (b"hsqs", "a squashfs image", REMEDY_GIVE_ARCHIVE),
        (b"QFI\xfb", "a qcow2 image", REMEDY_GIVE_ARCHIVE),
        (b"\x16\x31\x31\x58", "a CRIU image (inventory)", REMEDY_PACK_IMAGES),
        (b"\x19\x43\x56\x54", "a CRIU image", REMEDY_PACK_IMAGES),
        (b"\x40\x59\x10\x55", "a file of CRIU's statistics", REMEDY_PACK_IMAGES),
    ];
    if let Some((_, what, remedy)) = MAGICS.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return (what, remedy);
    }
    let text = std::str::from_utf8(first).or_else(|error| std::str::from_utf8(&first[..error.valid_up_to()]));
    let is_complete = text.map_or(0, str::len) + 3 >= first.len();
    let printable = |text: &str| {
        !text
            .chars()
            .any(|letter| letter.is_control() && !letter.is_whitespace())
    };
    match text {
        Ok(text) if is_complete && !text.is_empty() && printable(text) => {
            if text.trim_start().starts_with(['{', '[']) {
                ("a JSON file", REMEDY_GIVE_ARCHIVE)
            } else {
                ("a text file", REMEDY_GIVE_ARCHIVE)
            }
        }
        _ => ("data of an unknown kind, perhaps encrypted", REMEDY_GIVE_ARCHIVE),
    }
}

/// The kind of a tar that is not a checkpoint archive; `None` for a checkpoint archive.
fn describe_other_tar(archive: &InspectedArchive, hints: &InputHints) -> Option<ForeignInput> {
    let is_file = |name: &str| {
        archive
            .member(name)
            .is_some_and(|member| member.kind == MemberKind::File)
    };
    let documents = ["config.dump", "spec.dump"].iter().filter(|name| is_file(name)).count();
    let images = archive
        .members
        .iter()
        .any(|member| member.kind == MemberKind::File && is_criu_image(&member.name));
    let foreign_with = |description: String, remedy| Some(ForeignInput { description, remedy });
    if archive.images.encrypted {
        return foreign_with(
            "a checkpoint archive whose images are encrypted (cipher.img)".to_owned(),
            "decrypt the images with the key of CRIU's certificate",
        );
    }
    if documents == 2 && archive.member("pre-checkpoint").is_some() && !images {
        return foreign_with(
            "a pre-checkpoint of Podman: memory without processes".to_owned(),
            "give the archive of the checkpoint that follows it",
        );
    }
    if documents == 2 || documents == 1 && images {
        return None;
    }
    if hints.has_name("oci-layout") || hints.has_name("index.json") {
        return foreign_with(
            describe_image(hints).to_owned(),
            "unpack the archive that is its layer, and give that",
        );
    }
    if hints.has_name("manifest.json") || hints.has_name("repositories") {
        let description = if hints.has_image_marker("checkpoint") {
            "an image saved by docker or podman, of a checkpoint"
        } else {
            "an image saved by docker or podman"
        };
        return foreign_with(
            description.to_owned(),
            "unpack the archive that is its layer, and give that",
        );
    }
    if hints.has_name("pod.dump") || hints.has_name("pod.options") {
        return foreign_with(
            "a checkpoint of a whole pod".to_owned(),
            "give the archives of its containers, one by one",
        );
    }
    if hints.nested_document
        && let Some(Some(directory)) = &hints.common_dir
    {
        return foreign_with(
            format!("a checkpoint archive one directory too deep, below {directory}/"),
            "pack the content of that directory: tar -C DIRECTORY -cf ARCHIVE .",
        );
    }
    if images || hints.has_name("inventory.img") || hints.has_name("pstree.img") {
        return foreign_with(
            "CRIU's images without the documents of an engine".to_owned(),
            REMEDY_PACK_IMAGES,
        );
    }
    if hints.has_name("checkpoint.img") || hints.has_name("pages_meta.img") {
        return foreign_with("a checkpoint of gVisor".to_owned(), REMEDY_GIVE_ARCHIVE);
    }
    let first = hints.first_name.as_deref().unwrap_or_default();
    foreign_with(
        format!(
            "a tar of {} members, none of them of a checkpoint archive, the first one {first}",
            archive.members.len()
        ),
        REMEDY_GIVE_ARCHIVE,
    )
}

fn describe_image(hints: &InputHints) -> &'static str {
    if hints.has_image_marker("+encrypted") {
        "an encrypted OCI image"
    } else if hints.has_image_marker("vnd.containerd.container.criu.checkpoint") {
        "a checkpoint of containerd's own client, as an OCI image (ctr containers checkpoint)"
    } else if hints.has_image_marker("checkpoint") {
        "an OCI image of a checkpoint"
    } else {
        "an OCI image"
    }
}

fn is_criu_image(name: &str) -> bool {
    let name = name.trim_start_matches("./").strip_prefix(cri_proto::criu::IMAGE_DIR);
    name.and_then(cri_proto::criu::ImageFile::from_name).is_some()
}

fn display_name(name: &str) -> String {
    super::tar_reader::display_name(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::archive::{
        Expectations, Limits, inspect_stream,
        sample::{Sample, SampleMember, tar_of},
    };

    fn classify_bytes(bytes: &[u8]) -> InputKind {
        inspect_stream(bytes, &Expectations::default(), Limits::default())
            .expect("bytes can be read")
            .input
    }

    fn description(bytes: &[u8]) -> String {
        match classify_bytes(bytes) {
            InputKind::Foreign(foreign) => foreign.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn tar(names: &[&str]) -> Vec<u8> {
        let parts: Vec<_> = names.iter().map(|name| SampleMember::file(*name, *b"{}")).collect();
        tar_of(&parts).expect("short names")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("a vector takes all");
        encoder.finish().expect("a vector takes all")
    }

    fn sample() -> Vec<u8> {
        tar_of(&Sample::default().members()).expect("the sample is a tar")
    }

    #[rstest]
    #[case::text(b"hello world\n".to_vec(), "a text file")]
    #[case::json(br#"{"a": 1}"#.to_vec(), "a JSON file")]
    #[case::elf(b"\x7fELF\x02\x01\x01".to_vec(), "an ELF")]
    #[case::nothing(Vec::new(), "an empty file")]
    #[case::xz(b"\xfd7zXZ\0\0\0\0".to_vec(), "data compressed by xz")]
    #[case::gzipped_text(gzip(b"hello"), "a text file, compressed by gzip")]
    #[case::gzipped_nothing(gzip(b""), "compressed by gzip")]
    #[case::gzipped_archive(gzip(&sample()), "a checkpoint archive of containerd, compressed by gzip")]
    #[case::one_image(b"\x19\x43\x56\x54\x47\x38\x05\x55".to_vec(), "a CRIU image")]
    #[case::encrypted(b"Salted__12345678".to_vec(), "data encrypted by OpenSSL: decrypt")]
    #[case::random([0x9d_u8, 0x81, 0xfe, 0, 3].repeat(200), "data of an unknown kind")]
    #[case::note(tar(&["note.txt"]), "a tar of 1 members")]
    #[case::one_document(tar(&["config.dump", "x"]), "a tar of 2 members")]
    #[case::deeper(tar(&["ck/config.dump", "ck/spec.dump", "ck/checkpoint/inventory.img"]), "below ck/")]
    #[case::images(tar(&["inventory.img", "core-1.img"]), "CRIU's images without")]
    #[case::images_in_place(tar(&["checkpoint/inventory.img"]), "CRIU's images without")]
    #[case::oci(tar(&["oci-layout", "index.json"]), "an OCI image: unpack")]
    #[case::docker(tar(&["manifest.json", "repositories"]), "an image saved by docker")]
    #[case::pod(tar(&["pod.options", "app.tar"]), "a checkpoint of a whole pod")]
    #[case::gvisor(tar(&["checkpoint.img", "pages.img", "pages_meta.img"]), "a checkpoint of gVisor")]
    #[case::pre_checkpoint(tar(&["config.dump", "spec.dump", "pre-checkpoint"]), "a pre-checkpoint of Podman")]
    fn classifies_other_inputs(#[case] bytes: Vec<u8>, #[case] expected: &str) {
        let description = description(&bytes);
        assert!(description.contains(expected), "{description}");
    }

    #[rstest]
    #[case(IMAGE_MARKERS[0], "ctr containers checkpoint")]
    #[case("org.criu.checkpoint.container.name", "an OCI image of a checkpoint")]
    #[case("application/vnd.oci.image.layer.v1.tar+encrypted", "an encrypted OCI image")]
    fn recognises_images_by_their_documents(#[case] marker: &str, #[case] expected: &str) {
        let parts = [
            SampleMember::file("oci-layout", *b"{}"),
            SampleMember::file("index.json", *b"{}"),
            SampleMember::file("blobs/sha256/0a", format!("{{\"mediaType\": \"{marker}\"}}").as_bytes()),
        ];
        let description = description(&tar_of(&parts).expect("short names"));
        assert!(description.contains(expected), "{description}");
    }

    #[test]
    fn detects_the_layout_by_manager() {
        assert_eq!(classify_bytes(&sample()), InputKind::Archive(Layout::Containerd));
        for (manager, layout) in [("cri-o", Layout::CriO), ("libpod", Layout::Podman)] {
            let mut sample = Sample::default();
            sample.spec["annotations"]["io.container.manager"] = manager.into();
            let bytes = tar_of(&sample.members()).expect("the sample is a tar");
            assert_eq!(classify_bytes(&bytes), InputKind::Archive(layout));
            let compressed = classify_bytes(&gzip(&bytes));
            // Podman exports compressed archives.
            assert_eq!(compressed == InputKind::Archive(layout), layout == Layout::Podman);
        }
    }

    #[test]
    fn classifies_a_damaged_tar_as_a_tar() {
        let mut bytes = sample();
        bytes[148] ^= 1;
        assert_eq!(classify_bytes(&bytes), InputKind::Unread);
        assert_eq!(classify_bytes(&sample()[..700]), InputKind::Unread);
        assert_eq!(classify_bytes(&[0; 1024]), InputKind::Unread);
    }
}
