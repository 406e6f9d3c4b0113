//! What a running kubelet says that it is.

use reqwest::Method;

use super::{Client, Credentials};
use crate::report::Product;

/// The metric that Kubernetes' programs tell their version by.
const BUILD_INFO: &str = "kubernetes_build_info{";

/// The kubelet's version by its metrics; `None` where they cannot be read or do not tell it.
pub(super) async fn of_kubelet(client: &Client) -> Option<Product> {
    let metrics = client
        .send(Credentials::Good, Method::GET, client.url("/metrics"))
        .await
        .ok()
        .filter(|answer| answer.status == 200)?;
    version_in(&metrics.body).map(|version| Product::new("kubelet", version))
}

fn version_in(metrics: &str) -> Option<String> {
    let labels = metrics.lines().find_map(|line| line.strip_prefix(BUILD_INFO))?;
    let (_, rest) = labels.split_once("git_version=\"")?;
    let (version, _) = rest.split_once('"')?;
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_a_label_of_the_build_info() {
        let metrics = "# TYPE kubernetes_build_info gauge\nkubernetes_build_info{build_date=\"\",git_commit=\"\",\
                       git_version=\"v1.36.3\",major=\"1\"} 1\nother 2\n";
        assert_eq!(version_in(metrics).as_deref(), Some("v1.36.3"));
        assert_eq!(version_in("up 1\n"), None);
    }
}
