//! Static executables, which run in an image without other files: those without an interpreter (`PT_INTERP`).

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use elf::{ElfStream, abi, endian::AnyEndian};

use super::OciImageError;

/// The supported architectures of images.
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
    /// The path.
    pub path: PathBuf,
    /// The architecture.
    pub architecture: Architecture,
}

impl Executable {
    /// Inspects a file.
    ///
    /// # Errors
    /// The file cannot be read, is not an executable for a supported architecture, or needs a dynamic loader.
    pub fn inspect(path: &Path) -> Result<Executable, OciImageError> {
        let refused = |reason: String| OciImageError::Executable {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(OciImageError::file(path))?;
        let elf = ElfStream::<AnyEndian, _>::open_stream(file)
            .map_err(|error| refused(format!("not an ELF executable ({error})")))?;
        if elf.segments().iter().any(|segment| segment.p_type == abi::PT_INTERP) {
            return Err(refused(
                "dynamically linked, but the image contains no loader".to_owned(),
            ));
        }
        let architecture = match elf.ehdr.e_machine {
            abi::EM_X86_64 => Architecture::Amd64,
            abi::EM_AARCH64 => Architecture::Arm64,
            other => return Err(refused(format!("for an unsupported processor (ELF machine {other})"))),
        };
        if !matches!(elf.ehdr.e_type, abi::ET_EXEC | abi::ET_DYN) {
            return Err(refused(
                "neither an executable nor a position-independent executable".to_owned(),
            ));
        }
        Ok(Executable {
            path: path.to_owned(),
            architecture,
        })
    }
}

/// Finds the test workload: `path`, or else this program if it is static, or else a static build beside it.
///
/// # Errors
/// No candidate is static. The error names each with its reason.
pub fn find_workload(path: Option<&Path>) -> Result<Executable, OciImageError> {
    if let Some(given) = path {
        return Executable::inspect(given);
    }
    // Not /proc/self/exe: errors must name a real file.
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

/// The paths where cargo builds a test workload for a target, relative to `target/PROFILE/checkpoint-conformance`.
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
        assert!(error.to_string().contains("not an ELF executable"), "{error}");
    }
}
