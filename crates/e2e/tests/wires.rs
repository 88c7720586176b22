//! Both ends of each wire, put together: the launcher's session over the control plane's transport.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its stage up fails")]

#[expect(dead_code, reason = "the launcher's own tests use the rest")]
#[path = "../../../launcher/tests/session/contract.rs"]
mod contract;
#[path = "wires/inspector.rs"]
mod inspector;
#[expect(dead_code, reason = "the launcher's own tests use the rest")]
#[path = "../../../launcher/tests/session/pool.rs"]
mod pool;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use gantry_control_plane::tls::{Bound, TlsSettings};
use gantry_control_plane::transport::{
    Admissions, BrokerConfig, Delivery, EmbeddedBroker, PollTransport,
};
use gantry_launcher::config::{BaseUrl, Proxy};
use gantry_launcher::session::Timing;
use gantry_launcher::transport::mqtt::Mqtt;
use gantry_launcher::transport::poll::Poll;
use gantry_launcher::transport::{Address, Link, LinkError, Transport};
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::{Namespace, PublicKey, Serial, poll};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio::time::timeout;

use contract::Side;
use inspector::Inspector;
use pool::{pool, pool_id, token, worker};

/// Far more than anything takes here; only to end a test that hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Admits the one pool, or nobody.
struct One(bool);

impl Admissions for One {
    fn pool_of(&self, serial: &str) -> Option<PoolId> {
        let ours = Serial::of_certificate(&pool().certificate).unwrap();
        (self.0 && ours.as_str() == serial).then(pool_id)
    }

    fn key_of(&self, id: PoolId) -> Option<PublicKey> {
        (id == pool_id()).then(|| pool().key.public().clone())
    }
}

/// The control plane's end, as the sessions' contract wants it.
struct ServerSide<T>(T);

impl<T: gantry_control_plane::transport::Transport> Side for ServerSide<T> {
    async fn hear(&mut self) -> Bytes {
        self.0.next().await.unwrap().payload
    }

    async fn say(&mut self, payload: Vec<u8>) {
        let sent = self.0.publish(pool_id(), worker(1), payload.into()).await.unwrap();
        assert_eq!(sent, Delivery::Sent);
    }
}

/// A server that is polled; ends with the tasks.
struct Polled {
    transport: PollTransport,
    port: u16,
    tasks: JoinSet<()>,
}

impl Polled {
    fn start(admissions: One, asks_for_certificates: bool) -> Self {
        Self::behind(admissions, asks_for_certificates, |router| router)
    }

    /// The same with something in front of it.
    fn behind(
        admissions: One,
        asks_for_certificates: bool,
        front: impl FnOnce(Router) -> Router,
    ) -> Self {
        let ca = pool().authority.certificate_pem();
        let certificate = pool().authority.issue_server(&["localhost"], pool::now_unix()).unwrap();
        let tls = if asks_for_certificates {
            TlsSettings::with_clients_of(&certificate, ca).unwrap()
        } else {
            TlsSettings::new(&certificate).unwrap()
        };
        let transport = PollTransport::new(Arc::new(admissions), ca).unwrap();
        let bound = Bound::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let (port, router) = (bound.address().port(), front(transport.router()));
        let mut tasks = JoinSet::new();
        #[expect(clippy::default_trait_access, reason = "its crate is the control plane's own")]
        let handle = Default::default();
        tasks.spawn(async move { bound.serve(tls, router, LIMIT, handle).await.unwrap() });
        Self { transport, port, tasks }
    }

    fn launcher(&self, timing: &Timing) -> Poll {
        let base = BaseUrl::parse(&format!("https://localhost:{}/", self.port)).unwrap();
        let token = token(pool::nowhere());
        Poll::to(&base, (&token, &pool().key), timing, &[], None).unwrap()
    }

    async fn keeps_the_contract(self, launcher: Poll) {
        contract::holds(launcher, ServerSide(self.transport)).await;
    }
}

fn address(worker: WorkerId) -> Address {
    Address { namespace: Namespace::default(), pool: pool_id(), worker }
}

#[tokio::test]
async fn mqtt_keeps_the_contract_at_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let issued = pool().authority.issue_server(&["localhost"], pool::now_unix()).unwrap();
    let ca = pool().authority.certificate_pem();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let config = BrokerConfig {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        namespace: Namespace::default(),
        certificate: file("server.pem", issued.pem.as_bytes()),
        key: file("server.key", &issued.key),
        authority: file("ca.pem", ca.as_bytes()),
    };
    let broker = EmbeddedBroker::bind(config).unwrap().start(Arc::new(One(true))).await;
    let token = token(format!("localhost:{}", broker.address().port()).parse().unwrap());
    let launcher = Mqtt::to(&token, &pool().key, &Timing::default()).unwrap();
    contract::holds(launcher, ServerSide(broker)).await;
}

