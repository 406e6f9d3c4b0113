//! Archives whose file, tar or members are wrong.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use tar::EntryType;

use super::{ArchiveMutant, bytes, facts, file, members, part};
use crate::archive::{
    header::{BLOCK, checksum},
    sample::{DUMPED, Part},
};

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    // What is no checkpoint archive.
    bytes("kind/text", &["archive/kind", "archive/tar/well-formed"], |bytes| {
        *bytes = b"a note, not an archive\n".to_vec()
    }),
    bytes("kind/gzip", &["archive/kind", "archive/tar/uncompressed"], |bytes| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("a vector takes all");
        *bytes = encoder.finish().expect("a vector takes all");
    }),
    members("kind/note", &["archive/kind", "archive/memory/canary"], |parts| {
        *parts = vec![Part::file("note.txt", *b"a note")]
    }),
    members("kind/deeper", &["archive/kind", "archive/memory/canary"], |parts| {
        parts
            .iter_mut()
            .for_each(|part| part.name = format!("checkpoint-of-app/{}", part.name));
    }),
    members(
        "kind/images-alone",
        &["archive/kind", "archive/layout/upstream-names"],
        |parts| parts.retain(|part| part.name != "config.dump" && part.name != "spec.dump"),
    ),
    members("kind/encrypted-images", &["archive/kind"], |parts| {
        parts.push(Part::file("checkpoint/cipher.img", *b"a key"))
    }),
    // The file.
    file(
        "file/world-readable",
        &["archive/file/private", "archive/file/mode"],
        |path| mode(path, 0o644),
    ),
    file(
        "file/group-readable",
        &["archive/file/private", "archive/file/mode"],
        |path| mode(path, 0o640),
    ),
    // 65534 is nobody's: neither root nor whoever runs this.
    facts("file/owner", &["archive/file/owner"], |facts| facts.uid = 65534),
    file("file/executable", &["archive/file/mode"], |path| mode(path, 0o700)),
    file("file/symlink", &["archive/file/plain"], |path| {
        let target = path.with_extension("target");
        fs::rename(path, &target)?;
        symlink(target, path)
    }),
    file("file/hard-link", &["archive/file/plain"], |path| {
        fs::hard_link(path, path.with_extension("other"))
    }),
    // The tar.
    bytes("tar/no-bytes", &["archive/kind", "archive/tar/well-formed"], Vec::clear),
    bytes("tar/random", &["archive/kind", "archive/tar/well-formed"], |bytes| {
        let mut state = 1_u32;
        bytes.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
    }),
    bytes("tar/checksum", &["archive/tar/well-formed"], |bytes| bytes[148] ^= 1),
    bytes("tar/last-checksum", &["archive/tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last] ^= 1;
    }),
    bytes("tar/size-beyond-file", &["archive/tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last + 124..last + 136].copy_from_slice(b"77777777777\0");
        resum(bytes, last);
    }),
    bytes("tar/cut-in-member", &["archive/tar/well-formed"], |bytes| {
        bytes.truncate(bytes.len() / 2 / BLOCK * BLOCK)
    }),
    bytes("tar/cut-in-header", &["archive/tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes.truncate(last + 100);
    }),
    bytes("tar/cut-at-member", &["archive/tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - 2 * BLOCK)
    }),
    bytes("tar/one-zero-block", &["archive/tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - BLOCK)
    }),
    bytes("tar/stale-tail", &["archive/tar/nothing-behind"], |bytes| {
        let stale = bytes[..20 * BLOCK].to_vec();
        bytes.extend(stale);
    }),
    bytes("tar/zeros-without-end", &["archive/tar/nothing-behind"], |bytes| {
        bytes.resize(bytes.len() + (2 << 20), 0)
    }),
    bytes(
        "tar/gzip",
        &["archive/kind", "archive/tar/well-formed", "archive/tar/uncompressed"],
        |bytes| {
            bytes.splice(..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
        },
    ),
    bytes("tar/no-members", &["archive/tar/not-empty"], |bytes| {
        *bytes = vec![0; 2 * BLOCK]
    }),
    bytes("tar/long-name-bomb", &["archive/tar/bounded"], |bytes| {
        extension(bytes, b'L', 1 << 30, b"name")
    }),
    bytes("tar/pax-bomb", &["archive/tar/bounded"], |bytes| {
        extension(bytes, b'x', 1 << 33, b"")
    }),
    bytes("tar/pax-malformed", &["archive/tar/well-formed"], |bytes| {
        extension(bytes, b'x', 12, b"99 path=abc\n")
    }),
    bytes("tar/link-with-content", &["archive/tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last + 156] = b'2';
        resum(bytes, last);
    }),
    // Members.
    members("members/absolute", &["archive/members/relative"], |parts| {
        parts.push(Part::file("/etc/cron.d/x", *b"x"))
    }),
    members("members/parent", &["archive/members/no-parent"], |parts| {
        parts.push(Part::file("../x", *b"x"))
    }),
    members("members/symlink", &["archive/members/no-symlink"], |parts| {
        parts.push(special("log", EntryType::Symlink))
    }),
    members(
        "members/symlink-as-log",
        &["archive/members/no-symlink", "archive/layout/container-log"],
        |parts| {
            part(parts, "container.log").kind = EntryType::Symlink;
            part(parts, "container.log").content = b"/etc/shadow".to_vec();
        },
    ),
    members("members/hard-link", &["archive/members/no-hard-link"], |parts| {
        parts.push(special("log", EntryType::Link))
    }),
    members("members/character-device", &["archive/members/no-device"], |parts| {
        parts.push(special("null", EntryType::Char))
    }),
    members("members/block-device", &["archive/members/no-device"], |parts| {
        parts.push(special("disk", EntryType::Block))
    }),
    members("members/fifo", &["archive/members/no-device"], |parts| {
        parts.push(special("fifo", EntryType::Fifo))
    }),
    members("members/gnu-sparse", &["archive/members/no-sparse"], |parts| {
        parts.push(special("holes", EntryType::GNUSparse))
    }),
    members("members/strange-kind", &["archive/members/known-kind"], |parts| {
        parts.push(special("x", EntryType::new(b'Z')))
    }),
    members("members/twice", &["archive/members/unique"], |parts| {
        let again = part(parts, "config.dump").clone();
        parts.push(again);
    }),
    members("members/twice-by-another-name", &["archive/members/unique"], |parts| {
        let mut again = part(parts, "checkpoint/core-1.img").clone();
        again.name = "./checkpoint/core-1.img".to_owned();
        parts.push(again);
    }),
    members("members/control-character", &["archive/members/clean-names"], |parts| {
        parts.push(Part::file("a\x1b[2Jb", *b"x"))
    }),
    members("members/dot-component", &["archive/members/clean-names"], |parts| {
        parts.push(Part::file("a/./b", *b"x"))
    }),
    members("members/setuid", &["archive/members/no-set-id"], |parts| {
        let mut shell = Part::file("sh", *b"#!");
        shell.mode = 0o4755;
        parts.push(shell);
    }),
    members(
        "members/directory-without-search",
        &["archive/members/directory-modes"],
        |parts| part(parts, "checkpoint/").mode = 0o600,
    ),
    members("members/of-an-earlier-attempt", &["archive/members/fresh"], |parts| {
        // An hour before the dump, and so before the container was created.
        part(parts, "checkpoint/core-1.img").mtime -= 3600;
    }),
];

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Where the last member's header begins: the sample's last member is two blocks long.
fn last_header(bytes: &[u8]) -> usize {
    bytes.len() - 2 * BLOCK - 2 * BLOCK - BLOCK
}

fn resum(bytes: &mut [u8], at: usize) {
    let Some(block) = bytes[at..].first_chunk_mut::<BLOCK>() else {
        return;
    };
    let sum = format!("{:06o}\0 ", checksum(block));
    block[148..156].copy_from_slice(sum.as_bytes());
}

/// Puts an extension header of this kind and stated size, with this content, before the first member.
fn extension(bytes: &mut Vec<u8>, flag: u8, size: u64, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(EntryType::new(flag));
    header.set_size(size);
    header.set_cksum();
    let mut block = header.as_bytes().to_vec();
    if !content.is_empty() {
        block.extend(content);
        block.resize(2 * BLOCK, 0);
    }
    bytes.splice(..0, block);
}

fn special(name: &str, kind: EntryType) -> Part {
    let content = if matches!(kind, EntryType::Symlink | EntryType::Link) {
        b"/etc/shadow".to_vec()
    } else {
        vec![]
    };
    Part {
        name: name.to_owned(),
        kind,
        mode: 0o600,
        mtime: DUMPED,
        content,
    }
}
