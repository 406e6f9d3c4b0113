//! Archives that annotations of the Pod name, as a kubelet passes them.

use cri_proto::runtime::v1;
use tonic::Code;

use crate::{
    cri::{annotated, container_config, pod_config},
    programs::{Program, host, missing, rest, said},
};

#[tokio::test]
async fn the_pod_says_which_of_its_containers_go_on_from_which_archive() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = Program::build("counter.c", &[], folder.path());
    let cri = host().await;
    let pod = cri.pod("before").await;
    let first = pod.run(program.config("first")).await;
    pod.logged("first", "step 10").await;
    let steps = program.checkpoint_and_end(&pod, &first, "first").await;
    program.go();

    let archive = program.archive.to_string_lossy();
    let nowhere = folder.path().join("nowhere.tar");
    let annotations = [
        ("restore-from.again", &*archive),
        ("restore-from.lost", &nowhere.to_string_lossy()),
    ];
    let after = cri
        .pod_of(v1::PodSandboxConfig {
            annotations: annotated(&annotations),
            ..pod_config("after")
        })
        .await;
    let again = after.run(container_config("again")).await;
    let status = cri.ended(&again).await;
    assert_eq!(said(&after, "again"), rest(steps));
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    // The image stays what was asked for and pulled.
    assert_eq!(status.image.unwrap().image, crate::cri::IMAGE);
    // Its neighbours are not touched by that: one has another archive, one none.
    let refused = after.create(container_config("lost")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("nowhere.tar"), "{refused}");
    let plain = v1::ContainerConfig {
        command: vec!["echo".to_owned(), "anew".to_owned()],
        ..container_config("plain")
    };
    let plain = after.run(plain).await;
    cri.ended(&plain).await;
    assert_eq!(said(&after, "plain"), ["anew"]);

    // Without a name behind it, it is for every container of the Pod.
    let whole = cri
        .pod_of(v1::PodSandboxConfig {
            annotations: annotated(&[("restore-from", &archive)]),
            ..pod_config("whole")
        })
        .await;
    let any = whole.run(container_config("any")).await;
    cri.ended(&any).await;
    assert_eq!(said(&whole, "any"), rest(steps));
}
