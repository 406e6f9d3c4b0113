//! A client of the control API, used by tests and by the command line.
//!
//! ```no_run
//! # async fn test() -> Result<(), Box<dyn std::error::Error>> {
//! let control = fake_cri::control::Client::connect("/run/fake-cri/control.sock").await?;
//! control.add_faults(["preset:disk-full(container=app)"]).await?;
//! // ... the next checkpoint fails with a full disk ...
//! for entry in control.journal(0).await? {
//!     println!("{} {} {:?}", entry.method, entry.code, entry.faults);
//! }
//! control.clear_faults(&[]).await?;
//! # Ok(())
//! # }
//! ```

use std::path::Path;

use cri_proto::control::v1::{
    AddFaultsRequest, ClearFaultsRequest, FaultRule, JournalEntry, JournalRequest, ListFaultsRequest,
    SetConditionsRequest, control_client::ControlClient,
};
use futures_util::TryStreamExt as _;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Error},
};

/// A connection to the control API of one fake-cri. Cheap to clone; reconnects after a restart of fake-cri.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the control API's socket.
    ///
    /// # Errors
    /// No process listens on the socket.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Client, Error> {
        let socket = socket.as_ref().to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The URI is required but not used: the connector always connects to the socket.
        let endpoint = Endpoint::from_static("http://fake-cri");
        Ok(Client {
            channel: endpoint.connect_with_connector(connector).await?,
        })
    }

    pub(crate) fn from_channel(channel: Channel) -> Client {
        Client { channel }
    }

    /// Adds all rules, or none on an error, and returns their ids. A text holds one or several rules or `preset:NAME`s.
    ///
    /// # Errors
    /// InvalidArgument, with the position of the syntax error.
    pub async fn add_faults<R: Into<String>>(&self, rules: impl IntoIterator<Item = R>) -> Result<Vec<String>, Status> {
        let rules = rules.into_iter().map(Into::into).collect();
        Ok(self
            .client()
            .add_faults(AddFaultsRequest { rules })
            .await?
            .into_inner()
            .ids)
    }

    /// Lists the active rules.
    ///
    /// # Errors
    /// fake-cri is not reachable.
    pub async fn list_faults(&self) -> Result<Vec<FaultRule>, Status> {
        Ok(self
            .client()
            .list_faults(ListFaultsRequest {})
            .await?
            .into_inner()
            .rules)
    }

    /// Removes the rules with these ids, or all rules if `ids` is empty. Returns the number of removed rules.
    ///
    /// # Errors
    /// fake-cri is not reachable.
    pub async fn clear_faults(&self, ids: &[String]) -> Result<u32, Status> {
        let request = ClearFaultsRequest { ids: ids.to_vec() };
        Ok(self.client().clear_faults(request).await?.into_inner().cleared)
    }

    /// Returns the finished calls whose sequence number is greater than `after`.
    ///
    /// # Errors
    /// fake-cri is not reachable.
    pub async fn journal(&self, after: u64) -> Result<Vec<JournalEntry>, Status> {
        let request = JournalRequest { follow: false, after };
        self.client().journal(request).await?.into_inner().try_collect().await
    }

    /// Like [`Client::journal`], and then streams each further call when it has finished.
    ///
    /// # Errors
    /// fake-cri is not reachable.
    pub async fn follow_journal(&self, after: u64) -> Result<Streaming<JournalEntry>, Status> {
        let request = JournalRequest { follow: true, after };
        Ok(self.client().journal(request).await?.into_inner())
    }

    /// Sets the conditions that Status reports; `None` leaves a condition unchanged.
    ///
    /// # Errors
    /// fake-cri is not reachable.
    pub async fn set_conditions(&self, runtime_ready: Option<bool>, network_ready: Option<bool>) -> Result<(), Status> {
        let request = SetConditionsRequest {
            runtime_ready,
            network_ready,
        };
        self.client().set_conditions(request).await.map(drop)
    }

    fn client(&self) -> ControlClient<Channel> {
        // A journal entry holds a request of up to 16 MiB as JSON, which is larger than tonic's default limit.
        ControlClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }
}
