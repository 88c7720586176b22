//! Who a client is by the certificate that it showed, if it showed one.

use std::io;
use std::task::{Context, Poll};

use axum::http::Request;
use axum_server::accept::Accept;
use axum_server::tls_rustls::RustlsAcceptor;
use futures::future::BoxFuture;
use gantry_protocol::Serial;
use tokio::net::TcpStream;
use tower::Service;

use super::idle::IdleAcceptor;

/// The serial number of the client's certificate, which our authority issued; an extension of each
/// request of a client that showed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(pub Serial);

/// Tells the service who its client is.
#[derive(Debug, Clone)]
pub(super) struct PeerAcceptor(pub(super) RustlsAcceptor<IdleAcceptor>);

type Tls<S> = <RustlsAcceptor<IdleAcceptor> as Accept<TcpStream, S>>::Stream;

impl<S: Send + 'static> Accept<TcpStream, S> for PeerAcceptor {
    type Stream = Tls<S>;
    type Service = WithPeer<S>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepting = self.0.accept(stream, service);
        Box::pin(async move {
            let (stream, inner) = accepting.await?;
            let shown = stream.get_ref().1.peer_certificates();
            let peer = shown.and_then(|chain| Serial::of_der(chain.first()?)).map(Peer);
            Ok((stream, WithPeer { inner, peer }))
        })
    }
}

/// A service whose requests have a [`Peer`] if their client has one.
#[derive(Debug, Clone)]
pub(super) struct WithPeer<S> {
    inner: S,
    peer: Option<Peer>,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        self.inner.call(request)
    }
}
