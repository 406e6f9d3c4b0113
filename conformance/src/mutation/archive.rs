//! Archives with one defect each, and the cases that must fail for each defect.
//!
//! The expectations are fixed before any run. A case that fails without being listed is a false positive; a listed case
//! that does not fail does not detect the defect. Cases that a defect makes impossible to check are skipped, and not
//! listed.

mod documents;
mod images;
mod structure;

use std::{io, path::Path};

use super::{Defect, Mutant};
use crate::{
    archive::{
        FileMetadata, InspectedArchive,
        sample::{Sample, SampleMember, tar_of, write_private},
    },
    engine::Suite,
};

/// All mutants, by the part of the archive with the defect.
pub(super) const MUTANTS: [&[Mutant]; 3] = [structure::MUTANTS, documents::MUTANTS, images::MUTANTS];

/// A defect of an archive: a change of the sample.
#[derive(Clone, Copy, Debug)]
pub enum ArchiveDefect {
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

impl ArchiveDefect {
    /// Writes the archive to `path`, with mode 0600 unless the defect is another mode.
    ///
    /// # Errors
    /// An I/O error.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, &self.bytes()?)?;
        match self {
            ArchiveDefect::File(edit) => edit(path),
            _ => Ok(()),
        }
    }

    /// Applies a defect of the metadata to the result of reading the archive.
    pub fn edit_result(&self, read: &mut InspectedArchive) {
        if let (ArchiveDefect::Metadata(edit), Some(metadata)) = (self, &mut read.file) {
            edit(metadata);
        }
    }

    /// The bytes of the archive.
    ///
    /// # Errors
    /// A name is too long for a tar header.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut sample = Sample::default();
        if let ArchiveDefect::Content(edit) = self {
            edit(&mut sample);
        }
        let mut members = sample.members();
        if let ArchiveDefect::Members(edit) = self {
            edit(&mut members);
        }
        let mut bytes = tar_of(&members)?;
        if let ArchiveDefect::Bytes(edit) = self {
            edit(&mut bytes);
        }
        Ok(bytes)
    }
}

const fn archive(name: &'static str, defect: ArchiveDefect) -> Mutant {
    Mutant {
        suite: Suite::Archive,
        name,
        defect: Defect::Archive(defect),
        must_fail: &[],
    }
}

const fn edit_content(name: &'static str, edit: fn(&mut Sample)) -> Mutant {
    archive(name, ArchiveDefect::Content(edit))
}

const fn edit_members(name: &'static str, edit: fn(&mut Vec<SampleMember>)) -> Mutant {
    archive(name, ArchiveDefect::Members(edit))
}

const fn edit_bytes(name: &'static str, edit: fn(&mut Vec<u8>)) -> Mutant {
    archive(name, ArchiveDefect::Bytes(edit))
}

const fn edit_file(name: &'static str, edit: fn(&Path) -> io::Result<()>) -> Mutant {
    archive(name, ArchiveDefect::File(edit))
}

const fn edit_metadata(name: &'static str, edit: fn(&mut FileMetadata)) -> Mutant {
    archive(name, ArchiveDefect::Metadata(edit))
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
