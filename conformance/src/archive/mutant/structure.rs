//! Mutants of the file, of the tar and of its members.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use tar::EntryType;

use super::{ArchiveMutant, edit_bytes, edit_file, edit_members, edit_metadata, member_mut};
use crate::archive::{
    sample::{DUMP_TIME_SECS, SampleMember},
    tar_header::{BLOCK_BYTES, checksum},
};

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    // Inputs that are not checkpoint archives.
    edit_bytes(
        "format/text",
        &["archive/format/checkpoint-archive", "archive/tar/well-formed"],
        |bytes| *bytes = b"a note, not an archive\n".to_vec(),
    ),
    edit_bytes(
        "format/gzip",
        &["archive/format/checkpoint-archive", "archive/tar/uncompressed"],
        |bytes| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).expect("a vector takes all");
            *bytes = encoder.finish().expect("a vector takes all");
        },
    ),
    edit_members(
        "format/unrelated-tar",
        &["archive/format/checkpoint-archive", "archive/memory/expected-bytes"],
        |members| *members = vec![SampleMember::file("note.txt", *b"a note")],
    ),
    edit_members(
        "format/nested-directory",
        &["archive/format/checkpoint-archive", "archive/memory/expected-bytes"],
        |members| {
            members
                .iter_mut()
                .for_each(|member| member.name = format!("checkpoint-of-app/{}", member.name));
        },
    ),
    edit_members(
        "format/images-only",
        &["archive/format/checkpoint-archive", "archive/layout/required-members"],
        |members| members.retain(|member| member.name != "config.dump" && member.name != "spec.dump"),
    ),
    edit_members(
        "format/encrypted-images",
        &["archive/format/checkpoint-archive"],
        |members| members.push(SampleMember::file("checkpoint/cipher.img", *b"a key")),
    ),
    // The file.
    edit_file(
        "file/world-readable",
        &["archive/file/owner-only", "archive/file/mode-0600"],
        |path| set_mode(path, 0o644),
    ),
    edit_file(
        "file/group-readable",
        &["archive/file/owner-only", "archive/file/mode-0600"],
        |path| set_mode(path, 0o640),
    ),
    // uid 65534 is neither root nor the user of a test run.
    edit_metadata("file/wrong-owner", &["archive/file/owner"], |metadata| {
        metadata.uid = 65534
    }),
    edit_file("file/executable", &["archive/file/mode-0600"], |path| {
        set_mode(path, 0o700)
    }),
    edit_file("file/symlink", &["archive/file/regular-single-link"], |path| {
        let target = path.with_extension("target");
        fs::rename(path, &target)?;
        symlink(target, path)
    }),
    edit_file("file/hard-link", &["archive/file/regular-single-link"], |path| {
        fs::hard_link(path, path.with_extension("other"))
    }),
    // The tar.
    edit_bytes(
        "tar/empty-file",
        &["archive/format/checkpoint-archive", "archive/tar/well-formed"],
        Vec::clear,
    ),
    edit_bytes(
        "tar/random-bytes",
        &["archive/format/checkpoint-archive", "archive/tar/well-formed"],
        |bytes| {
            let mut state = 1_u32;
            bytes.fill_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            });
        },
    ),
    edit_bytes("tar/wrong-checksum", &["archive/tar/well-formed"], |bytes| {
        bytes[148] ^= 1
    }),
    edit_bytes("tar/wrong-last-checksum", &["archive/tar/well-formed"], |bytes| {
        let last = last_header_offset(bytes);
        bytes[last] ^= 1;
    }),
    edit_bytes("tar/size-beyond-file", &["archive/tar/well-formed"], |bytes| {
        let last = last_header_offset(bytes);
        bytes[last + 124..last + 136].copy_from_slice(b"77777777777\0");
        fix_checksum(bytes, last);
    }),
    edit_bytes("tar/truncated-in-member", &["archive/tar/well-formed"], |bytes| {
        bytes.truncate(bytes.len() / 2 / BLOCK_BYTES * BLOCK_BYTES)
    }),
    edit_bytes("tar/truncated-in-header", &["archive/tar/well-formed"], |bytes| {
        let last = last_header_offset(bytes);
        bytes.truncate(last + 100);
    }),
    edit_bytes("tar/no-end-marker", &["archive/tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - 2 * BLOCK_BYTES)
    }),
    edit_bytes("tar/one-zero-block", &["archive/tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - BLOCK_BYTES)
    }),
    edit_bytes("tar/trailing-bytes", &["archive/tar/no-trailing-data"], |bytes| {
        let stale = bytes[..20 * BLOCK_BYTES].to_vec();
        bytes.extend(stale);
    }),
    edit_bytes("tar/trailing-zeros", &["archive/tar/no-trailing-data"], |bytes| {
        bytes.resize(bytes.len() + (2 << 20), 0)
    }),
    edit_bytes(
        "tar/gzip-magic",
        &[
            "archive/format/checkpoint-archive",
            "archive/tar/well-formed",
            "archive/tar/uncompressed",
        ],
        |bytes| {
            bytes.splice(..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
        },
    ),
    edit_bytes("tar/no-members", &["archive/tar/not-empty"], |bytes| {
        *bytes = vec![0; 2 * BLOCK_BYTES]
    }),
    edit_bytes("tar/long-name-bomb", &["archive/tar/bounded-headers"], |bytes| {
        prepend_extension(bytes, b'L', 1 << 30, b"name")
    }),
    edit_bytes("tar/pax-bomb", &["archive/tar/bounded-headers"], |bytes| {
        prepend_extension(bytes, b'x', 1 << 33, b"")
    }),
    edit_bytes("tar/pax-malformed", &["archive/tar/well-formed"], |bytes| {
        prepend_extension(bytes, b'x', 12, b"99 path=abc\n")
    }),
    edit_bytes("tar/link-with-content", &["archive/tar/well-formed"], |bytes| {
        let last = last_header_offset(bytes);
        bytes[last + 156] = b'2';
        fix_checksum(bytes, last);
    }),
    // Members.
    edit_members(
        "members/absolute-name",
        &["archive/members/relative-names"],
        |members| members.push(SampleMember::file("/etc/cron.d/x", *b"x")),
    ),
    edit_members(
        "members/parent-directory-name",
        &["archive/members/no-path-traversal"],
        |members| members.push(SampleMember::file("../x", *b"x")),
    ),
    edit_members("members/symlink", &["archive/members/no-symlink"], |members| {
        members.push(special_member("log", EntryType::Symlink))
    }),
    edit_members(
        "members/symlink-as-log",
        &["archive/members/no-symlink", "archive/layout/container-log"],
        |members| {
            member_mut(members, "container.log").kind = EntryType::Symlink;
            member_mut(members, "container.log").content = b"/etc/shadow".to_vec();
        },
    ),
    edit_members("members/hard-link", &["archive/members/no-hard-link"], |members| {
        members.push(special_member("log", EntryType::Link))
    }),
    edit_members("members/character-device", &["archive/members/no-device"], |members| {
        members.push(special_member("null", EntryType::Char))
    }),
    edit_members("members/block-device", &["archive/members/no-device"], |members| {
        members.push(special_member("disk", EntryType::Block))
    }),
    edit_members("members/fifo", &["archive/members/no-device"], |members| {
        members.push(special_member("fifo", EntryType::Fifo))
    }),
    edit_members("members/gnu-sparse", &["archive/members/no-sparse"], |members| {
        members.push(special_member("holes", EntryType::GNUSparse))
    }),
    edit_members("members/unknown-type", &["archive/members/posix-type"], |members| {
        members.push(special_member("x", EntryType::new(b'Z')))
    }),
    edit_members("members/duplicate-name", &["archive/members/unique-names"], |members| {
        let duplicate = member_mut(members, "config.dump").clone();
        members.push(duplicate);
    }),
    edit_members(
        "members/duplicate-name-with-dot",
        &["archive/members/unique-names"],
        |members| {
            let mut duplicate = member_mut(members, "checkpoint/core-1.img").clone();
            duplicate.name = "./checkpoint/core-1.img".to_owned();
            members.push(duplicate);
        },
    ),
    edit_members(
        "members/control-character",
        &["archive/members/valid-names"],
        |members| members.push(SampleMember::file("a\x1b[2Jb", *b"x")),
    ),
    edit_members("members/dot-component", &["archive/members/valid-names"], |members| {
        members.push(SampleMember::file("a/./b", *b"x"))
    }),
    edit_members("members/setuid", &["archive/members/no-setuid-setgid"], |members| {
        let mut executable = SampleMember::file("sh", *b"#!");
        executable.mode = 0o4755;
        members.push(executable);
    }),
    edit_members(
        "members/directory-without-search",
        &["archive/members/directories-accessible"],
        |members| member_mut(members, "checkpoint/").mode = 0o600,
    ),
    edit_members(
        "members/stale-image",
        &["archive/members/newer-than-container"],
        |members| {
            // One hour before the dump: older than the container.
            member_mut(members, "checkpoint/core-1.img").mtime -= 3600;
        },
    ),
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
