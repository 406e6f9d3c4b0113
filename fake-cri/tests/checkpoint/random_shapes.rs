//! Workloads of random shapes: the archive must match `/proc` and ptrace at the freeze.
//!
//! `PROPTEST_CASES` is the number of shapes, `PROPTEST_RNG_SEED` selects them. A failure prints the smallest failing
//! shape with its values.

use std::path::PathBuf;

use fake_cri::checkpoint::Freeze;
use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};

use crate::{
    archive::ArchiveContents,
    ground_truth::{self, ObservedProcess},
    workload::{Backing, Descriptor, Layout, Map, PAGE_BYTES, Shape},
};

/// The number of shapes without `PROPTEST_CASES`.
const DEFAULT_CASES: u32 = 10;

fn any_map() -> impl Strategy<Value = Map> {
    let backings = vec![
        Backing::Private,
        Backing::Shared,
        Backing::PrivateFile,
        Backing::SharedFile,
        Backing::Memfd,
        Backing::DontFork,
        Backing::WipeOnFork,
    ];
    (select(backings), vec(any::<bool>(), 1..12), 0..8).prop_map(|(backing, written, access)| Map {
        backing,
        written,
        access,
    })
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let file = (0..20_000_u32, 0..30_000_u32, any::<bool>(), any::<bool>());
    prop_oneof![
        file.prop_map(|(size, offset, append, deleted)| Descriptor::File {
            size,
            offset,
            append,
            deleted
        }),
        (0..30_000_u32).prop_map(|offset| Descriptor::Dup { offset }),
        select(vec![
            Descriptor::Directory,
            Descriptor::Null,
            Descriptor::Epoll,
            Descriptor::Listener
        ]),
        (0..9000_u16).prop_map(|unread| Descriptor::Pipe { unread }),
        (0..9000_u16).prop_map(|unread| Descriptor::SocketPair { unread }),
        any::<u32>().prop_map(|value| Descriptor::Eventfd(value & 0x7fff_ffff)),
        (1000..100_000_u32).prop_map(|seconds| Descriptor::Timerfd { seconds }),
        any::<u16>().prop_map(|size| Descriptor::Memfd { size }),
    ]
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let threads = (0..3_usize, 0..5_usize);
    let family = (0..3_usize, any::<bool>());
    let memory = (0..40_u64, 0..300_u64, 0..9_u64, 0..20_u64, 0..6_u64);
    let more = (vec(any_map(), 0..8), vec(any_descriptor(), 0..8));
    (threads, family, memory, more).prop_map(|(threads, family, memory, more)| Shape {
        spinning: threads.0,
        sleeping: threads.1,
        children: family.0,
        zombie: family.1,
        sparse_pages: memory.0,
        filled_pages: memory.1,
        zero_pages: memory.2,
        shared_pages: memory.3,
        not_forked_pages: memory.4,
        maps: more.0,
        opened: more.1,
        files: Some(PathBuf::new()),
        ..Shape::default()
    })
}

proptest! {
    #![proptest_config(Config {
        cases: std::env::var("PROPTEST_CASES").map_or(DEFAULT_CASES, |cases| cases.parse().expect("a number")),
        // Each shrink step starts a process and reads all its memory. The printed shape is enough to reproduce a
        // failure.
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn archive_matches_any_shape(shape in any_shape(), copy in any::<bool>()) {
        ground_truth::check_shape(shape, if copy { Freeze::Snapshot } else { Freeze::Full });
    }
}

/// Checks the extra mappings and descriptors of a shape, which `/proc` does not describe completely.
pub(crate) fn check_extras(
    contents: &ArchiveContents,
    pid: i32,
    shape: &Shape,
    layout: &Layout,
    process: &ObservedProcess,
) {
    assert_eq!(layout.maps.len(), shape.maps.len());
    let vmas = contents.mm(pid).vmas;
    let private = contents.pages(&format!("pagemap-{pid}.img"));
    for (number, (map, (start, length))) in shape.maps.iter().zip(&layout.maps).enumerate() {
        let covered = |vma: &&cri_proto::criu::message::VmaEntry| vma.start <= *start && *start + length <= vma.end;
        let vma = vmas
            .iter()
            .find(covered)
            .unwrap_or_else(|| panic!("{map:?} is no mapping"));
        assert_eq!(vma.prot as i32, map.access, "{map:?}");
        for (page, written) in (0..).zip(&map.written) {
            let address = start + page * PAGE_BYTES;
            let expected: Vec<u8> = (0..PAGE_BYTES as usize)
                .map(|index| (number * 101 + page as usize * 31 + index * 7) as u8)
                .collect();
            let dumped = match map.backing {
                Backing::SharedFile => continue,
                Backing::Shared | Backing::Memfd => contents
                    .shared_pages(vma)
                    .get(&(address - vma.start + vma.pgoff))
                    .cloned(),
                _ => private.get(&address).cloned(),
            };
            let dumped = dumped.filter(|page| page.iter().any(|byte| *byte != 0));
            assert!(dumped == written.then_some(expected), "page {page} of {map:?}");
        }
    }
    assert_eq!(layout.opened.len(), shape.opened.len());
    let table = contents.descriptors(pid);
    for (number, (descriptor, fds)) in shape.opened.iter().zip(&layout.opened).enumerate() {
        assert!(fds.iter().all(|fd| process.descriptors.contains_key(fd)));
        let id = |index: usize| table[&fds[index]].id;
        let file = |index: usize| contents.file(id(index));
        let content = |length: usize| vec![number as u8; length];
        match descriptor {
            Descriptor::File {
                size, append, deleted, ..
            } => {
                let flags = file(0).reg.expect("a regular file").flags;
                assert_eq!(flags & libc::O_APPEND as u32 != 0, *append);
                if *deleted {
                    assert!(contents.ghost_content(id(0)) == content(*size as usize));
                }
            }
            Descriptor::Dup { .. } => assert_eq!(id(0), id(1), "the same open file"),
            Descriptor::Directory | Descriptor::Null => assert!(file(0).reg.is_some()),
            Descriptor::Pipe { unread } => {
                let pipe = file(0).pipe.expect("a pipe").pipe_id;
                assert_eq!(pipe, file(1).pipe.expect("a pipe").pipe_id);
                if *unread > 0 {
                    assert!(contents.pipe_data(pipe) == content(usize::from(*unread)));
                }
            }
            Descriptor::SocketPair { unread } => {
                let (left, right) = (file(0).usk.expect("a socket"), file(1).usk.expect("a socket"));
                assert_eq!((left.peer, right.peer), (right.ino, left.ino));
                assert!(contents.socket_queue(left.id).concat() == content(usize::from(*unread)));
            }
            Descriptor::Eventfd(value) => assert_eq!(file(0).efd.expect("an eventfd").counter, u64::from(*value)),
            Descriptor::Epoll => {
                let watched = &file(1).epfd.expect("an epoll").tfd[0];
                assert_eq!((watched.tfd as i32, watched.data), (fds[0], number as u64));
            }
            Descriptor::Timerfd { seconds } => {
                let left = file(0).tfd.expect("a timerfd").vsec;
                assert!(
                    left <= u64::from(*seconds) && left + 100 > u64::from(*seconds),
                    "{left} of {seconds}"
                );
            }
            Descriptor::Memfd { .. } => assert!(file(0).memfd.is_some()),
            Descriptor::Listener => assert_eq!(file(0).isk.expect("a socket").state, 10),
        }
    }
}
