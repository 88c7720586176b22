//! A certificate authority with pools, a broker under it, and MQTT clients that do what they should not.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gantry_control_plane::transport::{
    Admissions, Arrived, BrokerConfig, EmbeddedBroker, Transport as _, TransportError,
};
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::{Authority, CertificateRequest, Namespace, PoolKey, PublicKey, Serial};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, LastWill, Packet, PubAckReason, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use ulid::Ulid;

const NAMESPACE: &str = "gantry-test";

/// No step of a test takes longer unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, step).await;
    done.unwrap_or_else(|_| panic!("{what}: nothing happened"))
}

pub fn pool_id(n: u128) -> PoolId {
    PoolId::from_ulid(Ulid::from_parts(1_700_000_000_000, n))
}

pub fn worker_id(n: u128) -> WorkerId {
    WorkerId::from_ulid(Ulid::from_parts(1_700_000_000_000, 1000 + n))
}

/// Admitted serial numbers, and who owns which worker.
#[derive(Default)]
pub struct Register {
    serials: Mutex<HashMap<String, PoolId>>,
    keys: Mutex<HashMap<PoolId, PublicKey>>,
    pub owners: Mutex<HashMap<WorkerId, PoolId>>,
    /// After how many more questions every certificate is revoked.
    pub patience: Mutex<Option<u32>>,
}

impl Register {
    pub fn revoke(&self, serial: &Serial) {
        self.serials.lock().unwrap().remove(serial.as_str());
    }
}

impl Admissions for Register {
    fn pool_of(&self, serial: &str) -> Option<PoolId> {
        if let Some(left) = &mut *self.patience.lock().unwrap() {
            *left = left.checked_sub(1)?;
        }
        self.serials.lock().unwrap().get(serial).copied()
    }

    fn key_of(&self, pool: PoolId) -> Option<PublicKey> {
        self.keys.lock().unwrap().get(&pool).cloned()
    }

    fn owner_of(&self, worker: WorkerId) -> Option<PoolId> {
        self.owners.lock().unwrap().get(&worker).copied()
    }
}

/// What a member of a pool has.
#[derive(Clone)]
pub struct Member {
    pub pool: PoolId,
    pub serial: Serial,
    pub certificate: String,
    pub key: Vec<u8>,
}

/// An authority and what a broker under it needs.
pub struct World {
    pub authority: Authority,
    pub register: Arc<Register>,
    directory: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let authority = Authority::generate(now()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let server = authority.issue_server(&["localhost", "127.0.0.1"], now()).unwrap();
        let write = |name: &str, content: &[u8]| {
            std::fs::write(directory.path().join(name), content).unwrap();
        };
        write("server.pem", server.pem.as_bytes());
        write("server.key", &server.key);
        write("ca.pem", authority.certificate_pem().as_bytes());
        Self { authority, register: Arc::default(), directory }
    }

    /// Another certificate for the broker, where it reads its own.
    pub fn renew(&self) {
        let server = self.authority.issue_server(&["localhost", "127.0.0.1"], now()).unwrap();
        std::fs::write(self.directory.path().join("server.pem"), server.pem).unwrap();
        std::fs::write(self.directory.path().join("server.key"), &*server.key).unwrap();
    }

    /// Something that is no certificate, where the broker reads its own.
    pub fn damage(&self) {
        std::fs::write(self.directory.path().join("server.pem"), "nonsense").unwrap();
    }

    pub fn config(&self, port: u16) -> BrokerConfig {
        let file = |name: &str| -> PathBuf { self.directory.path().join(name) };
        BrokerConfig {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            namespace: NAMESPACE.parse::<Namespace>().unwrap(),
            certificate: file("server.pem"),
            key: file("server.key"),
            authority: file("ca.pem"),
        }
    }

    pub async fn broker(&self) -> EmbeddedBroker {
        self.broker_on(0).await.unwrap()
    }

    pub async fn broker_on(&self, port: u16) -> Result<EmbeddedBroker, TransportError> {
        let bound = EmbeddedBroker::bind(self.config(port))?;
        Ok(bound.start(self.register.clone()).await)
    }

    /// A pool with a certificate that is admitted.
    pub fn member(&self, pool: PoolId) -> Member {
        let member = certify(&self.authority, pool);
        let serial = member.serial.as_str().to_owned();
        self.register.serials.lock().unwrap().insert(serial, pool);
        member
    }

    /// The transport of a client with this identity.
    pub fn tls(&self, identity: Option<(&str, &[u8])>) -> Transport {
        Transport::tls_with_config(TlsConfiguration::Rustls(self.client_config(identity)))
    }

    /// The TLS settings of a client with this identity.
    pub fn client_config(&self, identity: Option<(&str, &[u8])>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.authority.certificate_pem().as_bytes());
        roots.add(ca.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        })
    }

    pub fn options(&self, broker: &EmbeddedBroker, member: &Member, id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(id, "localhost", broker.address().port());
        options.set_transport(self.tls(Some((&member.certificate, &member.key))));
        options.set_keep_alive(Duration::from_secs(30));
        options.set_clean_start(true);
        // Without it every client allocates 65,536 slots.
        options.set_outgoing_inflight_upper_limit(64);
        // Its own limit is 10 KiB.
        options.set_max_packet_size(Some(128 * 1024));
        options
    }

    pub async fn connect(
        &self,
        broker: &EmbeddedBroker,
        member: &Member,
        worker: WorkerId,
    ) -> Client {
        Client::connect(self.options(broker, member, &worker.to_string())).await.unwrap()
    }

    /// A client that listens to its own topic.
    pub async fn listener(
        &self,
        broker: &EmbeddedBroker,
        member: &Member,
        worker: WorkerId,
    ) -> Client {
        let mut client = self.connect(broker, member, worker).await;
        let granted = client.subscribe(&readonly(member.pool, worker)).await;
        assert_eq!(granted, SubscribeReasonCode::Success(QoS::AtLeastOnce));
        client
    }
}

