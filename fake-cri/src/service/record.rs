//! One call's way into the journal, whatever becomes of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::Value as Json;
use tonic::{Code, Status, body::Body};

use super::{fault_layer::ANSWER_BYTES, frame};
use crate::fault::{Entry, Journal, Rpc, to_json};

/// Bytes of a stream that are kept for the journal. What comes after is not in its entry.
const STREAM_BYTES: usize = 1 << 20;

/// A call that is under way. It is journalled when it is finished, or as cancelled when it is dropped before.
pub(super) struct Record {
    journal: Arc<Journal>,
    rpc: &'static Rpc,
    arrived: Instant,
    arrived_at: i64,
    timeout: Option<Duration>,
    pub(super) request: String,
    pub(super) faults: Vec<String>,
    done: bool,
}

impl Record {
    pub(super) fn new(journal: Arc<Journal>, rpc: &'static Rpc, timeout: Option<Duration>) -> Record {
        Record {
            journal,
            rpc,
            arrived: Instant::now(),
            arrived_at: now(),
            timeout,
            request: String::new(),
            faults: Vec::new(),
            done: false,
        }
    }

    /// When the caller stops waiting.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.arrived.checked_add(self.timeout?)
    }

    /// The call ended with this.
    pub(super) fn finish(mut self, response: String, code: Code, message: &str) {
        self.write(response, code, message, false);
    }

    fn write(&mut self, response: String, code: Code, message: &str, cancelled: bool) {
        self.done = true;
        let took = self.arrived.elapsed();
        tracing::debug!(method = self.rpc.name(), ?code, ?took, faults = ?self.faults, cancelled, "call ended");
        self.journal.record(Entry {
            sequence: 0,
            method: self.rpc.short_path().to_owned(),
            started_at: self.arrived_at,
            // From the monotonic clock, so that no call ends before it began.
            ended_at: self
                .arrived_at
                .saturating_add(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX)),
            request: std::mem::take(&mut self.request),
            response,
            code,
            message: message.to_owned(),
            timeout: self.timeout,
            faults: std::mem::take(&mut self.faults),
            cancelled,
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // A caller that gives up at its own deadline is gone at the same moment as the deadline is reached here.
        if self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            self.write(String::new(), Code::DeadlineExceeded, "context deadline exceeded", true);
        } else {
            self.write(String::new(), Code::Cancelled, "context canceled", true);
        }
    }
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A message of a body as JSON without its secrets; `None` when it is not of this type.
pub(super) fn json(descriptor: MessageDescriptor, message: Bytes) -> Option<Json> {
    DynamicMessage::decode(descriptor, message).ok().map(to_json)
}

/// A stream of answers on its way to the caller, journalled at its end.
pub(super) struct Recorded {
    body: Body,
    record: Option<Record>,
    kept: BytesMut,
}

impl Recorded {
    pub(super) fn new(body: Body, record: Record) -> Recorded {
        Recorded {
            body,
            record: Some(record),
            kept: BytesMut::new(),
        }
    }

    fn finish(&mut self, code: Code, message: &str) {
        let Some(record) = self.record.take() else { return };
        let output = record.rpc.output();
        let messages = frame::messages(self.kept.split().freeze());
        let messages: Json = messages
            .into_iter()
            .filter_map(|message| json(output.clone(), message))
            .collect();
        record.finish(messages.to_string(), code, message);
    }
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        // tonic puts whole messages into a frame of data.
        if let Some(Ok(data)) = &frame
            && let Some(length) = data.data_ref().and_then(|data| frame::larger_than(data, ANSWER_BYTES))
        {
            // An error of the body would reset the stream without a status.
            let mut trailers = HeaderMap::new();
            let status = frame::too_large(length, ANSWER_BYTES);
            frame = Some(match status.add_header(&mut trailers) {
                Ok(()) => Ok(Frame::trailers(trailers)),
                Err(_) => Err(status),
            });
            self.body = Body::empty();
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && self.kept.len() + data.len() <= STREAM_BYTES
                {
                    self.kept.extend_from_slice(data);
                }
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.finish(status.code(), status.message());
                }
            }
            Some(Err(status)) => self.finish(status.code(), status.message()),
            None => self.finish(Code::Ok, ""),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
