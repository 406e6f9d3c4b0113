//! Checkpoint images: an archive as the layer of an OCI image, as `checkpointctl build` creates it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use fake_cri::checkpoint;
use flate2::{Compression, write::GzEncoder};
use rstest::rstest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::programs::{TestProgram, host_exec_cri, remaining_steps, skip_reason, stdout_lines};

/// An OCI layout under construction.
struct OciLayout(PathBuf);

impl OciLayout {
    fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(
            dir.join("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"}).to_string(),
        )
        .unwrap();
        Self(dir.to_owned())
    }

    /// Adds a blob and returns its digest.
    fn blob(&self, content: &[u8]) -> String {
        let hex: String = Sha256::digest(content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        std::fs::write(self.0.join("blobs/sha256").join(&hex), content).unwrap();
        format!("sha256:{hex}")
    }

    fn index(&self, manifests: &[Value]) {
        let manifests: Vec<_> = manifests
            .iter()
            .map(|manifest| self.blob(manifest.to_string().as_bytes()))
            .collect();
        let manifests: Vec<_> = manifests
            .iter()
            .map(|digest| json!({"digest": digest, "size": 1}))
            .collect();
        std::fs::write(
            self.0.join("index.json"),
            json!({"schemaVersion": 2, "manifests": manifests}).to_string(),
        )
        .unwrap();
    }

    /// The manifest of a checkpoint image with these layers.
    fn manifest(layers: &[String]) -> Value {
        let layers: Vec<_> = layers
            .iter()
            .map(|digest| json!({"digest": digest, "size": 1}))
            .collect();
        json!({
            "schemaVersion": 2,
            "layers": layers,
            "annotations": {"org.criu.checkpoint.container.name": "app", "org.criu.checkpoint.engine.name": "containerd"},
        })
    }

    /// Writes the layout as a tar.
    fn write_tar(&self, path: &Path) {
        let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
        builder.append_dir_all(".", &self.0).unwrap();
        builder.finish().unwrap();
    }
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Checkpoints and stops a program. Returns the program and the number of its steps.
async fn checkpoint_counter(dir: &Path) -> (TestProgram, u64) {
    let program = TestProgram::build("counter.c", &[], dir);
    let cri = host_exec_cri().await;
    let pod = cri.pod("image").await;
    let id = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 20").await;
    let steps = program.checkpoint_and_stop(&pod, &id, "first").await;
    (program, steps)
}

async fn assert_continues(image: &Path, program: &mut TestProgram, steps: u64) {
    program.archive = image.to_owned();
    program.release();
    let cri = host_exec_cri().await;
    let pod = cri.pod("goes-on").await;
    let id = pod.run(program.restored_by_image("second")).await;
    cri.wait_exited(&id).await;
    assert_eq!(stdout_lines(&pod, "second"), remaining_steps(steps));
}

#[rstest]
#[case::directory_compressed(false, true)]
#[case::archive_compressed(true, true)]
#[case::archive_plain(true, false)]
#[tokio::test]
async fn checkpoint_image_is_restored(#[case] archived: bool, #[case] gzip: bool) {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut program, steps) = checkpoint_counter(dir.path()).await;
    let layer = std::fs::read(&program.archive).unwrap();
    let mut image = dir.path().join("layout");
    let layout = OciLayout::new(&image);
    let layer = layout.blob(&if gzip { gzipped(&layer) } else { layer });
    layout.index(&[OciLayout::manifest(&[layer])]);
    if archived {
        image = dir.path().join("image.tar");
        layout.write_tar(&image);
    }
    assert_continues(&image, &mut program, steps).await;
}

#[test]
fn other_images_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let layer = b"no tar, but a layer".to_vec();
    let assert_refused = |name: &str, change: &dyn Fn(&OciLayout, String), reason: &str| {
        let path = dir.path().join(name);
        let layout = OciLayout::new(&path);
        let digest = layout.blob(&gzipped(&layer));
        change(&layout, digest);
        for image in [path.clone(), path.with_extension("tar")] {
            if image != path {
                layout.write_tar(&image);
            }
            let error = checkpoint::check_restorable(&image, dir.path())
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    };
    let checkpoint_manifest = |layers: &[String]| OciLayout::manifest(layers);
    assert_refused(
        "unmarked",
        &|layout, layer| {
            let mut manifest = checkpoint_manifest(&[layer]);
            manifest["annotations"] = json!({"other": "annotation"});
            layout.index(&[manifest]);
        },
        "not a checkpoint image",
    );
    let two = |layout: &OciLayout, layer: String| layout.index(&[checkpoint_manifest(&[layer.clone(), layer])]);
    assert_refused("layers", &two, "2 layers, expected one");
    let empty_index = |layout: &OciLayout, _| layout.index(&[]);
    assert_refused("none", &empty_index, "0 images, expected one");
    let path_traversal =
        |layout: &OciLayout, _| layout.index(&[checkpoint_manifest(&["sha256:../../../etc/shadow".to_owned()])]);
    assert_refused("climbing", &path_traversal, "is not sha256:");
    assert_refused(
        "damaged",
        &|layout, layer| {
            let name = layer.strip_prefix("sha256:").unwrap().to_owned();
            layout.index(&[checkpoint_manifest(&[layer])]);
            std::fs::write(layout.0.join("blobs/sha256").join(name), gzipped(b"something else")).unwrap();
        },
        "does not match its digest",
    );
    let garbage = |layout: &OciLayout, layer: String| layout.index(&[checkpoint_manifest(&[layer])]);
    assert_refused("garbage", &garbage, "not a tar archive");

    // A symlink among the blobs is not followed.
    let path = dir.path().join("linked");
    let layout = OciLayout::new(&path);
    let digest = layout.blob(&gzipped(&layer));
    layout.index(&[checkpoint_manifest(std::slice::from_ref(&digest))]);
    let blob = path.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    std::fs::rename(&blob, dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &blob).unwrap();
    let error = checkpoint::check_restorable(&path, dir.path()).unwrap_err().to_string();
    assert!(error.contains("symbolic links"), "{error}");
}

/// Uses the real `checkpointctl build` with buildah. `CHECKPOINTCTL` is the path of the former; buildah must be on the
/// PATH.
#[tokio::test]
async fn checkpointctl_image_is_restored() {
    let checkpointctl = std::env::var("CHECKPOINTCTL").unwrap_or_else(|_| "checkpointctl".to_owned());
    let is_available = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let skip = skip_reason()
        .or((!is_available(&checkpointctl)).then_some("there is no checkpointctl; name one with CHECKPOINTCTL="))
        .or((!is_available("buildah")).then_some("buildah, which checkpointctl needs, is not installed"));
    if let Some(why) = skip {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut program, steps) = checkpoint_counter(dir.path()).await;
    let name = format!("localhost/fake-cri-test-{}:1", std::process::id());
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {errors}");
    };
    run(Command::new(&checkpointctl)
        .arg("build")
        .arg(&program.archive)
        .arg(&name));
    let image = dir.path().join("image.tar");
    run(Command::new("buildah").args(["push", &name, &format!("oci-archive:{}", image.display())]));
    run(Command::new("buildah").args(["rmi", &name]));
    assert_continues(&image, &mut program, steps).await;
}
