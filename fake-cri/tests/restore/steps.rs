//! Every program goes on at exactly the next step.

use rstest::rstest;

use crate::programs::{Program, host, missing, rest, said};

#[rstest]
#[case::static_one_thread("counter.c", &["-static"])]
#[case::dynamic_one_thread("counter.c", &[])]
#[case::threads("threads.c", &[])]
#[case::signals("signals.c", &[])]
#[case::family("family.c", &[])]
#[case::files("files.c", &[])]
#[case::fifos("fifos.c", &[])]
#[case::identity("identity.c", &[])]
#[case::mappings("mappings.c", &[])]
#[case::vectors("vectors.c", &[])]
#[case::tree("tree.c", &[])]
#[case::events("events.c", &[])]
#[case::python("computation.py", &[])]
#[tokio::test]
async fn it_goes_on_at_the_next_step(#[case] source: &str, #[case] options: &[&str]) {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = Program::build(source, options, folder.path());
    let cri = host().await;
    let pod = cri.pod("steps").await;
    let first = pod.run(program.config("first")).await;
    pod.logged("first", "step 20").await;
    let steps = program.checkpoint_and_end(&pod, &first, "first").await;
    assert!((20..90).contains(&steps), "{steps} steps");

    program.go();
    let second = pod.run(program.restored("second")).await;
    let status = cri.ended(&second).await;
    assert_eq!(said(&pod, "second"), rest(steps));
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
}
