//! Maps file names to image kinds and back.

use super::Kind;

/// CRIU's dump statistics, stored next to the images.
pub const STATS_DUMP: &str = "stats-dump";

/// CRIU's restore statistics.
pub const STATS_RESTORE: &str = "stats-restore";

/// The start of the names of raw pages files.
pub const PAGES_PREFIX: &str = "pages-";

/// The start of the names of the page maps of shared memory.
pub const SHMEM_PAGEMAP_PREFIX: &str = "pagemap-shmem-";

/// Returns the name of the page map of the shared memory segment with this `shmid`.
pub fn shmem_pagemap_file_name(shmid: u64) -> String {
    format!("{SHMEM_PAGEMAP_PREFIX}{shmid}.img")
}

/// Returns the name of the pages file with this `pages_id`.
pub fn pages_file_name(pages_id: u32) -> String {
    format!("{PAGES_PREFIX}{pages_id}.img")
}

/// The content of a file in a dump, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFile {
    /// An image of this kind. The id is a pid, a namespace id or a file id, depending on the kind.
    Image(Kind, Option<u64>),
    /// Raw pages. The id is the `pages_id` of the pagemaps that refer to the file.
    Pages(u32),
    /// Output of another program or of a CRIU plugin, which CRIU stores unchanged: routes, iptables rules, archives of
    /// tmpfs mounts, GPU memory.
    ToolOutput,
}

const TOOL_IMAGE_PREFIXES: [&str; 11] = [
    "ifaddr-",
    "route-",
    "route6-",
    "rule-",
    "iptables-",
    "ip6tables-",
    "nftables-",
    "tmpfs-",
    "tmpfs-dev-",
    "netns-ct-",
    "netns-exp-",
];

/// Images of CRIU's plugin for AMD GPUs; `%` is a decimal or hexadecimal number
/// (`plugins/amdgpu/amdgpu_plugin_util.h`). The CUDA plugin writes no images.
const PLUGIN_IMAGE_PATTERNS: [&str; 5] = [
    "amdgpu-kfd-%",
    "amdgpu-pages-%-%",
    "amdgpu-renderD-%",
    "amdgpu-dmabuf_%",
    "amdgpu-drm-pages-%-%-%",
];

impl ImageFile {
    /// Classifies a file by its name without directories, such as `core-12.img`, `pages-1.img` or `stats-dump`. Returns
    /// `None` for other names.
    pub fn from_name(name: &str) -> Option<ImageFile> {
        match name {
            STATS_DUMP | STATS_RESTORE => return Some(ImageFile::Image(Kind::Stats, None)),
            "irmap-cache" => return Some(ImageFile::Image(Kind::IrmapCache, None)),
            _ => {}
        }
        let is_tool_output = |stem: &str| {
            TOOL_IMAGE_PREFIXES
                .iter()
                .any(|prefix| stem.strip_prefix(prefix).is_some_and(|id| parse_id(id, 10).is_some()))
        };
        if name.strip_suffix(".tar.gz.img").is_some_and(is_tool_output) {
            return Some(ImageFile::ToolOutput);
        }
        let stem = name.strip_suffix(".img")?;
        if let Some(id) = stem.strip_prefix(PAGES_PREFIX) {
            return parse_id(id, 10)
                .and_then(|id| u32::try_from(id).ok())
                .map(ImageFile::Pages);
        }
        if is_tool_output(stem)
            || PLUGIN_IMAGE_PATTERNS
                .iter()
                .any(|pattern| matches_pattern(pattern, stem))
        {
            return Some(ImageFile::ToolOutput);
        }
        Kind::ALL.iter().find_map(|kind| {
            kind.patterns()
                .iter()
                .find_map(|pattern| Some(ImageFile::Image(*kind, id_in_stem(pattern, stem)?)))
        })
    }
}

impl Kind {
    /// Returns the file name of this kind with this id. Kinds with two patterns use the first, for a pagemap that of a
    /// process: see [`shmem_pagemap_file_name`].
    pub fn file_name(self, id: impl Into<Option<u64>>) -> String {
        let id = id.into().unwrap_or_default();
        match (self, self.patterns().first()) {
            (Kind::Stats, _) => STATS_DUMP.to_owned(),
            (_, Some(pattern)) => {
                let stem = pattern.replace("%d", &id.to_string()).replace("%x", &format!("{id:x}"));
                format!("{stem}.img")
            }
            (_, None) => self.name().to_ascii_lowercase().replace('_', "-"),
        }
    }
}

