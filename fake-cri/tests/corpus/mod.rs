//! The programs of `fixtures/programs`, for the tests that restore them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// How many steps the programs make (steps.h).
pub(crate) const STEP_COUNT: u64 = 90;

/// The command that runs one, without its argument, a folder for its files. It is compiled into this folder with these options of
/// the C compiler, unless it is Python's.
pub(crate) fn program_command(source: &str, options: &[&str], folder: &Path) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures/programs")
        .join(source)
        .canonicalize()
        .expect("it is there");
    if source.extension().is_some_and(|extension| extension == "py") {
        return vec!["python3".into(), source];
    }
    let program = folder.join("program");
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .args([&program, &source])
        .args(options)
        .args(["-lm", "-lrt"])
        .status();
    assert!(
        compiled.expect("a C compiler").success(),
        "{} does not build",
        source.display()
    );
    vec![program]
}
