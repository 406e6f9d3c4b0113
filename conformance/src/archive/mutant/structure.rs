//! Archives whose file, tar or members are wrong.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use tar::EntryType;

use super::{ArchiveMutant, bytes, file, members, part};
use crate::archive::{
    header::{BLOCK, checksum},
    sample::Part,
};

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    // The file.
    file("file/world-readable", &["file/private", "file/mode"], |path| {
        mode(path, 0o644)
    }),
    file("file/group-readable", &["file/private", "file/mode"], |path| {
        mode(path, 0o640)
    }),
    file("file/executable", &["file/mode"], |path| mode(path, 0o700)),
    file("file/symlink", &["file/plain"], |path| {
        let target = path.with_extension("target");
        fs::rename(path, &target)?;
        symlink(target, path)
    }),
    file("file/hard-link", &["file/plain"], |path| {
        fs::hard_link(path, path.with_extension("other"))
    }),
    // The tar.
    bytes("tar/no-bytes", &["tar/well-formed"], Vec::clear),
    bytes("tar/random", &["tar/well-formed"], |bytes| {
        let mut state = 1_u32;
        bytes.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
    }),
    bytes("tar/checksum", &["tar/well-formed"], |bytes| bytes[148] ^= 1),
    bytes("tar/last-checksum", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last] ^= 1;
    }),
    bytes("tar/size-beyond-file", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last + 124..last + 136].copy_from_slice(b"77777777777\0");
        resum(bytes, last);
    }),
    bytes("tar/cut-in-member", &["tar/well-formed"], |bytes| {
        bytes.truncate(bytes.len() / 2 / BLOCK * BLOCK)
    }),
    bytes("tar/cut-in-header", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes.truncate(last + 100);
    }),
    bytes("tar/cut-at-member", &["tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - 2 * BLOCK)
    }),
    bytes("tar/one-zero-block", &["tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - BLOCK)
    }),
    bytes("tar/stale-tail", &["tar/nothing-behind"], |bytes| {
        let stale = bytes[..20 * BLOCK].to_vec();
        bytes.extend(stale);
    }),
    bytes("tar/zeros-without-end", &["tar/nothing-behind"], |bytes| {
        bytes.resize(bytes.len() + (2 << 20), 0)
    }),
    bytes("tar/gzip", &["tar/well-formed", "tar/uncompressed"], |bytes| {
        bytes.splice(..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    }),
    bytes("tar/no-members", &["tar/not-empty"], |bytes| {
        *bytes = vec![0; 2 * BLOCK]
    }),
    bytes("tar/long-name-bomb", &["tar/bounded"], |bytes| {
        extension(bytes, b'L', 1 << 30, b"name")
    }),
    bytes("tar/pax-bomb", &["tar/bounded"], |bytes| {
        extension(bytes, b'x', 1 << 33, b"")
    }),
    bytes("tar/pax-malformed", &["tar/well-formed"], |bytes| {
        extension(bytes, b'x', 12, b"99 path=abc\n")
    }),
    bytes("tar/link-with-content", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last + 156] = b'2';
        resum(bytes, last);
    }),
    // Members.
    members("members/absolute", &["members/relative"], |parts| {
        parts.push(Part::file("/etc/cron.d/x", *b"x"))
    }),
    members("members/parent", &["members/no-parent"], |parts| {
        parts.push(Part::file("../x", *b"x"))
    }),
    members("members/symlink", &["members/no-symlink"], |parts| {
        parts.push(special("log", EntryType::Symlink))
    }),
    members(
        "members/symlink-as-log",
        &["members/no-symlink", "layout/container-log"],
        |parts| {
            part(parts, "container.log").kind = EntryType::Symlink;
            part(parts, "container.log").content = b"/etc/shadow".to_vec();
        },
    ),
    members("members/hard-link", &["members/no-hard-link"], |parts| {
        parts.push(special("log", EntryType::Link))
    }),
    members("members/character-device", &["members/no-device"], |parts| {
        parts.push(special("null", EntryType::Char))
    }),
    members("members/block-device", &["members/no-device"], |parts| {
        parts.push(special("disk", EntryType::Block))
    }),
    members("members/fifo", &["members/no-device"], |parts| {
        parts.push(special("fifo", EntryType::Fifo))
    }),
    members("members/gnu-sparse", &["members/no-sparse"], |parts| {
        parts.push(special("holes", EntryType::GNUSparse))
    }),
    members("members/strange-kind", &["members/known-kind"], |parts| {
        parts.push(special("x", EntryType::new(b'Z')))
    }),
    members("members/twice", &["members/unique"], |parts| {
        let again = part(parts, "config.dump").clone();
        parts.push(again);
    }),
    members("members/twice-by-another-name", &["members/unique"], |parts| {
        let mut again = part(parts, "checkpoint/core-1.img").clone();
        again.name = "./checkpoint/core-1.img".to_owned();
        parts.push(again);
    }),
    members("members/control-character", &["members/clean-names"], |parts| {
        parts.push(Part::file("a\x1b[2Jb", *b"x"))
    }),
    members("members/dot-component", &["members/clean-names"], |parts| {
        parts.push(Part::file("a/./b", *b"x"))
    }),
    members("members/setuid", &["members/no-set-id"], |parts| {
        let mut shell = Part::file("sh", *b"#!");
        shell.mode = 0o4755;
        parts.push(shell);
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
        content,
    }
}
