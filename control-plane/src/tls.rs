//! HTTPS listeners: TLS from our own authority, and time limits for clients that dawdle.

mod idle;
mod peer;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use gantry_protocol::ServerCertificate;
use hyper_util::rt::TokioTimer;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use self::idle::IdleAcceptor;
use self::peer::PeerAcceptor;

pub use self::peer::Peer;

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client may take for a request's head, and how long it may keep a connection without one.
const HEAD: Duration = Duration::from_secs(30);

/// How many connections a listener has at the same time. More are closed at once. All of a fleet that polls
/// have one each, and some of them two; with them there is room for as many others as before.
pub(crate) const MAX_CONNECTIONS: usize = 40_000;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Why there is no HTTPS listener.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("the server's certificate cannot be used")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The TLS settings of a listener. Clones are the same settings; replaced, they count for whoever
/// connects from then on.
#[derive(Clone)]
pub struct TlsSettings {
    config: RustlsConfig,
    /// Whose client certificates are taken, if any are.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl TlsSettings {
    /// Settings with this certificate. Nobody is asked for one of theirs.
    ///
    /// # Errors
    /// When certificate or key cannot be used.
    pub fn new(certificate: &ServerCertificate) -> Result<Self, TlsError> {
        Self::with(certificate, None)
    }

    /// Settings with this certificate. Who has one of `authority`, PEM, may show it: see [`Peer`].
    ///
    /// # Errors
    /// When certificate, key or authority cannot be used.
    pub fn with_clients_of(
        certificate: &ServerCertificate,
        authority: &str,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(unusable)?;
        roots.add(ca).map_err(unusable)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier.allow_unauthenticated().build().map_err(unusable)?;
        Self::with(certificate, Some(verifier))
    }

    fn with(
        certificate: &ServerCertificate,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, TlsError> {
        let config = server_config(certificate, clients.as_ref())?;
        Ok(Self { config: RustlsConfig::from_config(config), clients })
    }

    /// Takes another certificate.
    ///
    /// # Errors
    /// When certificate or key cannot be used: the former one stays.
    pub fn renew(&self, certificate: &ServerCertificate) -> Result<(), TlsError> {
        self.config.reload_from_config(server_config(certificate, self.clients.as_ref())?);
        Ok(())
    }
}

/// A socket that is listened on, though nobody answers yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Listens on an address; port 0 is any free one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn bind(address: SocketAddr) -> Result<Self, TlsError> {
        let bind = || -> io::Result<Self> {
            // The standard library sets SO_REUSEADDR, so a restart finds its port free.
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bind().map_err(|source| TlsError::Listen { address, source })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `handle` says to stop. A connection on which nothing moves for `idle` is closed.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        tls: TlsSettings,
        router: Router,
        idle: Duration,
        handle: Handle<SocketAddr>,
    ) -> io::Result<()> {
        let acceptor = RustlsAcceptor::new(tls.config)
            .handshake_timeout(HANDSHAKE)
            .acceptor(IdleAcceptor::new(idle, MAX_CONNECTIONS));
        let acceptor = PeerAcceptor(acceptor);
        let server = axum_server::from_tcp(self.listener)?;
        let mut server = server.acceptor(acceptor).handle(handle).http1_only();
        server
            .http_builder()
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD);
        server.serve(router.into_make_service_with_connect_info::<SocketAddr>()).await
    }
}

/// This certificate, client certificates if somebody's are taken, HTTP/1.1.
fn server_config(
    certificate: &ServerCertificate,
    clients: Option<&Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate.pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(&certificate.key).map_err(unusable)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Named, because with two providers in the program rustls would not choose one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::Certificate(error.into())
}
