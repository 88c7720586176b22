//! HTTPS listeners: TLS from our own authority, and time limits for clients that dawdle.

mod idle;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use gantry_protocol::ServerCertificate;
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::idle::IdleAcceptor;

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client may take for a request's head, and how long it may keep a connection without one.
const HEAD: Duration = Duration::from_secs(30);

/// How many connections a listener has at the same time. More are closed at once.
const MAX_CONNECTIONS: usize = 8192;

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

/// The TLS settings of our listeners. Clones are the same settings; replaced, they count for whoever
/// connects from then on.
#[derive(Clone)]
pub struct TlsSettings(RustlsConfig);

impl TlsSettings {
    /// Settings with this certificate.
    ///
    /// # Errors
    /// When certificate or key cannot be used.
    pub fn new(certificate: &ServerCertificate) -> Result<Self, TlsError> {
        Ok(Self(RustlsConfig::from_config(server_config(certificate)?)))
    }

    /// Takes another certificate.
    ///
    /// # Errors
    /// When certificate or key cannot be used: the former one stays.
    pub fn renew(&self, certificate: &ServerCertificate) -> Result<(), TlsError> {
        self.0.reload_from_config(server_config(certificate)?);
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
        let acceptor = RustlsAcceptor::new(tls.0)
            .handshake_timeout(HANDSHAKE)
            .acceptor(IdleAcceptor::new(idle, MAX_CONNECTIONS));
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

/// This certificate, no client certificates, HTTP/1.1.
fn server_config(certificate: &ServerCertificate) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| TlsError::Certificate(error);
    let chain = CertificateDer::pem_slice_iter(certificate.pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(error.into()))?;
    let key = PrivateKeyDer::from_pem_slice(&certificate.key);
    let key = key.map_err(|error| unusable(error.into()))?;
    // Named, because with two providers in the program rustls would not choose one.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.into()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable(error.into()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
