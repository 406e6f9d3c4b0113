//! Records each call in the journal, also if it is cancelled.

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

use super::frame;
use crate::fault::{Journal, JournalRecord, Rpc, to_json};

/// The limit for the recorded part of a stream. Later messages are not in the journal entry.
const RECORDED_STREAM_MAX_BYTES: usize = 1 << 20;

/// A call in progress. [`CallRecorder::finish`] writes its journal entry; dropping it before writes the call as
/// cancelled.
pub(super) struct CallRecorder {
    journal: Arc<Journal>,
    rpc: &'static Rpc,
    start: Instant,
    start_time_ns: i64,
    timeout: Option<Duration>,
    pub(super) request: String,
    pub(super) faults: Vec<String>,
    is_finished: bool,
}

impl CallRecorder {
    pub(super) fn new(journal: Arc<Journal>, rpc: &'static Rpc, timeout: Option<Duration>) -> CallRecorder {
        CallRecorder {
            journal,
            rpc,
            start: Instant::now(),
            start_time_ns: unix_time_ns(),
            timeout,
            request: String::new(),
            faults: Vec::new(),
            is_finished: false,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.start.checked_add(self.timeout?)
    }

    pub(super) fn finish(mut self, response: String, code: Code, message: &str) {
        self.write(response, code, message, false);
    }

    fn write(&mut self, response: String, code: Code, message: &str, cancelled: bool) {
        self.is_finished = true;
        let duration = self.start.elapsed();
        tracing::debug!(method = self.rpc.name(), ?code, ?duration, faults = ?self.faults, cancelled, "call ended");
        self.journal.record(JournalRecord {
            sequence: 0,
            method: self.rpc.short_path().to_owned(),
            started_at: self.start_time_ns,
            // Computed with the monotonic clock, so that no call ends before its start.
            ended_at: self
                .start_time_ns
                .saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)),
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

impl Drop for CallRecorder {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // A caller may cancel at its deadline, just when the deadline passes here. The entry then is DeadlineExceeded.
        if self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            self.write(String::new(), Code::DeadlineExceeded, "context deadline exceeded", true);
        } else {
            self.write(String::new(), Code::Cancelled, "context canceled", true);
        }
    }
}

fn unix_time_ns() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// Decodes a message to JSON without secrets. Returns `None` if it does not have this type.
pub(super) fn decode_to_json(descriptor: MessageDescriptor, message: Bytes) -> Option<Json> {
    DynamicMessage::decode(descriptor, message).ok().map(to_json)
}

pub(super) struct RecordedBody {
    body: Body,
    recorder: Option<CallRecorder>,
    recorded: BytesMut,
}

impl RecordedBody {
    pub(super) fn new(body: Body, record: CallRecorder) -> RecordedBody {
        RecordedBody {
            body,
            recorder: Some(record),
            recorded: BytesMut::new(),
        }
    }

    fn finish(&mut self, code: Code, message: &str) {
        let Some(record) = self.recorder.take() else { return };
        let output = record.rpc.output();
        let messages = frame::split_messages(self.recorded.split().freeze());
        let messages: Json = messages
            .into_iter()
            .filter_map(|message| decode_to_json(output.clone(), message))
            .collect();
        record.finish(messages.to_string(), code, message);
    }
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        // tonic puts only whole messages into a data frame.
        if let Some(Ok(data)) = &frame
            && let Some(length) = data
                .data_ref()
                .and_then(|data| frame::find_message_above(data, frame::RESPONSE_MAX_BYTES))
        {
            // The status is sent as trailers: an error of the body would reset the stream without a status.
            let mut trailers = HeaderMap::new();
            let status = frame::too_large(length, frame::RESPONSE_MAX_BYTES);
            frame = Some(match status.add_header(&mut trailers) {
                Ok(()) => Ok(Frame::trailers(trailers)),
                Err(_) => Err(status),
            });
            self.body = Body::empty();
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && self.recorded.len() + data.len() <= RECORDED_STREAM_MAX_BYTES
                {
                    self.recorded.extend_from_slice(data);
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
