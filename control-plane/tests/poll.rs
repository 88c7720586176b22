//! The transport of launchers that poll, with launchers and strangers that try what they may not do.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its stage up fails")]

#[path = "poll/world.rs"]
mod world;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use gantry_control_plane::transport::{
    Arrived, Delivery, FakeTransport, Transport, TransportError, Transports,
};
use gantry_protocol::message::MAX_ENVELOPE;
use gantry_protocol::poll::{
    Code, MAX_BATCH, MAX_MESSAGES, MAX_OPENING, MAX_WILL, MESSAGES, Opening, SESSION, SESSIONS,
};
use gantry_protocol::{Authority, PoolKey};
use std::sync::Arc;

use world::{World, now, opening, pool_id, proven, worker};

const HERE: [u8; 4] = [127, 0, 0, 1];

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn it_carries_messages_both_ways() {
    let world = World::new();
    let (pool, worker) = (pool_id(1), worker(1));
    let member = world.member(pool);
    let payload = text("nobody hears it");
    let lost = world.transport.publish(pool, worker, payload).await.unwrap();
    assert_eq!(lost, Delivery::NotConnected);

    let launcher = world.open(&member, worker).await;
    for payload in ["one", "two", "three"] {
        let sent = world.transport.publish(pool, worker, text(payload)).await.unwrap();
        assert_eq!(sent, Delivery::Sent);
    }
    assert_eq!(launcher.fetch().await.unwrap(), ["one", "two", "three"]);
    let (held, ()) = tokio::join!(launcher.fetch(), async {
        let sent = world.transport.publish(pool, worker, text("while it waits")).await.unwrap();
        assert_eq!(sent, Delivery::Sent);
    });
    assert_eq!(held.unwrap(), ["while it waits"]);

    launcher.say("four\nfive\n").await.unwrap();
    for payload in ["four", "five"] {
        let payload = text(payload);
        assert_eq!(world.transport.next().await, Some(Arrived { pool, worker, payload }));
    }
    launcher.leave().await.unwrap();
    assert_eq!(launcher.fetch().await, Err(Code::NoSession));
    assert_eq!(world.transport.connected_at(pool, worker), None);
}

#[tokio::test]
async fn a_challenge_that_the_pool_s_key_signed_opens_a_session_once() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let challenge = world.challenge(&member).await;
    let right =
        proven(opening(&member, worker(1)), &world.name(), &member.key, member.pool, &challenge);
    assert!(world.ask(&right, None, HERE).await.is_ok());
    let no = world.ask(&right, None, HERE).await.unwrap_err();
    assert_eq!(no.refusal.code, Code::Prove, "it was used");
    assert_ne!(no.refusal.challenge, Some(challenge));
}

#[tokio::test]
async fn a_proof_is_worth_nothing_anywhere_else() {
    let world = World::new();
    let (ours, theirs) = (world.member(pool_id(1)), world.member(pool_id(2)));
    let challenge = world.challenge(&ours).await;
    let (name, asked) = (world.name(), opening(&ours, worker(1)));
    let right = proven(asked.clone(), &name, &ours.key, ours.pool, &challenge);
    let with = |opening: Opening| Opening { proof: right.proof.clone(), ..opening };
    let elsewhere = gantry_protocol::poll::authority_name(
        Authority::generate(now()).unwrap().certificate_pem(),
    );
    let strange = PoolKey::generate(2048).unwrap();
    for (what, wrong) in [
        ("another worker", with(opening(&ours, worker(2)))),
        ("another pool", with(opening(&theirs, worker(1)))),
        ("another key", proven(asked.clone(), &name, &strange, ours.pool, &challenge)),
        ("another pool's key", proven(asked.clone(), &name, &theirs.key, ours.pool, &challenge)),
        (
            "another control plane",
            proven(asked.clone(), &elsewhere.unwrap(), &ours.key, ours.pool, &challenge),
        ),
        ("another pool's name", proven(asked.clone(), &name, &ours.key, theirs.pool, &challenge)),
    ] {
        let no = world.ask(&wrong, None, HERE).await.expect_err(what);
        assert_eq!(
            (no.status, no.refusal.code),
            (StatusCode::FORBIDDEN, Code::NotAdmitted),
            "{what}"
        );
    }
    for foreign in ["", "AAAA", &challenge.to_uppercase()] {
        let wrong = proven(asked.clone(), &name, &ours.key, ours.pool, foreign);
        let no = world.ask(&wrong, None, HERE).await.unwrap_err();
        assert_eq!(no.refusal.code, Code::Prove, "{foreign}");
    }
    // None of them used it up.
    assert!(world.ask(&right, None, HERE).await.is_ok());
}

