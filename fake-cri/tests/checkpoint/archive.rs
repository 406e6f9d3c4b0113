//! An archive read whole, through the tar crate and the codec.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use cri_proto::criu::{
    Kind, decode_entries, decode_single,
    message::{CoreEntry, FdinfoEntry, FileEntry, MmEntry, PagemapEntry, PagemapHead, PstreeEntry, TaskKobjIdsEntry},
};

use crate::workload::PAGE;

/// The members of an archive by their names.
pub(crate) struct Contents {
    pub(crate) members: BTreeMap<String, Vec<u8>>,
    pub(crate) order: Vec<String>,
}

impl Contents {
    pub(crate) fn read(path: &Path) -> Self {
        let mut members = BTreeMap::new();
        let mut order = Vec::new();
        for entry in tar::Archive::new(File::open(path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            order.push(name.clone());
            assert!(members.insert(name, bytes).is_none(), "a member twice");
        }
        Self { members, order }
    }

    fn image(&self, name: &str) -> &[u8] {
        let name = format!("checkpoint/{name}");
        self.members.get(&name).unwrap_or_else(|| panic!("{name} is missing"))
    }

    pub(crate) fn tree(&self) -> Vec<PstreeEntry> {
        decode_entries("pstree.img", Kind::Pstree, self.image("pstree.img")).unwrap()
    }

    pub(crate) fn core(&self, tid: i32) -> CoreEntry {
        let name = format!("core-{tid}.img");
        decode_single(&name, Kind::Core, self.image(&name)).unwrap()
    }

    pub(crate) fn mm(&self, pid: i32) -> MmEntry {
        let name = format!("mm-{pid}.img");
        decode_single(&name, Kind::Mm, self.image(&name)).unwrap()
    }

    pub(crate) fn file(&self, id: u32) -> FileEntry {
        let files: Vec<FileEntry> = decode_entries("files.img", Kind::Files, self.image("files.img")).unwrap();
        let mut found = files.into_iter().filter(|file| file.id == id);
        let file = found.next().unwrap_or_else(|| panic!("no file {id}"));
        assert!(found.next().is_none(), "file {id} twice");
        file
    }

    pub(crate) fn descriptors(&self, pid: i32) -> BTreeMap<i32, FdinfoEntry> {
        let name = format!("ids-{pid}.img");
        let ids: TaskKobjIdsEntry = decode_single(&name, Kind::Ids, self.image(&name)).unwrap();
        let name = format!("fdinfo-{}.img", ids.files_id);
        let entries: Vec<FdinfoEntry> = decode_entries(&name, Kind::Fdinfo, self.image(&name)).unwrap();
        entries.into_iter().map(|entry| (entry.fd as i32, entry)).collect()
    }

    /// The pages of a page map by their addresses.
    pub(crate) fn pages(&self, page_map: &str) -> BTreeMap<u64, Vec<u8>> {
        let mut decoder = cri_proto::criu::Decoder::expect(page_map, Kind::Pagemap, self.image(page_map)).unwrap();
        let head: PagemapHead = decoder.message().unwrap().expect("a head");
        let bytes = self.image(&format!("pages-{}.img", head.pages_id));
        let mut rest = bytes;
        let mut pages = BTreeMap::new();
        while let Some(entry) = decoder.message::<PagemapEntry>().unwrap() {
            assert_eq!(entry.flags, Some(4));
            let count = entry.nr_pages.expect("written");
            assert_eq!(u64::from(entry.compat_nr_pages), count);
            for page in 0..count {
                let (now, later) = rest.split_at(PAGE as usize);
                let known = pages.insert(entry.vaddr + page * PAGE, now.to_vec());
                assert!(known.is_none(), "a page twice");
                rest = later;
            }
        }
        assert!(rest.is_empty(), "pages that no map names");
        pages
    }
}
