//! What is counted while the server runs: requests, bytes, refusals, and what ended early.
//!
//! Must not know what a request asks for. Invariants: counting is an atomic addition; what a request counts is looked up once,
//! when it begins, and never for a piece of its body.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;

use super::exposition::{Distribution, Labels, Page, number};

/// What answers a request. The first seven have the names of distribution's label `handler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `tags/list`
    Tags,
    /// `manifests/…`
    Manifest,
    /// `blobs/…`
    Blob,
    /// `blobs/uploads/`
    BlobUpload,
    /// `blobs/uploads/<id>`
    BlobUploadChunk,
    /// `referrers/…`
    Referrers,
    /// The token endpoint, on any listener.
    Token,
    /// Health, metrics, the CA certificate, and paths that do not exist.
    Other,
}

impl Handler {
    /// All, in the order of their numbers.
    const ALL: [Self; 10] = [
        Self::Base,
        Self::Catalog,
        Self::Tags,
        Self::Manifest,
        Self::Blob,
        Self::BlobUpload,
        Self::BlobUploadChunk,
        Self::Referrers,
        Self::Token,
        Self::Other,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags => "tags",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::BlobUpload => "blob_upload",
            Self::BlobUploadChunk => "blob_upload_chunk",
            Self::Referrers => "referrers",
            Self::Token => "token",
            Self::Other => "other",
        }
    }
}

/// Why a caller was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No credential was sent, and one is needed: how most clients find out where to get a token.
    NoCredential,
    /// The password is wrong, or there is no such account: a failed login.
    WrongPassword,
    /// A token is invalid, expired or revoked.
    InvalidToken,
    /// The credential is good and does not permit this.
    NotPermitted,
    /// Not looked at: too many logins have failed.
    Slowed,
}

impl Refused {
    const ALL: [Self; 5] = [
        Self::NoCredential,
        Self::WrongPassword,
        Self::InvalidToken,
        Self::NotPermitted,
        Self::Slowed,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::WrongPassword => "wrong_password",
            Self::InvalidToken => "invalid_token",
            Self::NotPermitted => "not_permitted",
            Self::Slowed => "slowed",
        }
    }
}

/// The direction of a body, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The body of a request.
    Receive,
    /// The body of an answer.
    Send,
}

/// Why the server ended a body early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It made no progress for `limits.stall_secs`.
    Stalled,
    /// It was slower than `limits.floor_bytes_per_sec` while connections were scarce.
    TooSlow,
}

/// The methods that are told apart, as distribution writes them; the last stands for all others.
const METHODS: [&str; 8] = [
    "get", "head", "post", "put", "patch", "delete", "options", "unknown",
];

/// Statuses from this one on are counted, each by itself.
const STATUS_MIN: u16 = 100;
const STATUSES: usize = 500;

/// How a request is counted whose client left before there was an answer. Web servers log it with this number.
const CLIENT_LEFT: u16 = 499;

/// Upper bounds of durations, in seconds: those of distribution, and two more, since one blob may be a disk of a machine.
const DURATION_BOUNDS: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 300.0, 1800.0,
];

/// All counters.
pub struct Counters {
    handlers: [Arc<HandlerCounters>; Handler::ALL.len()],
    refused: [AtomicU64; Refused::ALL.len()],
    /// Stalled and too slow, for received and for sent bodies.
    stopped: [AtomicU64; 4],
    tokens_issued: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            handlers: Handler::ALL.map(|handler| Arc::new(HandlerCounters::new(handler))),
            refused: Default::default(),
            stopped: Default::default(),
            tokens_issued: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
        }
    }
}

/// What is counted of the requests to one handler.
pub struct HandlerCounters {
    handler: Handler,
    in_flight: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    /// Made when the first request with the method has ended.
    by_method: [OnceLock<Box<MethodCounters>>; METHODS.len()],
}

struct MethodCounters {
    by_status: [AtomicU64; STATUSES],
    /// The last one is for all durations above the bounds.
    by_duration: [AtomicU64; DURATION_BOUNDS.len() + 1],
    duration_micros: AtomicU64,
}

impl MethodCounters {
    fn new() -> Box<Self> {
        Box::new(Self {
            by_status: [const { AtomicU64::new(0) }; STATUSES],
            by_duration: Default::default(),
            duration_micros: AtomicU64::new(0),
        })
    }
}

/// A request that was begun and is counted when it ends. Dropping it takes it out of those in flight.
pub struct CountedRequest {
    counters: Arc<HandlerCounters>,
    method: usize,
}