#[tokio::test]
async fn a_certificate_of_another_pool_is_no_proof() {
    let world = World::new();
    let (ours, theirs) = (world.member(pool_id(1)), world.member(pool_id(2)));
    let no = world.ask(&opening(&ours, worker(1)), Some(&theirs.serial), HERE).await.unwrap_err();
    assert_eq!(no.refusal.code, Code::Prove);
    world.register.revoke(&ours.serial);
    let no = world.ask(&opening(&ours, worker(1)), Some(&ours.serial), HERE).await.unwrap_err();
    assert_eq!(no.refusal.code, Code::NotAdmitted);
}

#[tokio::test]
async fn wrong_signatures_of_an_address_are_looked_at_only_so_often() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let challenge = world.challenge(&member).await;
    let strange = PoolKey::generate(2048).unwrap();
    let asked = opening(&member, worker(1));
    let wrong = proven(asked.clone(), &world.name(), &strange, member.pool, &challenge);
    let right = proven(asked, &world.name(), &member.key, member.pool, &challenge);
    let mut checked = 0;
    let last = loop {
        let code = world.ask(&wrong, None, HERE).await.unwrap_err().refusal.code;
        if code != Code::NotAdmitted {
            break code;
        }
        checked += 1;
    };
    assert_eq!(last, Code::TooMany);
    assert!((30..60).contains(&checked), "{checked}");
    let no = world.ask(&right, None, HERE).await.unwrap_err();
    assert_eq!(no.status, StatusCode::TOO_MANY_REQUESTS, "not even a right one");
    assert!(world.ask(&right, None, [192, 0, 2, 1]).await.is_ok(), "others are not concerned");
}

