//! The state server's protocol, on the container's own loopback.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Refused, StateServer};
use gantry_spool::SpoolError;

/// No lock is larger.
const MAX_LOCK: usize = 64 * 1024;
/// No request line and headers together are larger.
const MAX_HEAD: usize = 16 * 1024;
/// More connections than these wait.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection may take to send the head of its next request, and how long each part of a
/// body: whoever only holds connections must not keep the tool from storing its state.
const PATIENCE: Duration = Duration::from_secs(30);

/// The environment variables by which the tool finds the server.
type Variables = Vec<(&'static str, Zeroizing<String>)>;

impl StateServer {
    /// Takes a port. The server runs as long as the returned future is polled.
    pub(crate) async fn listen(
        self,
    ) -> io::Result<(impl Future<Output = ()> + Send + 'static, Variables)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let variables = self.variables(listener.local_addr()?.port());
        Ok((serve(Arc::new(self), listener), variables))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let header = request.headers().get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes);
        if !header.is_some_and(|header| self.is_authorized(header)) {
            return Ok(text(StatusCode::UNAUTHORIZED, "who are you?"));
        }
        Ok(match (request.method().as_str(), request.uri().path()) {
            ("GET", "/state") => match self.read() {
                Ok(Some(state)) => json(StatusCode::OK, Bytes::from_owner(state)),
                Ok(None) => text(StatusCode::NOT_FOUND, "there is no state yet"),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the state cannot be read"),
            },
            ("POST", "/state") => done(self.post(request).await),
            ("LOCK", "/lock") => done(self.lock_from(request).await),
            ("UNLOCK", "/lock") => done(self.unlock_from(request).await),
            ("DELETE", "/state") if !self.can_write => done(Err(Refused::ReadOnly)),
            ("DELETE", "/state") => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "a state is not deleted in a run: destroy the stack's resources and delete the stack",
            ),
            (_, _) => text(StatusCode::NOT_FOUND, "this server knows /state and /lock"),
        })
    }

    async fn post(&self, request: Request<Incoming>) -> Result<(), Refused> {
        let query = request.uri().query().unwrap_or_default();
        let lock_id = query.split('&').find_map(|pair| pair.strip_prefix("ID="));
        self.check_write(lock_id)?;
        let mut file = self.begin_write()?;
        let mut body = request.into_body();
        while let Some(bytes) = part(&mut body).await? {
            if !bytes.is_empty() {
                file.write_all(&bytes).map_err(|error| {
                    if error.kind() == io::ErrorKind::FileTooLarge {
                        Refused::TooLarge
                    } else {
                        Refused::NoRoom(SpoolError::Full)
                    }
                })?;
            }
        }
        // From the look at the present state to the new one nothing is awaited.
        if let Some(written) = self.write(file)? {
            self.stored(written).await;
        }
        Ok(())
    }

    async fn lock_from(&self, request: Request<Incoming>) -> Result<(), Refused> {
        self.lock(small_body(request).await?)
    }

    async fn unlock_from(&self, request: Request<Incoming>) -> Result<(), Refused> {
        self.unlock(&small_body(request).await?)
    }
}

async fn serve(server: Arc<StateServer>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that died before it was accepted is nobody's concern.
                let Ok((stream, _)) = accepted else { continue };
                let server = Arc::clone(&server);
                connections.spawn(async move {
                    let service = service_fn(|request| server.answer(request));
                    // Whoever hangs up early does not need an answer.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(PATIENCE)
                        .max_header_size(MAX_HEAD)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn small_body(request: Request<Incoming>) -> Result<Bytes, Refused> {
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while let Some(data) = part(&mut body).await? {
        if bytes.len() + data.len() > MAX_LOCK {
            return Err(Refused::NoLock);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// The next part of a body; none at its end.
async fn part(body: &mut Incoming) -> Result<Option<Bytes>, Refused> {
    let frame = timeout(PATIENCE, body.frame()).await.map_err(|_| Refused::CutOff)?;
    let frame = frame.transpose().map_err(|_| Refused::CutOff)?;
    Ok(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

fn done(result: Result<(), Refused>) -> Response<Full<Bytes>> {
    let Err(refused) = result else { return text(StatusCode::OK, "") };
    let status = match &refused {
        // Tools do not try again after these.
        Refused::ReadOnly | Refused::TooMany => StatusCode::FORBIDDEN,
        Refused::NoState | Refused::NoLock | Refused::CutOff => StatusCode::BAD_REQUEST,
        Refused::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::Conflict { .. } => StatusCode::CONFLICT,
        Refused::Locked(info) => return json(StatusCode::LOCKED, info.clone()),
        // Tools try again after this one.
        Refused::NoRoom(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, &refused.to_string())
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain", Bytes::copy_from_slice(text.as_bytes()))
}

fn json(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
