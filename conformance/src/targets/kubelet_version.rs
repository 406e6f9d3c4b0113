//! Detects the version of a running kubelet.

use super::Client;
use crate::report::Product;

const BUILD_INFO_METRIC: &str = "kubernetes_build_info{";

pub(super) async fn detect(client: &Client) -> Option<Product> {
    let metrics = client
        .get("/metrics")
        .await
        .ok()
        .filter(|response| response.status == 200)?;
    parse_git_version(&metrics.body).map(|version| Product::new("kubelet", version))
}

fn parse_git_version(metrics: &str) -> Option<String> {
    let labels = metrics.lines().find_map(|line| line.strip_prefix(BUILD_INFO_METRIC))?;
    let (_, rest) = labels.split_once("git_version=\"")?;
    let (version, _) = rest.split_once('"')?;
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_from_the_build_info_metric() {
        let metrics = "# TYPE kubernetes_build_info gauge\nkubernetes_build_info{build_date=\"\",git_commit=\"\",\
                       git_version=\"v1.36.3\",major=\"1\"} 1\nother 2\n";
        assert_eq!(parse_git_version(metrics).as_deref(), Some("v1.36.3"));
        assert_eq!(parse_git_version("up 1\n"), None);
    }
}
