//! The embedded broker, over the network, with clients that have certificates and use them for what
//! they may not do.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its stage up fails")]

mod wire;

use bytes::Bytes;
use gantry_control_plane::transport::{
    Arrived, Delivery, EmbeddedBroker, Transport as _, TransportError,
};
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::Authority;
use gantry_protocol::message::MAX_ENVELOPE;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason, SubscribeReasonCode};

use wire::{
    Client, Member, World, certify, heard, now, pool_id, readonly, soon, will, worker_id, writeonly,
};

#[tokio::test]
async fn it_carries_messages_both_ways() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));

    let payload = Bytes::from_static(b"nobody is there");
    assert_eq!(broker.publish(pool, worker, payload).await.unwrap(), Delivery::NotConnected);

    let mut launcher = world.listener(&broker, &member, worker).await;
    let said = launcher.publish(&writeonly(pool, worker), false, "up").await;
    assert_eq!(said, Some(PubAckReason::Success));
    assert_eq!(heard(&broker).await, Arrived { pool, worker, payload: Bytes::from_static(b"up") });

    for payload in ["one", "two"] {
        let sent = broker.publish(pool, worker, Bytes::from_static(payload.as_bytes())).await;
        assert_eq!(sent.unwrap(), Delivery::Sent);
    }
    assert_eq!(launcher.next().await, (readonly(pool, worker), Bytes::from_static(b"one")));
    assert_eq!(launcher.next().await.1, "two");
}

#[tokio::test]
async fn a_session_outlives_the_broker_s_certificate() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    let mut launcher = world.listener(&broker, &member, worker).await;
    world.renew();
    broker.renew().await.unwrap();
    let said = launcher.publish(&writeonly(pool, worker), false, "up").await;
    assert_eq!(said, Some(PubAckReason::Success));
    assert_eq!(heard(&broker).await.payload, "up");
    let sent = broker.publish(pool, worker, Bytes::from_static(b"down")).await;
    assert_eq!(sent.unwrap(), Delivery::Sent);
    assert_eq!(launcher.next().await.1, "down");
    world.listener(&broker, &member, worker_id(2)).await;

    world.damage();
    assert!(matches!(broker.renew().await, Err(TransportError::Start { .. })));
    world.listener(&broker, &member, worker_id(3)).await;
    broker.stop().await;
    assert!(matches!(broker.renew().await, Err(TransportError::Start { .. })));
    world.renew();
    assert!(matches!(broker.renew().await, Err(TransportError::Stopped)));
}

