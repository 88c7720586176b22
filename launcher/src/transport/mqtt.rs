//! Sessions over MQTT 5 with mutual TLS.
//!
//! Every connection has a client of its own, so nothing is left over from an earlier one: clean start,
//! no retained messages, at least once. The client's reconnecting and its queues are not relied on. A task reads
//! the connection all the time, because the client's pings stand still while nobody does; and since that
//! client waits for ever on a full socket, a clock of our own notices silence.

mod failure;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_protocol::message::MAX_ENVELOPE;
use gantry_protocol::{PoolKey, PoolToken};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, LastWill, Packet, PubAck, PubAckReason, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions, ProxyAuth, ProxyType};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Address, Link, LinkError, Transport};
use crate::config::{Config, Proxy};
use crate::session::{SessionError, Timing};
use crate::tls;

/// How many of our messages the broker may have without acknowledging. The client keeps a slot for
/// each, and would keep 65,535 of them.
const IN_FLIGHT: u16 = 100;
/// How many of our messages wait for the wire. The exchange keeps fewer on their way.
const REQUESTS: usize = 256;
/// How many messages of the broker's wait for us.
const ARRIVED: usize = 256;
/// The largest packet, either way: an envelope, its topic and what MQTT adds.
const MAX_PACKET: usize = MAX_ENVELOPE + 4096;
/// The shortest keep-alive that the client takes.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Connects to the broker of one pool.
pub struct Mqtt {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    keep_alive: Duration,
    patience: Duration,
    proxy: Option<Proxy>,
}

impl Mqtt {
    /// For the pool of `config`.
    ///
    /// # Errors
    /// When key and certificate cannot be used for TLS.
    pub fn new(config: &Config, timing: &Timing) -> Result<Self, SessionError> {
        let proxy = config.proxy.clone().filter(|it| it.is_for(config.token.broker.host()));
        Ok(Self::to(&config.token, &config.key, timing)?.through(proxy))
    }

    /// For the pool of `token`.
    ///
    /// # Errors
    /// When key and certificate cannot be used for TLS.
    pub fn to(token: &PoolToken, key: &PoolKey, timing: &Timing) -> Result<Self, SessionError> {
        Ok(Self {
            host: token.broker.host().to_owned(),
            port: token.broker.port(),
            // Only the token's authority counts, whatever others this host believes.
            tls: Arc::new(tls::as_pool(token, key, tls::roots(token.ca().as_bytes(), &[])?)?),
            keep_alive: timing.keep_alive.max(SHORTEST_KEEP_ALIVE),
            patience: timing.patience,
            proxy: None,
        })
    }

    /// Goes through a proxy.
    #[must_use]
    pub fn through(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    fn endpoint(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn options(&self, address: &Address, will: &Bytes) -> MqttOptions {
        let mut options =
            MqttOptions::new(address.worker.to_string(), self.host.clone(), self.port);
        let mut properties = ConnectProperties::new();
        let max_packet = u32::try_from(MAX_PACKET).expect("MAX_PACKET is far below 4 GiB");
        properties.max_packet_size = Some(max_packet);
        properties.session_expiry_interval = Some(0);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(self.patience.as_secs().max(1));
        let will = LastWill::new(address.writeonly(), will.to_vec(), QoS::AtLeastOnce, false, None);
        options
            .set_transport(rumqttc::Transport::tls_with_config(TlsConfiguration::Rustls(
                Arc::clone(&self.tls),
            )))
            .set_connect_properties(properties)
            .set_network_options(network)
            .set_connection_timeout(self.patience.as_secs().max(1))
            .set_keep_alive(self.keep_alive)
            .set_clean_start(true)
            .set_last_will(will)
            .set_outgoing_inflight_upper_limit(IN_FLIGHT);
        if let Some(proxy) = &self.proxy {
            let auth = match proxy.login() {
                // The client keeps it in the clear while it connects.
                Some((username, password)) => {
                    ProxyAuth::Basic { username, password: password.to_string() }
                }
                None => ProxyAuth::None,
            };
            let (addr, port) = (proxy.host().to_owned(), proxy.port());
            options.set_proxy(rumqttc::v5::Proxy { ty: ProxyType::Http, auth, addr, port });
        }
        options
    }

    /// Gets to where messages can flow: connected and subscribed.
    async fn open(
        &self,
        event_loop: &mut EventLoop,
        client: &AsyncClient,
        readonly: &str,
    ) -> Result<(), LinkError> {
        loop {
            let event = event_loop.poll().await;
            let proxy = self.proxy.as_ref();
            match event.map_err(|error| failure::on_connect(&self.endpoint(), proxy, error))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    client
                        .try_subscribe(readonly, QoS::AtLeastOnce)
                        .map_err(|error| LinkError::Failed(error.into()))?;
                }
                Event::Incoming(Packet::SubAck(answer)) => {
                    return match answer.return_codes.first() {
                        Some(SubscribeReasonCode::Success(_)) => Ok(()),
                        code => Err(LinkError::Forbidden(format!("the subscription: {code:?}"))),
                    };
                }
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    }
}

impl fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mqtt").field("broker", &self.endpoint()).finish_non_exhaustive()
    }
}

impl Transport for Mqtt {
    type Link = MqttLink;

