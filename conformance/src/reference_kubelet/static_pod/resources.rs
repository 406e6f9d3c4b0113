//! The resources that the kubelet sends for a Pod without requests and limits (QoS class BestEffort).
//!
//! Source: kubernetes pkg/kubelet/kuberuntime/kuberuntime_container_linux.go, `generateLinuxContainerResources`.

use std::path::Path;

use cri_proto::runtime::v1 as cri;

/// The minimum of CPU shares in the kernel.
const MIN_CPU_SHARES: i64 = 2;
/// The default of the kubelet's `cpuCFSQuotaPeriod`, in microseconds.
const CPU_PERIOD_MICROSECONDS: i64 = 100_000;
/// The `oom_score_adj` of BestEffort containers: the OOM killer selects them first.
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// The directory of the kernel with one entry per huge page size.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

pub(super) fn sandbox() -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD_MICROSECONDS,
        cpu_shares: MIN_CPU_SHARES,
        ..Default::default()
    }
}

/// Returns the resources of a container, with a limit of 0 for every huge page size of this machine.
pub(super) fn container() -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        oom_score_adj: BEST_EFFORT_OOM_SCORE,
        hugepage_limits: huge_page_sizes(Path::new(HUGE_PAGES))
            .into_iter()
            .map(|page_size| cri::HugepageLimit { page_size, limit: 0 })
            .collect(),
        ..sandbox()
    }
}

/// Returns the huge page sizes in the units of the hugetlb cgroup files: `2MB`, `1GB`.
fn huge_page_sizes(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let kilobytes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()
    });
    let mut sizes: Vec<u64> = kilobytes.collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

fn page_size(kilobytes: u64) -> String {
    match kilobytes {
        size if size % (1 << 20) == 0 => format!("{}GB", size >> 20),
        size if size % (1 << 10) == 0 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_huge_page_sizes_as_the_cgroup_does() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB", "other"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(huge_page_sizes(directory.path()), ["64KB", "2MB", "1GB"]);
        assert!(huge_page_sizes(&directory.path().join("none")).is_empty());
    }
}
