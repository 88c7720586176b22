//! Sessions over a real broker, with TLS and client certificates, on loopback.
//!
//! Needs mosquitto: `apt-get install -y mosquitto`.

use std::fs;
use std::net::TcpListener as StdListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use gantry_launcher::config::Proxy;
use gantry_launcher::explain::explain;
use gantry_launcher::session::fake::{Counterpart, Known};
use gantry_launcher::session::{Session, SessionEvent, Timing};
use gantry_launcher::transport::mqtt::Mqtt;
use gantry_launcher::transport::{LinkError, Transport as _};
use gantry_protocol::message::{FromControlPlane, FromLauncher};
use gantry_protocol::{Authority, CertificateRequest};
use insta::assert_snapshot;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::contract::{self, Side};
use crate::pool::{
    counterpart, grant, healthy, identity, in_hand, now_unix, outgoing, pool, pool_id, token,
    worker,
};

/// Far more than anything takes here; only to end a test that hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A mosquitto of this test's own.
struct Broker {
    directory: TempDir,
    port: u16,
    /// For this test's control plane, which the launcher's certificate says nothing about.
    plain_port: u16,
    process: Child,
}

impl Broker {
    /// Shows a certificate of `server` and lets in whom `clients` certified.
    async fn start(server: &Authority, clients: &Authority) -> Self {
        // Somebody else may take a free port before mosquitto does.
        for _ in 0..5 {
            let mut broker = Self::try_start(server, clients);
            if broker.answers().await {
                return broker;
            }
        }
        panic!("mosquitto does not start")
    }

    fn try_start(server: &Authority, clients: &Authority) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (port, plain_port) = (free_port(), free_port());
        let write = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let own = server.issue_server(&["localhost", "127.0.0.1"], now_unix()).unwrap();
        let certificate = write("server.pem", own.pem.as_bytes());
        let key = write("server.key", &own.key);
        let ca = write("ca.pem", clients.certificate_pem().as_bytes());
        let config = format!(
            "per_listener_settings true\nuser root\npersistence false\nlog_dest none\n\
             listener {plain_port} 127.0.0.1\nallow_anonymous true\n\
             listener {port} 127.0.0.1\nallow_anonymous true\nuse_identity_as_username true\n\
             cafile {ca}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate true\n"
        );
        write("mosquitto.conf", config.as_bytes());
        let process = spawn(directory.path());
        Self { directory, port, plain_port, process }
    }

    /// Whether it listens; if not, it has ended.
    async fn answers(&mut self) -> bool {
        let connected = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                if self.process.try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::task::yield_now().await;
            }
            true
        };
        timeout(LIMIT, connected).await.expect("mosquitto listens or ends")
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = spawn(self.directory.path());
        assert!(self.answers().await, "mosquitto starts again");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(directory: &Path) -> Child {
    let found = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "mosquitto"];
    let program = found.iter().find(|path| Path::new(path).exists()).unwrap_or(&"mosquitto");
    // starts: mosquitto
    Command::new(program)
        .arg("-c")
        .arg(directory.join("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs mosquitto: apt-get install -y mosquitto")
}