impl Counters {
    /// A request begins.
    pub fn begin(&self, handler: Handler, method: &Method) -> CountedRequest {
        let [.., other] = &self.handlers;
        let counters = self.handlers.get(handler as usize).unwrap_or(other);
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        let name = method.as_str();
        let known = METHODS
            .iter()
            .position(|method| method.eq_ignore_ascii_case(name));
        CountedRequest {
            counters: Arc::clone(counters),
            method: known.unwrap_or(METHODS.len() - 1),
        }
    }

    /// A caller was refused.
    pub fn refuse(&self, why: Refused) {
        add(self.refused.get(why as usize), 1);
    }

    /// The server has ended a body early.
    pub fn stop(&self, direction: Direction, why: Stop) {
        add(self.stopped.get(2 * direction as usize + why as usize), 1);
    }

    /// A token was issued.
    pub fn issue_token(&self) {
        add(Some(&self.tokens_issued), 1);
    }

    /// A connection was closed at once: there was no slot for it.
    pub fn refuse_connection(&self) {
        add(Some(&self.connections_refused), 1);
    }

    /// A TLS handshake failed.
    pub fn fail_handshake(&self) {
        add(Some(&self.handshakes_failed), 1);
    }

    /// Adds all counters to a page.
    pub(super) fn show(&self, page: &mut Page) {
        self.show_requests(page);
        let bytes = |of: fn(&HandlerCounters) -> &AtomicU64| {
            let sample = |counters: &Arc<HandlerCounters>| (counters.labels(), load(of(counters)));
            self.handlers.iter().map(sample).collect()
        };
        page.counters(
            "boathouse_received_bytes",
            "Bytes of request bodies that have arrived",
            bytes(|counters| &counters.received_bytes),
        );
        page.counters(
            "boathouse_sent_bytes",
            "Bytes of answer bodies that were handed to the network",
            bytes(|counters| &counters.sent_bytes),
        );
        let directions = [Direction::Receive, Direction::Send];
        let reasons = [(Stop::Stalled, "stalled"), (Stop::TooSlow, "too_slow")];
        let stopped = directions.iter().flat_map(|&direction| {
            reasons.iter().map(move |&(why, reason)| {
                let name = match direction {
                    Direction::Receive => "receive",
                    Direction::Send => "send",
                };
                let labels = vec![
                    ("direction", name.to_owned()),
                    ("reason", reason.to_owned()),
                ];
                let counter = self.stopped.get(2 * direction as usize + why as usize);
                (labels, counter.map_or(0, load))
            })
        });
        page.counters(
            "boathouse_transfers_stopped",
            "Bodies that the server has ended because the client made too little progress",
            stopped.collect(),
        );
        let refused = Refused::ALL
            .iter()
            .zip(&self.refused)
            .map(|(why, counter)| {
                let labels = vec![("reason", why.label().to_owned())];
                (labels, load(counter))
            });
        page.counters(
            "boathouse_refusals",
            "Requests of callers who were refused; wrong_password are failed logins",
            refused.collect(),
        );
        page.counter(
            "boathouse_tokens_issued",
            "Tokens that were issued",
            load(&self.tokens_issued),
        );
        page.counter(
            "boathouse_connections_refused",
            "Connections that were closed at once because no slot was free",
            load(&self.connections_refused),
        );
        page.counter(
            "boathouse_tls_handshakes_failed",
            "TLS handshakes that failed, most often because the client does not trust the certificate",
            load(&self.handshakes_failed),
        );
    }

    fn show_requests(&self, page: &mut Page) {
        let (mut requests, mut durations) = (Vec::new(), Vec::new());
        for counters in &self.handlers {
            for (method, by_method) in METHODS.iter().zip(&counters.by_method) {
                let Some(by_method) = by_method.get() else {
                    continue;
                };
                let labels = [counters.labels(), vec![("method", (*method).to_owned())]].concat();
                for (status, counter) in (STATUS_MIN..).zip(&by_method.by_status) {
                    let count = load(counter);
                    if count > 0 {
                        let code = vec![("code", status.to_string())];
                        requests.push(([code, labels.clone()].concat(), count));
                    }
                }
                durations.push((labels, by_method.distribution()));
            }
        }
        page.counters(
            "registry_http_requests",
            "Requests that have ended; code 499: the client left before there was an answer",
            requests,
        );
        page.histograms(
            "registry_http_request_duration_seconds",
            "Time from the head of a request to the last byte of its answer",
            durations,
        );
        let in_flight = |counters: &Arc<HandlerCounters>| {
            (counters.labels(), number(load(&counters.in_flight)))
        };
        page.gauges(
            "registry_http_in_flight_requests",
            "Requests that were begun and whose answers have not been sent to the end",
            self.handlers.iter().map(in_flight).collect(),
        );
    }
}