/// A certificate that this authority issued and that nobody has registered.
pub fn certify(authority: &Authority, pool: PoolId) -> Member {
    let key = PoolKey::generate(2048).unwrap();
    let request = CertificateRequest::create(&key).unwrap();
    let certificate = authority.issue_pool(&request, pool, now()).unwrap();
    let key = key.to_pem().unwrap().to_vec();
    Member { pool, serial: certificate.serial, certificate: certificate.pem, key }
}

pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

pub fn readonly(pool: PoolId, worker: WorkerId) -> String {
    format!("{NAMESPACE}/readonly/{pool}/{worker}")
}

pub fn writeonly(pool: PoolId, worker: WorkerId) -> String {
    format!("{NAMESPACE}/writeonly/{pool}/{worker}")
}

pub fn will(topic: &str, payload: &str, is_retained: bool) -> LastWill {
    LastWill::new(topic, payload, QoS::AtLeastOnce, is_retained, None)
}

/// A launcher, or somebody who has its certificate.
pub struct Client {
    requests: AsyncClient,
    events: EventLoop,
    pub connected: ConnAck,
}

impl Client {
    pub async fn connect(options: MqttOptions) -> Result<Self, ConnectionError> {
        let (requests, mut events) = AsyncClient::new(options, 64);
        loop {
            let event = soon("connecting", events.poll()).await?;
            if let Event::Incoming(Packet::ConnAck(connected)) = event {
                return Ok(Self { requests, events, connected });
            }
        }
    }

    /// The code with which a client is turned away; `None` if not by MQTT.
    pub async fn refused(options: MqttOptions) -> Option<ConnectReturnCode> {
        match Self::connect(options).await {
            Ok(_) => panic!("the client was let in"),
            Err(ConnectionError::ConnectionRefused(code)) => Some(code),
            Err(_) => None,
        }
    }

    pub async fn subscribe(&mut self, filter: &str) -> SubscribeReasonCode {
        self.requests.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        loop {
            let event = soon("subscribing", self.events.poll()).await.unwrap();
            if let Event::Incoming(Packet::SubAck(ack)) = event {
                return ack.return_codes[0];
            }
        }
    }

    /// Publishes and waits for the answer; `None` if the connection ended instead.
    pub async fn publish(
        &mut self,
        topic: &str,
        is_retained: bool,
        payload: impl Into<Bytes>,
    ) -> Option<PubAckReason> {
        self.send(topic, is_retained, payload).await;
        loop {
            match soon("publishing", self.events.poll()).await {
                Ok(Event::Incoming(Packet::PubAck(ack))) => return Some(ack.reason),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Publishes without looking at what comes of it.
    pub async fn send(&mut self, topic: &str, is_retained: bool, payload: impl Into<Bytes>) {
        let payload = payload.into();
        self.requests.publish_bytes(topic, QoS::AtLeastOnce, is_retained, payload).await.unwrap();
    }

    /// The next message for this client.
    pub async fn next(&mut self) -> (String, Bytes) {
        loop {
            let event = soon("waiting for a message", self.events.poll()).await.unwrap();
            if let Event::Incoming(Packet::Publish(publish)) = event {
                assert!(!publish.retain);
                return (String::from_utf8(publish.topic.to_vec()).unwrap(), publish.payload);
            }
        }
    }

    /// Drives the connection until it ends.
    pub async fn ended(&mut self) {
        while soon("waiting for the end", self.events.poll()).await.is_ok() {}
    }

    /// Drives the connection until something else is done.
    pub async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                _ = self.events.poll() => {}
            }
        }
    }
}

/// Sends bytes over TLS and returns the first of the answer.
pub fn exchange(config: Arc<ClientConfig>, port: u16, request: &[u8]) -> [u8; 4] {
    use std::io::{Read as _, Write as _};
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(config, name).unwrap();
    let socket = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, socket);
    stream.write_all(request).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// Sends bytes over TLS and waits until the other side has closed.
pub fn ended(config: Arc<ClientConfig>, port: u16, request: &[u8]) {
    use std::io::{ErrorKind, Read as _, Write as _};
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(config, name).unwrap();
    let socket = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    // Less than the broker's own patience with those who say nothing.
    socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, socket);
    let said = stream.write_all(request).and_then(|()| stream.read_to_end(&mut Vec::new()));
    let is_late =
        said.is_err_and(|it| matches!(it.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    assert!(!is_late, "the other side waits for more");
}

/// What the control plane hears next.
pub async fn heard(broker: &EmbeddedBroker) -> Arrived {
    soon("waiting for a launcher", broker.next()).await.unwrap()
}