/// With pool A's certificate: every topic of pool B, wildcards, shared subscriptions, retained
/// messages, wills and foreign client ids. Nothing read, nothing written.
#[tokio::test]
async fn pools_cannot_reach_each_other() {
    let world = World::new();
    let broker = world.broker().await;
    let (a, b) = (world.member(pool_id(1)), world.member(pool_id(2)));
    let (a_worker, a_other, b_worker) = (worker_id(1), worker_id(2), worker_id(3));
    let mut theirs = world.listener(&broker, &b, b_worker).await;
    let mut ours = world.listener(&broker, &a, a_worker).await;

    // Subscriptions: all of them refused, and what is sent to B afterwards reaches B alone.
    let (b_read, b_write) = (readonly(b.pool, b_worker), writeonly(b.pool, b_worker));
    for filter in [
        b_read.clone(),
        b_write.clone(),
        readonly(a.pool, a_other),
        writeonly(a.pool, a_worker),
        readonly(a.pool, b_worker),
        readonly(b.pool, a_worker),
        readonly(a.pool, a_worker).replace(&a_worker.to_string(), "+"),
        readonly(a.pool, a_worker).replace(&a_worker.to_string(), "#"),
        format!("gantry-test/readonly/{}/+", b.pool),
        format!("gantry-test/readonly/{}/#", b.pool),
        format!("gantry-test/+/{}/{b_worker}", b.pool),
        format!("+/readonly/{}/{b_worker}", b.pool),
        format!("+/+/+/{a_worker}"),
        format!("{}/#", readonly(a.pool, a_worker)),
        format!("{}/", readonly(a.pool, a_worker)),
        format!("/{}", readonly(a.pool, a_worker)),
        "#".to_owned(),
        "+/#".to_owned(),
        "gantry-test/#".to_owned(),
        "$SYS/#".to_owned(),
        format!("$share/group/{b_read}"),
        "$share/group/#".to_owned(),
        format!("$share/group/{}", readonly(a.pool, a_worker)),
        format!("$exclusive/{b_read}"),
        format!("$exclusive/{}", readonly(a.pool, a_worker)),
        format!("$limit/5/{b_read}"),
        format!("$delayed/1/{b_read}"),
    ] {
        let answer = ours.subscribe(&filter).await;
        let is_granted = matches!(answer, SubscribeReasonCode::Success(_));
        assert!(!is_granted, "{filter}: {answer:?}");
    }

    // Messages: refused, plain and retained, wherever they would go.
    for topic in [
        b_read.clone(),
        b_write.clone(),
        writeonly(a.pool, a_other),
        writeonly(a.pool, b_worker),
        writeonly(b.pool, a_worker),
        readonly(a.pool, a_worker),
        readonly(a.pool, a_other),
        format!("{}/more", writeonly(a.pool, a_worker)),
        format!("$share/group/{b_write}"),
        format!("$delayed/1/{b_write}"),
        format!("$SYS/{b_write}"),
        "anything".to_owned(),
    ] {
        for is_retained in [false, true] {
            let answer = ours.publish(&topic, is_retained, "evil").await;
            assert_eq!(answer, Some(PubAckReason::NotAuthorized), "{topic}");
        }
    }
    let own = writeonly(a.pool, a_worker);
    let retained = ours.publish(&own, true, "retained").await;
    assert_eq!(retained, Some(PubAckReason::NotAuthorized));

    // Wills: looked at when the client connects.
    for (topic, is_retained) in [
        (b_read.clone(), false),
        (b_write.clone(), false),
        (b_read.clone(), true),
        (writeonly(a.pool, a_worker), false),
        (readonly(a.pool, a_other), false),
        (writeonly(a.pool, a_other), true),
        ("#".to_owned(), false),
    ] {
        let mut options = world.options(&broker, &a, &a_other.to_string());
        options.set_last_will(will(&topic, "evil", is_retained));
        let refused = Client::refused(options).await;
        assert!(refused.is_some_and(|code| code != ConnectReturnCode::Success), "{topic}");
    }

    foreign_client_ids_are_refused(&world, &broker, &a, (b.pool, b_worker)).await;

    // B noticed nothing: its session is the same, and its next message is what was meant for it.
    let meant = Bytes::from_static(b"for B");
    let sent = ours.during(broker.publish(b.pool, b_worker, meant.clone())).await.unwrap();
    assert_eq!(sent, Delivery::Sent);
    assert_eq!(theirs.next().await, (b_read, meant));
    // A got nothing: its next message is what was meant for it.
    let meant = Bytes::from_static(b"for A");
    let wrong = broker.publish(b.pool, a_worker, meant.clone()).await.unwrap();
    assert_eq!(wrong, Delivery::NotConnected);
    assert_eq!(broker.publish(a.pool, a_worker, meant.clone()).await.unwrap(), Delivery::Sent);
    assert_eq!(ours.next().await, (readonly(a.pool, a_worker), meant));
    // The control plane heard nothing of it all.
    ours.publish(&own, false, "honest").await;
    let honest = Arrived { pool: a.pool, worker: a_worker, payload: Bytes::from_static(b"honest") };
    assert_eq!(heard(&broker).await, honest);
    // Nothing was kept for whoever subscribes next.
    drop(theirs);
    let mut theirs = world.listener(&broker, &b, b_worker).await;
    let marker = Bytes::from_static(b"first");
    broker.publish(b.pool, b_worker, marker.clone()).await.unwrap();
    assert_eq!(theirs.next().await.1, marker);
}

/// Client ids of B's connected worker and of one that B had before, and what is not a worker id.
async fn foreign_client_ids_are_refused(
    world: &World,
    broker: &EmbeddedBroker,
    a: &Member,
    (b_pool, b_worker): (PoolId, WorkerId),
) {
    let away = worker_id(9);
    world.register.owners.lock().unwrap().insert(away, b_pool);
    let lower = worker_id(2).to_string().to_lowercase();
    for id in [&*b_worker.to_string(), &away.to_string(), "launcher", "#", &lower, ""] {
        let refused = Client::refused(world.options(broker, a, id)).await;
        // rmqtt gives a client without an id a longer one than it takes.
        let code = match id {
            "" => ConnectReturnCode::ClientIdentifierNotValid,
            _ => ConnectReturnCode::NotAuthorized,
        };
        assert_eq!(refused, Some(code), "{id:?}");
    }
}

