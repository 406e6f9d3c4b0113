//! Reads a whole archive with the tar crate and the image codec.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use cri_proto::criu::{
    Decoder, Kind, decode_entries, decode_single,
    message::{
        CoreEntry, FdinfoEntry, FileEntry, GhostFileEntry, MemfdInodeEntry, MmEntry, PagemapEntry, PagemapHead,
        PipeDataEntry, PstreeEntry, RemapFilePathEntry, RemapType, SkPacketEntry, TaskKobjIdsEntry, VmaEntry,
    },
};

use crate::workload::PAGE_BYTES;

pub(crate) struct ArchiveContents {
    pub(crate) members: BTreeMap<String, Vec<u8>>,
    pub(crate) order: Vec<String>,
}

impl ArchiveContents {
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

    pub(crate) fn log(&self) -> String {
        String::from_utf8(self.members["dump.log"].clone()).unwrap()
    }

    fn image(&self, name: &str) -> &[u8] {
        let name = format!("checkpoint/{name}");
        self.members.get(&name).unwrap_or_else(|| panic!("{name} is missing"))
    }

    pub(crate) fn pstree(&self) -> Vec<PstreeEntry> {
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
        let mut matching = files.into_iter().filter(|file| file.id == id);
        let file = matching.next().unwrap_or_else(|| panic!("no file {id}"));
        assert!(matching.next().is_none(), "file {id} twice");
        file
    }

    /// The unread data of a pipe.
    pub(crate) fn pipe_data(&self, pipe: u32) -> Vec<u8> {
        let name = "pipes-data.img";
        let mut decoder = Decoder::open_as(name, Kind::PipesData, self.image(name)).unwrap();
        let mut matching = None;
        while let Some(entry) = decoder.message::<PipeDataEntry>().unwrap() {
            let mut bytes = Vec::new();
            decoder.copy_payload(entry.bytes.into(), &mut bytes).unwrap();
            if entry.pipe_id == pipe {
                assert!(matching.replace(bytes).is_none(), "pipe {pipe} twice");
            }
        }
        matching.unwrap_or_else(|| panic!("no pipe {pipe}"))
    }

    /// The unread packets of the socket with this id in `files.img`.
    pub(crate) fn socket_queue(&self, entry: u32) -> Vec<Vec<u8>> {
        let name = "sk-queues.img";
        let mut decoder = Decoder::open_as(name, Kind::SkQueues, self.image(name)).unwrap();
        let mut packets = Vec::new();
        while let Some(header) = decoder.message::<SkPacketEntry>().unwrap() {
            let mut bytes = Vec::new();
            decoder.copy_payload(header.length.into(), &mut bytes).unwrap();
            if header.id_for == entry {
                packets.push(bytes);
            }
        }
        packets
    }

    /// The memfd with this inode id.
    pub(crate) fn memfd_inode(&self, inode: u32) -> MemfdInodeEntry {
        let name = "memfd.img";
        let files: Vec<MemfdInodeEntry> = decode_entries(name, Kind::MemfdInode, self.image(name)).unwrap();
        let mut files = files.into_iter();
        files.find(|file| file.inode_id == u64::from(inode)).expect("the inode")
    }

    /// The pages of the shared memory that a mapping belongs to, by offset.
    pub(crate) fn shared_pages(&self, vma: &VmaEntry) -> BTreeMap<u64, Vec<u8>> {
        let is_memfd = vma.status & (1 << 6 | 1 << 7) != 0;
        let object = match is_memfd {
            true => {
                let memory = self.file(vma.shmid as u32).memfd.expect("a file of memfd_create");
                u64::from(self.memfd_inode(memory.inode_id).shmid)
            }
            false => vma.shmid,
        };
        self.pages(&format!("pagemap-shmem-{object}.img"))
    }

    /// The content of the ghost file of this id in `files.img`.
    pub(crate) fn ghost_content(&self, entry: u32) -> Vec<u8> {
        let name = "remap-fpath.img";
        let remaps: Vec<RemapFilePathEntry> = decode_entries(name, Kind::RemapFpath, self.image(name)).unwrap();
        let remap = remaps.iter().find(|remap| remap.orig_id == entry).expect("a remap");
        assert_eq!(remap.remap_type(), RemapType::Ghost);
        let name = format!("ghost-file-{:x}.img", remap.remap_id);
        let mut decoder = Decoder::open_as(&name, Kind::GhostFile, self.image(&name)).unwrap();
        let ghost = decoder.message::<GhostFileEntry>().unwrap().expect("an entry");
        assert_eq!(ghost.mode & libc::S_IFMT, libc::S_IFREG);
        let mut bytes = Vec::new();
        decoder.copy_rest(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn descriptors(&self, pid: i32) -> BTreeMap<i32, FdinfoEntry> {
        let name = format!("ids-{pid}.img");
        let ids: TaskKobjIdsEntry = decode_single(&name, Kind::Ids, self.image(&name)).unwrap();
        let name = format!("fdinfo-{}.img", ids.files_id);
        let entries: Vec<FdinfoEntry> = decode_entries(&name, Kind::Fdinfo, self.image(&name)).unwrap();
        entries.into_iter().map(|entry| (entry.fd as i32, entry)).collect()
    }

    /// The pages of a pagemap, by address.
    pub(crate) fn pages(&self, page_map: &str) -> BTreeMap<u64, Vec<u8>> {
        let mut decoder = cri_proto::criu::Decoder::open_as(page_map, Kind::Pagemap, self.image(page_map)).unwrap();
        let header: PagemapHead = decoder.message().unwrap().expect("a header");
        let bytes = self.image(&format!("pages-{}.img", header.pages_id));
        let mut rest = bytes;
        let mut pages = BTreeMap::new();
        while let Some(entry) = decoder.message::<PagemapEntry>().unwrap() {
            assert_eq!(entry.flags, Some(4));
            let count = entry.nr_pages.expect("the file is writable");
            assert_eq!(u64::from(entry.compat_nr_pages), count);
            for page in 0..count {
                let (now, later) = rest.split_at(PAGE_BYTES as usize);
                let previous = pages.insert(entry.vaddr + page * PAGE_BYTES, now.to_vec());
                assert!(previous.is_none(), "a page twice");
                rest = later;
            }
        }
        assert!(rest.is_empty(), "pages that no map names");
        pages
    }
}
