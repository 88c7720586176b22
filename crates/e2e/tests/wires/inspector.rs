//! A proxy that ends TLS with an authority of its own, as those of companies do, and shows nobody's
//! certificate to the server.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_protocol::Authority;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::pool::now_unix;

/// The proxy; ends when it is dropped.
pub struct Inspector {
    port: u16,
    authority: Authority,
    seen: Arc<AtomicUsize>,
    held: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Inspector {
    /// Sends everything to the server on `port`, which it believes by `ca`.
    pub async fn start(port: u16, ca: &str) -> Self {
        let authority = Authority::generate(now_unix()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (acceptor, connector) = (acceptor(&authority), connector(ca));
        let (seen, (held, watched)) = (Arc::<AtomicUsize>::default(), watch::channel(false));
        let counted = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                let (counted, mut held) = (Arc::clone(&counted), watched.clone());
                connections.spawn(async move {
                    // Kept while it is held: dropped, it would close both ends.
                    let passing = pass(near, port, acceptor, connector, &counted);
                    tokio::pin!(passing);
                    tokio::select! {
                        _ = &mut passing => return,
                        is_held = held.wait_for(|held| *held) => drop(is_held),
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { port: own, authority, seen, held, _tasks: tasks }
    }

    /// For `HTTPS_PROXY`.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// For `ADDITIONAL_ROOT_CAS`.
    pub fn authority(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.authority.certificate_pem().as_bytes()).unwrap()
    }

    /// How many connections it has inspected.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Lets nothing pass from now on, and closes nothing.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }
}

/// One connection. A launcher that does not believe the authority ends it in the handshake.
async fn pass(
    mut near: TcpStream,
    port: u16,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    counted: &AtomicUsize,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.ok()?);
    }
    assert!(head.starts_with(b"CONNECT gantry.example.com:443 "), "{head:?}");
    near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    let mut near = acceptor.accept(near).await.ok()?;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let mut far = connector.connect("localhost".try_into().unwrap(), far).await.ok()?;
    counted.fetch_add(1, Ordering::SeqCst);
    copy_bidirectional(&mut near, &mut far).await.ok().map(drop)
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let issued = authority.issue_server(&["gantry.example.com"], now_unix()).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&issued.key).unwrap();
    let config = ServerConfig::builder_with_provider(gantry_launcher::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config).into()
}

fn connector(ca: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(gantry_launcher::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}
