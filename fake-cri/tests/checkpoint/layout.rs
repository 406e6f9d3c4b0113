//! Compares archives with the memory and files that the workload reports about itself.

use std::collections::BTreeMap;

use crate::{
    archive::ArchiveContents,
    ground_truth::ObservedProcess,
    workload::{PAGE_BYTES, Workload},
};

pub(crate) fn check_layout(contents: &ArchiveContents, workload: &Workload, process: &ObservedProcess) {
    let pid = workload.pid();
    let pages = contents.pages(&format!("pagemap-{pid}.img"));
    let in_range = |name: &str| {
        let (start, length) = *workload.layout.mappings.get(name)?;
        Some(
            pages
                .range(start..start + length)
                .map(|(address, _)| (address - start) / PAGE_BYTES)
                .collect::<Vec<_>>(),
        )
    };
    if let Some(sparse) = in_range("sparse") {
        let (_, length) = workload.layout.mappings["sparse"];
        assert_eq!(sparse, (1..length / PAGE_BYTES).step_by(2).collect::<Vec<_>>());
        assert_eq!(
            in_range("hidden"),
            Some(vec![0]),
            "a page that the process itself may not read"
        );
        assert_eq!(in_range("untouched"), Some(vec![]));
    }
    if let Some(zero) = in_range("zero") {
        assert_eq!(zero, [0; 0], "the zero page is not dumped");
    }
    if let Some((start, length)) = workload.layout.mappings.get("shared") {
        let vmas = contents.mm(pid).vmas;
        let vma = vmas.iter().find(|vma| vma.start == *start).unwrap();
        assert_ne!(vma.status & (1 << 8), 0);
        let shared = contents.pages(&format!("pagemap-shmem-{}.img", vma.shmid));
        let expected: BTreeMap<u64, Vec<u8>> = (0..length / PAGE_BYTES)
            .step_by(3)
            .map(|page| (page * PAGE_BYTES, vec![page as u8 | 0x80; PAGE_BYTES as usize]))
            .collect();
        assert!(shared == expected);
    }
    let Some(descriptors) = Some(&workload.layout.descriptors).filter(|all| !all.is_empty()) else {
        return;
    };
    assert_eq!(in_range("private"), Some(vec![2]), "the copied page alone");
    assert_eq!(in_range("shared-file"), Some(vec![]));
    let table = contents.descriptors(pid);
    let file = |name: &str| contents.file(table[&descriptors[name]].id);
    assert_eq!(file("offset").id, file("duplicate").id, "the same open file");
    assert_ne!(file("offset").id, file("reopened").id);
    let regular = |name: &str| file(name).reg.unwrap_or_else(|| panic!("{name} is no file"));
    assert_eq!(
        (regular("offset").pos, regular("offset").size),
        (1234, Some(5 * PAGE_BYTES))
    );
    assert_eq!(regular("append").size, None);
    assert!(
        process.descriptors[&descriptors["deleted"]]
            .0
            .to_str()
            .unwrap()
            .ends_with(" (deleted)")
    );
    assert_eq!(regular("directory").mode.unwrap() & libc::S_IFMT, libc::S_IFDIR);
    assert_eq!(
        file("reader").pipe.unwrap().pipe_id,
        file("writer").pipe.unwrap().pipe_id
    );
    assert_eq!(file("event").efd.unwrap().counter, 42);
    let epoll = file("epoll").epfd.unwrap();
    assert_eq!((epoll.tfd.len(), epoll.tfd[0].data), (1, 99));
    assert_eq!(epoll.tfd[0].tfd, descriptors["event"] as u32);
    let timer = file("timer").tfd.unwrap();
    assert!((4000..5000).contains(&timer.vsec) && timer.isec == 0, "{timer:?}");
    let (left, right) = (file("left").usk.unwrap(), file("right").usk.unwrap());
    assert_eq!((left.peer, right.peer), (right.ino, left.ino));
    assert_eq!(contents.socket_queue(left.id), [b"to the left"]);
    assert!(contents.socket_queue(right.id).is_empty());
    let listener = file("listener").isk.unwrap();
    assert!(
        listener.backlog > 0 && listener.opts.reuseaddr == Some(true),
        "{listener:?}"
    );
    let connected = file("connected").isk.unwrap();
    assert_eq!((connected.state, connected.dst_port), (1, listener.src_port));
    let memory = file("memory").memfd.unwrap();
    let memory = contents.memfd_inode(memory.inode_id);
    assert_eq!((&*memory.name, memory.size), ("in memory", 3 * PAGE_BYTES + 14));
    let pages = contents.pages(&format!("pagemap-shmem-{}.img", memory.shmid));
    assert_eq!(pages.keys().copied().collect::<Vec<_>>(), [3 * PAGE_BYTES]);
    assert!(pages[&(3 * PAGE_BYTES)].starts_with(b"nobody maps me\0"));
    assert_eq!((listener.state, listener.src_addr), (10, vec![0x0100_007f]));
    let pipe = file("reader").pipe.unwrap().pipe_id;
    assert_eq!(contents.pipe_data(pipe), b"unread");
    let deleted = contents.descriptors(workload.pid())[&descriptors["deleted"]].id;
    assert_eq!(contents.ghost_content(deleted), b"nobody finds me");
    let log = String::from_utf8(contents.members["dump.log"].clone()).unwrap();
    assert!(!log.contains("deleted file") && !log.contains("unread"), "{log}");
    let connection = format!(
        "the TCP connection of descriptor {}, which is recorded",
        descriptors["connected"]
    );
    assert!(log.contains(&connection), "{log}");
}
