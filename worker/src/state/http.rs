//! The state server's protocol, on the container's own loopback.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
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
/// How much of a state is sent at once.
const PART: usize = 64 * 1024;
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

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let header = request.headers().get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes);
        if !header.is_some_and(|header| self.is_authorized(header)) {
            return Ok(text(StatusCode::UNAUTHORIZED, "who are you?"));
        }
        Ok(match (request.method().as_str(), request.uri().path()) {
            ("GET", "/state") => match self.read() {
                Some((file, size)) => {
                    let content = Content { file, at: 0, size };
                    respond(StatusCode::OK, "application/json", Either::Right(content))
                }
                None => text(StatusCode::NOT_FOUND, "there is no state yet"),
            },
            ("POST", "/state") => {
                let posted = self.post(request).await;
                if let Err(refused) = &posted {
                    self.note(refused);
                }
                done(posted)
            }
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

/// What is answered: a few words, or a state.
type Answer = Either<Full<Bytes>, Content>;

/// A state on its way out, a part at a time.
struct Content {
    file: Arc<File>,
    at: u64,
    size: u64,
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let left = self.size - self.at;
        if left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(left).unwrap_or(PART).min(PART);
        let mut part = Zeroizing::new(vec![0; length]);
        if let Err(error) = self.file.read_exact_at(&mut part, self.at) {
            return Poll::Ready(Some(Err(error)));
        }
        self.at += length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size - self.at)
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

fn done(result: Result<(), Refused>) -> Response<Answer> {
    let Err(refused) = result else { return text(StatusCode::OK, "") };
    let status = match &refused {
        // Tools do not try again after these.
        Refused::ReadOnly | Refused::TooMany => StatusCode::FORBIDDEN,
        Refused::NoState(_) | Refused::NoLock | Refused::CutOff => StatusCode::BAD_REQUEST,
        Refused::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::Conflict { .. } | Refused::OtherLineage => StatusCode::CONFLICT,
        Refused::Locked(info) => return json(StatusCode::LOCKED, info.clone()),
        // Tools try again after this one.
        Refused::NoRoom(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, &refused.to_string())
}

fn text(status: StatusCode, text: &str) -> Response<Answer> {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    respond(status, "text/plain", Either::Left(Full::new(bytes)))
}

fn json(status: StatusCode, body: Bytes) -> Response<Answer> {
    respond(status, "application/json", Either::Left(Full::new(body)))
}

fn respond(status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
