//! What a run is to leave on a node: how many archives, of which containers, how large, and whether the disk has room.

use serde::{Deserialize, Serialize};

/// The checkpoints that a run makes, as far as that is known before it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// How many archives the selected cases make at most.
    pub archives: u64,
    /// The containers that are checkpointed, `namespace/pod/container`.
    pub containers: Vec<String>,
    /// The memory of the container that is checkpointed most, in bytes: an archive is about as large. Absent where the kubelet does
    /// not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_each: Option<u64>,
    /// Free bytes of the disk that the archives are written to. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_free: Option<u64>,
    /// Where `bytes_free` is from: `checkpoints-dir` or `stats/summary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_from: Option<String>,
}

impl Footprint {
    /// About how many bytes all archives take.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes_each.map(|each| each.saturating_mul(self.archives))
    }

    /// Whether the archives fit on the disk; true where either is not known.
    pub fn fits(&self) -> bool {
        match (self.bytes(), self.bytes_free) {
            (Some(needed), Some(free)) => needed < free,
            _ => true,
        }
    }

    /// The same in one line, for people.
    pub fn summary(&self) -> String {
        if self.archives == 0 {
            return "makes no archive".to_owned();
        }
        let size = match (self.bytes_each, self.bytes()) {
            (Some(each), Some(all)) => format!("about {} each, {} in all", human_size(each), human_size(all)),
            _ => "of unknown size (the kubelet's stats/summary does not tell the container's memory)".to_owned(),
        };
        let free = match (self.bytes_free, &self.free_from) {
            (Some(free), Some(from)) => format!("{} free ({from})", human_size(free)),
            _ => "free disk unknown".to_owned(),
        };
        format!(
            "makes at most {} archives of {}, {size}; {free}",
            self.archives,
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
            archives: 50,
            containers: vec!["default/web/app".to_owned()],
            bytes_each: Some(100 << 20),
            bytes_free: Some(4 << 30),
            free_from: Some("checkpoints-dir".to_owned()),
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
            bytes_each: None,
            bytes_free: None,
            free_from: None,
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
