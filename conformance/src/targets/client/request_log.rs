//! The checkpoint requests that were sent, for comparison with what the runtime received.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

/// A request for a path of the checkpoint endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRequest {
    /// Method, path and kind of credentials.
    pub text: String,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// When its response had arrived, and the status. `None` without a response: the connection broke, or the case
    /// did not wait for the response.
    pub response: Option<(Timestamp, u16)>,
}

/// The requests since the last [`RequestLog::take`]. Clones share the log.
#[derive(Clone, Debug, Default)]
pub struct RequestLog(Arc<Mutex<Vec<Arc<Mutex<SentRequest>>>>>);

/// A request whose response is awaited.
#[derive(Debug)]
pub(super) struct PendingRequest(Option<Arc<Mutex<SentRequest>>>);

impl RequestLog {
    /// Adds a request, if its path belongs to the checkpoint endpoint.
    pub(super) fn begin(&self, path: &str, text: impl FnOnce() -> String) -> PendingRequest {
        if !path.contains("checkpoint") {
            return PendingRequest(None);
        }
        let request = Arc::new(Mutex::new(SentRequest {
            text: text(),
            sent_at: Timestamp::now(),
            response: None,
        }));
        self.lock().push(Arc::clone(&request));
        PendingRequest(Some(request))
    }

    /// Removes and returns all requests.
    pub fn take(&self) -> Vec<SentRequest> {
        let requests = std::mem::take(&mut *self.lock());
        requests
            .iter()
            .map(|request| request.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Mutex<SentRequest>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingRequest {
    /// The response has arrived.
    pub(super) fn answered(&self, status: u16) {
        if let Some(request) = &self.0 {
            request.lock().unwrap_or_else(PoisonError::into_inner).response = Some((Timestamp::now(), status));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_responses() {
        let log = RequestLog::default();
        let first = log.begin("/checkpoint/a/b/c", || "POST".to_owned());
        let _unanswered = log.clone().begin("/checkpoint/a/b/d", || "GET".to_owned());
        log.begin("/metrics", || "GET".to_owned()).answered(200);
        first.answered(404);
        let statuses: Vec<_> = log
            .take()
            .into_iter()
            .map(|request| (request.text, request.response.map(|(_, status)| status)))
            .collect();
        assert_eq!(statuses, [("POST".to_owned(), Some(404)), ("GET".to_owned(), None)]);
        assert_eq!(log.take(), []);
    }
}