#[tokio::test]
async fn without_a_session_nothing_is_taken_and_nothing_is_held() {
    let world = World::new();
    let long = "x".repeat(1000);
    for bearer in [None, Some("Bearer "), Some("Bearer AAAA"), Some("Basic QQ=="), Some(&*long)] {
        for (method, path) in [("GET", MESSAGES), ("POST", MESSAGES), ("DELETE", SESSION)] {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(bearer) = bearer {
                request = request.header("authorization", bearer);
            }
            // A body that never comes: nobody waits for it.
            let body = Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>());
            let (status, _) = world.send(request.body(body).unwrap()).await;
            let is_done = method == "DELETE" && bearer.is_some_and(|it| it.starts_with("Bearer"));
            let expected = if is_done { StatusCode::NO_CONTENT } else { StatusCode::GONE };
            assert_eq!(status, expected, "{method} {bearer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_are_short_and_come_soon() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let post = |body: Body| world.send(Request::post(SESSIONS).body(body).unwrap());
    let (status, _) = post("x".repeat(MAX_OPENING + 1).into()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    for noise in ["", "{}", "[]", "\u{0}"] {
        assert_eq!(post(noise.into()).await.0, StatusCode::BAD_REQUEST);
    }
    let slow = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, axum::Error>(Bytes::from_static(b" ")), ()))
    });
    let begin = tokio::time::Instant::now();
    assert_eq!(post(Body::from_stream(slow)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(begin.elapsed() <= Duration::from_secs(10));
    let will = Some("x".repeat(MAX_WILL + 1));
    let asked = Opening { will, ..opening(&member, worker(1)) };
    assert_eq!(world.open_with(&member, asked).await.err(), Some(Code::TooLarge));

    let launcher = world.open(&member, worker(1)).await;
    assert_eq!(launcher.say(vec![b'x'; MAX_BATCH + 1]).await, Err(Code::TooLarge));
    assert_eq!(launcher.say("x\n".repeat(MAX_MESSAGES + 1)).await, Err(Code::TooLarge));
    // One message that is too large does not cost the others.
    let large = "x".repeat(MAX_ENVELOPE + 1);
    launcher.say(format!("{large}\nfits\n")).await.unwrap();
    assert_eq!(world.transport.next().await.unwrap().payload, "fits");
    let refused = world.transport.publish(member.pool, worker(1), large.into()).await;
    assert!(matches!(refused, Err(TransportError::TooLarge { .. })));
}

#[tokio::test]
async fn a_reset_ends_what_is_held_and_lets_nothing_in_from_that_instant() {
    let world = World::new();
    let (old, other) = (world.member(pool_id(1)), world.member(pool_id(2)));
    let launcher = world.open(&old, worker(1)).await;
    let bystander = world.open(&other, worker(2)).await;
    let (held, ()) = tokio::join!(launcher.fetch(), async {
        world.register.revoke(&old.serial);
        assert_eq!(launcher.say("late").await, Err(Code::NotAdmitted), "not closed yet");
        let sent = world.transport.publish(old.pool, worker(1), text("secret")).await.unwrap();
        assert_eq!(sent, Delivery::NotConnected);
        assert_eq!(world.transport.close_sessions(old.serial.as_str()).await, 1);
    });
    assert!(matches!(held, Err(Code::NotAdmitted | Code::NoSession)), "{held:?}");
    assert_eq!(launcher.say("late").await, Err(Code::NoSession));
    let no = world.ask(&opening(&old, worker(1)), Some(&old.serial), HERE).await.unwrap_err();
    assert_eq!(no.refusal.code, Code::NotAdmitted);
    assert_eq!(world.transport.close_sessions(old.serial.as_str()).await, 0);
    assert_eq!(world.transport.close_sessions("no serial").await, 0);

    bystander.say("goes on").await.unwrap();
    assert_eq!(world.transport.next().await.unwrap().payload, "goes on");
    let renewed = world.member(old.pool);
    let launcher = world.open(&renewed, worker(1)).await;
    launcher.say("new").await.unwrap();
    assert_eq!(world.transport.next().await.unwrap().payload, "new");
}

#[tokio::test]
async fn what_waits_in_the_server_while_its_certificate_is_revoked_is_dropped() {
    let world = World::new();
    let (old, other) = (world.member(pool_id(1)), world.member(pool_id(2)));
    world.open(&old, worker(1)).await.say("waits").await.unwrap();
    world.register.revoke(&old.serial);
    world.open(&other, worker(2)).await.say("counts").await.unwrap();
    assert_eq!(world.transport.next().await.unwrap().payload, "counts");
}

#[tokio::test]
async fn pools_cannot_reach_each_other() {
    let world = World::new();
    let (ours, theirs) = (world.member(pool_id(1)), world.member(pool_id(2)));
    let launcher = world.open(&ours, worker(1)).await;
    let taken = world.open_with(&theirs, opening(&theirs, worker(1))).await;
    assert_eq!(taken.err(), Some(Code::ForeignWorker), "it is connected");
    world.register.owners.lock().unwrap().insert(worker(2), ours.pool);
    let taken = world.open_with(&theirs, opening(&theirs, worker(2))).await;
    assert_eq!(taken.err(), Some(Code::ForeignWorker), "it was seen in another pool");
    let wrong = world.transport.publish(theirs.pool, worker(1), text("secret")).await.unwrap();
    assert_eq!(wrong, Delivery::NotConnected);
    world.transport.publish(ours.pool, worker(1), text("ours")).await.unwrap();
    assert_eq!(launcher.fetch().await.unwrap(), ["ours"]);
}

#[tokio::test]
async fn a_worker_that_comes_again_replaces_its_earlier_session() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let earlier = world.open(&member, worker(1)).await;
    let (held, later) = tokio::join!(earlier.fetch(), world.open(&member, worker(1)));
    assert_eq!(held, Err(Code::TakenOver));
    assert_eq!(earlier.say("me too").await, Err(Code::TakenOver));
    world.transport.publish(member.pool, worker(1), text("to the later one")).await.unwrap();
    assert_eq!(later.fetch().await.unwrap(), ["to the later one"]);
    earlier.leave().await.unwrap();
    assert!(later.say("still here").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_session_has_one_request_held_and_it_is_the_last() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let launcher = world.open(&member, worker(1)).await;
    let begin = tokio::time::Instant::now();
    let (first, second) = tokio::join!(launcher.fetch(), launcher.fetch());
    // One of them at once, the other after a keep-alive.
    assert!(first.unwrap().is_empty() && second.unwrap().is_empty());
    assert_eq!(begin.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_heard_for_two_keep_alives_is_over_and_its_will_is_done() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let will = Some("gone".to_owned());
    let asked = Opening { will: will.clone(), ..opening(&member, worker(1)) };
    let launcher = world.open_with(&member, asked).await.unwrap();
    let orderly = Opening { will, ..opening(&member, worker(2)) };
    world.open_with(&member, orderly).await.unwrap().leave().await.unwrap();
    for _ in 0..5 {
        assert!(launcher.fetch().await.unwrap().is_empty(), "held for a keep-alive");
    }
    let begin = tokio::time::Instant::now();
    let said = world.transport.next().await.unwrap();
    assert_eq!((said.worker, said.payload), (worker(1), text("gone")));
    assert!((30..=32).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    assert_eq!(launcher.fetch().await, Err(Code::NoSession));
    // Nobody who left in good order is said to be gone.
    let more = tokio::time::timeout(Duration::from_mins(5), world.transport.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_worker_and_for_a_slow_server_is_bounded() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let launcher = world.open(&member, worker(1)).await;
    let mut sent = 0;
    while world.transport.publish(member.pool, worker(1), text("x")).await.unwrap()
        == Delivery::Sent
    {
        sent += 1;
        assert!(sent < 1000);
    }
    assert_eq!(launcher.fetch().await.unwrap().len(), MAX_MESSAGES);

    let mut taken = 0;
    let refused = loop {
        match launcher.say("x\n".repeat(MAX_MESSAGES)).await {
            Ok(()) => taken += 1,
            Err(code) => break code,
        }
        assert!(taken < 1000);
    };
    assert_eq!(refused, Code::Busy, "its sender tries again");
}

#[tokio::test]
async fn a_server_that_stops_keeps_nobody() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let launcher = world.open(&member, worker(1)).await;
    let (held, ()) = tokio::join!(launcher.fetch(), async { world.transport.stop() });
    assert!(matches!(held, Err(Code::Busy | Code::NoSession)), "{held:?}");
    assert_eq!(world.transport.next().await, None);
    let no = world.open_with(&member, opening(&member, worker(1))).await;
    assert_eq!(no.err(), Some(Code::Busy));
    let sent = world.transport.publish(member.pool, worker(1), text("x")).await;
    assert!(matches!(sent, Err(TransportError::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_reached_through_the_transport_that_it_came_by_last() {
    let world = World::new();
    let member = world.member(pool_id(1));
    let (pool, worker) = (member.pool, worker(1));
    let other = FakeTransport::new(world.register.clone());
    let both = Transports::new(vec![
        Arc::new(other.clone()) as Arc<dyn Transport>,
        Arc::new(world.transport.clone()),
    ]);
    let nobody = both.publish(pool, worker, text("lost")).await.unwrap();
    assert_eq!(nobody, Delivery::NotConnected);

    let mut first = other.connect(member.serial.as_str(), worker).unwrap();
    assert!(first.send("one").await);
    assert_eq!(both.next().await.unwrap().payload, "one");
    both.publish(pool, worker, text("by the first")).await.unwrap();
    assert_eq!(first.receive().await.unwrap(), "by the first");

    tokio::time::advance(Duration::from_millis(1)).await;
    let polls = world.open(&member, worker).await;
    polls.say("two").await.unwrap();
    assert_eq!(both.next().await.unwrap().payload, "two");
    both.publish(pool, worker, text("by the second")).await.unwrap();
    assert_eq!(polls.fetch().await.unwrap(), ["by the second"]);
    assert_eq!(first.receive().await, None, "its session is over");

    tokio::time::advance(Duration::from_millis(1)).await;
    let mut back = other.connect(member.serial.as_str(), worker).unwrap();
    both.publish(pool, worker, text("by the first again")).await.unwrap();
    assert_eq!(back.receive().await.unwrap(), "by the first again");
    assert_eq!(polls.fetch().await, Err(Code::TakenOver));

    // The end of one does not silence the other, and a reset ends the sessions of both.
    world.transport.stop();
    assert!(back.send("three").await);
    assert_eq!(both.next().await.unwrap().payload, "three");
    assert_eq!(both.close_sessions(member.serial.as_str()).await, 1);
}
