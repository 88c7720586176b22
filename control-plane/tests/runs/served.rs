//! The tasks of a running control plane, over a broker without a network.

use std::sync::Arc;

use gantry_control_plane::transport::FakeTransport;
use gantry_control_plane::transport::fake::FakeClient;
use gantry_model::{Phase, RunId, RunState, RunType};
use gantry_protocol::{CertificateRequest, PoolKey};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::launcher::{Launcher, began, claim, succeeded};
use crate::world::World;

struct Served {
    world: World,
    broker: FakeTransport,
    leave: CancellationToken,
    tasks: JoinSet<()>,
}

impl Served {
    async fn new() -> Self {
        let world = World::new().await;
        let broker = FakeTransport::new(world.control_plane.pools.admissions());
        let leave = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (control_plane, end) = (world.control_plane.clone(), leave.clone());
        let wire = Arc::new(broker.clone());
        tasks.spawn(async move { control_plane.service.serve(wire, end).await });
        Self { world, broker, leave, tasks }
    }

    async fn connect(&self, launcher: &mut Launcher) -> FakeClient {
        let serial = self.world.control_plane.pools.pool(self.world.pool).await.unwrap().serial;
        let client = self.broker.connect(&serial, launcher.worker).unwrap();
        assert!(client.send(launcher.hello()).await);
        client
    }

    /// The launcher hears what comes until that is enough.
    async fn until(
        client: &mut FakeClient,
        launcher: &mut Launcher,
        is_enough: impl Fn(&Launcher) -> bool,
    ) {
        while !is_enough(launcher) {
            let payload = client.receive().await.expect("the session lives");
            if let Some(ack) = launcher.hear(&payload) {
                client.send(ack).await;
            }
        }
    }

    async fn until_state(&self, run: RunId, state: RunState) {
        let mut changes = self.world.control_plane.runs.watch(run);
        while self.world.state(run).await != state {
            changes.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_served_run_goes_its_way_without_being_pushed() {
    let mut served = Served::new().await;
    let mut launcher = served.world.launcher();
    let mut client = served.connect(&mut launcher).await;
    Served::until(&mut client, &mut launcher, |it| it.welcome.is_some()).await;
    let run = served.world.trigger(RunType::Proposed).await;
    Served::until(&mut client, &mut launcher, |it| it.offered().is_some()).await;
    let attempt = launcher.offered().unwrap();
    client.send(launcher.say(claim(attempt))).await;
    Served::until(&mut client, &mut launcher, |it| it.granted(attempt)).await;
    client.send(launcher.say(began(attempt, Phase::Plan))).await;
    served.until_state(run, RunState::Planning).await;
    client.send(launcher.say(succeeded(attempt, true))).await;
    served.until_state(run, RunState::Finished).await;
    Served::until(&mut client, &mut launcher, |it| it.waiting.is_empty()).await;
    served.leave.cancel();
    while served.tasks.join_next().await.is_some() {}
}

#[tokio::test]
async fn an_offer_is_withdrawn_when_its_time_is_over() {
    let served = Served::new().await;
    let mut launcher = served.world.launcher();
    let mut client = served.connect(&mut launcher).await;
    Served::until(&mut client, &mut launcher, |it| it.welcome.is_some()).await;
    let run = served.world.trigger(RunType::Proposed).await;
    Served::until(&mut client, &mut launcher, |it| it.offered().is_some()).await;
    for _ in 0..10 {
        served.world.clock.advance_ms(1_000);
    }
    served.until_state(run, RunState::Ready).await;
}

#[tokio::test]
async fn a_message_that_is_not_acknowledged_comes_again() {
    let served = Served::new().await;
    let mut launcher = served.world.launcher();
    let mut client = served.connect(&mut launcher).await;
    Served::until(&mut client, &mut launcher, |it| it.welcome.is_some()).await;
    served.world.trigger(RunType::Proposed).await;
    let first = client.receive().await.unwrap();
    served.world.clock.advance_ms(5_000);
    let second = client.receive().await.unwrap();
    assert_eq!(first, second);
}

#[tokio::test]
async fn after_a_reset_the_old_certificates_sessions_are_closed() {
    let served = Served::new().await;
    let mut launcher = served.world.launcher();
    let mut client = served.connect(&mut launcher).await;
    Served::until(&mut client, &mut launcher, |it| it.welcome.is_some()).await;
    let key = PoolKey::generate(2048).unwrap();
    let csr = CertificateRequest::create(&key).unwrap();
    let pool = served.world.pool;
    served.world.control_plane.pools.reset_pool("ann", pool, csr.as_pem()).await.unwrap();
    while client.receive().await.is_some() {}
    assert!(!client.send(launcher.hello()).await);
}
