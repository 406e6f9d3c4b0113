//! What a run is to leave on a node: how many archives, of which containers, how large, and whether the disk has room.

use serde::{Deserialize, Serialize};

/// The checkpoints that a run makes, as far as that is known before it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// How many archives the selected cases make at most.
    pub max_archives: u64,
    /// The containers that are checkpointed, `namespace/pod/container`.
    pub containers: Vec<String>,
    /// The memory of the container that is checkpointed most, in bytes: an archive is about as large. Absent where the kubelet does
    /// not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_archive: Option<u64>,
    /// Free bytes of the disk that the archives are written to. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Where `free_bytes` is from: `checkpoints-dir` or `stats/summary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes_source: Option<String>,
}

impl Footprint {
    /// About how many bytes all archives take.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes_per_archive
            .map(|each| each.saturating_mul(self.max_archives))
    }

    /// Whether the archives fit on the disk; true where either is not known.
    pub fn fits(&self) -> bool {
        match (self.bytes(), self.free_bytes) {
            (Some(needed), Some(free)) => needed < free,
            _ => true,
        }
    }

    /// The same in one line, for people.
    pub fn summary(&self) -> String {
        if self.max_archives == 0 {
            return "makes no archive".to_owned();
        }
        let size = match (self.bytes_per_archive, self.bytes()) {
            (Some(each), Some(all)) => format!("about {} each, {} in all", human_size(each), human_size(all)),
            _ => "of unknown size (the kubelet's stats/summary does not tell the container's memory)".to_owned(),
        };
        let free = match (self.free_bytes, &self.free_bytes_source) {
            (Some(free), Some(from)) => format!("{} free ({from})", human_size(free)),
            _ => "free disk unknown".to_owned(),
        };
        format!(
            "makes at most {} archives of {}, {size}; {free}",
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
            "makes at most 50 archives of default/web/app, about 100.0 MiB each, 4.9 GiB in all; 4.0 GiB free (checkpoints-dir)"
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
