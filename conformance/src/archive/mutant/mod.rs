//! Archives that are wrong in one way each, and the cases that must say so.
//!
//! What is expected of a mutant stands here, before any run: a case that fails without being named is a false alarm,
//! one that is named and does not fail checks nothing. Cases that could not be judged for it are skipped, and not named.

mod documents;
mod images;
mod structure;

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    Inspected,
    model::FileFacts,
    sample::{Part, Sample, tar_of},
};

/// An archive that is wrong in one way.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveMutant {
    /// Its name, a path below the part that is wrong.
    pub name: &'static str,
    /// The cases that must fail, and no other may.
    pub expected: &'static [&'static str],
    change: Change,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// What the archive says.
    Sample(fn(&mut Sample)),
    /// Its members.
    Parts(fn(&mut Vec<Part>)),
    /// Its bytes.
    Bytes(fn(&mut Vec<u8>)),
    /// The file that it is.
    File(fn(&Path) -> io::Result<()>),
    /// What the file system says of the file, where only root could make it so.
    Facts(fn(&mut FileFacts)),
}

impl ArchiveMutant {
    /// Writes the archive to `path`, 0600 unless that is what is wrong.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, &self.bytes()?)?;
        match self.change {
            Change::File(change) => change(path),
            _ => Ok(()),
        }
    }

    /// Changes what was read of the archive, where that and not the file is what is wrong.
    pub fn alter(&self, read: &mut Inspected) {
        if let (Change::Facts(change), Some(facts)) = (self.change, &mut read.file) {
            change(facts);
        }
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// For names that no tar header takes.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut sample = Sample::default();
        if let Change::Sample(change) = self.change {
            change(&mut sample);
        }
        let mut parts = sample.parts();
        if let Change::Parts(change) = self.change {
            change(&mut parts);
        }
        let mut bytes = tar_of(&parts)?;
        if let Change::Bytes(change) = self.change {
            change(&mut bytes);
        }
        Ok(bytes)
    }
}

/// Writes an archive as a runtime should: 0600.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

const fn said(name: &'static str, expected: &'static [&'static str], change: fn(&mut Sample)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::Sample(change),
    }
}

const fn members(name: &'static str, expected: &'static [&'static str], change: fn(&mut Vec<Part>)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::Parts(change),
    }
}

const fn bytes(name: &'static str, expected: &'static [&'static str], change: fn(&mut Vec<u8>)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::Bytes(change),
    }
}

const fn file(
    name: &'static str,
    expected: &'static [&'static str],
    change: fn(&Path) -> io::Result<()>,
) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::File(change),
    }
}

const fn facts(name: &'static str, expected: &'static [&'static str], change: fn(&mut FileFacts)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::Facts(change),
    }
}

/// Every mutant of the archive.
pub fn mutants() -> impl Iterator<Item = &'static ArchiveMutant> {
    [structure::MUTANTS, documents::MUTANTS, images::MUTANTS]
        .into_iter()
        .flatten()
}

/// The mutant of this name.
pub fn by_name(name: &str) -> Option<&'static ArchiveMutant> {
    mutants().find(|mutant| mutant.name == name)
}

fn part<'a>(parts: &'a mut [Part], name: &str) -> &'a mut Part {
    parts
        .iter_mut()
        .find(|part| part.name == name)
        .expect("the sample has every member that a mutant changes")
}

fn drop_part(parts: &mut Vec<Part>, name: &str) {
    parts.retain(|part| part.name != name);
}