#[tokio::test]
async fn poll_keeps_the_contract_by_certificate() {
    let server = Polled::start(One(true), true);
    let launcher = server.launcher(&Timing::default());
    server.keeps_the_contract(launcher).await;
}

#[tokio::test]
async fn poll_keeps_the_contract_by_signature() {
    let server = Polled::start(One(true), false);
    let launcher = server.launcher(&Timing::default());
    server.keeps_the_contract(launcher).await;
}

/// Nothing but HTTPS, by a proxy that ends it and whose authority this host has been told of.
#[tokio::test]
async fn poll_keeps_the_contract_through_a_proxy_that_inspects_tls() {
    let server = Polled::start(One(true), true);
    let inspector = Inspector::start(server.port, pool().authority.certificate_pem()).await;
    let base = BaseUrl::parse("https://gantry.example.com").unwrap();
    let proxy = Proxy::parse(&inspector.address(), "").unwrap();
    let token = token(pool::nowhere());
    let launcher = |roots: &[CertificateDer<'static>]| {
        let timing = Timing::default();
        Poll::to(&base, (&token, &pool().key), &timing, roots, Some(&proxy)).unwrap()
    };
    let refused = timeout(LIMIT, launcher(&[]).connect(&address(worker(1)), Bytes::new())).await;
    let refused = refused.unwrap().unwrap_err();
    assert!(matches!(refused, LinkError::Foreign { .. }), "{refused:?}");
    server.keeps_the_contract(launcher(&[inspector.authority()])).await;
    assert!(inspector.seen() > 0, "it went through the proxy");
}

#[tokio::test]
async fn a_pool_that_was_reset_is_told_so() {
    for asks_for_certificates in [true, false] {
        let server = Polled::start(One(false), asks_for_certificates);
        let mut launcher = server.launcher(&Timing::default());
        let refused = timeout(LIMIT, launcher.connect(&address(worker(1)), Bytes::new())).await;
        let refused = refused.unwrap().unwrap_err();
        assert!(matches!(refused, LinkError::NotAdmitted(_)), "{refused:?}");
    }
}

#[tokio::test]
async fn the_earlier_of_two_launchers_is_told_that_it_was_taken_over() {
    let server = Polled::start(One(true), true);
    let timing = Timing::default();
    let (mut first, mut second) = (server.launcher(&timing), server.launcher(&timing));
    timeout(LIMIT, async {
        let mut earlier = first.connect(&address(worker(1)), Bytes::new()).await.unwrap();
        let later = second.connect(&address(worker(1)), Bytes::new()).await.unwrap();
        let why = earlier.next().await.unwrap_err();
        assert!(matches!(why, LinkError::TakenOver), "{why:?}");
        later.close().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed_within_two_keep_alives() {
    let server = Polled::start(One(true), true);
    let inspector = Inspector::start(server.port, pool().authority.certificate_pem()).await;
    let base = BaseUrl::parse("https://gantry.example.com").unwrap();
    let proxy = Proxy::parse(&inspector.address(), "").unwrap();
    let token = token(pool::nowhere());
    let timing = Timing { keep_alive: Duration::from_secs(1), ..Timing::default() };
    let roots = [inspector.authority()];
    let mut launcher =
        Poll::to(&base, (&token, &pool().key), &timing, &roots, Some(&proxy)).unwrap();
    timeout(LIMIT, async {
        let mut link = launcher.connect(&address(worker(1)), Bytes::new()).await.unwrap();
        inspector.hold();
        let why = link.next().await.unwrap_err();
        assert!(matches!(why, LinkError::Silent), "{why:?}");
    })
    .await
    .expect("a dead connection is noticed");
}

/// As a proxy answers that wants its user to log in again.
#[tokio::test]
async fn a_page_of_somebody_on_the_way_ends_the_session() {
    let page = || async { ([("content-type", "text/html")], "<html>\nlog in\n</html>") };
    let server = Polled::behind(One(true), true, |router| {
        Router::new().route(poll::MESSAGES, get(page).post(page)).fallback_service(router)
    });
    let mut launcher = server.launcher(&Timing::default());
    timeout(LIMIT, async {
        let mut link = launcher.connect(&address(worker(1)), Bytes::new()).await.unwrap();
        let why = link.next().await.unwrap_err();
        assert!(matches!(why, LinkError::Refused(_)), "{why:?}");
    })
    .await
    .expect("it is no answer of the control plane's");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_its_address() {
    let mut server = Polled::start(One(true), true);
    server.tasks.shutdown().await;
    let mut launcher = server.launcher(&Timing::default());
    let refused = timeout(LIMIT, launcher.connect(&address(worker(1)), Bytes::new())).await;
    let refused = refused.unwrap().unwrap_err();
    let LinkError::Unreachable { endpoint, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(endpoint, format!("localhost:{}", server.port));
}