#[tokio::test]
async fn the_will_of_a_worker_is_heard_when_its_connection_breaks() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let worker = worker_id(1);
    let mut options = world.options(&broker, &member, &worker.to_string());
    options.set_last_will(will(&writeonly(member.pool, worker), "gone", false));
    drop(Client::connect(options).await.unwrap());
    let payload = Bytes::from_static(b"gone");
    assert_eq!(heard(&broker).await, Arrived { pool: member.pool, worker, payload });
}

#[tokio::test]
async fn only_certificates_of_pools_are_let_in() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let worker = worker_id(1).to_string();

    // Without a certificate.
    let mut options = world.options(&broker, &member, &worker);
    options.set_transport(world.tls(None));
    assert_eq!(Client::refused(options.clone()).await, None);
    // User name and password stand for nothing.
    options.set_credentials(member.pool.to_string(), "password");
    assert_eq!(Client::refused(options).await, None);

    // One of the same pool id from another authority.
    let other = Authority::generate(now()).unwrap();
    let forged = certify(&other, member.pool);
    assert_eq!(Client::refused(world.options(&broker, &forged, &worker)).await, None);

    // Our authority's, but a server's.
    let server = world.authority.issue_server(&[member.pool.to_string()], now()).unwrap();
    let mut options = world.options(&broker, &member, &worker);
    options.set_transport(world.tls(Some((&server.pem, &server.key))));
    assert_eq!(Client::refused(options).await, None);

    // Our authority's, of a pool, but not its current one.
    let unknown = certify(&world.authority, member.pool);
    let refused = Client::refused(world.options(&broker, &unknown, &worker)).await;
    assert_eq!(refused, Some(ConnectReturnCode::NotAuthorized));

    assert!(Client::connect(world.options(&broker, &member, &worker)).await.is_ok());
}

#[tokio::test]
async fn a_revoked_certificate_is_worth_nothing_from_that_instant() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    let mut options = world.options(&broker, &member, &worker.to_string());
    options.set_last_will(will(&writeonly(pool, worker), "gone", false));
    let mut old = Client::connect(options).await.unwrap();
    let said = old.publish(&writeonly(pool, worker), false, "still waiting in the broker").await;
    assert_eq!(said, Some(PubAckReason::Success));

    world.register.revoke(&member.serial);
    let within = std::time::Duration::from_secs(1);
    let closed = tokio::time::timeout(within, broker.close_sessions(member.serial.as_str())).await;
    assert_eq!(closed, Ok(1));
    assert!(tokio::time::timeout(within, old.ended()).await.is_ok());
    let again = Client::refused(world.options(&broker, &member, &worker.to_string())).await;
    assert_eq!(again, Some(ConnectReturnCode::NotAuthorized));

    // The pool's new certificate works, and neither the old one's message nor its will is heard.
    let renewed = world.member(pool);
    let mut launcher = world.listener(&broker, &renewed, worker).await;
    launcher.publish(&writeonly(pool, worker), false, "new").await;
    assert_eq!(heard(&broker).await.payload, "new");
    assert_eq!(broker.close_sessions(member.serial.as_str()).await, 0);
    assert_eq!(broker.close_sessions("no serial").await, 0);
    broker.publish(pool, worker, Bytes::from_static(b"on")).await.unwrap();
    assert_eq!(launcher.next().await.1, "on");
}

#[tokio::test]
async fn a_revoked_session_that_has_not_been_closed_yet_says_nothing() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    let mut old = world.listener(&broker, &member, worker).await;
    world.register.revoke(&member.serial);
    let secret = broker.publish(pool, worker, Bytes::from_static(b"secret")).await.unwrap();
    assert_eq!(secret, Delivery::NotConnected);
    assert_ne!(
        old.publish(&writeonly(pool, worker), false, "late").await,
        Some(PubAckReason::Success)
    );

    let renewed = world.member(pool);
    let mut launcher = world.connect(&broker, &renewed, worker).await;
    launcher.publish(&writeonly(pool, worker), false, "new").await;
    assert_eq!(heard(&broker).await.payload, "new");
}

