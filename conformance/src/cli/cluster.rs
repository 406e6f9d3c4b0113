//! The options of a cluster, and the judging of its nodes one after the other.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    Failure,
    conclude::{Began, Judged, Run},
    kubelet::{self, Reach},
    until_interrupted,
};
use crate::{
    case::{Outcome, Record, Suite},
    catalog::{self, kubelet::OK},
    report::{self, Secrets},
    target::{Cluster, NodeAddress, NodeTarget, PodSource, TargetError, Way},
};

const HEADING: &str = "The kubelets of a cluster";

/// Which kubelets of which cluster, and which Pods.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ClusterArgs {
    /// Judge kubelets of the cluster that this kubeconfig names
    #[arg(
        long,
        value_name = "FILE",
        help_heading = HEADING,
        requires = "which_nodes",
        conflicts_with_all = ["kubelet_url", "kubelet_binary", "client_cert", "token_file", "mutant"]
    )]
    kubeconfig: Option<PathBuf>,
    /// Its context, if not the current one
    #[arg(long, value_name = "NAME", help_heading = HEADING, requires = "kubeconfig")]
    context: Option<String>,
    /// The kubelet of this node
    #[arg(long, value_name = "NAME", help_heading = HEADING, group = "which_nodes", requires = "kubeconfig")]
    node: Option<String>,
    /// The kubelet of every node, one after the other; a report each
    #[arg(
        long,
        help_heading = HEADING,
        group = "which_nodes",
        requires = "kubeconfig",
        conflicts_with_all = ["pod", "checkpoints_dir", "fake_cri_control"]
    )]
    all_nodes: bool,
    /// Through the API server's node proxy, not at the node's own address
    #[arg(long, help_heading = HEADING, requires = "kubeconfig", conflicts_with_all = ["ca", "insecure"])]
    node_proxy: bool,
    /// Checkpoint a container of a Pod with this label: KEY=VALUE
    #[arg(
        long,
        value_name = "LABEL",
        help_heading = HEADING,
        requires = "kubeconfig",
        conflicts_with = "pod"
    )]
    pod_selector: Option<String>,
    /// Checkpoint a container of a Pod made from this image, and delete it afterwards
    #[arg(
        long,
        value_name = "REF",
        help_heading = HEADING,
        requires = "kubeconfig",
        conflicts_with_all = ["pod", "pod_selector"]
    )]
    image: Option<String>,
}

impl ClusterArgs {
    /// Whether kubelets of a cluster are asked for.
    pub(super) fn is_given(&self) -> bool {
        self.kubeconfig.is_some()
    }

    /// Judges the node, or every node.
    ///
    /// # Errors
    /// The cluster cannot be read, or the user ends it. A node that cannot be judged is a report that says so, where every
    /// node is asked for.
    pub(super) async fn judge(&self, run: &Run<'_>, reach: &Reach) -> Result<Vec<Judged>, Failure> {
        let source = match (&reach.pod, &self.pod_selector, &self.image) {
            (Some(pod), ..) => PodSource::Given(pod.clone()),
            (None, Some(selector), _) => PodSource::Selector(selector.clone()),
            (None, None, Some(image)) => PodSource::Image(image.clone()),
            _ => {
                let why = "--kubeconfig needs --pod NS/POD/CONTAINER, --pod-selector LABEL or --image REF";
                return Err(Failure::Usage(why.to_owned()));
            }
        };
        let kubeconfig = self.kubeconfig.clone().unwrap_or_default();
        let cluster = Cluster::of(&kubeconfig, self.context.as_deref()).map_err(|error| match error {
            TargetError::Argument(why) => Failure::Usage(why),
            other => Failure::Work(other.into()),
        })?;
        if let Some(name) = &self.node {
            let node = until_interrupted(cluster.node(name)).await?.map_err(work)?;
            let judged = self.judge_node(run, reach, &cluster, node, &source).await?;
            return Ok(vec![judged]);
        }
        let nodes = until_interrupted(cluster.nodes()).await?.map_err(work)?;
        let mut all = Vec::new();
        for node in nodes {
            let began = Began::now();
            let judged = match self.judge_node(run, reach, &cluster, node.clone(), &source).await {
                Ok(judged) => judged,
                Err(Failure::Work(error)) => unjudged(began, &node, &format!("{error:#}")),
                Err(other) => return Err(other),
            };
            all.push(judged);
        }
        Ok(all)
    }

    async fn judge_node(
        &self,
        run: &Run<'_>,
        reach: &Reach,
        cluster: &Cluster,
        node: NodeAddress,
        source: &PodSource,
    ) -> Result<Judged, Failure> {
        let began = Began::now();
        let name = node.name.clone();
        let made = until_interrupted(cluster.pod_on(&name, source)).await?.map_err(work)?;
        let target = NodeTarget {
            node,
            way: match (self.node_proxy, reach.insecure) {
                (true, _) => Way::Proxy,
                (false, true) => Way::Insecure,
                (false, false) => Way::Direct(reach.ca.clone()),
            },
            container: made.container.clone(),
            denied: reach.denied.clone(),
            siblings: reach.siblings,
            load: reach.load,
            checkpoints: reach.checkpoints.clone(),
            control: reach.control.clone(),
        };
        let judged = async {
            let kubelet = until_interrupted(target.connect(cluster)).await?.map_err(work)?;
            kubelet::judge(run, began, kubelet).await
        };
        let judged = judged.await;
        // Whatever came of it, the Pod goes.
        let deleted = cluster.delete(&made).await.map_err(work);
        let judged = judged?;
        deleted?;
        Ok(judged)
    }
}

fn work(error: TargetError) -> Failure {
    Failure::Work(error.into())
}

/// What is said of a node that could not be judged: an error, in the place of the case that everything builds on.
fn unjudged(began: Began, node: &NodeAddress, reason: &str) -> Judged {
    let clause = catalog::entries()
        .into_iter()
        .map(|entry| entry.clause)
        .find(|clause| clause.id == OK)
        .expect("the catalogue holds the case that is named here, a test says");
    let record = Record {
        clause,
        outcome: Outcome::Error {
            reason: format!("node {} was not judged: {reason}", node.name),
        },
        duration: Duration::ZERO,
        exhibits: Vec::new(),
    };
    Judged {
        target: report::Target {
            suite: Suite::Kubelet,
            kind: "node".to_owned(),
            description: format!("the kubelet of node {}", node.name),
            endpoint: node.address.clone().unwrap_or_default(),
            container: String::new(),
            node: Some(node.name.clone()),
            mutant: None,
            product: None,
        },
        began,
        records: vec![record],
        secrets: Secrets::default(),
        archives_left: Vec::new(),
        footprint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_not_judged_is_an_error_by_name() {
        let node = NodeAddress {
            name: "worker-3".to_owned(),
            address: None,
            port: 10250,
        };
        let judged = unjudged(Began::now(), &node, "no route to host");
        assert_eq!(judged.target.node.as_deref(), Some("worker-3"));
        let outcome = &judged.records[0].outcome;
        assert_eq!(outcome.word(), "error");
        assert!(
            outcome.text().contains("worker-3") && outcome.text().contains("no route"),
            "{}",
            outcome.text()
        );
    }
}
