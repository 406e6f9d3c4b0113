//! The control API: adds and removes fault rules, reads the journal, sets the conditions of Status.
//!
//! The control API has a socket of its own, so that a fault that blocks every CRI call cannot block the removal of the
//! fault.

use std::{io, pin::Pin, sync::Arc};

use cri_proto::control::v1::{
    self as proto,
    control_server::{Control, ControlServer},
};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::{Conditions, CriConnection};
use crate::fault::{FaultEngine, Journal, JournalRecord, RuleSource, RuleStatus, parse_rules};

/// Implements the control API.
#[derive(Clone, Debug)]
pub struct ControlApi {
    engine: Arc<FaultEngine>,
    journal: Arc<Journal>,
    conditions: Arc<Conditions>,
}

impl ControlApi {
    /// Creates a service for the objects that it controls.
    pub fn new(engine: Arc<FaultEngine>, journal: Arc<Journal>, conditions: Arc<Conditions>) -> ControlApi {
        ControlApi {
            engine,
            journal,
            conditions,
        }
    }

    /// Serves the control API on a socket, which should be accessible only to its owner, until the future is dropped. A
    /// graceful shutdown would wait for clients that follow the journal.
    ///
    /// # Errors
    /// The transport fails.
    pub async fn serve(self, listener: UnixListener) -> io::Result<()> {
        Server::builder()
            .add_service(ControlServer::new(self))
            .serve_with_incoming(UnixListenerStream::new(listener).map(|stream| stream.map(CriConnection::new)))
            .await
            .map_err(io::Error::other)
    }
}

#[tonic::async_trait]
impl Control for ControlApi {
    async fn add_faults(
        &self,
        request: Request<proto::AddFaultsRequest>,
    ) -> Result<Response<proto::AddFaultsResponse>, Status> {
        let texts = request.into_inner().rules;
        let rules: Result<Vec<_>, _> = texts.iter().map(|text| parse_rules(text)).collect();
        let rules = rules.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let ids = self
            .engine
            .add(rules.into_iter().flatten().collect(), RuleSource::Control);
        Ok(Response::new(proto::AddFaultsResponse { ids }))
    }

    async fn list_faults(
        &self,
        _: Request<proto::ListFaultsRequest>,
    ) -> Result<Response<proto::ListFaultsResponse>, Status> {
        let rules = self.engine.list().into_iter().map(fault_rule_message).collect();
        Ok(Response::new(proto::ListFaultsResponse { rules }))
    }

    async fn clear_faults(
        &self,
        request: Request<proto::ClearFaultsRequest>,
    ) -> Result<Response<proto::ClearFaultsResponse>, Status> {
        let cleared = self.engine.clear(&request.into_inner().ids);
        Ok(Response::new(proto::ClearFaultsResponse {
            cleared: u32::try_from(cleared).unwrap_or(u32::MAX),
        }))
    }

    type JournalStream = Pin<Box<dyn Stream<Item = Result<proto::JournalEntry, Status>> + Send>>;

    async fn journal(&self, request: Request<proto::JournalRequest>) -> Result<Response<Self::JournalStream>, Status> {
        let proto::JournalRequest { follow, after } = request.into_inner();
        let entries: Self::JournalStream = if follow {
            Box::pin(
                self.journal
                    .follow(after)
                    .map(|entry| Ok(journal_entry_message(&entry))),
            )
        } else {
            let entries = self.journal.after(after).into_iter();
            Box::pin(stream::iter(entries.map(|entry| Ok(journal_entry_message(&entry)))))
        };
        Ok(Response::new(entries))
    }

    async fn set_conditions(
        &self,
        request: Request<proto::SetConditionsRequest>,
    ) -> Result<Response<proto::SetConditionsResponse>, Status> {
        let proto::SetConditionsRequest {
            runtime_ready,
            network_ready,
        } = request.into_inner();
        self.conditions.set(runtime_ready, network_ready);
        Ok(Response::new(proto::SetConditionsResponse {
            runtime_ready: self.conditions.runtime_ready(),
            network_ready: self.conditions.network_ready(),
        }))
    }
}

fn fault_rule_message(status: RuleStatus) -> proto::FaultRule {
    proto::FaultRule {
        id: status.id,
        rule: status.rule.to_string(),
        fired: status.fired_calls,
        source: status.source.to_string(),
        matched: status.matched_calls,
    }
}

fn journal_entry_message(entry: &JournalRecord) -> proto::JournalEntry {
    let timeout = entry.timeout.unwrap_or_default().as_nanos();
    proto::JournalEntry {
        sequence: entry.sequence,
        method: entry.method.clone(),
        started_at: entry.started_at,
        ended_at: entry.ended_at,
        request: entry.request.clone(),
        response: entry.response.clone(),
        code: entry.code.into(),
        message: entry.message.clone(),
        timeout: i64::try_from(timeout).unwrap_or(i64::MAX),
        faults: entry.faults.clone(),
        cancelled: entry.cancelled,
    }
}