fn free_port() -> u16 {
    StdListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// The control plane's end: a client that may read and write all topics.
struct MqttSide {
    client: AsyncClient,
    arrived: mpsc::Receiver<Bytes>,
    _reader: JoinSet<()>,
}

impl MqttSide {
    /// Resolves when it is subscribed.
    async fn connect(broker: &Broker) -> Self {
        let mut options = MqttOptions::new("control-plane", "127.0.0.1", broker.plain_port);
        options.set_keep_alive(Duration::from_secs(5)).set_max_packet_size(Some(1 << 20));
        options.set_outgoing_inflight_upper_limit(20);
        let (client, mut events) = AsyncClient::new(options, 20);
        client.subscribe("spacelift/writeonly/+/+", QoS::AtLeastOnce).await.unwrap();
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
        let (sender, arrived) = mpsc::channel(100);
        let mut reader = JoinSet::new();
        reader.spawn(read(events, sender));
        Self { client, arrived, _reader: reader }
    }
}

async fn read(mut events: EventLoop, sender: mpsc::Sender<Bytes>) {
    while let Ok(event) = events.poll().await {
        if let Event::Incoming(Packet::Publish(publish)) = event
            && sender.send(publish.payload).await.is_err()
        {
            return;
        }
    }
}

impl Side for MqttSide {
    async fn hear(&mut self) -> Bytes {
        self.arrived.recv().await.unwrap()
    }

    async fn say(&mut self, payload: Vec<u8>) {
        let topic = format!("spacelift/readonly/{}/{}", pool_id(), worker(1));
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }
}

fn endpoint(port: u16) -> gantry_protocol::Endpoint {
    format!("localhost:{port}").parse().unwrap()
}

fn timing() -> Timing {
    Timing {
        keep_alive: Duration::from_secs(5),
        backoff: (Duration::from_millis(50), Duration::from_millis(200)),
        ..Timing::default()
    }
}

fn connector(port: u16) -> Mqtt {
    Mqtt::to(&token(endpoint(port)), &pool().key, &timing()).unwrap()
}

/// A launcher, started.
fn launch(port: u16) -> (Session, JoinSet<()>) {
    let (journal, (health, watched)) = (outgoing(), healthy());
    journal.set_runs(vec![in_hand(1)]);
    let identity = identity(&token(endpoint(port)), worker(1));
    let (session, task) = Session::over(connector(port), identity, timing(), journal, watched);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        task.await;
        drop(health);
    });
    (session, tasks)
}

/// Hears a hello and welcomes it.
async fn welcome(side: &mut MqttSide) -> (Known, Counterpart) {
    let mut counterpart = counterpart();
    let known = loop {
        // Heartbeats of the session before may still arrive, and its last will.
        if let Ok(known) = counterpart.meet(worker(1), &side.hear().await) {
            break known;
        }
    };
    let welcome = counterpart.welcome(0).into();
    side.say(counterpart.say(&known, None, &welcome).unwrap()).await;
    (known, counterpart)
}

#[tokio::test]
async fn mqtt_keeps_the_contract() {
    let broker = Broker::start(&pool().authority, &pool().authority).await;
    let side = MqttSide::connect(&broker).await;
    contract::holds(connector(broker.port), side).await;
}

#[tokio::test]
async fn a_restarted_broker_gets_a_new_session() {
    timeout(LIMIT, async {
        let mut broker = Broker::start(&pool().authority, &pool().authority).await;
        let mut side = MqttSide::connect(&broker).await;
        let (mut session, _tasks) = launch(broker.port);
        let (first, _) = welcome(&mut side).await;
        assert!(matches!(session.next().await, Some(SessionEvent::Opened(_))));
        broker.stop();
        assert!(matches!(session.next().await, Some(SessionEvent::Lost { .. })));
        broker.start_again().await;
        let mut side = MqttSide::connect(&broker).await;
        let (second, _) = welcome(&mut side).await;
        assert!(matches!(session.next().await, Some(SessionEvent::Opened(_))));
        assert_ne!(first.hello.nonce, second.hello.nonce);
    })
    .await
    .expect("the launcher comes back");
}

/// A proxy that stops forwarding, without closing, when it is told to.
async fn proxy(to: u16, stalled: watch::Receiver<bool>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut stalled = stalled.clone();
        connections.spawn(async move {
            let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                is_stalled = stalled.wait_for(|stalled| *stalled) => drop(is_stalled),
            }
            std::future::pending::<()>().await;
        });
    }
}

#[tokio::test]
async fn a_socket_that_hangs_is_noticed_within_two_keep_alives() {
    timeout(LIMIT, async {
        let broker = Broker::start(&pool().authority, &pool().authority).await;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stall, stalled) = watch::channel(false);
        let mut proxies = JoinSet::new();
        proxies.spawn(proxy(broker.port, stalled, listener));
        let mut side = MqttSide::connect(&broker).await;
        let (mut session, _tasks) = launch(port);
        welcome(&mut side).await;
        assert!(matches!(session.next().await, Some(SessionEvent::Opened(_))));
        stall.send_replace(true);
        let Some(SessionEvent::Lost { reason }) = session.next().await else { panic!("not lost") };
        assert_snapshot!(
            reason,
            @"nothing came from the server for two keep-alive intervals: the connection is dead"
        );
    })
    .await
    .expect("a dead connection is noticed");
}

