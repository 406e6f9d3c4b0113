//! `checkpoint-conformance image`: it writes a valid image and rejects unsuitable executables and names.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

const HARNESS_BINARY: &str = env!("CARGO_BIN_EXE_checkpoint-conformance");

/// The headers of a static or dynamic executable for x86-64, followed by filler bytes.
fn static_elf(interpreter: bool) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    elf.resize(16, 0);
    let push_u16 = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    // ET_EXEC, x86-64, version, entry, program headers, section headers, flags.
    push_u16(&mut elf, 2);
    push_u16(&mut elf, 62);
    elf.extend(1u32.to_le_bytes());
    for value in [0u64, 64, 0] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for value in [64u16, 56, 1, 64, 0, 0] {
        push_u16(&mut elf, value);
    }
    // One program header: PT_INTERP or PT_LOAD.
    elf.extend(if interpreter { 3u32 } else { 1u32 }.to_le_bytes());
    elf.resize(64 + 56, 0);
    elf.extend(b"the code");
    elf
}

fn run_image_command(out: &Path, workload: &Path, extra_args: &[&str]) -> Output {
    Command::new(HARNESS_BINARY)
        .arg("image")
        .arg(out)
        .arg("--test-workload")
        .arg(workload)
        .args(extra_args)
        .output()
        .unwrap()
}

/// Returns mode and content of the members of a tar by name.
fn members(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let (name, mode) = (
                entry.path().unwrap().display().to_string(),
                entry.header().mode().unwrap(),
            );
            assert_eq!((entry.header().uid().unwrap(), entry.header().mtime().unwrap()), (0, 0));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, (mode, content))
        })
        .collect()
}

/// Returns the blob of a descriptor, after checking its size and digest.
fn verified_blob<'a>(members: &'a BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let content = &members[&format!("blobs/sha256/{hex}")].1;
    assert_eq!(descriptor["size"], content.len());
    assert_eq!(hex::encode(Sha256::digest(content)), hex);
    content
}

#[test]
fn writes_a_reproducible_oci_image() {
    let directory = tempfile::tempdir().unwrap();
    let workload = directory.path().join("program");
    fs::write(&workload, static_elf(false)).unwrap();
    let out = directory.path().join("image.tar");
    let output = run_image_command(&out, &workload, &["--name", "localhost/test-workload:7"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tar = fs::read(&out).unwrap();
    let members = self::members(&tar);

    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    assert_eq!(json(&members["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
    let index = json(&members["index.json"].1);
    let manifest_descriptor = &index["manifests"][0];
    for annotation in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        assert_eq!(
            manifest_descriptor["annotations"][annotation],
            "localhost/test-workload:7"
        );
    }
    assert_eq!(
        manifest_descriptor["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    let manifest = json(verified_blob(&members, manifest_descriptor));
    let config = json(verified_blob(&members, &manifest["config"]));
    assert_eq!(
        (&config["architecture"], &config["os"]),
        (&"amd64".into(), &"linux".into())
    );
    assert_eq!(config["config"]["Entrypoint"][0], "/test-workload");
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
    let layer = self::members(verified_blob(&members, layer));
    assert_eq!(layer["test-workload"], (0o755, static_elf(false)));
    assert_eq!(layer["tmp/"].0, 0o1777);
    assert!(!layer.contains_key("checkpoint-conformance"));

    // The manifest.json for `docker load` names the same blobs.
    let docker = json(&members["manifest.json"].1);
    let path = |descriptor: &Value| {
        descriptor["digest"]
            .as_str()
            .unwrap()
            .replace("sha256:", "blobs/sha256/")
    };
    assert_eq!(docker[0]["Config"], path(&manifest["config"]));
    assert_eq!(docker[0]["Layers"][0], path(&manifest["layers"][0]));
    assert_eq!(docker[0]["RepoTags"][0], "localhost/test-workload:7");

    assert!(
        run_image_command(&out, &workload, &["--name", "localhost/test-workload:7"])
            .status
            .success()
    );
    assert!(fs::read(&out).unwrap() == tar, "the second archive differs");
}

#[test]
fn refuses_unusable_executables() {
    let directory = tempfile::tempdir().unwrap();
    let workload = directory.path().join("program");
    let out = directory.path().join("image.tar");
    let assert_refused = |output: Output, words: &str| {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains(words), "{error}");
        assert!(!out.exists());
    };
    fs::write(&workload, static_elf(true)).unwrap();
    assert_refused(run_image_command(&out, &workload, &[]), "dynamically linked");
    fs::write(&workload, "#!/bin/sh\n").unwrap();
    assert_refused(run_image_command(&out, &workload, &[]), "not an ELF executable");
    fs::write(&workload, static_elf(false)).unwrap();
    assert_refused(
        run_image_command(&out, &workload, &["--name", "Busybox"]),
        "is not a valid image name",
    );
    // The harness that the test runs is dynamically linked.
    assert_refused(
        run_image_command(&out, &workload, &["--include-harness"]),
        "target-feature=+crt-static",
    );
    let missing_dir = directory.path().join("nowhere/image.tar");
    assert_refused(run_image_command(&missing_dir, &workload, &[]), "nowhere");
}
