//! Each restored program continues at exactly the next step.

use rstest::rstest;

use crate::programs::{TestProgram, host_exec_cri, remaining_steps, skip_reason, stdout_lines};

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
async fn program_continues_at_the_next_step(#[case] source: &str, #[case] options: &[&str]) {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::build(source, options, dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("steps").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 20").await;
    let steps = program.checkpoint_and_stop(&pod, &first, "first").await;
    assert!((20..90).contains(&steps), "{steps} steps");

    program.release();
    let second = pod.run(program.restored_by_image("second")).await;
    let status = cri.wait_exited(&second).await;
    assert_eq!(stdout_lines(&pod, "second"), remaining_steps(steps));
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
}
