//! `scripts/restore-with-criu`, with a program in CRIU's place that only notes how it was called.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::programs::missing;

struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    /// An archive whose dump said this, and whose streams were these.
    fn of(log: &str, streams: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(std::fs::File::create(folder.path().join("archive.tar")).unwrap());
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
        let criu = folder.path().join("criu");
        let text = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Version: 4.1'; exit; fi\nprintf '%s\\n' \"$@\" > \"${0%/*}/called\"\n";
        std::fs::write(&criu, text).unwrap();
        std::fs::set_permissions(&criu, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { folder }
    }

    fn run(&self, before: &[&str], after: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/restore-with-criu");
        Command::new(script)
            .args(before)
            .arg(self.folder.path().join("archive.tar"))
            .args(after)
            .env("CRIU", self.folder.path().join("criu"))
            .output()
            .expect("bash")
    }

    fn called(&self) -> Option<Vec<String>> {
        let path: PathBuf = self.folder.path().join("called");
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_lost_is_said_and_locks_are_refused() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let log = "(00.1) froze\n(00.2) Warn  not carried: pid 7: the file locks of descriptor 3\n";
    let script = Script::of(log, "[]");
    let refused = script.run(&[], &[]);
    assert_eq!(refused.status.code(), Some(1));
    for part in [
        "not carried: pid 7: the file locks of descriptor 3",
        "--without-file-locks",
    ] {
        assert!(errors(&refused).contains(part), "{}", errors(&refused));
    }
    assert_eq!(script.called(), None);
    let restored = script.run(&["--without-file-locks"], &[]);
    assert!(restored.status.success(), "{}", errors(&restored));
    assert_eq!(
        errors(&restored),
        "not carried: pid 7: the file locks of descriptor 3\n"
    );
    assert!(script.called().is_some());

    let script = Script::of("(0) Warn  not carried: pid 7: its first thread has ended; more\n", "[]");
    let refused = script.run(&["--without-file-locks"], &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("two threads would run on one stack"));
    assert_eq!(script.called(), None);
}

#[test]
fn pipes_are_handed_on_and_files_are_not() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let log = "(0) Warn  not carried: pid 7: the TCP connection of descriptor 6\n";
    let script = Script::of(log, r#"["/srv/input","pipe:[12]","socket:[13]"]"#);
    let restored = script.run(&[], &["--", "--ext-mount-map", "auto"]);
    assert!(restored.status.success(), "{}", errors(&restored));
    let called = script.called().expect("it is called");
    let handed: Vec<_> = called.iter().filter(|word| word.starts_with("fd[")).collect();
    assert_eq!(handed, ["fd[11]:pipe:[12]", "fd[12]:socket:[13]"]);
    assert!(called.contains(&"--tcp-close".to_owned()), "{called:?}");
    assert_eq!(called[called.len() - 2..], ["--ext-mount-map", "auto"]);
    script.run(&[], &["--", "--tcp-established"]);
    let called = script.called().expect("it is called");
    assert!(!called.contains(&"--tcp-close".to_owned()), "{called:?}");
    assert_eq!(
        script.run(&[], &["--tcp-close"]).status.code(),
        Some(2),
        "behind -- alone"
    );
}
