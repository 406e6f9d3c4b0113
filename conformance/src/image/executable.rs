//! Executables that can run in an image without anything else: those that ask for no interpreter (`PT_INTERP`).

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use elf::{ElfStream, abi, endian::AnyEndian};

use super::ImageError;

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
    pub fn look(path: &Path) -> Result<Executable, ImageError> {
        let refused = |reason: String| ImageError::Executable {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(ImageError::file(path))?;
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

/// The stand-in: `given`, or this program itself when it is static, or what the documented command has built beside it.
///
/// # Errors
/// None of them is static; each is named with its reason.
pub fn find_stand_in(given: Option<&Path>) -> Result<Executable, ImageError> {
    if let Some(given) = given {
        return Executable::look(given);
    }
    // Not /proc/self/exe, which works as well, because errors shall name a file.
    let own = std::env::current_exe().map_err(ImageError::file("/proc/self/exe"))?;
    let mut tried = Vec::new();
    for path in std::iter::once(own.clone()).chain(beside(&own)) {
        match Executable::look(&path) {
            Ok(executable) => return Ok(executable),
            Err(ImageError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(ImageError::NoStandIn {
        tried: tried.join("; "),
    })
}

/// Where cargo puts a stand-in that is built for a target, seen from `target/PROFILE/checkpoint-conformance`.
fn beside(own: &Path) -> Vec<PathBuf> {
    let Some(profile) = own.parent() else {
        return Vec::new();
    };
    let mut places = vec![profile.join("stand-in")];
    let targets = profile.parent().and_then(|target| std::fs::read_dir(target).ok());
    let mut triples: Vec<_> = targets
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("release/stand-in"))
        .filter(|path| path.is_file())
        .collect();
    triples.sort();
    places.extend(triples);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_loader_or_is_no_executable_is_refused() {
        let test = std::env::current_exe().unwrap();
        let error = Executable::look(&test).unwrap_err().to_string();
        assert!(error.contains("dynamically linked"), "{error}");
        let error = Executable::look(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).unwrap_err();
        assert!(error.to_string().contains("no ELF executable"), "{error}");
    }
}
