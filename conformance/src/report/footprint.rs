//! The footprint of a run on a node: the number and size of the archives, and the free disk space.

use serde::{Deserialize, Serialize};

/// The checkpoints that a run will create, estimated before the first case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The maximum number of archives that the selected cases create.
    pub max_archives: u64,
    /// The containers that are checkpointed, as `namespace/pod/container`.
    pub containers: Vec<String>,
    /// The memory of the container that is checkpointed most, in bytes: an archive is about as large. Absent when the
    /// kubelet does not report the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_archive: Option<u64>,
    /// The free bytes of the disk of the archives. Absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// The source of `free_bytes`: `checkpoints-dir` or `stats/summary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes_source: Option<String>,
}

impl Footprint {
    /// The estimated size of all archives, in bytes.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes_per_archive
            .map(|each| each.saturating_mul(self.max_archives))
    }

    /// Whether the archives fit on the disk; true when a size is unknown.
    pub fn fits(&self) -> bool {
        match (self.bytes(), self.free_bytes) {
            (Some(needed), Some(free)) => needed < free,
            _ => true,
        }
    }

    /// Describes the footprint in one line.
    pub fn summary(&self) -> String {
        if self.max_archives == 0 {
            return "creates no archive".to_owned();
        }
        let size = match (self.bytes_per_archive, self.bytes()) {
            (Some(each), Some(all)) => format!("about {} each, {} in all", human_size(each), human_size(all)),
            _ => "of unknown size (the kubelet's stats/summary does not report the container's memory)".to_owned(),
        };
        let free = match (self.free_bytes, &self.free_bytes_source) {
            (Some(free), Some(from)) => format!("{} free ({from})", human_size(free)),
            _ => "free disk unknown".to_owned(),
        };
        format!(
            "creates at most {} archives of {}, {size}; {free}",
            self.max_archives,
            self.containers.join(", ")
        )
    }
}

fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint() -> Footprint {
        Footprint {
            max_archives: 50,
            containers: vec!["default/web/app".to_owned()],
            bytes_per_archive: Some(100 << 20),
            free_bytes: Some(4 << 30),
            free_bytes_source: Some("checkpoints-dir".to_owned()),
        }
    }

    #[test]
    fn summarises_archives_size_and_free_space() {
        assert_eq!(
            footprint().summary(),
            "creates at most 50 archives of default/web/app, about 100.0 MiB each, 4.9 GiB in all; 4.0 GiB free (checkpoints-dir)"
        );
        assert!(!footprint().fits());
    }

    #[test]
    fn unknown_sizes_do_not_block() {
        let unknown = Footprint {
            bytes_per_archive: None,
            free_bytes: None,
            free_bytes_source: None,
            ..footprint()
        };
        let line = unknown.summary();
        assert!(
            line.contains("of unknown size") && line.ends_with("free disk unknown"),
            "{line}"
        );
        assert!(unknown.fits());
    }
}
