//! `pagemap-*.img`: the pages of a pages file, in order.

use std::ops::Range;

use cri_proto::criu::{
    Encoder, Kind, PE_PRESENT,
    message::{PagemapEntry, PagemapHead},
};

use crate::process::pagemap::PAGE_SIZE;

/// A page map of these ranges. Old and new readers expect the count in different fields, so both are written.
pub(super) fn pagemap_image(pages_id: u32, ranges: impl Iterator<Item = Range<u64>>) -> Vec<u8> {
    let mut encoder = Encoder::new(Kind::Pagemap);
    encoder.entry(&PagemapHead { pages_id });
    for range in ranges {
        let pages = (range.end - range.start) / PAGE_SIZE;
        encoder.entry(&PagemapEntry {
            vaddr: range.start,
            compat_nr_pages: u32::try_from(pages).unwrap_or(u32::MAX),
            flags: Some(PE_PRESENT),
            nr_pages: Some(pages),
            ..PagemapEntry::default()
        });
    }
    encoder.finish()
}
