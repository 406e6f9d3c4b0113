//! The options for the kubelets of a cluster, which are tested one after another.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    Failure,
    running_kubelet::{self, RunningKubeletArgs},
    suite_run::{StartTime, SuiteRun, SuiteRunner},
    until_interrupted,
};
use crate::{
    engine::{CaseRecord, Outcome, Suite},
    report::{self, Secrets},
    suites::{self, kubelet::OK_CASE},
    targets::{Cluster, KubeletRoute, NodeAddress, NodeTarget, PodSource, TargetError},
};

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The kubelets of a cluster")]
pub(super) struct ClusterArgs {
    /// Test kubelets of the cluster of this kubeconfig
    #[arg(long, value_name = "FILE", requires = "which_nodes")]
    #[arg(conflicts_with_all = ["kubelet_url", "kubelet_binary", "client_cert", "token_file", "mutant"])]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current context]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// Test the kubelet of this node
    #[arg(long, value_name = "NAME", group = "which_nodes", requires = "kubeconfig")]
    node: Option<String>,
    /// Test the kubelets of all nodes, one after another, with one report each
    #[arg(long, group = "which_nodes", requires = "kubeconfig")]
    #[arg(conflicts_with_all = ["container", "checkpoints_dir", "fake_cri_control"])]
    all_nodes: bool,
    /// Connect through the API server's node proxy instead of the node's address
    #[arg(long, requires = "kubeconfig", conflicts_with_all = ["ca", "insecure"])]
    node_proxy: bool,
    /// Checkpoint a container of a Pod with this label (KEY=VALUE)
    #[arg(long, value_name = "LABEL", requires = "kubeconfig", conflicts_with = "container")]
    pod_selector: Option<String>,
    /// Create a Pod with this image, checkpoint its container, and delete the Pod afterwards
    #[arg(long, value_name = "REF", requires = "kubeconfig", conflicts_with_all = ["container", "pod_selector"])]
    image: Option<String>,
}

impl ClusterArgs {
    /// Whether `--kubeconfig` was given.
    pub(super) fn is_requested(&self) -> bool {
        self.kubeconfig.is_some()
    }

    /// Tests the node of `--node`, or all nodes.
    ///
    /// # Errors
    /// The options are incomplete, the API server cannot be queried, or the run is interrupted. With `--node`, also
    /// when the node cannot be tested; with `--all-nodes`, such a node gets a report with an error.
    pub(super) async fn run_nodes(
        &self,
        run: &SuiteRunner<'_>,
        running_args: &RunningKubeletArgs,
    ) -> Result<Vec<SuiteRun>, Failure> {
        let source = match (&running_args.container, &self.pod_selector, &self.image) {
            (Some(pod), ..) => PodSource::Existing(pod.clone()),
            (None, Some(selector), _) => PodSource::Selector(selector.clone()),
            (None, None, Some(image)) => PodSource::Image(image.clone()),
            _ => {
                let reason = "--kubeconfig needs --container NS/POD/NAME, --pod-selector LABEL or --image REF";
                return Err(Failure::Usage(reason.to_owned()));
            }
        };
        let kubeconfig = self.kubeconfig.clone().unwrap_or_default();
        let cluster = Cluster::from_kubeconfig(&kubeconfig, self.context.as_deref()).map_err(|error| match error {
            TargetError::Argument(reason) => Failure::Usage(reason),
            other => Failure::Harness(other.into()),
        })?;
        if let Some(name) = &self.node {
            let node = until_interrupted(cluster.node(name)).await?.map_err(harness_failure)?;
            let suite_run = self.run_node(run, running_args, &cluster, node, &source).await?;
            return Ok(vec![suite_run]);
        }
        let nodes = until_interrupted(cluster.nodes()).await?.map_err(harness_failure)?;
        let mut suite_runs = Vec::new();
        for node in nodes {
            let start_time = StartTime::now();
            let suite_run = match self.run_node(run, running_args, &cluster, node.clone(), &source).await {
                Ok(suite_run) => suite_run,
                Err(Failure::Harness(error)) => failed_node(start_time, &node, &format!("{error:#}")),
                Err(other) => return Err(other),
            };
            suite_runs.push(suite_run);
        }
        Ok(suite_runs)
    }

    async fn run_node(
        &self,
        run: &SuiteRunner<'_>,
        running_args: &RunningKubeletArgs,
        cluster: &Cluster,
        node: NodeAddress,
        source: &PodSource,
    ) -> Result<SuiteRun, Failure> {
        let start_time = StartTime::now();
        let name = node.name.clone();
        let selected = until_interrupted(cluster.select_container(&name, source))
            .await?
            .map_err(harness_failure)?;
        let target = NodeTarget {
            node,
            route: match (self.node_proxy, running_args.insecure) {
                (true, _) => KubeletRoute::NodeProxy,
                (false, true) => KubeletRoute::DirectInsecure,
                (false, false) => KubeletRoute::Direct(running_args.ca.clone()),
            },
            running: running_args.kubelet(selected.container.clone()),
        };
        let attempt = async {
            let kubelet = until_interrupted(target.connect(cluster))
                .await?
                .map_err(harness_failure)?;
            running_kubelet::run_suite(run, start_time, kubelet).await
        };
        let result = attempt.await;
        // Delete the Pod even when the suite failed.
        let deletion = cluster.delete_temporary_pod(&selected).await.map_err(harness_failure);
        let suite_run = result?;
        deletion?;
        Ok(suite_run)
    }
}

fn harness_failure(error: TargetError) -> Failure {
    Failure::Harness(error.into())
}

/// Returns the run of a node that could not be tested: an error of the case on which all others depend.
fn failed_node(start_time: StartTime, node: &NodeAddress, reason: &str) -> SuiteRun {
    let case_info = suites::catalogue_entries()
        .into_iter()
        .map(|entry| entry.info)
        .find(|case_info| case_info.id == OK_CASE)
        .expect("OK_CASE is in the catalogue, as a test checks");
    let record = CaseRecord {
        info: case_info,
        outcome: Outcome::Error {
            reason: format!("failed to test node {}: {reason}", node.name),
        },
        duration: Duration::ZERO,
        evidence: Vec::new(),
    };
    SuiteRun {
        target: report::TargetInfo {
            node: Some(node.name.clone()),
            ..report::TargetInfo::new(
                Suite::Kubelet,
                "node",
                format!("the kubelet of node {}", node.name),
                node.address.clone().unwrap_or_default(),
            )
        },
        start_time,
        records: vec![record],
        secrets: Secrets::default(),
        remaining_archives: Vec::new(),
        footprint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_node_is_an_error_with_its_name() {
        let node = NodeAddress {
            name: "worker-3".to_owned(),
            address: None,
            port: 10250,
        };
        let suite_run = failed_node(StartTime::now(), &node, "no route to host");
        assert_eq!(suite_run.target.node.as_deref(), Some("worker-3"));
        let outcome = &suite_run.records[0].outcome;
        assert_eq!(outcome.as_str(), "error");
        assert!(
            outcome.detail().contains("worker-3") && outcome.detail().contains("no route"),
            "{}",
            outcome.detail()
        );
    }
}
