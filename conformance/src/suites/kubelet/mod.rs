//! The cases about a kubelet's checkpoint endpoint, one file per topic.
//!
//! A case is `documented` if the Kubelet Checkpoint API page states its requirement, `reference` if the Kubernetes
//! kubelet behaves that way beyond the page, and `robust` if the kubelet should behave that way and does not promise
//! it.

mod archive_file;
mod auth;
mod checkpoints_dir;
mod container_state;
mod effect;
mod feature_gate;
mod hardening;
mod http_format;
mod load;
mod near_credentials;
mod not_found;
mod path;
mod runtime_error;
mod runtime_outage;
mod session;
mod side_effects;
mod success;
mod timeout;

use std::sync::LazyLock;

use crate::engine::{Case, with_indirect_dependencies};

pub use session::{KubeletSession, OK_CASE};

/// Every case. Within a stage, a run without a seed has this order.
pub fn cases() -> Vec<Case<KubeletSession>> {
    static CASES: LazyLock<Vec<Case<KubeletSession>>> = LazyLock::new(|| {
        let topics = [
            success::CASES,
            effect::CASES,
            archive_file::CASES,
            auth::CASES,
            near_credentials::CASES,
            not_found::CASES,
            path::CASES,
            http_format::CASES,
            timeout::CASES,
            container_state::CASES,
            runtime_error::CASES,
            load::CASES,
            hardening::CASES,
            checkpoints_dir::CASES,
            feature_gate::CASES,
            runtime_outage::CASES,
            side_effects::CASES,
        ];
        with_indirect_dependencies(topics.concat())
    });
    CASES.clone()
}