#[tokio::test]
async fn a_certificate_that_is_revoked_in_the_handshake_gets_no_session() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let options = world.options(&broker, &member, &worker_id(1).to_string());
    // It is asked for once before the session exists; then nobody knows of it who could close it.
    *world.register.patience.lock().unwrap() = Some(1);
    if let Ok(mut client) = Client::connect(options).await {
        client.ended().await;
    }
    *world.register.patience.lock().unwrap() = None;
    assert_eq!(broker.close_sessions(member.serial.as_str()).await, 0);
    world.listener(&broker, &member, worker_id(1)).await;
}

#[tokio::test]
async fn a_session_does_not_outlive_its_connection() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    let mut options = world.options(&broker, &member, &worker.to_string());
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(3_600));
    let mut first = Client::connect(options.clone()).await.unwrap();
    first.subscribe(&readonly(pool, worker)).await;
    drop(first);

    let again = Client::connect(options).await.unwrap();
    assert!(!again.connected.session_present);
    // The subscription is gone with the session.
    let lost = broker.publish(pool, worker, Bytes::from_static(b"lost")).await.unwrap();
    assert_eq!(lost, Delivery::NotConnected);
}

#[tokio::test]
async fn a_worker_that_connects_again_replaces_its_earlier_session() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    let mut earlier = world.listener(&broker, &member, worker).await;
    let mut later = world.listener(&broker, &member, worker).await;
    earlier.ended().await;
    broker.publish(pool, worker, Bytes::from_static(b"to the later one")).await.unwrap();
    assert_eq!(later.next().await.1, "to the later one");
}

#[tokio::test]
async fn messages_are_limited_to_an_envelope() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    let topic = writeonly(pool, worker);
    let mut launcher = world.listener(&broker, &member, worker).await;
    let largest = vec![b'x'; MAX_ENVELOPE];
    assert_eq!(launcher.publish(&topic, false, largest.clone()).await, Some(PubAckReason::Success));
    assert_eq!(heard(&broker).await.payload.len(), MAX_ENVELOPE);
    let sent = broker.publish(pool, worker, largest.into()).await.unwrap();
    assert_eq!(sent, Delivery::Sent);
    assert_eq!(launcher.next().await.1.len(), MAX_ENVELOPE);

    let larger = vec![b'x'; MAX_ENVELOPE + 1];
    let refused = broker.publish(pool, worker, larger.clone().into()).await;
    assert!(matches!(refused, Err(TransportError::TooLarge { .. })));
    assert_eq!(launcher.publish(&topic, false, larger).await, Some(PubAckReason::NotAuthorized));
    // Noise ends the connection, before it is in memory.
    drop(launcher);
    let mut noisy = world.connect(&broker, &member, worker).await;
    assert_eq!(noisy.publish(&topic, false, vec![b'x'; 1 << 20]).await, None);

    let mut launcher = world.connect(&broker, &member, worker).await;
    launcher.publish(&topic, false, "next").await;
    assert_eq!(heard(&broker).await.payload, "next");
}

#[tokio::test]
async fn senders_are_held_back_while_nobody_listens_and_can_be_closed_all_the_same() {
    const MANY: usize = 300;
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    let topic = writeonly(pool, worker);
    let mut launcher = world.connect(&broker, &member, worker).await;
    let mut acknowledged = 0;
    for n in 0..MANY {
        let published = launcher.publish(&topic, false, n.to_string());
        // The first messages fill the channel; the one after them gets no answer.
        match tokio::time::timeout(std::time::Duration::from_secs(3), published).await {
            Ok(answer) => assert_eq!(answer, Some(PubAckReason::Success)),
            Err(_) => break,
        }
        acknowledged = n + 1;
    }
    assert_eq!(acknowledged, 256);
    for n in 0..10 {
        let arrived = launcher.during(heard(&broker)).await;
        assert_eq!(arrived.payload, n.to_string());
    }
    // Ten got through, the session waits for room again or has some; it is closed in either case.
    for n in 0..MANY {
        launcher.send(&topic, false, format!("more {n}")).await;
        if n == 40 {
            break;
        }
    }
    world.register.revoke(&member.serial);
    let within = std::time::Duration::from_secs(1);
    let closing = launcher.during(broker.close_sessions(member.serial.as_str()));
    assert_eq!(tokio::time::timeout(within, closing).await, Ok(1));
}

