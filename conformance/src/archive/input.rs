//! What an input is: a checkpoint archive, or what else, and what to do with that.
//!
//! The Kubelet Checkpoint API writes a tar of checkpoint data. What is given to the judge by mistake (an image, an unpacked
//! directory, an archive within another) would otherwise pass, since none of its members is of any case's concern.

use std::{fmt, path::Path};

use super::{
    model::{Inspected, Layout},
    walk::{End, Kind},
};

/// What an input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It could not be read so far that this can be said.
    Unread,
    /// A checkpoint archive of an engine, which is to have this layout.
    Archive(Layout),
    /// Something else.
    Foreign(Foreign),
}

/// An input that is no checkpoint archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it is.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

const GIVE_AN_ARCHIVE: &str = "give the tar that CheckpointContainer or the kubelet's checkpoint endpoint wrote";
const DECOMPRESS: &str = "decompress it first, the API's archive is a plain tar";
const DECRYPT: &str = "decrypt it first";
const PACK: &str = "pack checkpoint/ with its images together with config.dump and spec.dump, as the engines do";

/// What names and small documents of a tar say of what it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Clues {
    names: Vec<&'static str>,
    first: Option<String>,
    /// The directory that all members are below, as long as there is only one.
    below: Option<Option<String>>,
    /// A document of an engine that stands one directory too deep.
    deeper: bool,
    marks: Vec<&'static str>,
    documents: usize,
}