#[tokio::test]
async fn the_broker_says_gone_for_a_launcher_that_vanished() {
    timeout(LIMIT, async {
        let broker = Broker::start(&pool().authority, &pool().authority).await;
        let mut side = MqttSide::connect(&broker).await;
        let (mut session, mut tasks) = launch(broker.port);
        let (known, counterpart) = welcome(&mut side).await;
        assert!(matches!(session.next().await, Some(SessionEvent::Opened(_))));
        tasks.abort_all();
        let gone = loop {
            let said = counterpart.hear(&known, &side.hear().await).unwrap();
            if let FromLauncher::Gone(gone) = said.message {
                break gone;
            }
        };
        assert_eq!(gone.nonce, known.hello.nonce);
    })
    .await
    .expect("the last will is published");
}

#[tokio::test]
async fn noise_of_a_megabyte_does_not_reach_the_launcher() {
    timeout(LIMIT, async {
        let broker = Broker::start(&pool().authority, &pool().authority).await;
        let mut side = MqttSide::connect(&broker).await;
        let (mut session, _tasks) = launch(broker.port);
        let (known, mut counterpart) = welcome(&mut side).await;
        assert!(matches!(session.next().await, Some(SessionEvent::Opened(_))));
        side.say(vec![b'x'; 900_000]).await;
        side.say(vec![b'x'; 60_000]).await;
        side.say(b"{}".to_vec()).await;
        let grant: FromControlPlane = grant(1).into();
        side.say(counterpart.say(&known, Some(1), &grant).unwrap()).await;
        let event = session.next().await;
        assert!(matches!(event, Some(SessionEvent::Message { .. })), "{event:?}");
    })
    .await
    .expect("the session stands");
}

/// What a failed connect says.
async fn failure(port: u16) -> LinkError {
    let address = identity(&token(endpoint(port)), worker(1)).address;
    let mut connector = connector(port);
    timeout(LIMIT, connector.connect(&address, Bytes::new())).await.unwrap().err().unwrap()
}

fn text(error: &LinkError, port: u16) -> String {
    gantry_launcher::explain::explain(error).replace(&port.to_string(), "<port>")
}

#[tokio::test]
async fn nobody_at_the_brokers_address_is_told_in_words() {
    let port = free_port();
    let error = failure(port).await;
    assert!(matches!(error, LinkError::Unreachable { .. }), "{error:?}");
    assert_snapshot!(text(&error, port), @"
    cannot reach localhost:<port>
      because: Connection refused (os error 111)
      next: check that the control plane runs and that this host's DNS and firewall let it reach that address
    ");
}

#[tokio::test]
async fn a_broker_of_another_authority_is_told_in_words() {
    let elsewhere = Authority::generate(now_unix()).unwrap();
    let broker = Broker::start(&elsewhere, &pool().authority).await;
    let error = failure(broker.port).await;
    assert!(matches!(error, LinkError::Foreign { .. }), "{error:?}");
    assert_snapshot!(text(&error, broker.port), @"
    what answers at localhost:<port> is not the pool's control plane
      because: invalid peer certificate: UnknownIssuer
      next: something intercepts TLS, the token is of another control plane, or this host's clock is wrong
    ");
}

#[tokio::test]
async fn a_certificate_that_the_broker_refuses_is_told_in_words() {
    let elsewhere = Authority::generate(now_unix()).unwrap();
    let broker = Broker::start(&pool().authority, &elsewhere).await;
    let error = failure(broker.port).await;
    assert!(matches!(error, LinkError::NotAdmitted(_)), "{error:?}");
    assert_snapshot!(text(&error, broker.port), @"
    the pool's certificate is not accepted (TLS alert UnknownCA)
      next: the pool may have been reset: get its new token and start again
    ");
}

#[tokio::test]
async fn something_else_at_the_brokers_address_is_told_in_words() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        let _ = socket.read(&mut buffer).await;
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = socket.read(&mut buffer).await;
    });
    let error = failure(port).await;
    assert!(matches!(error, LinkError::Foreign { .. }), "{error:?}");
    assert_snapshot!(text(&error, port), @"
    what answers at localhost:<port> is not the pool's control plane
      because: received corrupt message of type InvalidContentType
      next: something intercepts TLS, the token is of another control plane, or this host's clock is wrong
    ");
}

/// Anybody on the way can send an alert before the broker has proven who it is. It must not end the
/// launcher as a refusal of the pool's does.
#[tokio::test]
async fn an_alert_of_nobody_in_particular_is_no_refusal_of_the_pools() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = socket.read(&mut buffer).await;
        // A TLS record: alert, TLS 1.2, two bytes: fatal, certificate revoked.
        let _ = socket.write_all(&[21, 3, 3, 0, 2, 2, 44]).await;
        let _ = socket.read(&mut buffer).await;
    });
    let error = failure(port).await;
    assert!(matches!(error, LinkError::Foreign { .. }), "{error:?}");
    assert_snapshot!(text(&error, port), @"
    what answers at localhost:<port> is not the pool's control plane
      because: received fatal alert: CertificateRevoked
      next: something intercepts TLS, the token is of another control plane, or this host's clock is wrong
    ");
}