    async fn connect(&mut self, address: &Address, will: Bytes) -> Result<MqttLink, LinkError> {
        if self.host.contains(':') {
            return Err(LinkError::Address(self.endpoint()));
        }
        let (client, mut event_loop) = AsyncClient::new(self.options(address, &will), REQUESTS);
        let readonly = address.readonly();
        // Some more for the subscription: the client bounds connecting itself.
        timeout(self.patience * 2, self.open(&mut event_loop, &client, &readonly))
            .await
            .unwrap_or_else(|_| Err(failure::late(&self.endpoint(), self.proxy.as_ref())))?;
        // The broker may ask for another one; with none at all, nothing would be noticed.
        let keep_alive = event_loop.options.keep_alive();
        if keep_alive < SHORTEST_KEEP_ALIVE {
            event_loop.options.set_keep_alive(self.keep_alive);
        }
        let keep_alive = event_loop.options.keep_alive();
        let (arrived, receiver) = mpsc::channel(ARRIVED);
        let taken = watch::Sender::new(0);
        let taken_by_broker = taken.subscribe();
        let mut reader = JoinSet::new();
        reader.spawn(Reader { event_loop, readonly, arrived, taken, keep_alive }.run());
        Ok(MqttLink {
            client,
            writeonly: address.writeonly(),
            arrived: receiver,
            published: 0,
            taken: taken_by_broker,
            reader,
        })
    }
}

/// A connection whose broker took the subscription.
pub struct MqttLink {
    client: AsyncClient,
    writeonly: String,
    arrived: mpsc::Receiver<Bytes>,
    /// How many messages were given to the client.
    published: u64,
    /// How many of them the broker has.
    taken: watch::Receiver<u64>,
    /// Reads the connection; ends with why it ended. Aborted when the link is dropped.
    reader: JoinSet<LinkError>,
}

impl fmt::Debug for MqttLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttLink").field("published", &self.published).finish_non_exhaustive()
    }
}

impl Link for MqttLink {
    fn publish(&mut self, payload: Bytes) {
        let topic = self.writeonly.as_str();
        if self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok() {
            self.published += 1;
        } else {
            tracing::debug!("the wire takes no more: what must arrive is sent again");
        }
    }

    async fn next(&mut self) -> Result<Bytes, LinkError> {
        match self.arrived.recv().await {
            Some(payload) => Ok(payload),
            None => Err(self.why().await),
        }
    }

    async fn close(mut self) -> Result<(), LinkError> {
        let published = self.published;
        if self.taken.wait_for(|taken| *taken >= published).await.is_err() {
            return Err(self.why().await);
        }
        self.client.try_disconnect().map_err(|error| LinkError::Failed(error.into()))?;
        let why = self.why().await;
        if matches!(why, LinkError::Closed) { Ok(()) } else { Err(why) }
    }
}

impl MqttLink {
    async fn why(&mut self) -> LinkError {
        match self.reader.join_next().await {
            Some(Ok(why)) => why,
            Some(Err(failed)) => LinkError::Failed(failed.into()),
            None => LinkError::Closed,
        }
    }
}

/// Reads a connection until it ends.
struct Reader {
    event_loop: EventLoop,
    readonly: String,
    arrived: mpsc::Sender<Bytes>,
    taken: watch::Sender<u64>,
    keep_alive: Duration,
}

impl Reader {
    async fn run(mut self) -> LinkError {
        let mut heard = Instant::now();
        loop {
            // A ping goes out at least every keep-alive, so something comes in as often.
            let silent = heard + self.keep_alive * 2;
            let packet = match timeout_at(silent, self.event_loop.poll()).await {
                Err(_) => return LinkError::Silent,
                Ok(Err(error)) => return failure::on_connection(error),
                Ok(Ok(Event::Outgoing(Outgoing::Disconnect))) => return LinkError::Closed,
                Ok(Ok(Event::Outgoing(_))) => continue,
                Ok(Ok(Event::Incoming(packet))) => packet,
            };
            heard = Instant::now();
            if let Err(why) = self.take(packet).await {
                return why;
            }
        }
    }

    async fn take(&mut self, packet: Packet) -> Result<(), LinkError> {
        match packet {
            Packet::Publish(publish) if publish.topic == self.readonly.as_bytes() => {
                self.arrived.send(publish.payload).await.map_err(|_| LinkError::Closed)?;
            }
            Packet::Publish(_) => tracing::warn!("refused a message on a foreign topic"),
            Packet::PubAck(PubAck {
                reason: PubAckReason::Success | PubAckReason::NoMatchingSubscribers,
                ..
            }) => self.taken.send_modify(|taken| *taken += 1),
            Packet::PubAck(answer) => {
                return Err(LinkError::Forbidden(format!("a message: {:?}", answer.reason)));
            }
            // The client deals with the rest itself.
            Packet::Auth(_)
            | Packet::Connect(..)
            | Packet::ConnAck(_)
            | Packet::Disconnect(_)
            | Packet::PingReq(_)
            | Packet::PingResp(_)
            | Packet::PubComp(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::SubAck(_)
            | Packet::Subscribe(_)
            | Packet::UnsubAck(_)
            | Packet::Unsubscribe(_) => {}
        }
        Ok(())
    }
}
