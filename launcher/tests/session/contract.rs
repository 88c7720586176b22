//! What every wire does for a session.

use std::time::Duration;

use bytes::Bytes;
use gantry_launcher::session::fake::Known;
use gantry_launcher::session::{Session, SessionEvent, Timing};
use gantry_launcher::transport::Transport;
use gantry_launcher::transport::fake::{FarEnd, Remote};
use gantry_protocol::message::{Ack, FromLauncher, NeedUrls, UrlPurpose};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::pool::{
    attempt, counterpart, grant, healthy, identity, nowhere, outgoing, report, token, worker,
};

/// Far more than anything takes here; only to end a test that hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// The control plane's end of a wire.
pub trait Side {
    /// The next message of worker 1.
    async fn hear(&mut self) -> Bytes;
    /// Sends worker 1 a message.
    async fn say(&mut self, payload: Vec<u8>);
}

/// The other end of the fake wire, which lets everyone in.
pub struct FakeSide {
    broker: FarEnd,
    remote: Option<Remote>,
}

impl FakeSide {
    pub fn new(broker: FarEnd) -> Self {
        Self { broker, remote: None }
    }
}

impl Side for FakeSide {
    async fn hear(&mut self) -> Bytes {
        if self.remote.is_none() {
            self.remote = Some(self.broker.attempt().await.unwrap().accept());
        }
        self.remote.as_mut().unwrap().next().await.unwrap()
    }

    async fn say(&mut self, payload: Vec<u8>) {
        self.remote.as_ref().unwrap().deliver(payload).await;
    }
}

/// Hello, welcome, heartbeat, a grant and its acknowledgement, a message of the journal and its
/// acknowledgement, a message that may be lost, and bye.
pub async fn holds(connector: impl Transport, side: impl Side) {
    timeout(LIMIT, play(connector, side)).await.expect("a wire that works takes no time");
}

async fn play(connector: impl Transport, mut side: impl Side) {
    let (outgoing, (_health, watched), mut counterpart) = (outgoing(), healthy(), counterpart());
    let identity = identity(&token(nowhere()), worker(1));
    let (mut session, task) =
        Session::over(connector, identity, Timing::default(), outgoing.clone(), watched);
    let mut tasks = JoinSet::new();
    tasks.spawn(task);

    let known: Known = counterpart.meet(worker(1), &side.hear().await).unwrap();
    let welcome = counterpart.welcome(0).into();
    side.say(counterpart.say(&known, None, &welcome).unwrap()).await;
    assert!(matches!(session.next().await, Some(SessionEvent::Opened(_))));
    let heartbeat = counterpart.hear(&known, &side.hear().await).unwrap();
    assert!(matches!(heartbeat.message, FromLauncher::Heartbeat(_)));

    side.say(counterpart.say(&known, Some(1), &grant(1).into()).unwrap()).await;
    let Some(SessionEvent::Message { receipt: Some(receipt), message }) = session.next().await
    else {
        panic!("no grant")
    };
    assert_eq!(message, grant(1).into());
    session.acknowledge(receipt);
    let ack = counterpart.hear(&known, &side.hear().await).unwrap();
    assert_eq!(ack.message, Ack { up_to: 1 }.into());

    let seq = outgoing.push(report(1));
    let said = counterpart.hear(&known, &side.hear().await).unwrap();
    assert_eq!((said.seq, said.message), (Some(seq), report(1)));
    side.say(counterpart.say(&known, None, &Ack { up_to: seq }.into()).unwrap()).await;

    let need: FromLauncher =
        NeedUrls { attempt: attempt(1), purpose: UrlPurpose::Log, count: 1 }.into();
    session.handle().send(need.clone());
    assert_eq!(counterpart.hear(&known, &side.hear().await).unwrap().message, need);

    // What came before the second grant was dealt with before it.
    side.say(counterpart.say(&known, Some(2), &grant(2).into()).unwrap()).await;
    assert!(matches!(session.next().await, Some(SessionEvent::Message { .. })));
    assert_eq!(outgoing.acknowledged(), seq);

    session.close("the test is over").await;
    let bye = counterpart.hear(&known, &side.hear().await).unwrap();
    assert!(matches!(bye.message, FromLauncher::Bye(_)), "{bye:?}");
    tasks.join_next().await.unwrap().unwrap();
}