#[tokio::test]
async fn a_key_of_4096_bits_connects() {
    let key = gantry_protocol::PoolKey::generate(4096).unwrap();
    let request = CertificateRequest::create(&key).unwrap();
    let certificate = pool().authority.issue_pool(&request, pool_id(), now_unix()).unwrap().pem;
    let broker = Broker::start(&pool().authority, &pool().authority).await;
    let token = gantry_protocol::PoolToken::new(gantry_protocol::TokenParts {
        broker: endpoint(broker.port),
        namespace: gantry_protocol::Namespace::default(),
        pool: pool_id(),
        certificate,
        ca: pool().authority.certificate_pem().to_owned(),
        api: None,
    })
    .unwrap();
    let mut connector = Mqtt::to(&token, &key, &timing()).unwrap();
    let address = identity(&token, worker(3)).address;
    timeout(LIMIT, connector.connect(&address, Bytes::new())).await.unwrap().unwrap();
}

/// A proxy on loopback that answers one CONNECT, and passes everything on to `to` if that is a yes.
async fn proxied(answer: &'static str, to: u16) -> (Proxy, JoinSet<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut asked = JoinSet::new();
    asked.spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        near.write_all(answer.as_bytes()).await.unwrap();
        if answer.contains(" 200 ") {
            let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            // Until either side closes.
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
        String::from_utf8(head).unwrap()
    });
    (Proxy::parse(&format!("http://me:p%40ss@127.0.0.1:{port}"), "").unwrap(), asked)
}

#[tokio::test]
async fn a_broker_behind_a_proxy_is_reached_by_connect() {
    timeout(LIMIT, async {
        let broker = Broker::start(&pool().authority, &pool().authority).await;
        let (proxy, mut asked) = proxied("HTTP/1.1 200 OK\r\n\r\n", broker.port).await;
        let mut connector = connector(broker.port).through(Some(proxy));
        let address = identity(&token(endpoint(broker.port)), worker(3)).address;
        drop(connector.connect(&address, Bytes::new()).await.unwrap());
        let head = asked.join_next().await.unwrap().unwrap();
        let line = format!("CONNECT localhost:{} HTTP/1.1\r\n", broker.port);
        assert!(head.starts_with(&line), "{head}");
        assert!(head.contains("bWU6cEBzcw=="), "me:p@ss in base64: {head}");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_proxy_that_does_not_connect_is_named_with_what_to_do() {
    timeout(LIMIT, async {
        let (proxy, _asked) = proxied("HTTP/1.1 403 Forbidden\r\n\r\n", 1).await;
        let name = proxy.to_string();
        let mut connector = connector(1984).through(Some(proxy));
        let address = identity(&token(endpoint(1984)), worker(3)).address;
        let error = connector.connect(&address, Bytes::new()).await.unwrap_err();
        let words = explain(&error).replace(&name, "<proxy>");
        let first = words.lines().next().unwrap();
        assert_eq!(first, "the proxy <proxy> (HTTPS_PROXY) does not connect to localhost:1984");
        assert!(words.contains("NO_PROXY") && !words.contains("p@ss"), "{words}");
    })
    .await
    .unwrap();
}
