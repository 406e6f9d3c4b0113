//! Archives that are wrong in one way each, and the cases that must say so.
//!
//! What is expected of a mutant stands here, before any run: a case that fails without being named is a false alarm,
//! one that is named and does not fail checks nothing. Cases that could not be judged for it are skipped, and not named.

mod documents;
mod images;
mod structure;

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    InspectedArchive,
    model::FileMetadata,
    sample::{Sample, SampleMember, tar_of},
};

/// An archive that is wrong in one way.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveMutant {
    /// Its name, a path below the part that is wrong.
    pub name: &'static str,
    /// The cases that must fail, and no other may.
    pub must_fail: &'static [&'static str],
    edit: Edit,
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    /// What the archive says.
    Content(fn(&mut Sample)),
    /// Its members.
    Members(fn(&mut Vec<SampleMember>)),
    /// Its bytes.
    Bytes(fn(&mut Vec<u8>)),
    /// The file that it is.
    File(fn(&Path) -> io::Result<()>),
    /// What the file system says of the file, where only root could make it so.
    Metadata(fn(&mut FileMetadata)),
}

impl ArchiveMutant {
    /// Writes the archive to `path`, 0600 unless that is what is wrong.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, &self.bytes()?)?;
        match self.edit {
            Edit::File(edit) => edit(path),
            _ => Ok(()),
        }
    }

    /// Changes what was read of the archive, where that and not the file is what is wrong.
    pub fn edit_result(&self, read: &mut InspectedArchive) {
        if let (Edit::Metadata(edit), Some(metadata)) = (self.edit, &mut read.file) {
            edit(metadata);
        }
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// For names that no tar header takes.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut sample = Sample::default();
        if let Edit::Content(edit) = self.edit {
            edit(&mut sample);
        }
        let mut members = sample.members();
        if let Edit::Members(edit) = self.edit {
            edit(&mut members);
        }
        let mut bytes = tar_of(&members)?;
        if let Edit::Bytes(edit) = self.edit {
            edit(&mut bytes);
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

const fn edit_content(name: &'static str, must_fail: &'static [&'static str], edit: fn(&mut Sample)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        must_fail,
        edit: Edit::Content(edit),
    }
}

const fn edit_members(
    name: &'static str,
    must_fail: &'static [&'static str],
    edit: fn(&mut Vec<SampleMember>),
) -> ArchiveMutant {
    ArchiveMutant {
        name,
        must_fail,
        edit: Edit::Members(edit),
    }
}

const fn edit_bytes(name: &'static str, must_fail: &'static [&'static str], edit: fn(&mut Vec<u8>)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        must_fail,
        edit: Edit::Bytes(edit),
    }
}

const fn edit_file(
    name: &'static str,
    must_fail: &'static [&'static str],
    edit: fn(&Path) -> io::Result<()>,
) -> ArchiveMutant {
    ArchiveMutant {
        name,
        must_fail,
        edit: Edit::File(edit),
    }
}

const fn edit_metadata(
    name: &'static str,
    must_fail: &'static [&'static str],
    edit: fn(&mut FileMetadata),
) -> ArchiveMutant {
    ArchiveMutant {
        name,
        must_fail,
        edit: Edit::Metadata(edit),
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

fn member_mut<'a>(members: &'a mut [SampleMember], name: &str) -> &'a mut SampleMember {
    members
        .iter_mut()
        .find(|part| part.name == name)
        .expect("the sample has every member that a mutant changes")
}

fn remove_member(members: &mut Vec<SampleMember>, name: &str) {
    members.retain(|part| part.name != name);
}
