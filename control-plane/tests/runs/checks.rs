//! Signatures are checked outside of any transaction: a check that takes long holds up nobody, and what
//! happened meanwhile counts.

use std::sync::{Arc, Mutex, mpsc as blocking};

use gantry_control_plane::fleet::{OpenSsl, SignatureCheck};
use gantry_model::RunType;
use gantry_protocol::{PublicKey, SessionPublicKey, Signature};
use tokio::sync::mpsc;

use crate::launcher::claim;
use crate::world::World;

/// Stands before each check until it is told to go on, or nobody can tell it any more.
struct Held {
    reached: mpsc::UnboundedSender<()>,
    go_on: Mutex<blocking::Receiver<()>>,
}

/// The other end of a [`Held`].
struct Holder {
    reached: mpsc::UnboundedReceiver<()>,
    go_on: blocking::Sender<()>,
}

fn held() -> (Arc<Held>, Holder) {
    let (reached, is_reached) = mpsc::unbounded_channel();
    let (go_on, may_go_on) = blocking::channel();
    let held = Held { reached, go_on: Mutex::new(may_go_on) };
    (Arc::new(held), Holder { reached: is_reached, go_on })
}

impl Held {
    fn hold(&self) {
        self.reached.send(()).unwrap_or_default();
        self.go_on.lock().unwrap().recv().unwrap_or_default();
    }
}

impl SignatureCheck for Held {
    fn is_pools(&self, key: &PublicKey, bytes: &[u8], signature: &Signature) -> bool {
        self.hold();
        OpenSsl.is_pools(key, bytes, signature)
    }

    fn is_sessions(&self, key: &SessionPublicKey, bytes: &[u8], signature: &Signature) -> bool {
        self.hold();
        OpenSsl.is_sessions(key, bytes, signature)
    }
}

#[tokio::test]
async fn a_check_that_takes_long_holds_up_no_transaction() {
    let mut world = World::new().await;
    let (held, mut holder) = held();
    world.restart_with(held).await;
    let mut launcher = world.launcher();
    let hello = launcher.hello();
    let meanwhile = async {
        holder.reached.recv().await.unwrap();
        // The check goes on, as all that follow, only when this is durable.
        let run = world.trigger(RunType::Tracked).await;
        drop(holder);
        run
    };
    let ((), run) = tokio::join!(world.bring(&launcher, vec![hello]), meanwhile);
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(launcher.offered().map(|attempt| attempt.run), Some(run));
}

#[tokio::test]
async fn a_pool_that_is_reset_while_a_hello_is_checked_welcomes_nobody() {
    let mut world = World::new().await;
    let (held, mut holder) = held();
    world.restart_with(held).await;
    let mut launcher = world.launcher();
    let hello = launcher.hello();
    let reset = async {
        holder.reached.recv().await.unwrap();
        world.reset_pool().await;
        drop(holder);
    };
    tokio::join!(world.bring(&launcher, vec![hello]), reset);
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.welcome.is_none() && launcher.heard.is_empty());
}

#[tokio::test]
async fn a_pool_that_is_reset_while_a_claim_is_checked_grants_nothing() {
    let mut world = World::new().await;
    let (held, mut holder) = held();
    world.restart_with(held).await;
    let run = world.trigger(RunType::Tracked).await;
    let mut launcher = world.launcher();
    let hello = launcher.hello();
    holder.go_on.send(()).unwrap();
    world.bring(&launcher, vec![hello]).await;
    holder.reached.recv().await.unwrap();
    // The offer is heard, and its acknowledgement stays away.
    world.control_plane.service.attend().await.unwrap();
    while let Some(outgoing) = world.control_plane.outbound.waiting_outgoing().await {
        launcher.hear(&outgoing.payload);
    }
    let attempt = launcher.offered().unwrap();
    let claimed = launcher.say(claim(attempt));
    let reset = async {
        holder.reached.recv().await.unwrap();
        world.reset_pool().await;
        drop(holder);
    };
    tokio::join!(world.bring(&launcher, vec![claimed]), reset);
    let attempts = world.control_plane.runs.attempts(run).await.unwrap();
    assert!(attempts.iter().all(|attempt| attempt.granted_at.is_none()), "{attempts:?}");
}
