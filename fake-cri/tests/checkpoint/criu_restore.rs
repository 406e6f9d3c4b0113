//! CRIU restores archives of the programs in `fixtures/programs`: each program continues at exactly the next step.
//!
//! The tests need root and CRIU 4, so only `ci/restored-by-criu` runs them; `CRIU` is the path of the program.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fake_cri::{
    checkpoint::{self, Freeze, Phase},
    fault::Effect,
};
use rstest::rstest;

use crate::{
    host::{TestHost, fault, job},
    program_sources::STEP_COUNT,
    programs::Program,
};

#[rstest]
#[case::static_one_thread("counter.c", &["-static"])]
#[case::dynamic_one_thread("counter.c", &[])]
#[case::threads("threads.c", &[])]
#[case::signals("signals.c", &[])]
#[case::family("family.c", &[])]
#[case::files("files.c", &[])]
#[case::fifos("fifos.c", &[])]
// CRIU dumps the personality but does not restore it.
#[case::identity("identity.c", &["-DUSUAL_PERSONALITY"])]
#[case::mappings("mappings.c", &[])]
#[case::vectors("vectors.c", &[])]
#[case::sockets("sockets.c", &[])]
#[case::tree("tree.c", &[])]
#[case::events("events.c", &[])]
#[case::python("computation.py", &[])]
#[ignore = "needs root and CRIU 4: ci/restored-by-criu runs it"]
fn program_continues_at_the_next_step(
    #[case] source: &str,
    #[case] options: &[&str],
    #[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze,
) {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start(source, options, dir.path());
    let archive = checkpoint_mid_run(&mut program, freeze);
    let at_freeze = program.steps();
    program.kill();

    // A standard stream that is a file is restored as that file.
    assert_eq!(restore(&archive, &program), "");
    let output = fs::read_to_string(&program.output).unwrap();
    assert_eq!(output, steps_after(0) + "done\n", "frozen after step {at_freeze}");
}

#[test]
#[ignore = "needs root and CRIU 4: ci/restored-by-criu runs it"]
fn piped_stdout_becomes_the_restorers() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(File::create(dir.path().join("output")).unwrap())
        .spawn()
        .expect("cat is installed");
    let pipe = reader.stdin.take().unwrap();
    let mut program = Program::start_with_stdout(pipe, "counter.c", &[], dir.path());
    let archive = checkpoint_mid_run(&mut program, Freeze::Snapshot);
    program.kill();
    // The reader has read the pipe up to EOF.
    reader.wait().unwrap();
    let at_freeze = program.steps();

    assert_eq!(restore(&archive, &program), steps_after(at_freeze) + "done\n");
    assert_eq!(program.steps(), at_freeze);
}

/// Checkpoints a program in the middle of its steps and leaves it frozen. A step that ran after the freeze would appear
/// twice in the output after the restore.
fn checkpoint_mid_run(program: &mut Program, freeze: Freeze) -> PathBuf {
    program.wait_for_steps(20);
    let mut job = job(program.pid(), program.output.parent().unwrap());
    // Strict: all state must be in the archive, so that the restore does not succeed by chance.
    job.strict = true;
    job.freeze = freeze;
    let hooks = fault(Phase::Freeze, Effect::LeaveFrozen);
    let report = checkpoint::run(&job, &TestHost::new(program.pid()), &hooks).expect("the checkpoint succeeds");
    assert_eq!(report.used_snapshot, freeze == Freeze::Snapshot);
    job.location
}

/// Restores the program, waits for its end, and returns the standard output of the restore script.
fn restore(archive: &Path, program: &Program) -> String {
    fs::write(program.dir.join("go"), "").unwrap();
    let dir = program.output.parent().unwrap();
    let (output, errors) = (dir.join("restored"), dir.join("restored-errors"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/restore-with-criu");
    let status = Command::new("timeout")
        .args(["--kill-after=5", "60"])
        .arg(script)
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(File::create(&output).unwrap())
        .stderr(File::create(&errors).unwrap())
        .status()
        .expect("timeout is installed");
    let (output, errors) = (fs::read_to_string(output).unwrap(), fs::read_to_string(errors).unwrap());
    assert!(status.success(), "{status}: {errors}{output}");
    assert_eq!(errors, "");
    assert_eq!(fs::read_to_string(dir.join("errors")).unwrap(), "");
    output
}

/// The output of a program after this step, without the last line.
fn steps_after(step: u64) -> String {
    (step + 1..=STEP_COUNT).map(|step| format!("step {step}\n")).collect()
}
