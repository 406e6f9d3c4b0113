//! Checkpoint images: an archive as the layer of an OCI image, as `checkpointctl build` makes it.

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

use crate::programs::{Program, host, missing, rest, said};

/// An OCI layout that is being put together.
struct Layout(PathBuf);

impl Layout {
    fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        std::fs::write(
            folder.join("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"}).to_string(),
        )
        .unwrap();
        Self(folder.to_owned())
    }

    /// Adds a blob; its digest.
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

    /// The manifest of a checkpoint in these layers.
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

    /// All of it in one tar.
    fn archived(&self, path: &Path) {
        let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
        builder.append_dir_all(".", &self.0).unwrap();
        builder.finish().unwrap();
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A program that was checkpointed and ended, and how many steps it had made.
async fn checkpointed(folder: &Path) -> (Program, u64) {
    let program = Program::build("counter.c", &[], folder);
    let cri = host().await;
    let pod = cri.pod("image").await;
    let id = pod.run(program.config("first")).await;
    pod.logged("first", "step 20").await;
    let steps = program.checkpoint_and_end(&pod, &id, "first").await;
    (program, steps)
}

async fn goes_on_from(image: &Path, program: &mut Program, steps: u64) {
    program.archive = image.to_owned();
    program.go();
    let cri = host().await;
    let pod = cri.pod("goes-on").await;
    let id = pod.run(program.restored("second")).await;
    cri.ended(&id).await;
    assert_eq!(said(&pod, "second"), rest(steps));
}

#[rstest]
#[case::folder_compressed(false, true)]
#[case::archive_compressed(true, true)]
#[case::archive_plain(true, false)]
#[tokio::test]
async fn a_checkpoint_image_goes_on(#[case] archived: bool, #[case] gzip: bool) {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut program, steps) = checkpointed(folder.path()).await;
    let layer = std::fs::read(&program.archive).unwrap();
    let mut image = folder.path().join("layout");
    let layout = Layout::new(&image);
    let layer = layout.blob(&if gzip { compressed(&layer) } else { layer });
    layout.index(&[Layout::manifest(&[layer])]);
    if archived {
        image = folder.path().join("image.tar");
        layout.archived(&image);
    }
    goes_on_from(&image, &mut program, steps).await;
}

#[test]
fn what_is_no_checkpoint_image_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let layer = b"no tar, but a layer".to_vec();
    let refused = |name: &str, change: &dyn Fn(&Layout, String), reason: &str| {
        let path = folder.path().join(name);
        let layout = Layout::new(&path);
        let digest = layout.blob(&compressed(&layer));
        change(&layout, digest);
        for image in [path.clone(), path.with_extension("tar")] {
            if image != path {
                layout.archived(&image);
            }
            let error = checkpoint::restorable(&image, folder.path()).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    };
    let marked = |layers: &[String]| Layout::manifest(layers);
    refused(
        "unmarked",
        &|layout, layer| {
            let mut manifest = marked(&[layer]);
            manifest["annotations"] = json!({"other": "annotation"});
            layout.index(&[manifest]);
        },
        "it is no checkpoint image",
    );
    let two = |layout: &Layout, layer: String| layout.index(&[marked(&[layer.clone(), layer])]);
    refused("layers", &two, "it has 2 layers, not one");
    let none = |layout: &Layout, _| layout.index(&[]);
    refused("none", &none, "it holds 0 images, not one");
    let climbing = |layout: &Layout, _| layout.index(&[marked(&["sha256:../../../etc/shadow".to_owned()])]);
    refused("climbing", &climbing, "is no digest");
    refused(
        "damaged",
        &|layout, layer| {
            let name = layer.strip_prefix("sha256:").unwrap().to_owned();
            layout.index(&[marked(&[layer])]);
            std::fs::write(layout.0.join("blobs/sha256").join(name), compressed(b"something else")).unwrap();
        },
        "has another digest than its name",
    );
    let garbage = |layout: &Layout, layer: String| layout.index(&[marked(&[layer])]);
    refused("garbage", &garbage, "it is no tar archive");

    // A link among the blobs is not followed.
    let path = folder.path().join("linked");
    let layout = Layout::new(&path);
    let digest = layout.blob(&compressed(&layer));
    layout.index(&[marked(std::slice::from_ref(&digest))]);
    let blob = path.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    std::fs::rename(&blob, folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &blob).unwrap();
    let error = checkpoint::restorable(&path, folder.path()).unwrap_err().to_string();
    assert!(error.contains("symbolic links"), "{error}");
}

/// The real `checkpointctl build`, by buildah. `CHECKPOINTCTL` names the one, the other is on the PATH.
#[tokio::test]
async fn what_checkpointctl_builds_goes_on() {
    let checkpointctl = std::env::var("CHECKPOINTCTL").unwrap_or_else(|_| "checkpointctl".to_owned());
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let skip = missing()
        .or((!there(&checkpointctl)).then_some("there is no checkpointctl; name one with CHECKPOINTCTL="))
        .or((!there("buildah")).then_some("there is no buildah, which checkpointctl builds images by"));
    if let Some(why) = skip {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut program, steps) = checkpointed(folder.path()).await;
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
    let image = folder.path().join("image.tar");
    run(Command::new("buildah").args(["push", &name, &format!("oci-archive:{}", image.display())]));
    run(Command::new("buildah").args(["rmi", &name]));
    goes_on_from(&image, &mut program, steps).await;
}