#[tokio::test]
async fn what_waits_for_a_slow_worker_is_bounded() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker_id(1));
    // Nobody drives this client, so it acknowledges nothing.
    let _slow = world.listener(&broker, &member, worker).await;
    let mut sent = 0;
    while broker.publish(pool, worker, Bytes::from_static(b"x")).await.unwrap() == Delivery::Sent {
        sent += 1;
        assert!(sent <= 128 + 32, "the queue and the messages in flight");
    }
    assert!(sent >= 128);
}

#[tokio::test]
async fn a_restart_keeps_the_port() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let worker = worker_id(1);
    let first = world.broker().await;
    let port = first.address().port();
    assert_ne!(port, 0);
    let mut launcher = world.listener(&first, &member, worker).await;

    // While it runs, the port is taken; that is an error and ends nothing.
    assert!(matches!(world.broker_on(port).await, Err(TransportError::Listen { .. })));

    first.stop().await;
    launcher.ended().await;
    assert_eq!(soon("waiting for the end", first.next()).await, None);
    let stopped = first.publish(member.pool, worker, Bytes::new()).await;
    assert!(matches!(stopped, Err(TransportError::Stopped)));

    let second = world.broker_on(port).await.unwrap();
    assert_eq!(second.address().port(), port);
    let mut launcher = world.listener(&second, &member, worker).await;
    launcher.publish(&writeonly(member.pool, worker), false, "again").await;
    assert_eq!(heard(&second).await.payload, "again");
}

#[tokio::test]
async fn a_broker_without_usable_files_does_not_start() {
    let world = World::new();
    let mut config = world.config(0);
    config.key = config.authority.clone();
    assert!(matches!(EmbeddedBroker::bind(config), Err(TransportError::Start { .. })));
}

#[tokio::test]
async fn mqtt_3_and_clients_that_never_ping_are_refused() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let worker = worker_id(1).to_string();

    let mut options = rumqttc::MqttOptions::new(&worker, "localhost", broker.address().port());
    options.set_transport(world.tls(Some((&member.certificate, &member.key))));
    let (_client, mut events) = rumqttc::AsyncClient::new(options, 10);
    let refused = soon("connecting", events.poll()).await;
    let code = rumqttc::ConnectReturnCode::NotAuthorized;
    assert!(
        matches!(&refused, Err(rumqttc::ConnectionError::ConnectionRefused(it)) if *it == code),
        "{refused:?}"
    );

    // MQTT 5, clean start, no keep-alive, no properties.
    let mut connect = vec![0x10, 39, 0, 4, b'M', b'Q', b'T', b'T', 5, 0b10, 0, 0, 0, 0, 26];
    connect.extend(worker.as_bytes());
    let port = broker.address().port();
    let config = world.client_config(Some((&member.certificate, &member.key)));
    let answer = tokio::task::spawn_blocking(move || wire::exchange(config, port, &connect));
    // A CONNACK with "server unavailable".
    let answer = soon("connecting", answer).await.unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0x88));
}

/// Who has no certificate of a pool does not get as far as MQTT. Who has one is read no further than to
/// the length of a packet that is too large: nothing more is sent here, and the session ends.
#[tokio::test]
async fn a_packet_that_claims_to_be_large_ends_with_its_first_bytes() {
    let world = World::new();
    let broker = world.broker().await;
    let member = world.member(pool_id(1));
    let claims: [&[u8]; 4] = [
        &[0x10, 0xff, 0xff, 0xff, 0x7f, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60],
        &[0x10, 0xff, 0xff, 0xff, 0x7f, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60],
        &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 4, b'M', b'Q', b'T', b'T'],
        &[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 4, b'M', b'Q', b'T', b'T', 5],
    ];
    let own = (member.certificate.as_str(), member.key.as_slice());
    for (identity, claim) in claims.into_iter().map(|it| (Some(own), it)).chain([(None, claims[0])])
    {
        let (config, port) = (world.client_config(identity), broker.address().port());
        let ended = tokio::task::spawn_blocking(move || wire::ended(config, port, claim));
        soon("waiting for the end", ended).await.unwrap();
    }
}