/// Names of members that tell what a tar is.
const TELLING_NAMES: [&str; 10] = [
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
/// What stands in the documents of an image that tells what the image is.
const MARKS: [&str; 5] = [
    "application/vnd.containerd.container.criu.checkpoint",
    "org.criu.checkpoint.",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "io.podman.annotations.checkpoint.name",
    "+encrypted",
];
/// How large a document of an image is that is looked at, in bytes, and how many of them are.
const DOCUMENT_BYTES: u64 = 64 << 10;
const DOCUMENTS: usize = 64;

impl Clues {
    /// Takes a member's canonical name.
    pub(super) fn see(&mut self, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        if let Some(telling) = TELLING_NAMES.iter().find(|telling| **telling == name)
            && !self.names.contains(telling)
        {
            self.names.push(telling);
        }
        self.first.get_or_insert_with(|| shown(name));
        let top = name.split_once('/').map(|(top, _)| top);
        let rest = name.split_once('/').map_or("", |(_, rest)| rest);
        self.deeper |= matches!(rest, "config.dump" | "spec.dump" | "checkpoint/inventory.img");
        match &self.below {
            None => self.below = Some(Some(shown(top.unwrap_or(name)))),
            Some(Some(one)) if *one != shown(top.unwrap_or(name)) => self.below = Some(None),
            Some(_) => {}
        }
    }

    /// Whether a member of this name and size is to be read for what it says.
    pub(super) fn wants(&self, name: &str, size: u64) -> bool {
        let of_an_image = matches!(name, "index.json" | "manifest.json") || name.starts_with("blobs/sha256/");
        of_an_image && size <= DOCUMENT_BYTES && self.documents < DOCUMENTS
    }

    /// Takes the content of such a member.
    pub(super) fn read(&mut self, content: &[u8]) {
        self.documents += 1;
        let new = MARKS
            .iter()
            .filter(|mark| memchr::memmem::find(content, mark.as_bytes()).is_some());
        for mark in new {
            if !self.marks.contains(mark) {
                self.marks.push(mark);
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    fn is_marked(&self, mark: &str) -> bool {
        self.marks.iter().any(|found| found.contains(mark))
    }
}

impl Input {
    /// What an archive is that was read so far, with its first bytes.
    pub(super) fn of(archive: &Inspected, first: &[u8], clues: &Clues) -> Self {
        match &archive.end {
            End::Empty if archive.compression.is_none() => {
                return foreign("a file of no bytes", GIVE_AN_ARCHIVE);
            }
            End::Empty | End::Broken(_) if archive.members.is_empty() => {
                return Self::of_bytes(archive, first);
            }
            _ if !archive.is_complete() || archive.members.is_empty() => return Self::Unread,
            _ => {}
        }
        if let Some(foreign) = other_tar(archive, clues) {
            return Self::Foreign(foreign);
        }
        let layout = archive.expected_layout();
        match archive.compression.filter(|_| layout != Layout::Podman) {
            Some(compression) => foreign(
                format!(
                    "a checkpoint archive of {}, compressed by {compression}",
                    layout.as_str()
                ),
                DECOMPRESS,
            ),
            None => Self::Archive(layout),
        }
    }

    /// What is at a path where no regular file is.
    pub(super) fn at(path: &Path, kind: &'static str) -> Self {
        let holds = |name: &str| path.join(name).symlink_metadata().is_ok();
        if kind != "directory" {
            return foreign(format!("a {kind}"), GIVE_AN_ARCHIVE);
        }
        if holds("config.dump") || holds("spec.dump") {
            return foreign(
                "a directory, a checkpoint archive that was unpacked",
                "pack it: tar -C DIRECTORY -cf ARCHIVE .",
            );
        }
        if holds("inventory.img") || holds("checkpoint/inventory.img") {
            return foreign("a directory of CRIU's images", PACK);
        }
        foreign("a directory", GIVE_AN_ARCHIVE)
    }

    /// What bytes are that begin no tar.
    fn of_bytes(archive: &Inspected, first: &[u8]) -> Self {
        let outer = archive.compression;
        if let Some(compression) = outer.filter(|compression| !compression.is_read()) {
            return foreign(format!("data compressed by {compression}"), DECOMPRESS);
        }
        // What says so itself is a tar, if a damaged one.
        if first.get(257..262) == Some(b"ustar") || archive.end == End::Empty && outer.is_none() {
            return Self::Unread;
        }
        if let Some(compression) = outer.filter(|_| first.is_empty()) {
            let what = match archive.end {
                End::Empty => format!("nothing, compressed by {compression}"),
                _ => format!("damaged {compression} data"),
            };
            return foreign(what, GIVE_AN_ARCHIVE);
        }
        let within = outer.map_or_else(String::new, |compression| format!(", compressed by {compression}"));
        let (what, remedy) = by_magic(first);
        foreign(format!("{what}{within}"), remedy)
    }
}

fn foreign(what: impl Into<String>, remedy: &'static str) -> Input {
    Input::Foreign(Foreign {
        what: what.into(),
        remedy,
    })
}

/// What a file is by its first bytes.
fn by_magic(first: &[u8]) -> (&'static str, &'static str) {
    const MAGICS: &[(&[u8], &str, &str)] = &[
        (b"\x7fELF", "an ELF program or core dump", GIVE_AN_ARCHIVE),
        (b"PK\x03\x04", "a zip file", GIVE_AN_ARCHIVE),
        (b"Salted__", "data encrypted by OpenSSL", DECRYPT),
        (b"age-encryption.org/", "data encrypted by age", DECRYPT),
        (b"-----BEGIN PGP MESSAGE", "data encrypted by OpenPGP", DECRYPT),
        (b"-----BEGIN AGE ENCRYPTED FILE", "data encrypted by age", DECRYPT),
        (b"LUKS\xba\xbe", "an encrypted volume (LUKS)", DECRYPT),
        (b"7z\xbc\xaf\x27\x1c", "a 7z file", GIVE_AN_ARCHIVE),
        (b"070701", "a cpio archive", GIVE_AN_ARCHIVE),
        (b"!<arch>", "an ar archive", GIVE_AN_ARCHIVE),
        (b"hsqs", "a squashfs image", GIVE_AN_ARCHIVE),
        (b"QFI\xfb", "a qcow2 image", GIVE_AN_ARCHIVE),
        (b"\x16\x31\x31\x58", "a CRIU image (inventory)", PACK),
        (b"\x19\x43\x56\x54", "a CRIU image", PACK),
        (b"\x40\x59\x10\x55", "a file of CRIU's statistics", PACK),
    ];
    if let Some((_, what, remedy)) = MAGICS.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return (what, remedy);
    }
    let text = std::str::from_utf8(first).or_else(|error| std::str::from_utf8(&first[..error.valid_up_to()]));
    let whole = text.map_or(0, str::len) + 3 >= first.len();
    let printable = |text: &str| {
        !text
            .chars()
            .any(|letter| letter.is_control() && !letter.is_whitespace())
    };
    match text {
        Ok(text) if whole && !text.is_empty() && printable(text) => {
            if text.trim_start().starts_with(['{', '[']) {
                ("a JSON text", GIVE_AN_ARCHIVE)
            } else {
                ("a text", GIVE_AN_ARCHIVE)
            }
        }
        _ => ("data of an unknown kind, perhaps encrypted", GIVE_AN_ARCHIVE),
    }
}

/// What a tar is that is no checkpoint archive.
fn other_tar(archive: &Inspected, clues: &Clues) -> Option<Foreign> {
    let is_file = |name: &str| archive.member(name).is_some_and(|member| member.kind == Kind::File);
    let documents = ["config.dump", "spec.dump"].iter().filter(|name| is_file(name)).count();
    let images = archive
        .members
        .iter()
        .any(|member| member.kind == Kind::File && is_image(&member.name));
    let of = |what: String, remedy| Some(Foreign { what, remedy });
    if archive.images.encrypted {
        return of(
            "a checkpoint archive whose images are encrypted (cipher.img)".to_owned(),
            "decrypt the images with the key of CRIU's certificate",
        );
    }
    if documents == 2 && archive.member("pre-checkpoint").is_some() && !images {
        return of(
            "a pre-checkpoint of Podman: memory without processes".to_owned(),
            "give the archive of the checkpoint that follows it",
        );
    }
    if documents == 2 || documents == 1 && images {
        return None;
    }
    if clues.has("oci-layout") || clues.has("index.json") {
        return of(
            image(clues).to_owned(),
            "unpack the archive that is its layer, and give that",
        );
    }
    if clues.has("manifest.json") || clues.has("repositories") {
        let what = match clues.is_marked("checkpoint") {
            true => "an image saved by docker or podman, of a checkpoint",
            false => "an image saved by docker or podman",
        };
        return of(what.to_owned(), "unpack the archive that is its layer, and give that");
    }
    if clues.has("pod.dump") || clues.has("pod.options") {
        return of(
            "a checkpoint of a whole pod".to_owned(),
            "give the archives of its containers, one by one",
        );
    }
    if clues.deeper
        && let Some(Some(directory)) = &clues.below
    {
        return of(
            format!("a checkpoint archive one directory too deep, below {directory}/"),
            "pack what is in that directory: tar -C DIRECTORY -cf ARCHIVE .",
        );
    }
    if images || clues.has("inventory.img") || clues.has("pstree.img") {
        return of("CRIU's images without the documents of an engine".to_owned(), PACK);
    }
    if clues.has("checkpoint.img") || clues.has("pages_meta.img") {
        return of("a checkpoint of gVisor".to_owned(), GIVE_AN_ARCHIVE);
    }
    let first = clues.first.as_deref().unwrap_or_default();
    of(
        format!(
            "a tar of {} members, none of them of a checkpoint archive, the first one {first}",
            archive.members.len()
        ),
        GIVE_AN_ARCHIVE,
    )
}

/// What an OCI image is.
fn image(clues: &Clues) -> &'static str {
    if clues.is_marked("+encrypted") {
        "an encrypted OCI image"
    } else if clues.is_marked("vnd.containerd.container.criu.checkpoint") {
        "a checkpoint of containerd's own client, as an OCI image (ctr containers checkpoint)"
    } else if clues.is_marked("checkpoint") {
        "an OCI image of a checkpoint"
    } else {
        "an OCI image"
    }
}

fn is_image(name: &str) -> bool {
    let name = name.trim_start_matches("./").strip_prefix("checkpoint/");
    name.and_then(cri_proto::criu::ImageFile::from_name).is_some()
}

/// A name for messages, no longer than a line.
fn shown(name: &str) -> String {
    super::walk::display(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::archive::{
        Expected, Limits, inspect_stream,
        sample::{Part, Sample, tar_of},
    };

    fn input(bytes: &[u8]) -> Input {
        inspect_stream(bytes, &Expected::default(), Limits::default())
            .expect("bytes can be read")
            .input
    }

    fn what(bytes: &[u8]) -> String {
        match input(bytes) {
            Input::Foreign(foreign) => foreign.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn tar(names: &[&str]) -> Vec<u8> {
        let parts: Vec<_> = names.iter().map(|name| Part::file(*name, *b"{}")).collect();
        tar_of(&parts).expect("short names")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("a vector takes all");
        encoder.finish().expect("a vector takes all")
    }

    fn sample() -> Vec<u8> {
        tar_of(&Sample::default().parts()).expect("the sample is a tar")
    }

    #[rstest]
    #[case::text(b"hello world\n".to_vec(), "a text")]
    #[case::json(br#"{"a": 1}"#.to_vec(), "a JSON text")]
    #[case::elf(b"\x7fELF\x02\x01\x01".to_vec(), "an ELF")]
    #[case::nothing(Vec::new(), "a file of no bytes")]
    #[case::xz(b"\xfd7zXZ\0\0\0\0".to_vec(), "data compressed by xz")]
    #[case::gzipped_text(gzip(b"hello"), "a text, compressed by gzip")]
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
    fn what_it_is(#[case] bytes: Vec<u8>, #[case] expected: &str) {
        let what = what(&bytes);
        assert!(what.contains(expected), "{what}");
    }

    #[rstest]
    #[case(MARKS[0], "ctr containers checkpoint")]
    #[case("org.criu.checkpoint.container.name", "an OCI image of a checkpoint")]
    #[case("application/vnd.oci.image.layer.v1.tar+encrypted", "an encrypted OCI image")]
    fn an_image_is_told_by_its_documents(#[case] mark: &str, #[case] expected: &str) {
        let parts = [
            Part::file("oci-layout", *b"{}"),
            Part::file("index.json", *b"{}"),
            Part::file("blobs/sha256/0a", format!("{{\"mediaType\": \"{mark}\"}}").as_bytes()),
        ];
        let what = what(&tar_of(&parts).expect("short names"));
        assert!(what.contains(expected), "{what}");
    }

    #[test]
    fn archives_of_the_engines_are_known_by_their_manager() {
        assert_eq!(input(&sample()), Input::Archive(Layout::Containerd));
        for (manager, layout) in [("cri-o", Layout::CriO), ("libpod", Layout::Podman)] {
            let mut sample = Sample::default();
            sample.spec["annotations"]["io.container.manager"] = manager.into();
            let bytes = tar_of(&sample.parts()).expect("the sample is a tar");
            assert_eq!(input(&bytes), Input::Archive(layout));
            let compressed = input(&gzip(&bytes));
            // Podman compresses what it exports.
            assert_eq!(compressed == Input::Archive(layout), layout == Layout::Podman);
        }
    }

    #[test]
    fn a_damaged_tar_is_a_tar() {
        let mut bytes = sample();
        bytes[148] ^= 1;
        assert_eq!(input(&bytes), Input::Unread);
        assert_eq!(input(&sample()[..700]), Input::Unread);
        assert_eq!(input(&[0; 1024]), Input::Unread);
    }
}
