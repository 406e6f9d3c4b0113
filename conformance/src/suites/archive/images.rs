//! Each image by itself.

use super::preconditions::{ArchiveCase, IMAGES, criu_case, require_images, require_pagemaps, require_unencrypted};
use crate::{
    archive::{ImageProblems, InspectedArchive, Layout},
    engine::{CaseResult, Level, NonPass, case, check, fail, pass, skip},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[
    criu_case("archive/images/decodable", Level::Reference)
        .requirement("Every image must have the magic of its type, complete entries, and messages that decode.")
        .authority(authority::criu_file("images/*.proto and criu/include/magic.h"))
        .expected("all images decode")
        .check(|archive| {
            if !require_unencrypted(archive)?.has_any() && archive.member("checkpoint").is_none() {
                return fail("no images");
            }
            require_no_image_errors(archive, |archive| &archive.images.undecodable)
        }),
    case("archive/images/required-fields", Level::Reference)
        .requirement("Every message must have all fields that its definition requires.")
        .authority(authority::criu_file("images/*.proto"))
        .expected("all required fields")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/images/decodable",
        ])
        .check(|archive| require_no_image_errors(archive, |archive| &archive.images.missing_fields)),
    case("archive/images/no-unknown-fields", Level::Robust)
        .requirement("No message must have a field or value that its definition does not define.")
        .authority(authority::criu_file("images/*.proto (4.2)"))
        .expected("no unknown field")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/images/decodable",
        ])
        .check(|archive| require_no_image_errors(archive, |archive| &archive.images.unknown_fields)),
    case("archive/images/not-empty", Level::Reference)
        .requirement("No image with exactly one object must be empty.")
        .authority(
            authority::CHECKPOINTCTL
                .with_section("checkpointctl: go-criu panics on an image that has magics but no entry"),
        )
        .expected("an entry in each image")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/images/decodable",
        ])
        .check(|archive| require_no_image_errors(archive, |archive| &archive.images.empty_images)),
    criu_case("archive/images/bounded-size", Level::Robust)
        .requirement(
            "The images must be small enough to be compared with each other in 96 MiB of memory; larger \
            images are checked only by themselves.",
        )
        .authority(authority::CWE_UNBOUNDED_ALLOCATION)
        .expected("images within this reader's limit")
        .check(|archive| match &require_unencrypted(archive)?.limit_reached {
            Some(member) => fail(format!("limit exceeded in {member}")),
            None => pass("images within this reader's limit"),
        }),
    case("archive/images/inventory-valid", Level::Reference)
        .requirement("The inventory must have image version 2 and declare file descriptors per table.")
        .authority(authority::criu_file("criu/cr-check.c, check_img_inventory"))
        .expected("img_version 2, fdinfo_per_id")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/layout/required-members"])
        .check(|archive| {
            let inventory = require_inventory(archive)?;
            let actual = format!(
                "img_version {}, fdinfo_per_id {:?}",
                inventory.img_version, inventory.fdinfo_per_id
            );
            check(
                inventory.img_version == cri_proto::criu::IMAGES_V1_1 && inventory.fdinfo_per_id(),
                actual,
            )
        }),
    case("archive/images/inventory-root-ids", Level::Reference)
        .requirement("The inventory must name the namespaces of the root process.")
        .authority(authority::criu_file("images/inventory.proto"))
        .expected("root_ids")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/layout/required-members"])
        .check(|archive| match require_inventory(archive)?.root_ids {
            Some(_) => pass("root_ids"),
            None => fail("no root_ids"),
        }),
    case("archive/images/stats-dump", Level::Reference)
        .requirement("The archive must contain stats-dump with the statistics of a dump.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --stats"))
        .expected("statistics of a dump")
        .depends_on(IMAGES)
        .check(|archive| {
            let images = require_images(archive)?;
            match &images.stats {
                None if archive.expected_layout() == Layout::Podman => skip("Podman before 4.0 does not export it"),
                None => fail("no stats-dump"),
                Some(stats) => check(
                    stats.dump.is_some() && stats.restore.is_none(),
                    describe_dump_stats(stats.dump.is_some()),
                ),
            }
        }),
    case("archive/images/stats-consistent", Level::Reference)
        .requirement(
            "The statistics must match the archive: as many pages written as the archive holds, at most as \
            many as were scanned, and a frozen time above zero.",
        )
        .authority(authority::criu_file("images/stats.proto"))
        .expected("pages written = pages in the archive")
        .depends_on(&[
            "archive/memory/pages-image-per-pagemap",
            "archive/memory/pages-match-pagemap",
        ])
        .may_depend_on(&["archive/memory/pagemap-entries-present", "archive/images/stats-dump"])
        .check(stats_plausible),
];

fn require_no_image_errors(archive: &InspectedArchive, errors: fn(&InspectedArchive) -> &ImageProblems) -> CaseResult {
    require_unencrypted(archive)?;
    if !archive.images.has_any() && archive.member("checkpoint").is_none() {
        return Err(NonPass::Blocked("archive/images/decodable"));
    }
    let errors = errors(archive);
    let count: usize = archive.images.image_counts.values().sum();
    let actual = format!("{count} images, {} entries", archive.images.entry_count);
    check(
        errors.count == 0,
        if errors.count == 0 { actual } else { errors.summary() },
    )
}

fn require_inventory(archive: &InspectedArchive) -> Result<&cri_proto::criu::message::InventoryEntry, NonPass> {
    require_images(archive)?
        .inventory
        .as_ref()
        .ok_or(NonPass::Blocked("archive/layout/required-members"))
}

fn describe_dump_stats(dump: bool) -> &'static str {
    if dump {
        "statistics of a dump"
    } else {
        "no statistics of a dump"
    }
}

fn stats_plausible(archive: &InspectedArchive) -> CaseResult {
    let images = require_pagemaps(archive)?;
    if super::memory::page_files(archive).is_err() {
        return Err(NonPass::Blocked("archive/memory/pages-image-per-pagemap"));
    }
    if super::memory::page_counts(archive).is_err() {
        return Err(NonPass::Blocked("archive/memory/pages-match-pagemap"));
    }
    let mut all = images.pagemaps.values().chain(images.shared_pagemaps.values());
    if all.any(|map| map.absent_entry.is_some()) {
        return Err(NonPass::Blocked("archive/memory/pagemap-entries-present"));
    }
    let Some(dump) = images.stats.as_ref().and_then(|stats| stats.dump.as_ref()) else {
        return Err(NonPass::Blocked("archive/images/stats-dump"));
    };
    let present = images
        .pagemaps
        .values()
        .fold(0, |pages: u64, map| pages.saturating_add(map.present_pages));
    let shared = images
        .shared_pagemaps
        .values()
        .fold(0, |pages: u64, map| pages.saturating_add(map.present_pages));
    let actual = format!(
        "{} pages written, {present} private and {shared} shared pages in the archive, {} scanned, frozen {} us",
        dump.pages_written, dump.pages_scanned, dump.frozen_time
    );
    // CRIU counts pages of shared memory separately since 3.9, and not at all before.
    let written = dump.pages_written == present && dump.shpages_written.is_none_or(|pages| pages == shared);
    let scanned = dump.pages_scanned.saturating_add(dump.pages_skipped_parent) >= dump.pages_written;
    check(written && scanned && dump.frozen_time > 0, actual)
}
