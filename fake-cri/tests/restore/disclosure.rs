//! A caller that may create containers chooses a path that fake-cri opens as root: no content of that file may be
//! disclosed.

use std::{io::Write as _, os::unix::fs::symlink, path::Path};

use fake_cri::checkpoint::{CancelFlag, RestoreError, RestoreOptions, check_restorable, check_restorable_here};
use tonic::Code;

use crate::{
    cri::Pod,
    programs::{TestProgram, host_exec_cri},
};

const SECRET: &str = "s3cret-hash-of-root";

/// The errors of CreateContainer for both ways to name an archive.
async fn create_errors(pod: &Pod<'_>, path: &Path) -> Vec<String> {
    let program = TestProgram::from_archive(path);
    let mut messages = Vec::new();
    for config in [
        program.restored_by_image("image"),
        program.restored_by_annotation("annotation"),
    ] {
        let status = pod.create(config).await.expect_err("not an archive");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        messages.push(status.message().to_owned());
    }
    messages
}

fn header(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).expect("a short name");
    header.set_size(size);
    header.set_cksum();
    header
}

#[tokio::test]
async fn errors_quote_no_file_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, content: &[u8]| {
        std::fs::write(path(name), content).unwrap();
        path(name)
    };
    let lines = format!("root:$y${SECRET}:19000:0:99999:7:::\n").repeat(40);
    let mut bad_size = header("checkpoint/inventory.img", 0);
    bad_size.as_mut_bytes()[124..135].copy_from_slice(&SECRET.as_bytes()[..11]);
    bad_size.set_cksum();
    let image = [&SECRET.as_bytes()[..8], lines.as_bytes()].concat();
    let mut bad_magic = tar::Builder::new(Vec::new());
    bad_magic
        .append(&header("checkpoint/inventory.img", image.len() as u64), &*image)
        .unwrap();
    let mut foreign_member = tar::Builder::new(Vec::new());
    foreign_member.append(&header(SECRET, 3), &b"abc"[..]).unwrap();
    std::fs::create_dir(path("layout")).unwrap();
    std::fs::write(path("layout/index.json"), format!("{{\"manifests\": \"{SECRET}\"}}")).unwrap();
    std::fs::create_dir(path("digest")).unwrap();
    let index = format!("{{\"manifests\": [{{\"digest\": \"{SECRET}\"}}]}}");
    std::fs::write(path("digest/index.json"), index).unwrap();
    let cri = host_exec_cri().await;
    let pod = cri.pod("tenant").await;
    for (file, reason) in [
        (write("shadow", lines.as_bytes()), "not a tar archive"),
        (
            write("number", bad_size.as_bytes()),
            "the tar header at byte 0 is malformed",
        ),
        (write("magic", &bad_magic.into_inner().unwrap()), "magic number"),
        (
            write("member", &foreign_member.into_inner().unwrap()),
            "no CRIU images found",
        ),
        (path("layout"), "index.json does not have the expected fields"),
        (path("digest"), "is not sha256:"),
    ] {
        for message in create_errors(&pod, &file).await {
            assert!(message.contains(reason), "{message}");
            // Not even a prefix.
            assert!(!message.contains(&SECRET[..4]), "{message}");
        }
    }
}

#[tokio::test]
async fn kernel_files_and_devices_are_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    symlink("/proc/self/environ", &link).unwrap();
    let cri = host_exec_cri().await;
    let pod = cri.pod("tenant").await;
    for (path, reason) in [
        (Path::new("/proc/1/environ"), "a file system of the kernel (proc)"),
        (&link, "a file system of the kernel (proc)"),
        (Path::new("/dev/zero"), "below /dev"),
    ] {
        for message in create_errors(&pod, path).await {
            assert!(message.contains(reason), "{message}");
        }
    }
}

#[test]
fn compressed_files_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive.tar.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&[0; 10_000]).unwrap();
    std::fs::write(&path, encoder.finish().unwrap()).unwrap();
    let error = check_restorable(&path, dir.path()).unwrap_err().to_string();
    assert!(error.contains("compressed with gzip"), "{error}");
}

#[test]
fn nothing_is_read_after_cancellation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive.tar");
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append(&header("checkpoint/inventory.img", 3), &b"abc"[..])
        .unwrap();
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let cancel = CancelFlag::new();
    drop(cancel.cancel_on_drop());
    let error = check_restorable_here(&path, dir.path(), RestoreOptions::default(), &cancel).unwrap_err();
    assert!(matches!(error, RestoreError::Cancelled), "{error}");
}
