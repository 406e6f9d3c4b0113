//! The memory use of the command is bounded for every archive: it runs with less address space than each bomb needs.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::Path,
    process::Command,
};

use rstest::rstest;

const BLOCK_BYTES: u64 = 512;
const HUGE_BYTES: u64 = 2 << 30;

/// The address space limit of the command, in KiB: enough for the program and the stacks of its threads, and far below
/// [`HUGE_BYTES`].
const ADDRESS_SPACE_KIB: u64 = 1 << 20;

/// Writes a member whose content is `first` followed by a hole.
fn write_member(file: &mut File, kind: u8, name: &str, size: u64, first: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_cksum();
    file.write_all(header.as_bytes())?;
    file.write_all(first)?;
    file.seek(SeekFrom::Current(
        (size.next_multiple_of(BLOCK_BYTES) - first.len() as u64).cast_signed(),
    ))?;
    Ok(())
}

fn write_archive(path: &Path, kind: u8, name: &str, size: u64, first: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    write_member(&mut file, kind, name, size, first)?;
    let end = file.stream_position()?;
    file.set_len(end + 2 * BLOCK_BYTES)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[rstest]
#[case::document(b'0', "config.dump", b"{", "it is larger than")]
#[case::image_entry(b'0', "checkpoint/mm-1.img", &[0x19, 0x43, 0x56, 0x54, 0x20, 0x28, 0x49, 0x57, 0, 0, 0, 0x7f], "exceeds the limit of 16777216")]
#[case::long_name(b'L', "././@LongLink", b"a", "extension header of 2147483648 bytes")]
#[case::records(b'x', "pax", b"2147483648 path=a", "extension header of 2147483648 bytes")]
fn bombs_are_reported_in_bounded_memory(
    #[case] kind: u8,
    #[case] name: &str,
    #[case] first: &[u8],
    #[case] seen: &str,
) {
    let directory = tempfile::tempdir().expect("create a temporary directory");
    let path = directory.path().join("bomb.tar");
    write_archive(&path, kind, name, HUGE_BYTES, first).expect("write a sparse archive");
    let script = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" archive --strict \"$1\"");
    let command = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_checkpoint-conformance")])
        .arg(&path)
        .env("NO_COLOR", "1")
        .output()
        .expect("run a shell");
    let text = String::from_utf8_lossy(&command.stdout);
    assert_eq!(
        command.status.code(),
        Some(1),
        "{text}\n{}",
        String::from_utf8_lossy(&command.stderr)
    );
    assert!(
        text.split_whitespace().collect::<Vec<_>>().join(" ").contains(seen),
        "{text}"
    );
}

#[test]
fn memory_limit_is_enforced() {
    // Checks that the limit works: tail buffers a whole line and must exceed it.
    let script = "ulimit -v 262144 && head -c 536870912 /dev/zero | tail -n 1 | wc -c";
    let command = Command::new("sh").args(["-c", script]).output().expect("run a shell");
    let kept = String::from_utf8_lossy(&command.stdout);
    assert_ne!(
        kept.trim(),
        "536870912",
        "the limit has no effect: tail buffered 512 MiB in 256 MiB of address space"
    );
}
