//! Writes the OCI archive. The layer is first written to a temporary file, because its digest and length precede it in
//! the archive, and an executable must not be kept in memory.

use std::{
    fs::File,
    io::{self, BufWriter, Seek as _, SeekFrom, Write},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    str::FromStr as _,
};

use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType,
    OciLayoutBuilder, Os, RootFsBuilder, Sha256Digest,
};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::{Architecture, Executable, OciImageError};
use crate::targets::runtime::WORKLOAD_PATH;

/// The content of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageContent {
    /// The name of the image, `REGISTRY/PATH:TAG`.
    pub name: String,
    /// The test workload.
    pub workload: Executable,
    /// The harness, for Kubernetes Jobs.
    pub harness: Option<Executable>,
}

const HARNESS_PATH: &str = "/checkpoint-conformance";
/// Mount points of runtimes, and directories for programs.
const DIRECTORIES: [(&str, u32); 7] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// Writes the image.
///
/// # Errors
/// The name is invalid, or a file cannot be read or written. No partial file is left.
pub fn write(out: &Path, content: &ImageContent) -> Result<(), OciImageError> {
    check_name(&content.name)?;
    let parent = match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // A rename of a temporary file, so that the image appears complete or not at all.
    let file = tempfile::NamedTempFile::new_in(parent).map_err(OciImageError::file(out))?;
    write_to(BufWriter::new(file.as_file()), content)?;
    // Temporary files have mode 0600, but any user may import the image.
    let readable = std::fs::Permissions::from_mode(0o644);
    file.as_file()
        .set_permissions(readable)
        .map_err(OciImageError::file(out))?;
    file.persist(out)
        .map_err(|error| OciImageError::file(out)(error.error))?;
    Ok(())
}

/// An approximation of the grammar of image references. Registries and runtimes have the exact one.
fn check_name(name: &str) -> Result<(), OciImageError> {
    let (path, tag) = name.rsplit_once(':').unwrap_or(("", ""));
    let consists_of = |text: &str, extra: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        text.chars().all(|c| plain(c) || extra.contains(c)) && text.starts_with(plain) && text.ends_with(plain)
    };
    if path.contains('/') && consists_of(path, "._-/:") && consists_of(&tag.to_ascii_lowercase(), "._-") {
        return Ok(());
    }
    Err(OciImageError::Name { name: name.to_owned() })
}

fn write_to(out: impl Write, content: &ImageContent) -> Result<(), OciImageError> {
    let (mut layer_file, layer) = write_layer(content)?;
    let config = config(content, &layer)?;
    let config_blob = BlobInfo::digest(&config);
    let manifest = json(
        &ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config_blob.descriptor(MediaType::ImageConfig)?)
            .layers(vec![layer.descriptor(MediaType::ImageLayer)?])
            .build()?,
    );
    let manifest_blob = BlobInfo::digest(&manifest);
    let mut manifest_descriptor = manifest_blob.descriptor(MediaType::ImageManifest)?;
    // containerd uses the first annotation for the image name, the OCI specification the second.
    let annotations = [
        ("io.containerd.image.name".to_owned(), content.name.clone()),
        ("org.opencontainers.image.ref.name".to_owned(), content.name.clone()),
    ];
    manifest_descriptor.set_annotations(Some(annotations.into()));
    let index = json(
        &ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![manifest_descriptor])
            .build()?,
    );
    let layout = json(&OciLayoutBuilder::default().image_layout_version("1.0.0").build()?);
    let docker = json(&serde_json::json!([{
        "Config": config_blob.path(),
        "RepoTags": [content.name],
        "Layers": [layer.path()],
    }]));

    let mut tar = Builder::new(out);
    let failed = OciImageError::file("the image");
    let result = (|| {
        append_file(&mut tar, "oci-layout", &layout)?;
        append_file(&mut tar, "index.json", &index)?;
        append_file(&mut tar, "manifest.json", &docker)?;
        append_directory(&mut tar, "blobs", 0o755)?;
        append_directory(&mut tar, "blobs/sha256", 0o755)?;
        append_file(&mut tar, &config_blob.path(), &config)?;
        append_file(&mut tar, &manifest_blob.path(), &manifest)?;
        let mut header = tar_header(EntryType::Regular, 0o644, layer.length);
        tar.append_data(&mut header, layer.path(), &mut layer_file)?;
        tar.into_inner()?.flush()
    })();
    result.map_err(failed)
}

