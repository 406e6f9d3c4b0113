//! Archives of the programs of `fixtures/programs`, restored by the real CRIU: each goes on at exactly the next step.
//!
//! Needs root and CRIU 4, so `ci/restored-by-criu` runs it; `CRIU` names the program.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
};

use fake_cri::checkpoint::{self, Effect, Freeze, Injection, Phase};
use rstest::rstest;

use crate::{
    corpus::STEPS,
    host::{TestHost, job},
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
// CRIU keeps the personality in its images and does not restore it.
#[case::identity("identity.c", &["-DUSUAL_PERSONALITY"])]
#[case::mappings("mappings.c", &[])]
#[case::vectors("vectors.c", &[])]
#[case::sockets("sockets.c", &[])]
#[case::tree("tree.c", &[])]
#[case::events("events.c", &[])]
#[case::python("computation.py", &[])]
#[ignore = "needs root and CRIU 4: ci/restored-by-criu runs it"]
fn it_goes_on_at_the_next_step(
    #[case] source: &str,
    #[case] options: &[&str],
    #[values(Freeze::Copy, Freeze::Whole)] freeze: Freeze,
) {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(source, options, folder.path());
    program.wait_for_steps(20);
    let at_freeze = Mutex::new(0);
    let host = TestHost::with(program.pid(), |phase| {
        if phase == Phase::Write {
            *at_freeze.lock().unwrap() = program.steps();
        }
    });
    let mut job = job(program.pid(), folder.path());
    // All of it: what is restored is not by luck what it was.
    job.strict = true;
    job.freeze = freeze;
    // Left stopped, so that its files stay as they are in the archive.
    job.injections = vec![Injection {
        phase: Phase::Freeze,
        effect: Effect::LeaveFrozen,
    }];
    let report = checkpoint::run(&job, &host).expect("checkpoint");
    assert_eq!(report.copied, freeze == Freeze::Copy);
    drop(host);
    let at_freeze = *at_freeze.lock().unwrap();
    assert_eq!(program.steps(), at_freeze, "it went on");
    program.kill();

    fs::write(program.folder.join("go"), "").unwrap();
    let output = folder.path().join("restored");
    let errors = folder.path().join("restored-errors");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/restore-with-criu");
    let status = Command::new("timeout")
        .args(["--kill-after=5", "60"])
        .arg(script)
        .arg(&job.location)
        .stdin(Stdio::null())
        .stdout(File::create(&output).unwrap())
        .stderr(File::create(&errors).unwrap())
        .status()
        .expect("timeout of coreutils");
    let (output, errors) = (fs::read_to_string(output).unwrap(), fs::read_to_string(errors).unwrap());
    assert!(status.success(), "{status}: {errors}{output}");
    let expected: String = (at_freeze + 1..=STEPS).map(|step| format!("step {step}\n")).collect();
    assert_eq!(output, expected + "done\n", "frozen after step {at_freeze}: {errors}");
    assert_eq!(errors, "");
}
