//! Whoever may create a container names a path, and fake-cri opens it as root: nothing of what is there may be told.

use std::{io::Write as _, os::unix::fs::symlink, path::Path};

use fake_cri::checkpoint::{Caller, Options, RestoreError, restorable, restorable_here};
use tonic::Code;

use crate::{
    cri::Pod,
    programs::{Program, host},
};

const SECRET: &str = "s3cret-hash-of-root";

/// What CreateContainer answers, by either way of naming an archive.
async fn answers(pod: &Pod<'_>, path: &Path) -> Vec<String> {
    let program = Program::of_archive(path);
    let mut answers = Vec::new();
    for config in [program.restored("image"), program.annotated("annotation")] {
        let status = pod.create(config).await.expect_err("it is no archive");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        answers.push(status.message().to_owned());
    }
    answers
}

fn header(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).expect("a short name");
    header.set_size(size);
    header.set_cksum();
    header
}

#[tokio::test]
async fn no_answer_quotes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, content: &[u8]| {
        std::fs::write(path(name), content).unwrap();
        path(name)
    };
    let lines = format!("root:$y${SECRET}:19000:0:99999:7:::\n").repeat(40);
    let mut number = header("checkpoint/inventory.img", 0);
    number.as_mut_bytes()[124..135].copy_from_slice(&SECRET.as_bytes()[..11]);
    number.set_cksum();
    let image = [&SECRET.as_bytes()[..8], lines.as_bytes()].concat();
    let mut magic = tar::Builder::new(Vec::new());
    magic
        .append(&header("checkpoint/inventory.img", image.len() as u64), &*image)
        .unwrap();
    let mut member = tar::Builder::new(Vec::new());
    member.append(&header(SECRET, 3), &b"abc"[..]).unwrap();
    std::fs::create_dir(path("layout")).unwrap();
    std::fs::write(path("layout/index.json"), format!("{{\"manifests\": \"{SECRET}\"}}")).unwrap();
    std::fs::create_dir(path("digest")).unwrap();
    let index = format!("{{\"manifests\": [{{\"digest\": \"{SECRET}\"}}]}}");
    std::fs::write(path("digest/index.json"), index).unwrap();
    let cri = host().await;
    let pod = cri.pod("tenant").await;
    for (file, reason) in [
        (write("shadow", lines.as_bytes()), "it is no tar archive"),
        (
            write("number", number.as_bytes()),
            "the tar header at byte 0 is malformed",
        ),
        (write("magic", &magic.into_inner().unwrap()), "no magic of"),
        (
            write("member", &member.into_inner().unwrap()),
            "it holds no images of CRIU",
        ),
        (path("layout"), "its index.json has other fields than it should"),
        (path("digest"), "is no digest"),
    ] {
        for answer in answers(&pod, &file).await {
            assert!(answer.contains(reason), "{answer}");
            // Not even the beginning of it.
            assert!(!answer.contains(&SECRET[..4]), "{answer}");
        }
    }
}

#[tokio::test]
async fn files_of_the_kernel_and_devices_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    symlink("/proc/self/environ", &link).unwrap();
    let cri = host().await;
    let pod = cri.pod("tenant").await;
    for (path, reason) in [
        (Path::new("/proc/1/environ"), "a file system of the kernel (proc)"),
        (&link, "a file system of the kernel (proc)"),
        (Path::new("/dev/zero"), "below /dev"),
    ] {
        for answer in answers(&pod, path).await {
            assert!(answer.contains(reason), "{answer}");
        }
    }
}

#[test]
fn compressed_files_are_named_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archive.tar.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&[0; 10_000]).unwrap();
    std::fs::write(&path, encoder.finish().unwrap()).unwrap();
    let refused = restorable(&path, folder.path()).unwrap_err().to_string();
    assert!(refused.contains("compressed with gzip"), "{refused}");
}

#[test]
fn nothing_is_read_for_a_caller_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archive.tar");
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append(&header("checkpoint/inventory.img", 3), &b"abc"[..])
        .unwrap();
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let caller = Caller::patient();
    drop(caller.until_dropped());
    let refused = restorable_here(&path, folder.path(), Options::default(), &caller).unwrap_err();
    assert!(matches!(refused, RestoreError::Cancelled), "{refused}");
}
