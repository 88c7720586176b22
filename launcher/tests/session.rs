//! The launcher's standing with its pool: decided without a wire, driven over a fake one in paused
//! time, and over a real broker.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "session/contract.rs"]
mod contract;
#[path = "session/exchange.rs"]
mod exchange;
#[path = "session/mosquitto.rs"]
mod mosquitto;
#[path = "session/pool.rs"]
mod pool;

use std::sync::Arc;
use std::time::Duration;

use gantry_launcher::explain::{Exit, Explain as _, explain};
use gantry_launcher::session::fake::{Counterpart, Known, MemoryOutgoing, Said};
use gantry_launcher::session::{Health, Session, SessionError, SessionEvent, Timing};
use gantry_launcher::transport::LinkError;
use gantry_launcher::transport::fake::{Attempt, FarEnd, Remote, wire};
use gantry_protocol::message::{Ack, FromControlPlane, FromLauncher, RefusalReason};
use insta::assert_snapshot;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use pool::{
    counterpart, grant, healthy, identity, in_hand, nowhere, outgoing, report, token, worker,
};

/// A launcher on a fake wire, and the other end of that wire.
struct Play {
    session: Session,
    outgoing: Arc<MemoryOutgoing>,
    health: watch::Sender<Health>,
    broker: FarEnd,
    counterpart: Counterpart,
    tasks: JoinSet<()>,
}

impl Play {
    fn start() -> Self {
        let (connector, broker) = wire();
        let (outgoing, (health, watched)) = (outgoing(), healthy());
        let identity = identity(&token(nowhere()), worker(1));
        let (session, task) =
            Session::over(connector, identity, Timing::default(), outgoing.clone(), watched);
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Self { session, outgoing, health, broker, counterpart: counterpart(), tasks }
    }

    async fn attempt(&mut self) -> Attempt {
        self.broker.attempt().await.expect("the launcher still tries")
    }

    /// Accepts the next attempt and welcomes it.
    async fn open(&mut self) -> Talk {
        let mut remote = self.attempt().await.accept();
        let known = self.counterpart.meet(worker(1), &remote.next().await.unwrap()).unwrap();
        let welcome = self.counterpart.welcome(self.outgoing.acknowledged()).into();
        remote.deliver(self.counterpart.say(&known, None, &welcome).unwrap()).await;
        let mut talk = Talk { remote, known };
        assert!(matches!(talk.hear(&self.counterpart).await.message, FromLauncher::Heartbeat(_)));
        talk
    }

    async fn say(&mut self, talk: &Talk, seq: Option<u64>, message: impl Into<FromControlPlane>) {
        let payload = self.counterpart.say(&talk.known, seq, &message.into()).unwrap();
        talk.remote.deliver(payload).await;
    }

    async fn next(&mut self) -> SessionEvent {
        self.session.next().await.expect("there is another event")
    }

    async fn opened(&mut self) {
        let event = self.next().await;
        assert!(matches!(event, SessionEvent::Opened(_)), "{event:?}");
    }
}

/// One session, seen from the other end.
struct Talk {
    remote: Remote,
    known: Known,
}