/// Returns the id if `stem` matches the pattern, `Some(None)` if the pattern has no id.
fn id_in_stem(pattern: &str, stem: &str) -> Option<Option<u64>> {
    let (prefix, radix) = match pattern.split_once('%') {
        None => return (pattern == stem).then_some(None),
        Some((prefix, "x")) => (prefix, 16),
        Some((prefix, _)) => (prefix, 10),
    };
    parse_id(stem.strip_prefix(prefix)?, radix).map(Some)
}

/// Whether `stem` matches the pattern, with a number for each `%`.
fn matches_pattern(pattern: &str, stem: &str) -> bool {
    let mut parts = pattern.split('%');
    let Some(mut rest) = parts.next().and_then(|first| stem.strip_prefix(first)) else {
        return false;
    };
    parts.all(|part| {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        let (id, after_id) = rest.split_at(digits);
        rest = after_id.strip_prefix(part).unwrap_or(after_id);
        parse_id(id, 16).is_some() && after_id.starts_with(part)
    }) && rest.is_empty()
}

/// Parses a number in the form that printf writes: no sign, no spaces, hexadecimal digits in lower case.
fn parse_id(text: &str, radix: u32) -> Option<u64> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(radix) && !c.is_ascii_uppercase());
    if digits {
        u64::from_str_radix(text, radix).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("inventory.img", Some(ImageFile::Image(Kind::Inventory, None)))]
    #[case("core-12.img", Some(ImageFile::Image(Kind::Core, Some(12))))]
    #[case("pagemap-7.img", Some(ImageFile::Image(Kind::Pagemap, Some(7))))]
    #[case("pagemap-shmem-30465.img", Some(ImageFile::Image(Kind::Pagemap, Some(30465))))]
    #[case("ghost-file-1f.img", Some(ImageFile::Image(Kind::GhostFile, Some(0x1f))))]
    #[case("signal-p-4.img", Some(ImageFile::Image(Kind::Signal, Some(4))))]
    #[case("mountpoints-12.img", Some(ImageFile::Image(Kind::Mnts, Some(12))))]
    #[case("pages-1.img", Some(ImageFile::Pages(1)))]
    #[case("stats-dump", Some(ImageFile::Image(Kind::Stats, None)))]
    #[case("tmpfs-dev-73.tar.gz.img", Some(ImageFile::ToolOutput))]
    #[case("iptables-9.img", Some(ImageFile::ToolOutput))]
    #[case("amdgpu-kfd-1.img", Some(ImageFile::ToolOutput))]
    #[case("amdgpu-pages-1-0a3f.img", Some(ImageFile::ToolOutput))]
    #[case("amdgpu-renderD-128.img", Some(ImageFile::ToolOutput))]
    #[case("amdgpu-drm-pages-1-2-0000.img", Some(ImageFile::ToolOutput))]
    #[case("amdgpu-pages-1.img", None)]
    #[case("amdgpu-kfd-1-2.img", None)]
    #[case("amdgpu-kfd-x.img", None)]
    #[case("core-.img", None)]
    #[case("core-+1.img", None)]
    #[case("core-99999999999999999999999.img", None)]
    #[case("pages-x.img", None)]
    #[case("core-1", None)]
    #[case("descriptors.json", None)]
    #[case("", None)]
    fn kind_and_id_follow_from_the_name(#[case] name: &str, #[case] expected: Option<ImageFile>) {
        assert_eq!(ImageFile::from_name(name), expected);
    }

    #[test]
    fn every_file_name_leads_back_to_its_kind() {
        for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Kdat) {
            let id = kind
                .patterns()
                .first()
                .is_some_and(|pattern| pattern.contains('%'))
                .then_some(10);
            assert_eq!(
                ImageFile::from_name(&kind.file_name(id)),
                Some(ImageFile::Image(*kind, id)),
                "{kind}"
            );
        }
        assert_eq!(Kind::GhostFile.file_name(255), "ghost-file-ff.img");
        assert_eq!(pages_file_name(3), "pages-3.img");
    }
}
