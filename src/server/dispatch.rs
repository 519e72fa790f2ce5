//! One request, from its head to its answer.
//!
//! Must not know what an endpoint does. Invariant: every request is processed in this order: parse → caller → access →
//! dispatch → response.

use std::sync::Arc;

use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::Request;
use hyper::body::Body as _;
use tracing::Instrument as _;

use super::access_log::{self, Line, RequestId};
use super::debug_listener::{self, DebugRoute};
use super::incoming::RequestBody;
use super::open_requests::RequestInFlight;
use super::origin::Reading;
use super::response::ResponseBody;
use super::route::{RequestPath, Route, RouteError, Takes};
use super::state::{Allowed, Peer, State, authorization};
use super::token_listener::{self, TokenRoute};
use super::{ServerError, Site, blobs, listings, manifests, origin, response, token, uploads};
use crate::auth::{Access, Caller, Origin};
use crate::host_port::is_authority;
use crate::metrics::{self, Handler};
use crate::registry::{Holder, Registry};
use crate::telemetry::field;

/// What a request asks of the site that it was sent to.
enum Asked {
    Registry(Arc<Registry>, Route),
    TokenIssuer(TokenRoute),
    Debug(DebugRoute),
}

impl Asked {
    /// A name for logs.
    fn label(&self) -> &'static str {
        match self {
            Self::Registry(_, route) => route.label(),
            Self::TokenIssuer(route) => route.label(),
            Self::Debug(route) => route.label(),
        }
    }

    /// What it is counted as.
    fn handler(&self) -> Handler {
        match self {
            Self::Registry(_, route) => route.handler(),
            Self::TokenIssuer(_) => Handler::Token,
            Self::Debug(_) => Handler::Other,
        }
    }

    /// Whether it is answered in the reserve too: monitoring must not fail because all connections are taken.
    fn is_monitoring(&self) -> bool {
        matches!(
            self,
            Self::Registry(_, Route::Health | Route::Ready)
                | Self::TokenIssuer(TokenRoute::Ready)
                | Self::Debug(_)
        )
    }
}

/// A request as it was received.
struct Arrived {
    head: Parts,
    body: RequestBody,
    reading: Reading,
    id: RequestId,
    peer: Peer,
}