impl Talk {
    async fn hear(&mut self, counterpart: &Counterpart) -> Said {
        counterpart.hear(&self.known, &self.remote.next().await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn the_fake_wire_keeps_the_contract() {
    let (connector, broker) = wire();
    contract::holds(connector, contract::FakeSide::new(broker)).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_ever_further_apart_and_a_kick_right_after_a_welcome_counts() {
    let mut play = Play::start();
    let mut waits = Vec::new();
    let mut before = Instant::now();
    for round in 0..9 {
        // Unreachable, let in and kicked at once: it makes no difference.
        if round % 2 == 0 {
            play.attempt().await.refuse(LinkError::Closed);
        } else {
            drop(play.open().await);
            play.opened().await;
            assert!(matches!(play.next().await, SessionEvent::Lost { .. }));
        }
        waits.push(before.elapsed().as_secs());
        before = Instant::now();
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
    // A session that held is a success.
    let _ = play.attempt().await.accept();
    let talk = play.open().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    drop(talk);
    let lost = Instant::now();
    play.attempt().await.refuse(LinkError::Closed);
    assert_eq!(lost.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_does_not_answer_is_given_up_for_a_new_connection() {
    let mut play = Play::start();
    let mut silent = play.attempt().await.accept();
    let first = play.counterpart.meet(worker(1), &silent.next().await.unwrap()).unwrap();
    let began = Instant::now();
    let talk = play.open().await;
    assert_eq!(began.elapsed().as_secs(), 11, "10 s of patience and 1 s of back-off");
    assert_ne!(first.hello.nonce, talk.known.hello.nonce, "each hello has a nonce of its own");
    assert_eq!(first.hello.instance, talk.known.hello.instance);
}

/// Ten thousand launchers that come back at once make connecting slow, not the answer to a `hello`.
#[tokio::test(start_paused = true)]
async fn however_long_connecting_takes_the_answer_to_hello_has_all_its_time() {
    let mut play = Play::start();
    let attempt = play.attempt().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut remote = attempt.accept();
    let known = play.counterpart.meet(worker(1), &remote.next().await.unwrap()).unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    let welcome = play.counterpart.welcome(0).into();
    remote.deliver(play.counterpart.say(&known, None, &welcome).unwrap()).await;
    play.opened().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_was_reset_ends_the_launcher() {
    let mut play = Play::start();
    for _ in 0..3 {
        play.attempt().await.refuse(LinkError::NotAdmitted("NotAuthorized".to_owned()));
    }
    let SessionEvent::Fatal(error) = play.next().await else { panic!("not fatal") };
    assert_eq!(error.exit_code(), Exit::Refused);
    assert_snapshot!(explain(&error), @"
    the pool was reset or deleted: localhost:1984 refuses its certificate
      next: fetch the pool's new token, set SPACELIFT_TOKEN and the key that belongs to it, and start again
    ");
    assert!(play.session.next().await.is_none());
}

/// Two machines with one disk would throw each other out for ever.
#[tokio::test(start_paused = true)]
async fn a_copy_of_a_machine_that_takes_the_session_over_again_and_again_ends_the_launcher() {
    let mut play = Play::start();
    for times in 1..=3 {
        let talk = play.open().await;
        play.opened().await;
        talk.remote.fail(LinkError::TakenOver).await;
        if times < 3 {
            assert!(matches!(play.next().await, SessionEvent::Lost { .. }));
        }
    }
    let SessionEvent::Fatal(error) = play.next().await else { panic!("not fatal") };
    assert_eq!(error.exit_code(), Exit::NotNow);
    assert_snapshot!(explain(&error), @"
    another launcher took this worker's session over, again and again
      next: this machine's disk or its GANTRY_STATE_DIR is a copy of another one's that is in use: start one of the two with an empty GANTRY_STATE_DIR
    ");
}

#[tokio::test(start_paused = true)]
async fn no_broker_at_the_start_ends_the_launcher_in_the_end() {
    let mut play = Play::start();
    let began = Instant::now();
    let error = loop {
        tokio::select! {
            Some(attempt) = play.broker.attempt() => {
                let source = std::io::ErrorKind::ConnectionRefused.into();
                let endpoint = "localhost:1984".to_owned();
                attempt.refuse(LinkError::Unreachable { endpoint, source });
            }
            Some(event) = play.session.next() => {
                let SessionEvent::Fatal(error) = event else { panic!("{event:?}") };
                break error;
            }
        }
    };
    assert!(began.elapsed() >= Duration::from_secs(120));
    assert_eq!(error.exit_code(), Exit::Broker);
    assert_snapshot!(explain(&error), @"
    cannot open a session with localhost:1984
      because: cannot reach localhost:1984
      because: connection refused
      next: check that the control plane runs and that this host's DNS and firewall let it reach that address
    ");
}

#[tokio::test(start_paused = true)]
async fn with_a_run_in_hand_it_never_gives_up() {
    let mut play = Play::start();
    play.outgoing.set_runs(vec![in_hand(1)]);
    for _ in 0..30 {
        play.attempt().await.refuse(LinkError::Closed);
    }
    let talk = play.open().await;
    assert_eq!(talk.known.hello.runs, [in_hand(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_the_last_event() {
    let mut play = Play::start();
    let mut remote = play.attempt().await.accept();
    let known = play.counterpart.meet(worker(1), &remote.next().await.unwrap()).unwrap();
    let refused = play.counterpart.refused(RefusalReason::Duplicate, "another launcher is it");
    remote.deliver(play.counterpart.say(&known, None, &refused.into()).unwrap()).await;
    let event = play.next().await;
    assert!(matches!(event, SessionEvent::Refused(_)), "{event:?}");
    assert!(play.session.next().await.is_none());
    play.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_the_journal_outlives_any_number_of_sessions() {
    let mut play = Play::start();
    play.outgoing.push(report(1));
    for _ in 0..3 {
        let mut talk = play.open().await;
        assert_eq!(talk.hear(&play.counterpart).await.seq, Some(1));
    }
    let mut talk = play.open().await;
    assert_eq!(talk.hear(&play.counterpart).await.seq, Some(1));
    let seq = play.outgoing.push(report(2));
    assert_eq!(talk.hear(&play.counterpart).await.seq, Some(seq), "sent as soon as it waits");
    play.say(&talk, None, Ack { up_to: seq }).await;
    // The journal has noted it once the next message is answered.
    play.say(&talk, Some(1), grant(1)).await;
    while !matches!(play.next().await, SessionEvent::Message { .. }) {}
    assert_eq!(play.outgoing.acknowledged(), seq);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_ends_the_launcher() {
    let mut play = Play::start();
    play.outgoing.push(report(1));
    let talk = play.open().await;
    play.opened().await;
    play.outgoing.break_disk();
    play.say(&talk, None, Ack { up_to: 1 }).await;
    let SessionEvent::Fatal(error) = play.next().await else { panic!("not fatal") };
    assert!(matches!(error, SessionError::Outgoing(_)));
    assert_eq!(error.exit_code(), Exit::State);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_is_told_at_once() {
    let mut play = Play::start();
    let mut talk = play.open().await;
    let told = Instant::now();
    play.health.send_replace(Health { complaint: Some("the disk is full".to_owned()) });
    let said = talk.hear(&play.counterpart).await;
    let FromLauncher::Heartbeat(heartbeat) = said.message else { panic!("{said:?}") };
    assert_eq!(heartbeat.note.as_deref(), Some("the disk is full"));
    assert_eq!(told.elapsed(), Duration::ZERO);
    // The owner of the health may go: the session stays, and does not spin.
    drop(play.health);
    let _ = talk.hear(&play.counterpart).await;
    assert_eq!(told.elapsed(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_main_loop_that_is_behind_loses_nothing() {
    let mut play = Play::start();
    let talk = play.open().await;
    let mut taken = 0;
    while taken < 400 {
        // As a control plane does: everything again until it is acknowledged.
        for seq in 1..=400 {
            play.say(&talk, Some(seq), grant(u128::from(seq))).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(1), play.session.next()).await
        {
            if let SessionEvent::Message { message, .. } = event {
                taken += 1;
                assert_eq!(message, grant(taken).into());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leaving_says_bye_with_what_is_durable_before_it() {
    let mut play = Play::start();
    let mut talk = play.open().await;
    play.opened().await;
    play.say(&talk, Some(1), grant(1)).await;
    let SessionEvent::Message { receipt: Some(receipt), .. } = play.next().await else {
        panic!("no message")
    };
    play.session.acknowledge(receipt);
    play.session.close("SIGTERM").await;
    let mut said = Vec::new();
    while let Some(payload) = talk.remote.next().await {
        said.push(play.counterpart.hear(&talk.known, &payload).unwrap().message);
    }
    let [FromLauncher::Ack(Ack { up_to: 1 }), FromLauncher::Bye(bye)] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(bye.reason, "SIGTERM");
    play.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn leaving_waits_for_nobody() {
    let began = Instant::now();
    let mut connecting = Play::start();
    let _stalled = connecting.attempt().await;
    connecting.session.close("leave while connecting").await;
    let mut waiting = Play::start();
    waiting.attempt().await.refuse(LinkError::Closed);
    waiting.session.close("leave between two attempts").await;
    let mut dropped = Play::start();
    let talk = dropped.open().await;
    drop(dropped.session);
    dropped.tasks.join_next().await.unwrap().unwrap();
    drop(talk);
    assert!(began.elapsed() < Duration::from_secs(5));
}