struct BlobInfo {
    digest: String,
    length: u64,
}

impl BlobInfo {
    fn digest(content: &[u8]) -> BlobInfo {
        BlobInfo {
            digest: hex::encode(Sha256::digest(content)),
            length: content.len() as u64,
        }
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: MediaType) -> Result<Descriptor, OciImageError> {
        Ok(Descriptor::new(
            media_type,
            self.length,
            Sha256Digest::from_str(&self.digest)?,
        ))
    }
}

fn config(content: &ImageContent, layer: &BlobInfo) -> Result<Vec<u8>, OciImageError> {
    let architecture = match content.workload.architecture {
        Architecture::Amd64 => Arch::Amd64,
        Architecture::Arm64 => Arch::ARM64,
    };
    let config = ConfigBuilder::default()
        .entrypoint(vec![WORKLOAD_PATH.to_owned()])
        .env(vec!["PATH=/".to_owned()])
        .working_dir("/")
        .build()?;
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(vec![format!("sha256:{}", layer.digest)])
        .build()?;
    Ok(json(
        &ImageConfigurationBuilder::default()
            .architecture(architecture)
            .os(Os::Linux)
            .config(config)
            .rootfs(rootfs)
            .history(Vec::new())
            .build()?,
    ))
}

/// Writes the layer to an unnamed file, which is rewound.
fn write_layer(content: &ImageContent) -> Result<(File, BlobInfo), OciImageError> {
    let failed = || OciImageError::file(std::env::temp_dir());
    let mut tar = Builder::new(HashingWriter {
        out: BufWriter::new(tempfile::tempfile().map_err(failed())?),
        hash: Sha256::new(),
        length: 0,
    });
    let executables = [
        (HARNESS_PATH, content.harness.as_ref()),
        (WORKLOAD_PATH, Some(&content.workload)),
    ];
    for (name, executable) in executables {
        let Some(Executable { path, .. }) = executable else {
            continue;
        };
        let mut file = File::open(path).map_err(OciImageError::file(path))?;
        let length = file.metadata().map_err(OciImageError::file(path))?.len();
        let mut header = tar_header(EntryType::Regular, 0o755, length);
        tar.append_data(&mut header, name.trim_start_matches('/'), &mut file)
            .map_err(OciImageError::file(path))?;
    }
    let result = (|| {
        for (name, mode) in DIRECTORIES {
            append_directory(&mut tar, name, mode)?;
        }
        let hashing = tar.into_inner()?;
        let blob = BlobInfo {
            digest: hex::encode(hashing.hash.finalize()),
            length: hashing.length,
        };
        let mut file = hashing.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok((file, blob))
    })();
    result.map_err(failed())
}

struct HashingWriter {
    out: BufWriter<File>,
    hash: Sha256,
    length: u64,
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn tar_header(kind: EntryType, mode: u32, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(length);
    // Fixed owner and time, so that the same content gives the same image.
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append_directory(tar: &mut Builder<impl Write>, name: &str, mode: u32) -> io::Result<()> {
    tar.append_data(
        &mut tar_header(EntryType::Directory, mode, 0),
        format!("{name}/"),
        io::empty(),
    )
}

fn append_file(tar: &mut Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar_header(EntryType::Regular, 0o644, content.len() as u64);
    tar.append_data(&mut header, name, content)
}

/// Serialises a document with sorted keys. Annotations are in a hash map, which has no fixed order.
fn json(document: &impl serde::Serialize) -> Vec<u8> {
    let sorted = serde_json::to_value(document).and_then(|value| serde_json::to_vec(&value));
    sorted.expect("strings, numbers and lists are always valid JSON")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(crate::targets::runtime::WORKLOAD_IMAGE, true)]
    #[case("localhost:5000/a/b:v1.2_3", true)]
    #[case("busybox", false)]
    #[case("localhost/busybox", false)]
    #[case("localhost/Busy:1", false)]
    #[case("localhost/busy box:1", false)]
    #[case("localhost/busybox:", false)]
    fn checks_image_names(#[case] name: &str, #[case] holds: bool) {
        assert_eq!(check_name(name).is_ok(), holds);
    }
}
