//! Images over a real socket.

use crate::cri;

use cri::{Cri, builder, code, image};
use cri_proto::runtime::v1;
use rstest::rstest;
use tonic::Code;

async fn image_status(cri: &Cri, name: &str) -> Option<v1::Image> {
    let request = v1::ImageStatusRequest {
        image: Some(image(name)),
        verbose: false,
    };
    cri.images().image_status(request).await.unwrap().into_inner().image
}

async fn stream_images(cri: &Cri, filter: Option<&str>) -> Vec<v1::Image> {
    let request = v1::StreamImagesRequest {
        filter: filter.map(|name| v1::ImageFilter {
            image: Some(image(name)),
        }),
    };
    let mut parts = cri.images().stream_images(request).await.unwrap().into_inner();
    let mut images = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        assert!(!part.images.is_empty(), "a part of the list is never empty");
        images.extend(part.images);
    }
    images
}

async fn list_images(cri: &Cri, filter: Option<&str>) -> Vec<v1::Image> {
    let request = v1::ListImagesRequest {
        filter: filter.map(|name| v1::ImageFilter {
            image: Some(image(name)),
        }),
    };
    cri.images().list_images(request).await.unwrap().into_inner().images
}

#[rstest]
#[case("busybox")]
#[case("busybox:latest")]
#[case("library/busybox")]
#[case("docker.io/busybox")]
#[case("docker.io/library/busybox:latest")]
#[tokio::test]
async fn short_references_name_the_same_image(#[case] name: &str) {
    let cri = Cri::start().await;
    assert_eq!(image_status(&cri, name).await, None);
    let id = cri.pull("busybox").await.unwrap();
    let image = image_status(&cri, name).await.unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:latest"]);
    assert!(image.repo_digests[0].starts_with("docker.io/library/busybox@sha256:"));
    assert!(image.size > 0);
    for other in [
        &image.repo_digests[0],
        &image.id,
        &image.id["sha256:".len()..],
        &image.id[7..19],
    ] {
        assert_eq!(
            image_status(&cri, other).await.map(|image| image.id),
            Some(id.clone()),
            "{other}"
        );
    }
    assert_eq!(list_images(&cri, Some(name)).await.len(), 1);
}

#[tokio::test]
async fn stream_images_equals_list_images() {
    let cri = Cri::start().await;
    assert_eq!(stream_images(&cri, None).await, []);
    // More images than fit in one message of the stream.
    for number in 0..300 {
        cri.pull(&format!("registry.example/image:{number}")).await.unwrap();
    }
    let images = stream_images(&cri, None).await;
    assert_eq!(images.len(), 300);
    assert_eq!(images, list_images(&cri, None).await);
    let name = "registry.example/image:7";
    assert_eq!(
        stream_images(&cri, Some(name)).await,
        list_images(&cri, Some(name)).await
    );
    assert_eq!(stream_images(&cri, Some("registry.example/other")).await, []);
}

#[tokio::test]
async fn removal_drops_all_names_and_is_idempotent() {
    let cri = Cri::start().await;
    let id = cri.pull("quay.io/a/b:1").await.unwrap();
    assert_eq!(cri.pull("quay.io/a/b:1").await.unwrap(), id);
    assert_eq!(list_images(&cri, None).await.len(), 1);
    for _ in 0..2 {
        let request = v1::RemoveImageRequest {
            image: Some(image(&id)),
        };
        cri.images().remove_image(request).await.unwrap();
        assert_eq!(image_status(&cri, "quay.io/a/b:1").await, None);
    }
    assert_eq!(list_images(&cri, Some("quay.io/a/b:1")).await, []);
}

#[tokio::test]
async fn a_digest_is_pulled_without_a_tag() {
    let cri = Cri::start().await;
    let name = format!("quay.io/a/b@sha256:{}", "ab".repeat(32));
    let id = cri.pull(&name).await.unwrap();
    let image = image_status(&cri, &id).await.unwrap();
    assert_eq!(
        (image.repo_tags.len(), image.repo_digests.as_slice()),
        (0, [name].as_slice())
    );
}

#[tokio::test]
async fn pulls_follow_the_catalogue() {
    let catalogue = tempfile::NamedTempFile::new().unwrap();
    let text = r#"
        [[image]]
        reference = "example.com/known"
        user = "app"
        [[image]]
        reference = "example.com/broken:*"
        pull = { fail = "503 from the registry" }
    "#;
    std::fs::write(catalogue.path(), text).unwrap();
    let cri = Cri::start_with(builder().arg("--images").arg(catalogue.path()).arg("--strict-images")).await;
    let error = cri.pull("example.com/broken:1").await.unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
    assert!(error.message().contains("503 from the registry"), "{error}");
    assert_eq!(code(cri.pull("busybox").await), Code::NotFound);
    assert_eq!(code(cri.pull("Not A Reference").await), Code::InvalidArgument);
    assert_eq!(code(cri.pull("").await), Code::InvalidArgument);
    let id = cri.pull("example.com/known").await.unwrap();
    let image = image_status(&cri, &id).await.unwrap();
    assert_eq!((image.username.as_str(), image.uid), ("app", None));
}

#[tokio::test]
async fn the_image_filesystem_is_a_real_directory() {
    let cri = Cri::start().await;
    let request = v1::ImageFsInfoRequest {};
    let before = cri
        .images()
        .image_fs_info(request)
        .await
        .unwrap()
        .into_inner()
        .image_filesystems
        .remove(0);
    cri.pull("busybox").await.unwrap();
    let after = cri
        .images()
        .image_fs_info(request)
        .await
        .unwrap()
        .into_inner()
        .image_filesystems
        .remove(0);
    assert!(std::path::Path::new(&after.fs_id.unwrap().mountpoint).is_dir());
    assert!(after.used_bytes.unwrap().value > before.used_bytes.unwrap().value);
    assert!(after.timestamp > before.timestamp);
}

#[tokio::test]
async fn images_survive_a_kill() {
    let mut cri = Cri::start().await;
    cri.pull("registry.k8s.io/pause:3.10").await.unwrap();
    let before = list_images(&cri, None).await;
    cri.process.kill().await;
    cri.process.restart().await.unwrap();
    assert_eq!(list_images(&cri, None).await, before);
    assert!(before[0].pinned);
    assert_eq!(before[0].uid, Some(v1::Int64Value { value: 65535 }));
}
