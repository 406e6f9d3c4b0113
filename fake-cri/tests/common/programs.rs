//! The programs of `fixtures/programs`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The number of steps of each program (steps.h).
pub(crate) const STEP_COUNT: u64 = 90;

/// Returns the command that runs a program; the caller must append the directory for the program's files. A C source is
/// compiled into `dir` with these compiler options.
pub(crate) fn program_command(source: &str, options: &[&str], dir: &Path) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures/programs")
        .join(source)
        .canonicalize()
        .expect("the program exists");
    if source.extension().is_some_and(|extension| extension == "py") {
        return vec!["python3".into(), source];
    }
    let program = dir.join("program");
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .args([&program, &source])
        .args(options)
        .args(["-lm", "-lrt"])
        .status();
    assert!(
        compiled.expect("a C compiler").success(),
        "{} does not compile",
        source.display()
    );
    vec![program]
}