impl HandlerCounters {
    fn new(handler: Handler) -> Self {
        Self {
            handler,
            in_flight: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            by_method: Default::default(),
        }
    }

    fn labels(&self) -> Labels {
        vec![("handler", self.handler.label().to_owned())]
    }

    /// A piece of a request's body has arrived.
    pub fn receive(&self, bytes: usize) {
        add(Some(&self.received_bytes), bytes as u64);
    }
}

impl MethodCounters {
    fn distribution(&self) -> Distribution {
        let bounds = DURATION_BOUNDS.into_iter().chain([f64::INFINITY]);
        Distribution {
            sum: Duration::from_micros(load(&self.duration_micros)).as_secs_f64(),
            buckets: bounds.zip(self.by_duration.iter().map(load)).collect(),
        }
    }
}

impl CountedRequest {
    /// The counters of the handler, for the body of the request.
    pub fn handler(&self) -> Arc<HandlerCounters> {
        Arc::clone(&self.counters)
    }

    /// A piece of the answer's body is sent.
    pub fn send(&self, bytes: usize) {
        add(Some(&self.counters.sent_bytes), bytes as u64);
    }

    /// The request has ended; `status` is 0 if there was no answer.
    pub fn end(&self, status: u16, took: Duration) {
        let Some(by_method) = self.counters.by_method.get(self.method) else {
            return;
        };
        let by_method = by_method.get_or_init(MethodCounters::new);
        let status = if status == 0 { CLIENT_LEFT } else { status };
        let place = usize::from(status.saturating_sub(STATUS_MIN));
        add(by_method.by_status.get(place), 1);
        let seconds = took.as_secs_f64();
        let place = DURATION_BOUNDS.partition_point(|bound| *bound < seconds);
        add(by_method.by_duration.get(place), 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(Some(&by_method.duration_micros), micros);
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: Option<&AtomicU64>, count: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(counters: &Counters) -> String {
        let mut page = Page::default();
        counters.show(&mut page);
        page.text()
    }

    #[test]
    fn every_name_has_its_own_counter() {
        for (place, handler) in Handler::ALL.into_iter().enumerate() {
            assert_eq!(handler as usize, place, "{handler:?}");
        }
        for (place, why) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place, "{why:?}");
        }
        let counters = Counters::default();
        counters.stop(Direction::Send, Stop::TooSlow);
        let page = shown(&counters);
        let line = r#"boathouse_transfers_stopped_total{direction="send",reason="too_slow"} 1"#;
        assert!(page.contains(line), "{page}");
        assert_eq!(page.matches(r#",reason="too_slow"} 1"#).count(), 1);
    }

    #[test]
    fn a_request_is_in_flight_until_it_is_dropped_and_counted_once() {
        let counters = Counters::default();
        let request = counters.begin(Handler::Blob, &Method::GET);
        let line = |value: u64| format!("in_flight_requests{{handler=\"blob\"}} {value}.0\n");
        assert!(shown(&counters).contains(&line(1)));
        request.send(7);
        request.end(206, Duration::from_millis(5));
        drop(request);
        let page = shown(&counters);
        assert!(page.contains(&line(0)), "{page}");
        for expected in [
            "registry_http_requests_total{code=\"206\",handler=\"blob\",method=\"get\"} 1.0\n",
            "_bucket{handler=\"blob\",method=\"get\",le=\"0.005\"} 1\n",
            "_sum{handler=\"blob\",method=\"get\"} 0.005\n",
            "boathouse_sent_bytes_total{handler=\"blob\"} 7.0\n",
        ] {
            assert!(page.contains(expected), "{expected}{page}");
        }
    }

    #[test]
    fn odd_methods_and_missing_answers_have_names_too() {
        let counters = Counters::default();
        let brew = Method::from_bytes(b"BREW").unwrap();
        counters.begin(Handler::Other, &brew).end(0, Duration::ZERO);
        let page = shown(&counters);
        let line = r#"registry_http_requests_total{code="499",handler="other",method="unknown"} 1"#;
        assert!(page.contains(line), "{page}");
    }
}
