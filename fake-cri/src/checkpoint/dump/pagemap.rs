//! `pagemap-*.img`: the pages of a pages file, in order.

use std::ops::Range;

use cri_proto::criu::{
    Encoder, Kind,
    message::{PagemapEntry, PagemapHead},
};

use crate::process::pagemap::PAGE_SIZE;

/// `PE_PRESENT`: the pages are in the pages file.
const PE_PRESENT: u32 = 1 << 2;

/// A page map of these ranges. Old and new readers expect the count in different fields, so both are written.
pub(super) fn pagemap_image(pages_id: u32, ranges: impl Iterator<Item = Range<u64>>) -> Vec<u8> {
    let mut encoder = Encoder::new(Kind::Pagemap, Vec::new()).expect("write to a Vec");
    encoder.entry(&PagemapHead { pages_id }).expect("write to a Vec");
    for range in ranges {
        let pages = (range.end - range.start) / PAGE_SIZE;
        encoder
            .entry(&PagemapEntry {
                vaddr: range.start,
                compat_nr_pages: u32::try_from(pages).unwrap_or(u32::MAX),
                in_parent: None,
                flags: Some(PE_PRESENT),
                nr_pages: Some(pages),
                ..PagemapEntry::default()
            })
            .expect("write to a Vec");
    }
    encoder.finish()
}
