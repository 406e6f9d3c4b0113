//! Executables that can run in an image without anything else: those that ask for no interpreter (`PT_INTERP`).

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use elf::{ElfStream, abi, endian::AnyEndian};

use super::OciImageError;

/// The architectures that images are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

/// A static executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// Where it is.
    pub path: PathBuf,
    /// What it runs on.
    pub architecture: Architecture,
}

impl Executable {
    /// Looks at a file.
    ///
    /// # Errors
    /// It cannot be read, is no executable for Linux, or needs a dynamic loader.
    pub fn inspect(path: &Path) -> Result<Executable, OciImageError> {
        let refused = |reason: String| OciImageError::Executable {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(OciImageError::file(path))?;
        let elf = ElfStream::<AnyEndian, _>::open_stream(file)
            .map_err(|error| refused(format!("it is no ELF executable ({error})")))?;
        if elf.segments().iter().any(|segment| segment.p_type == abi::PT_INTERP) {
            return Err(refused(
                "it is dynamically linked, and in an image there is no loader".to_owned(),
            ));
        }
        let architecture = match elf.ehdr.e_machine {
            abi::EM_X86_64 => Architecture::Amd64,
            abi::EM_AARCH64 => Architecture::Arm64,
            other => return Err(refused(format!("it is for another processor (ELF machine {other})"))),
        };
        if !matches!(elf.ehdr.e_type, abi::ET_EXEC | abi::ET_DYN) {
            return Err(refused("it is an object file".to_owned()));
        }
        Ok(Executable {
            path: path.to_owned(),
            architecture,
        })
    }
}

/// The test workload: `given`, or this program itself when it is static, or what the documented command has built beside it.
///
/// # Errors
/// None of them is static; each is named with its reason.
pub fn find_workload(path: Option<&Path>) -> Result<Executable, OciImageError> {
    if let Some(given) = path {
        return Executable::inspect(given);
    }
    // Not /proc/self/exe, which works as well, because errors shall name a file.
    let current_exe = std::env::current_exe().map_err(OciImageError::file("/proc/self/exe"))?;
    let mut rejected = Vec::new();
    for path in std::iter::once(current_exe.clone()).chain(candidate_paths(&current_exe)) {
        match Executable::inspect(&path) {
            Ok(executable) => return Ok(executable),
            Err(OciImageError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => rejected.push(error.to_string()),
        }
    }
    Err(OciImageError::NoWorkload {
        tried: rejected.join("; "),
    })
}

/// Where cargo puts a test workload that is built for a target, seen from `target/PROFILE/checkpoint-conformance`.
fn candidate_paths(current_exe: &Path) -> Vec<PathBuf> {
    let Some(profile) = current_exe.parent() else {
        return Vec::new();
    };
    let mut candidates = vec![profile.join("test-workload")];
    let targets = profile.parent().and_then(|target| std::fs::read_dir(target).ok());
    let mut triples: Vec<_> = targets
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("release/test-workload"))
        .filter(|path| path.is_file())
        .collect();
    triples.sort();
    candidates.extend(triples);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_dynamic_and_non_executables() {
        let test = std::env::current_exe().unwrap();
        let error = Executable::inspect(&test).unwrap_err().to_string();
        assert!(error.contains("dynamically linked"), "{error}");
        let error = Executable::inspect(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).unwrap_err();
        assert!(error.to_string().contains("no ELF executable"), "{error}");
    }
}
