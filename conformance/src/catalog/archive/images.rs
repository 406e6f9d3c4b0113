//! Of each image for itself.

use super::given::{ArchiveCase, case, images, maps, readable};
use crate::{
    archive::{Flaws, Inspected, Layout},
    case::{Judgement, Stop, fail, judge, pass},
};

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "images/decode",
        Reference,
        "CRIU images/*.proto and criu/include/magic.h",
        "Every image has the magic of its name, whole entries and messages that decode.",
        "all images decode",
        |archive| {
            if !readable(archive)?.has_any() && archive.member("checkpoint").is_none() {
                return fail("there are no images");
            }
            free_of(archive, |archive| &archive.images.undecodable)
        }
    ),
    case!(
        "images/required-fields",
        Reference,
        "CRIU images/*.proto",
        "No message lacks a field that its definition requires.",
        "all required fields",
        |archive| free_of(archive, |archive| &archive.images.missing)
    ),
    case!(
        "images/unknown-fields",
        Robust,
        "CRIU images/*.proto (4.2)",
        "No message has a field or a value that its definition does not know.",
        "no unknown field",
        |archive| free_of(archive, |archive| &archive.images.unknown)
    ),
    case!(
        "images/not-empty",
        Reference,
        "checkpointctl: go-criu panics on an image that has magics but no entry",
        "No image that describes one thing is empty.",
        "an entry in each",
        |archive| free_of(archive, |archive| &archive.images.empty)
    ),
    case!(
        "images/bounded",
        Robust,
        "CWE-770; a reader holds what images say",
        "The images must be small enough to be held against each other in 96 MiB of memory: else only each for itself was judged.",
        "all images within the bound of this reader",
        |archive| match &readable(archive)?.beyond_bound {
            Some(member) => fail(format!("the bound is met in {member}")),
            None => pass("all of them"),
        }
    ),
    case!(
        "images/inventory",
        Reference,
        "CRIU criu/cr-check.c, check_img_inventory",
        "The inventory is of image version 2 and says that descriptors are kept by table.",
        "img_version 2, fdinfo_per_id",
        |archive| {
            let inventory = inventory(archive)?;
            let seen = format!(
                "img_version {}, fdinfo_per_id {:?}",
                inventory.img_version, inventory.fdinfo_per_id
            );
            judge(inventory.img_version == 2 && inventory.fdinfo_per_id(), seen)
        }
    ),
    case!(
        "images/root-ids",
        Reference,
        "CRIU images/inventory.proto",
        "The inventory names the namespaces of the dump's root.",
        "root_ids",
        |archive| match inventory(archive)?.root_ids {
            Some(_) => pass("root_ids"),
            None => fail("no root_ids"),
        }
    ),
    case!(
        "images/stats-dump",
        Reference,
        "checkpointctl --stats",
        "stats-dump is there and holds the statistics of a dump.",
        "statistics of a dump",
        |archive| {
            let images = images(archive)?;
            match &images.stats {
                None if archive.expected_layout() == Layout::Podman => {
                    Err(Stop::Skip("Podman before 4.0 leaves it out".to_owned()))
                }
                None => fail("no stats-dump"),
                Some(stats) => judge(
                    stats.dump.is_some() && stats.restore.is_none(),
                    describe(stats.dump.is_some()),
                ),
            }
        }
    ),
    case!(
        "images/stats-plausible",
        Reference,
        "CRIU images/stats.proto",
        "The statistics agree with the archive: pages written are those in it, none more than were scanned, and the \
         container stood still for some time.",
        "pages written = pages in the archive",
        stats
    ),
];

fn free_of(archive: &Inspected, flaws: fn(&Inspected) -> &Flaws) -> Judgement {
    readable(archive)?;
    if !archive.images.has_any() && archive.member("checkpoint").is_none() {
        return Err(Stop::Blocked("archive/images/decode"));
    }
    let flaws = flaws(archive);
    let count: usize = archive.images.count.values().sum();
    let seen = format!("{count} images, {} entries", archive.images.entries);
    judge(flaws.count == 0, if flaws.count == 0 { seen } else { flaws.summary() })
}

fn inventory(archive: &Inspected) -> Result<&cri_proto::criu::message::InventoryEntry, Stop> {
    images(archive)?
        .inventory
        .as_ref()
        .ok_or(Stop::Blocked("archive/layout/upstream-names"))
}

fn describe(dump: bool) -> &'static str {
    if dump { "of a dump" } else { "not of a dump" }
}

fn stats(archive: &Inspected) -> Judgement {
    let images = maps(archive)?;
    if super::memory::page_files(archive).is_err() {
        return Err(Stop::Blocked("archive/memory/page-files"));
    }
    if super::memory::page_counts(archive).is_err() {
        return Err(Stop::Blocked("archive/memory/page-counts"));
    }
    let mut all = images.pagemaps.values().chain(images.shared_pagemaps.values());
    if all.any(|map| map.not_present.is_some()) {
        return Err(Stop::Blocked("archive/memory/page-present"));
    }
    let Some(dump) = images.stats.as_ref().and_then(|stats| stats.dump.as_ref()) else {
        return Err(Stop::Blocked("archive/images/stats-dump"));
    };
    let present = images
        .pagemaps
        .values()
        .fold(0, |pages: u64, map| pages.saturating_add(map.present));
    let shared = images
        .shared_pagemaps
        .values()
        .fold(0, |pages: u64, map| pages.saturating_add(map.present));
    let seen = format!(
        "{} pages written, {present} private and {shared} shared ones in the archive, {} scanned, frozen {} us",
        dump.pages_written, dump.pages_scanned, dump.frozen_time
    );
    // CRIU counts the pages of shared memory on their own since 3.9; before, not at all.
    let written = dump.pages_written == present && dump.shpages_written.is_none_or(|pages| pages == shared);
    let scanned = dump.pages_scanned.saturating_add(dump.pages_skipped_parent) >= dump.pages_written;
    judge(written && scanned && dump.frozen_time > 0, seen)
}
