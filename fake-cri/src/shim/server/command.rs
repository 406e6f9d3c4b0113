//! Finds a container's command as runc does, with runc's error texts.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, eaccess};

/// The search path when the environment has no `PATH` (containerd's default).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the file that `name` refers to, by the `PATH` of `env`; relative paths are relative to `cwd`. An error has
/// the text of runc.
pub(super) fn find_executable(name: &str, env: &[(String, String)], cwd: &Path) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = cwd.join(name);
        return match check_executable(&path) {
            Ok(()) => Ok(path),
            Err(NotExecutable::Stat(error)) => Err(format!("exec: {name:?}: stat {name}: {}", go_error_text(&error))),
            Err(NotExecutable::Other(error)) => Err(format!("exec: {name:?}: {}", go_error_text(&error))),
        };
    }
    let path = env
        .iter()
        .rev()
        .find(|(key, _)| key == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value);
    for path_dir in path.split(':') {
        let path = cwd.join(path_dir).join(name);
        if check_executable(&path).is_ok() {
            if !path_dir.starts_with('/') {
                return Err(format!(
                    "exec: {name:?}: cannot run executable found relative to current directory"
                ));
            }
            return Ok(path);
        }
    }
    Err(format!("exec: {name:?}: executable file not found in $PATH"))
}

/// The text of runc when execve(2) fails.
pub(super) fn exec_error(file: &Path, error: &io::Error) -> String {
    format!("exec {}: {}", file.display(), go_error_text(error))
}

/// The text of runc when the working directory cannot be entered.
pub(super) fn chdir_error(cwd: &Path, error: &io::Error) -> String {
    format!(
        "chdir to cwd ({:?}) set in config.json failed: {}",
        cwd.display().to_string(),
        go_error_text(error)
    )
}

enum NotExecutable {
    Stat(io::Error),
    Other(io::Error),
}

fn check_executable(path: &Path) -> Result<(), NotExecutable> {
    let metadata = fs::metadata(path).map_err(NotExecutable::Stat)?;
    if metadata.is_dir() {
        return Err(NotExecutable::Other(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    eaccess(path, AccessFlags::X_OK).map_err(|errno| NotExecutable::Other(errno.into()))
}

/// The error text as Go writes it: in lower case and without the errno.
fn go_error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::name("foo", r#"exec: "foo": executable file not found in $PATH"#)]
    #[case::path("/foo", r#"exec: "/foo": stat /foo: no such file or directory"#)]
    #[case::directory("/tmp", r#"exec: "/tmp": is a directory"#)]
    #[case::no_program("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#)]
    #[case::below_a_file("/etc/passwd/x", r#"exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory"#)]
    fn missing_commands_have_runc_error_texts(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(
            find_executable(name, &[], Path::new("/")).expect_err("no such command"),
            expected
        );
    }

    #[test]
    fn the_last_path_variable_wins() {
        let path = |value: &str| ("PATH".to_owned(), value.to_owned());
        assert!(find_executable("sh", &[], Path::new("/")).is_ok());
        assert!(find_executable("sh", &[path("/nowhere")], Path::new("/")).is_err());
        let executable = find_executable("sh", &[path("/nowhere"), path("/nowhere:/bin")], Path::new("/"));
        assert_eq!(executable.expect("sh exists"), Path::new("/bin/sh"));
    }
}
