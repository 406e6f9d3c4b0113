//! Tests `scripts/restore-with-criu` with a program in place of CRIU that records its arguments.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::programs::skip_reason;

struct ScriptRun {
    dir: tempfile::TempDir,
}

impl ScriptRun {
    /// An archive with this `dump.log` and these standard streams.
    fn with_archive(log: &str, streams: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(std::fs::File::create(dir.path().join("archive.tar")).unwrap());
        for (name, content) in [
            ("checkpoint/inventory.img", "an image"),
            ("checkpoint/descriptors.json", streams),
            ("dump.log", log),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        let criu = dir.path().join("criu");
        let text = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Version: 4.1'; exit; fi\nprintf '%s\\n' \"$@\" > \"${0%/*}/called\"\n";
        std::fs::write(&criu, text).unwrap();
        std::fs::set_permissions(&criu, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    fn run(&self, options: &[&str], criu_options: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/restore-with-criu");
        Command::new(script)
            .args(options)
            .arg(self.dir.path().join("archive.tar"))
            .args(criu_options)
            .env("CRIU", self.dir.path().join("criu"))
            .output()
            .expect("bash")
    }

    fn criu_arguments(&self) -> Option<Vec<String>> {
        let path: PathBuf = self.dir.path().join("called");
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }
}

fn stderr_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn unsupported_state_is_listed_and_locks_are_refused() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let log = "(00.1) froze\n(00.2) Warn  unsupported: pid 7: the file locks of descriptor 3\n";
    let script = ScriptRun::with_archive(log, "[]");
    let failure = script.run(&[], &[]);
    assert_eq!(failure.status.code(), Some(1));
    for part in [
        "unsupported: pid 7: the file locks of descriptor 3",
        "--without-file-locks",
    ] {
        assert!(stderr_text(&failure).contains(part), "{}", stderr_text(&failure));
    }
    assert_eq!(script.criu_arguments(), None);
    let success = script.run(&["--without-file-locks"], &[]);
    assert!(success.status.success(), "{}", stderr_text(&success));
    assert_eq!(
        stderr_text(&success),
        "unsupported: pid 7: the file locks of descriptor 3\n"
    );
    assert!(script.criu_arguments().is_some());

    let script = ScriptRun::with_archive("(0) Warn  unsupported: pid 7: its first thread has ended; more\n", "[]");
    let failure = script.run(&["--without-file-locks"], &[]);
    assert_eq!(failure.status.code(), Some(1));
    assert!(stderr_text(&failure).contains("two threads would run on one stack"));
    assert_eq!(script.criu_arguments(), None);
}

#[test]
fn pipes_are_inherited_and_files_are_not() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let log = "(0) Warn  unsupported: pid 7: the TCP connection of descriptor 6\n";
    let script = ScriptRun::with_archive(log, r#"["/srv/input","pipe:[12]","socket:[13]"]"#);
    let success = script.run(&[], &["--", "--ext-mount-map", "auto"]);
    assert!(success.status.success(), "{}", stderr_text(&success));
    let criu_arguments = script.criu_arguments().expect("the program was called");
    let inherited_fds: Vec<_> = criu_arguments.iter().filter(|word| word.starts_with("fd[")).collect();
    assert_eq!(inherited_fds, ["fd[11]:pipe:[12]", "fd[12]:socket:[13]"]);
    assert!(criu_arguments.contains(&"--tcp-close".to_owned()), "{criu_arguments:?}");
    assert_eq!(criu_arguments[criu_arguments.len() - 2..], ["--ext-mount-map", "auto"]);
    script.run(&[], &["--", "--tcp-established"]);
    let criu_arguments = script.criu_arguments().expect("the program was called");
    assert!(
        !criu_arguments.contains(&"--tcp-close".to_owned()),
        "{criu_arguments:?}"
    );
    assert_eq!(
        script.run(&[], &["--tcp-close"]).status.code(),
        Some(2),
        "behind -- alone"
    );
}