impl State {
    /// Answers a request. Every answer passes through here.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<RequestBody>,
        peer: Peer,
        in_flight: RequestInFlight,
    ) -> Response<ResponseBody> {
        let (head, mut body) = request.into_parts();
        let path = self.path_of(&head);
        let asked = check_host(&head).and_then(|()| self.parse(&head, &path));
        let counters = &self.services.metrics.counters;
        let counted = asked.as_ref().map_or(Handler::Other, Asked::handler);
        let counted = counters.begin(counted, &head.method);
        body.count(counted.handler());
        let mut reading = origin::read(&self.settings, peer, &head.headers, &head.uri);
        let named = reading.request_id.take();
        let id = named.unwrap_or_else(RequestId::random);
        let method = head.method.clone();
        let is_http1 = head.version < Version::HTTP_2;
        let user_agent = head.headers.get(USER_AGENT);
        let mut line = Line {
            clock: Arc::clone(&self.services.clock),
            began: self.services.clock.elapsed(),
            counted,
            id: id.clone(),
            client: reading.origin.client,
            method: method.clone(),
            path: access_log::shown(path.as_str()),
            route: asked.as_ref().map_or("unknown", Asked::label),
            account: String::new(),
            user_agent: user_agent.map(access_log::header_text).unwrap_or_default(),
            refusal: None,
            status: 0,
            sent_bytes: 0,
        };
        let (shown_method, shown_path) = (field(method.as_str()), field(&line.path));
        let span = tracing::info_span!("request", %id, method = %shown_method, route = line.route, path = %shown_path);
        let handled = match asked {
            Ok(asked) if peer.is_reserve && !asked.is_monitoring() => Err(ServerError::NoPlace),
            Ok(asked) => {
                let arrived = Arrived {
                    head,
                    body,
                    reading,
                    id: id.clone(),
                    peer,
                };
                let account = &mut line.account;
                let handling = async {
                    match asked {
                        Asked::Registry(registry, route) => {
                            self.handle(registry, route, arrived, account).await
                        }
                        Asked::TokenIssuer(route) => {
                            self.handle_of_issuer(route, arrived, account).await
                        }
                        Asked::Debug(DebugRoute::Health) => {
                            Ok(debug_listener::health(self.services.health.as_deref()))
                        }
                        Asked::Debug(DebugRoute::Metrics) => Ok(self.metrics_page().await),
                    }
                };
                handling.instrument(span.clone()).await
            }
            Err(error) => Err(error),
        };
        let counted = handled.and_then(|mut answer| {
            let client = Holder::Client(line.client);
            let reservation = self.services.memory.reservation(client);
            answer.body_mut().count(reservation)?;
            Ok(answer)
        });
        let mut answer = counted.unwrap_or_else(|error: ServerError| {
            line.refusal = error.refusal();
            if let Some(refusal) = &line.refusal {
                counters.refuse(refusal.counted);
            }
            span.in_scope(|| self.error_answer(&error))
        });
        let asks_for_methods = method == Method::OPTIONS && matches!(self.site, Site::Registry(_));
        if asks_for_methods || answer.status() == StatusCode::METHOD_NOT_ALLOWED {
            response::set(&mut answer, ALLOW, &self.methods_allowed(&path, &method));
        }
        // Other connections wait for the reserve. HTTP/2 does not have this header.
        if peer.is_reserve && is_http1 {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        self.finish(&mut answer, &method, &id);
        line.status = answer.status().as_u16();
        let now = self.services.clock.elapsed();
        answer.map(|body| body.tracked(line, in_flight, now))
    }

    /// The path of a request; of the registry, below its prefix.
    fn path_of(&self, head: &Parts) -> RequestPath {
        let path = RequestPath::decode(head.uri.path());
        match &self.site {
            Site::Registry(_) => path.below(&self.settings.prefix),
            Site::TokenIssuer | Site::Debug { .. } => path,
        }
    }

    fn parse(&self, head: &Parts, path: &RequestPath) -> Result<Asked, ServerError> {
        match &self.site {
            Site::Registry(registry) => {
                let query = head.uri.query().unwrap_or_default();
                let route = Route::parse(&head.method, path, query)?;
                // A route that this listener does not have is unknown.
                if !self.routes.hold(&route) {
                    return Err(RouteError::NotFound.into());
                }
                Ok(Asked::Registry(Arc::clone(registry), route))
            }
            Site::TokenIssuer => {
                let route = TokenRoute::parse(&head.method, path, &self.settings.prefix)?;
                Ok(Asked::TokenIssuer(route))
            }
            Site::Debug { metrics_path } => {
                let route = DebugRoute::parse(&head.method, path, metrics_path.as_deref())?;
                Ok(Asked::Debug(route))
            }
        }
    }

    /// An error, in the form that the clients of the site expect.
    pub(super) fn error_answer(&self, error: &ServerError) -> Response<ResponseBody> {
        match self.site {
            Site::Registry(_) => error.response(),
            Site::TokenIssuer | Site::Debug { .. } => error.plain_response(),
        }
    }

    /// The error of a plain HTTP request on a port for HTTPS.
    pub(super) fn plain_http_error(&self, request: &Request<RequestBody>) -> ServerError {
        let host = request.headers().get(HOST);
        let host = host.and_then(|value| value.to_str().ok()).unwrap_or("HOST");
        let authority_url = match self.site {
            Site::Registry(_) => Some(format!("https://{host}/ca.crt")),
            Site::TokenIssuer | Site::Debug { .. } => None,
        };
        ServerError::PlainHttp { authority_url }
    }

    async fn handle_of_issuer(
        &self,
        route: TokenRoute,
        arrived: Arrived,
        account: &mut String,
    ) -> Result<Response<ResponseBody>, ServerError> {
        match route {
            TokenRoute::Index => Ok(token_listener::index(self)),
            TokenRoute::Ready => Ok(token_listener::ready(self).await),
            TokenRoute::Token => {
                token_listener::check_address(self, arrived.peer)?;
                let Arrived {
                    head,
                    body,
                    reading,
                    ..
                } = arrived;
                token::answer(self, &head, body, reading, account).await
            }
        }
    }

    async fn handle(
        self: &Arc<Self>,
        registry: Arc<Registry>,
        route: Route,
        arrived: Arrived,
        account: &mut String,
    ) -> Result<Response<ResponseBody>, ServerError> {
        let Arrived {
            head,
            body,
            reading,
            id,
            peer,
        } = arrived;
        match route {
            Route::Options => return Ok(response::empty(StatusCode::NO_CONTENT)),
            Route::Health => return Ok(response::bytes(StatusCode::OK, "text/plain", "ok\n")),
            Route::Ready => return Ok(self.ready(&registry).await),
            Route::AuthorityCertificate => return self.authority_certificate(),
            Route::BaseRedirect => return Ok(self.base_redirect(&reading.origin)),
            Route::Token => return token::answer(self, &head, body, reading, account).await,
            _ => {}
        }
        // While a check fails, figures are wanted most.
        if self.is_unhealthy() && route != Route::Metrics {
            return Err(ServerError::Unhealthy);
        }
        let origin = reading.origin;
        let access = route.access();
        let caller = self.allowed(&access, &head, &origin, account).await?;
        let request = Allowed {
            registry,
            head,
            origin,
            caller,
            access,
            id,
            peer: peer.address,
        };
        if !route.runs_to_its_end() {
            return self.dispatch(route, request, body).await;
        }
        // It runs to its end even if the client disconnects, which drops this future. Received data are left in a defined
        // state, and no operation stops half way.
        let state = Arc::clone(self);
        let work = async move { state.dispatch(route, request, body).await };
        let task = tokio::spawn(work.in_current_span());
        task.await.unwrap_or(Err(ServerError::Internal))
    }

    async fn allowed(
        &self,
        access: &Access,
        head: &Parts,
        origin: &Origin,
        account: &mut String,
    ) -> Result<Caller, ServerError> {
        let auth = &self.services.auth;
        let authorization = authorization(head)?;
        let caller = auth.caller(&authorization, origin).await?;
        // Also for a caller who is refused: the account is empty unless the credential is valid.
        caller.account().clone_into(account);
        auth.authorise(&caller, access, origin)?;
        Ok(caller)
    }

    async fn dispatch(
        self: &Arc<Self>,
        route: Route,
        request: Allowed,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, ServerError> {
        match route {
            Route::Options
            | Route::Health
            | Route::Ready
            | Route::AuthorityCertificate
            | Route::Token
            | Route::BaseRedirect => {
                // `handle` answers these before the caller is authenticated.
                Err(ServerError::Internal)
            }
            Route::Base => Ok(response::bytes(StatusCode::OK, "application/json", "{}")),
            Route::Metrics => Ok(self.metrics_page().await),
            Route::Catalog(page) => listings::catalog(self, &request, &page).await,
            Route::Tags(name, page) => listings::tags(self, &request, &name, &page).await,
            Route::Referrers(name, subject, artifact_type, page) => {
                listings::referrers(
                    self,
                    &request,
                    &name,
                    &subject,
                    artifact_type.as_deref(),
                    &page,
                )
                .await
            }
            Route::BlobRead(name, digest) => blobs::read(self, &request, &name, &digest).await,
            Route::BlobDelete(name, digest) => blobs::delete(self, &request, &name, &digest).await,
            Route::UploadBegin(name, start) => {
                uploads::begin(self, &request, body, &name, start).await
            }
            Route::UploadAppend(name, id) => uploads::append(self, &request, body, &name, id).await,
            Route::UploadFinish(name, id, digest) => {
                uploads::finish(self, &request, body, &name, id, &digest).await
            }
            Route::UploadStatus(name, id) => uploads::status(self, &request, &name, id).await,
            Route::UploadCancel(name, id) => uploads::cancel(&request, &name, id).await,
            Route::ManifestRead(name, reference) => {
                manifests::read(&request, &name, &reference).await
            }
            Route::ManifestNowhere(_) => Err(ServerError::NoSuchReference),
            Route::ManifestPut(name, reference, tags) => {
                manifests::put(self, &request, body, &name, &reference, &tags).await
            }
            Route::ManifestDelete(name, reference) => {
                manifests::delete(self, &request, &name, &reference).await
            }
            Route::RepositoryDelete(name, spares) => {
                listings::delete_repository(self, &request, &name, spares).await
            }
        }
    }

    /// Headers that every answer has, and the rules for answers to HEAD.
    fn finish(&self, answer: &mut Response<ResponseBody>, method: &Method, id: &RequestId) {
        if let Site::Registry(_) = self.site {
            let version = HeaderValue::from_static("registry/2.0");
            answer.headers_mut().insert(response::API_VERSION, version);
        }
        let id_header = HeaderName::from_static(access_log::ID_HEADER);
        response::set(answer, id_header, id.as_str());
        self.add_configured_headers(answer);
        // Browsers must not guess that a blob is a web page.
        let options = answer.headers_mut().entry(X_CONTENT_TYPE_OPTIONS);
        options.or_insert(HeaderValue::from_static("nosniff"));
        // RFC 9110 section 8.6: answers with these statuses have no body and must not announce a length.
        let has_no_length = matches!(
            answer.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        if *method == Method::HEAD {
            if !has_no_length
                && !answer.headers().contains_key(CONTENT_LENGTH)
                && let Some(length) = answer.body().size_hint().exact()
            {
                answer.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            *answer.body_mut() = ResponseBody::empty();
        }
    }

    /// `http.headers`, with every value of a list, as in distribution. Headers that the answer already has are kept.
    pub(super) fn add_configured_headers(&self, answer: &mut Response<ResponseBody>) {
        let headers = answer.headers_mut();
        for name in self.configured_headers.keys() {
            if headers.contains_key(name) {
                continue;
            }
            for value in self.configured_headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
    }

    /// `Allow`, for answers to OPTIONS and for 405 (RFC 9110 sections 9.3.7 and 15.5.6). It contains OPTIONS only in
    /// answers to OPTIONS; in a 405 the list is that of distribution.
    fn methods_allowed(&self, path: &RequestPath, method: &Method) -> String {
        let registry = match &self.site {
            Site::Registry(registry) => registry,
            Site::TokenIssuer => return token_listener::METHODS.to_owned(),
            Site::Debug { .. } => return debug_listener::METHODS.to_owned(),
        };
        let settings = registry.settings();
        let takes = Takes {
            writes: !settings.readonly,
            deletes: settings.deletes_enabled,
        };
        let mut methods = path.methods(takes);
        if *method == Method::OPTIONS {
            if !methods.is_empty() {
                methods.push_str(", ");
            }
            methods.push_str("OPTIONS");
        }
        methods
    }

    async fn ready(&self, registry: &Registry) -> Response<ResponseBody> {
        let readiness = registry.health.readiness().await;
        let is_unhealthy = self.is_unhealthy();
        let (status, first) = if readiness.still.is_empty() && !is_unhealthy {
            (StatusCode::OK, "ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready")
        };
        let checks = is_unhealthy.then(|| "a health check of the configuration fails".to_owned());
        let still = readiness.still.iter().map(ToString::to_string);
        let still = still.chain(checks).map(|what| format!("still: {what}"));
        let degraded = readiness.degraded_with(self.services.auth.trouble().await);
        let degraded = degraded.into_iter().map(|what| format!("degraded: {what}"));
        let lines = std::iter::once(first.to_owned())
            .chain(still)
            .chain(degraded);
        let text: String = lines.map(|line| line + "\n").collect();
        response::bytes(status, "text/plain", text)
    }

    async fn metrics_page(&self) -> Response<ResponseBody> {
        let page = self.services.metrics.page().await;
        response::bytes(StatusCode::OK, metrics::CONTENT_TYPE, page)
    }

    /// Whether a health check fails.
    fn is_unhealthy(&self) -> bool {
        let health = self.services.health.as_ref();
        health.is_some_and(|health| health.is_failing())
    }

    fn authority_certificate(&self) -> Result<Response<ResponseBody>, ServerError> {
        let pem = self
            .tls
            .as_ref()
            .and_then(|tls| tls.authority_pem())
            .ok_or(RouteError::NotFound)?;
        Ok(response::bytes(
            StatusCode::OK,
            "application/x-pem-file",
            pem.as_bytes().to_vec(),
        ))
    }

    fn base_redirect(&self, origin: &Origin) -> Response<ResponseBody> {
        let mut answer = response::empty(StatusCode::MOVED_PERMANENTLY);
        response::set(&mut answer, LOCATION, &self.location(origin, ""));
        answer
    }
}

/// At most one Host header, exactly one over HTTP/1.1 (RFC 9112 section 3.2), with a value that is safe to repeat.
fn check_host(head: &Parts) -> Result<(), ServerError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let is_missing = match (hosts.next(), hosts.next()) {
        (None, _) => head.version == Version::HTTP_11,
        (Some(_), Some(_)) => return Err(ServerError::BadHeader("more than one Host header")),
        (Some(host), None) => !host.to_str().is_ok_and(is_authority),
    };
    if is_missing {
        return Err(ServerError::BadHeader("no usable Host header"));
    }
    Ok(())
}
