//! Mutants of the file, of the tar and of its members.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use tar::EntryType;

use super::{Mutant, edit_bytes, edit_file, edit_members, edit_metadata, member_mut};
use crate::archive::{
    sample::{DUMP_TIME_SECS, SampleMember},
    tar_header::{BLOCK_BYTES, checksum},
};

pub(super) const MUTANTS: &[Mutant] = &[
    // Inputs that are not checkpoint archives.
    edit_bytes("format/text", |bytes| *bytes = b"a note, not an archive\n".to_vec())
        .must_fail(&["archive/format/checkpoint-archive", "archive/tar/well-formed"]),
    edit_bytes("format/gzip", |bytes| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("a vector takes all");
        *bytes = encoder.finish().expect("a vector takes all");
    })
    .must_fail(&["archive/format/checkpoint-archive", "archive/tar/uncompressed"]),
    edit_members("format/unrelated-tar", |members| {
        *members = vec![SampleMember::file("note.txt", *b"a note")]
    })
    .must_fail(&["archive/format/checkpoint-archive", "archive/memory/expected-bytes"]),
    edit_members("format/nested-directory", |members| {
        members
            .iter_mut()
            .for_each(|member| member.name = format!("checkpoint-of-app/{}", member.name));
    })
    .must_fail(&["archive/format/checkpoint-archive", "archive/memory/expected-bytes"]),
    edit_members("format/images-only", |members| {
        members.retain(|member| member.name != "config.dump" && member.name != "spec.dump")
    })
    .must_fail(&["archive/format/checkpoint-archive", "archive/layout/required-members"]),
    edit_members("format/encrypted-images", |members| {
        members.push(SampleMember::file("checkpoint/cipher.img", *b"a key"))
    })
    .must_fail(&["archive/format/checkpoint-archive"]),
    // The file.
    edit_file("file/world-readable", |path| set_mode(path, 0o644))
        .must_fail(&["archive/file/owner-only", "archive/file/mode-0600"]),
    edit_file("file/group-readable", |path| set_mode(path, 0o640))
        .must_fail(&["archive/file/owner-only", "archive/file/mode-0600"]),
    // uid 65534 is neither root nor the user of a test run.
    edit_metadata("file/wrong-owner", |metadata| metadata.uid = 65534).must_fail(&["archive/file/owner"]),
    edit_file("file/executable", |path| set_mode(path, 0o700)).must_fail(&["archive/file/mode-0600"]),
    edit_file("file/symlink", |path| {
        let target = path.with_extension("target");
        fs::rename(path, &target)?;
        symlink(target, path)
    })
    .must_fail(&["archive/file/regular-single-link"]),
    edit_file("file/hard-link", |path| {
        fs::hard_link(path, path.with_extension("other"))
    })
    .must_fail(&["archive/file/regular-single-link"]),
    // The tar.
    edit_bytes("tar/empty-file", Vec::clear)
        .must_fail(&["archive/format/checkpoint-archive", "archive/tar/well-formed"]),
    edit_bytes("tar/random-bytes", |bytes| {
        let mut state = 1_u32;
        bytes.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
    })
    .must_fail(&["archive/format/checkpoint-archive", "archive/tar/well-formed"]),
    edit_bytes("tar/wrong-checksum", |bytes| bytes[148] ^= 1).must_fail(&["archive/tar/well-formed"]),
    edit_bytes("tar/wrong-last-checksum", |bytes| {
        let last = last_header_offset(bytes);
        bytes[last] ^= 1;
    })
    .must_fail(&["archive/tar/well-formed"]),
    edit_bytes("tar/size-beyond-file", |bytes| {
        let last = last_header_offset(bytes);
        bytes[last + 124..last + 136].copy_from_slice(b"77777777777\0");
        fix_checksum(bytes, last);
    })
    .must_fail(&["archive/tar/well-formed"]),
    edit_bytes("tar/truncated-in-member", |bytes| {
        bytes.truncate(bytes.len() / 2 / BLOCK_BYTES * BLOCK_BYTES)
    })
    .must_fail(&["archive/tar/well-formed"]),
    edit_bytes("tar/truncated-in-header", |bytes| {
        let last = last_header_offset(bytes);
        bytes.truncate(last + 100);
    })
    .must_fail(&["archive/tar/well-formed"]),
    edit_bytes("tar/no-end-marker", |bytes| {
        bytes.truncate(bytes.len() - 2 * BLOCK_BYTES)
    })
    .must_fail(&["archive/tar/end-marker"]),
    edit_bytes("tar/one-zero-block", |bytes| bytes.truncate(bytes.len() - BLOCK_BYTES))
        .must_fail(&["archive/tar/end-marker"]),
    edit_bytes("tar/trailing-bytes", |bytes| {
        let stale = bytes[..20 * BLOCK_BYTES].to_vec();
        bytes.extend(stale);
    })
    .must_fail(&["archive/tar/no-trailing-data"]),
    edit_bytes("tar/trailing-zeros", |bytes| bytes.resize(bytes.len() + (2 << 20), 0))
        .must_fail(&["archive/tar/no-trailing-data"]),
    edit_bytes("tar/gzip-magic", |bytes| {
        bytes.splice(..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    })
    .must_fail(&[
        "archive/format/checkpoint-archive",
        "archive/tar/well-formed",
        "archive/tar/uncompressed",
    ]),
    edit_bytes("tar/no-members", |bytes| *bytes = vec![0; 2 * BLOCK_BYTES]).must_fail(&["archive/tar/not-empty"]),
    edit_bytes("tar/long-name-bomb", |bytes| {
        prepend_extension(bytes, b'L', 1 << 30, b"name")
    })
    .must_fail(&["archive/tar/bounded-headers"]),
    edit_bytes("tar/pax-bomb", |bytes| prepend_extension(bytes, b'x', 1 << 33, b""))
        .must_fail(&["archive/tar/bounded-headers"]),
    edit_bytes("tar/pax-malformed", |bytes| {
        prepend_extension(bytes, b'x', 12, b"99 path=abc\n")
    })
    .must_fail(&["archive/tar/well-formed"]),
    edit_bytes("tar/link-with-content", |bytes| {
        let last = last_header_offset(bytes);
        bytes[last + 156] = b'2';
        fix_checksum(bytes, last);
    })
    .must_fail(&["archive/tar/well-formed"]),
    // Members.
    edit_members("members/absolute-name", |members| {
        members.push(SampleMember::file("/etc/cron.d/x", *b"x"))
    })
    .must_fail(&["archive/members/relative-names"]),
    edit_members("members/parent-directory-name", |members| {
        members.push(SampleMember::file("../x", *b"x"))
    })
    .must_fail(&["archive/members/no-path-traversal"]),
    edit_members("members/symlink", |members| {
        members.push(special_member("log", EntryType::Symlink))
    })
    .must_fail(&["archive/members/no-symlink"]),
    edit_members("members/symlink-as-log", |members| {
        member_mut(members, "container.log").kind = EntryType::Symlink;
        member_mut(members, "container.log").content = b"/etc/shadow".to_vec();
    })
    .must_fail(&["archive/members/no-symlink", "archive/layout/container-log"]),
    edit_members("members/hard-link", |members| {
        members.push(special_member("log", EntryType::Link))
    })
    .must_fail(&["archive/members/no-hard-link"]),
    edit_members("members/character-device", |members| {
        members.push(special_member("null", EntryType::Char))
    })
    .must_fail(&["archive/members/no-device"]),
    edit_members("members/block-device", |members| {
        members.push(special_member("disk", EntryType::Block))
    })
    .must_fail(&["archive/members/no-device"]),
    edit_members("members/fifo", |members| {
        members.push(special_member("fifo", EntryType::Fifo))
    })
    .must_fail(&["archive/members/no-device"]),
    edit_members("members/gnu-sparse", |members| {
        members.push(special_member("holes", EntryType::GNUSparse))
    })
    .must_fail(&["archive/members/no-sparse"]),
    edit_members("members/unknown-type", |members| {
        members.push(special_member("x", EntryType::new(b'Z')))
    })
    .must_fail(&["archive/members/posix-type"]),
    edit_members("members/duplicate-name", |members| {
        let duplicate = member_mut(members, "config.dump").clone();
        members.push(duplicate);
    })
    .must_fail(&["archive/members/unique-names"]),
    edit_members("members/duplicate-name-with-dot", |members| {
        let mut duplicate = member_mut(members, "checkpoint/core-1.img").clone();
        duplicate.name = "./checkpoint/core-1.img".to_owned();
        members.push(duplicate);
    })
    .must_fail(&["archive/members/unique-names"]),
    edit_members("members/control-character", |members| {
        members.push(SampleMember::file("a\x1b[2Jb", *b"x"))
    })
    .must_fail(&["archive/members/valid-names"]),
    edit_members("members/dot-component", |members| {
        members.push(SampleMember::file("a/./b", *b"x"))
    })
    .must_fail(&["archive/members/valid-names"]),
    edit_members("members/setuid", |members| {
        let mut executable = SampleMember::file("sh", *b"#!");
        executable.mode = 0o4755;
        members.push(executable);
    })
    .must_fail(&["archive/members/no-setuid-setgid"]),
    edit_members("members/directory-without-search", |members| {
        member_mut(members, "checkpoint/").mode = 0o600
    })
    .must_fail(&["archive/members/directories-accessible"]),
    edit_members("members/stale-image", |members| {
        // One hour before the dump: older than the container.
        member_mut(members, "checkpoint/core-1.img").mtime -= 3600;
    })
    .must_fail(&["archive/members/newer-than-container"]),
];

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The offset of the last member's header. The sample's last member has two blocks.
fn last_header_offset(bytes: &[u8]) -> usize {
    bytes.len() - 2 * BLOCK_BYTES - 2 * BLOCK_BYTES - BLOCK_BYTES
}

fn fix_checksum(bytes: &mut [u8], offset: usize) {
    let Some(block) = bytes[offset..].first_chunk_mut::<BLOCK_BYTES>() else {
        return;
    };
    let sum = format!("{:06o}\0 ", checksum(block));
    block[148..156].copy_from_slice(sum.as_bytes());
}

/// Inserts an extension header with this type flag, declared size and content before the first member.
fn prepend_extension(bytes: &mut Vec<u8>, flag: u8, size: u64, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(EntryType::new(flag));
    header.set_size(size);
    header.set_cksum();
    let mut block = header.as_bytes().to_vec();
    if !content.is_empty() {
        block.extend(content);
        block.resize(2 * BLOCK_BYTES, 0);
    }
    bytes.splice(..0, block);
}

fn special_member(name: &str, kind: EntryType) -> SampleMember {
    let content = if matches!(kind, EntryType::Symlink | EntryType::Link) {
        b"/etc/shadow".to_vec()
    } else {
        vec![]
    };
    SampleMember {
        name: name.to_owned(),
        kind,
        mode: 0o600,
        mtime: DUMP_TIME_SECS,
        content,
    }
}
