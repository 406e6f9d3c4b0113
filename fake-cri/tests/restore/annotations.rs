//! Archives named in Pod annotations, as a kubelet passes them.

use cri_proto::runtime::v1;
use tonic::Code;

use crate::{
    cri::{annotated, container_config, pod_config},
    programs::{TestProgram, host_exec_cri, remaining_steps, skip_reason, stdout_lines},
};

#[tokio::test]
async fn pod_annotations_select_the_archive_of_each_container() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::build("counter.c", &[], dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("before").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 10").await;
    let steps = program.checkpoint_and_stop(&pod, &first, "first").await;
    program.release();

    let archive = program.archive.to_string_lossy();
    let missing_archive = dir.path().join("nowhere.tar");
    let annotations = [
        ("restore-from.again", &*archive),
        ("restore-from.lost", &missing_archive.to_string_lossy()),
    ];
    let after = cri
        .pod_with_config(v1::PodSandboxConfig {
            annotations: annotated(&annotations),
            ..pod_config("after")
        })
        .await;
    let again = after.run(container_config("again")).await;
    let status = cri.wait_exited(&again).await;
    assert_eq!(stdout_lines(&after, "again"), remaining_steps(steps));
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    // The image stays the requested image.
    assert_eq!(status.image.unwrap().image, crate::cri::IMAGE);
    // The annotation affects no other container: one has another archive, one has none.
    let error = after.create(container_config("lost")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("nowhere.tar"), "{error}");
    let plain = v1::ContainerConfig {
        command: vec!["echo".to_owned(), "anew".to_owned()],
        ..container_config("plain")
    };
    let plain = after.run(plain).await;
    cri.wait_exited(&plain).await;
    assert_eq!(stdout_lines(&after, "plain"), ["anew"]);

    // Without a container name, the annotation applies to every container of the Pod.
    let pod_wide = cri
        .pod_with_config(v1::PodSandboxConfig {
            annotations: annotated(&[("restore-from", &archive)]),
            ..pod_config("whole")
        })
        .await;
    let any = pod_wide.run(container_config("any")).await;
    cri.wait_exited(&any).await;
    assert_eq!(stdout_lines(&pod_wide, "any"), remaining_steps(steps));
}
