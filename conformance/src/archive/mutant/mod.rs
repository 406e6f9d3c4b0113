//! Archives with one defect each, and the cases that must fail for each defect.
//!
//! The expectations are fixed before any run. A case that fails without being listed is a false positive; a listed case
//! that does not fail does not detect the defect. Cases that a defect makes impossible to check are skipped, and not
//! listed.

mod documents;
mod images;
mod structure;

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    InspectedArchive,
    model::FileMetadata,
    sample::{Sample, SampleMember, tar_of},
};

/// An archive with one defect.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveMutant {
    /// The name of the mutant. Its first part is the part of the archive with the defect.
    pub name: &'static str,
    /// The cases that must fail. No other case may fail.
    pub must_fail: &'static [&'static str],
    edit: Edit,
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Changes the content before it is encoded.
    Content(fn(&mut Sample)),
    /// Changes the tar's members.
    Members(fn(&mut Vec<SampleMember>)),
    /// Changes the tar's bytes.
    Bytes(fn(&mut Vec<u8>)),
    /// Changes the file.
    File(fn(&Path) -> io::Result<()>),
    /// Changes the file's metadata after it was read, where only root could change the file.
    Metadata(fn(&mut FileMetadata)),
}

impl ArchiveMutant {
    /// Writes the archive to `path`, with mode 0600 unless the defect is another mode.
    ///
    /// # Errors
    /// An I/O error.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, &self.bytes()?)?;
        match self.edit {
            Edit::File(edit) => edit(path),
            _ => Ok(()),
        }
    }

    /// Applies a defect of the metadata to the result of reading the archive.
    pub fn edit_result(&self, read: &mut InspectedArchive) {
        if let (Edit::Metadata(edit), Some(metadata)) = (self.edit, &mut read.file) {
            edit(metadata);
        }
    }

    /// The bytes of the archive.
    ///
    /// # Errors
    /// A name is too long for a tar header.
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

/// Writes an archive with mode 0600, as a runtime must.
///
/// # Errors
/// An I/O error.
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

/// All archive mutants.
pub fn mutants() -> impl Iterator<Item = &'static ArchiveMutant> {
    [structure::MUTANTS, documents::MUTANTS, images::MUTANTS]
        .into_iter()
        .flatten()
}

/// The mutant of this name, if it exists.
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
