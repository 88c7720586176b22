//! Whatever wire, launchers, control plane and people do: no write stage starts twice.
//!
//! The launchers here keep their side: they start a stage when its grant arrives, note that in the
//! journal first, and name in each hello what the journal knows. Everything else is up to chance.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gantry_control_plane::runs::RunsPage;
use gantry_control_plane::transport::Arrived;
use gantry_model::{Attempt, JournalId, RunId, RunState, RunType, Stage};
use gantry_protocol::message::{FromControlPlane, FromLauncher};
use proptest::prelude::*;

use crate::launcher::{Launcher, claim, state, succeeded, workspace};
use crate::world::World;

const LAUNCHERS: usize = 3;

/// What happens next; the numbers choose among what there is.
#[derive(Debug, Clone)]
enum Event {
    /// A message reaches the control plane; some come again later.
    Up {
        which: u16,
        is_kept: bool,
    },
    /// A message reaches a launcher; some come again later.
    Down {
        which: u16,
        is_kept: bool,
    },
    /// A message reaches the control plane when its database cannot change these rows.
    Fail {
        which: u16,
        table: &'static str,
    },
    /// A message is lost.
    LoseUp(u16),
    LoseDown(u16),
    /// A launcher reconnects, or starts again with its journal.
    Hello(u8),
    /// A launcher's hello is held back, so that it says another one.
    HoldHello(u8),
    /// What was held back arrives after all.
    Release(u16),
    /// A launcher starts again without its journal; what it started may go on.
    NewJournal(u8),
    Heartbeat(u8),
    /// A launcher says again what was not acknowledged.
    Again(u8),
    /// A stage of a launcher ends.
    End(u8),
    Pass(u32),
    Attend,
    /// The wire does its duty for a while.
    Settle,
    Restart,
    /// A month goes by, and what is old is forgotten.
    Forget,
    Trigger,
    Confirm,
    Stop(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let launcher = 0..u8::try_from(LAUNCHERS).unwrap();
    prop_oneof![
        30 => (any::<u16>(), prop::bool::weighted(0.2))
            .prop_map(|(which, is_kept)| Event::Up { which, is_kept }),
        30 => (any::<u16>(), prop::bool::weighted(0.2))
            .prop_map(|(which, is_kept)| Event::Down { which, is_kept }),
        6 => (any::<u16>(), prop::sample::select(&["workers", "runs", "attempts", "journals"][..]))
            .prop_map(|(which, table)| Event::Fail { which, table }),
        2 => any::<u16>().prop_map(Event::LoseUp),
        2 => any::<u16>().prop_map(Event::LoseDown),
        5 => launcher.clone().prop_map(Event::Hello),
        4 => launcher.clone().prop_map(Event::HoldHello),
        4 => any::<u16>().prop_map(Event::Release),
        1 => launcher.clone().prop_map(Event::NewJournal),
        5 => launcher.clone().prop_map(Event::Heartbeat),
        3 => launcher.clone().prop_map(Event::Again),
        8 => launcher.prop_map(Event::End),
        4 => prop_oneof![Just(1_000), Just(10_000), Just(30_000), Just(1_200_000)]
            .prop_map(Event::Pass),
        8 => Just(Event::Attend),
        10 => Just(Event::Settle),
        1 => Just(Event::Restart),
        1 => Just(Event::Forget),
        2 => Just(Event::Trigger),
        6 => Just(Event::Confirm),
        1 => any::<u16>().prop_map(Event::Stop),
    ]
}

struct Chaos {
    world: World,
    launchers: Vec<Launcher>,
    up: Vec<Arrived>,
    down: Vec<(usize, Bytes)>,
    held: Vec<Arrived>,
    /// Attempts whose results were said and not acknowledged.
    ended: BTreeSet<Attempt>,
    /// Which attempts started a run's write stage.
    started: BTreeMap<RunId, BTreeSet<Attempt>>,
    /// How often something granted, confirmed and planned got through, so that the test tests.
    grants: usize,
}

impl Chaos {
    async fn new() -> Self {
        let world = World::new().await;
        let launchers = (0..LAUNCHERS).map(|_| world.launcher()).collect();
        let (up, down, held) = (Vec::new(), Vec::new(), Vec::new());
        let (ended, started) = (BTreeSet::new(), BTreeMap::new());
        let mut this = Self { world, launchers, up, down, held, ended, started, grants: 0 };
        this.world.trigger(RunType::Tracked).await;
        this.world.trigger(RunType::Tracked).await;
        for launcher in 0..LAUNCHERS {
            this.hello(launcher).await;
        }
        this
    }

    fn send(&mut self, from: usize, payload: Bytes) {
        let Launcher { pool, worker, .. } = self.launchers[from];
        self.up.push(Arrived { pool, worker, payload });
    }

    fn say(&mut self, from: usize, message: impl Into<FromLauncher>) {
        let payload = self.launchers[from].say(message);
        self.send(from, payload);
    }

    async fn collect(&mut self) {
        while let Some(outgoing) = self.world.control_plane.outbound.waiting_outgoing().await {
            let to = self.launchers.iter().position(|it| it.worker == outgoing.worker).unwrap();
            self.down.push((to, outgoing.payload));
        }
    }

    /// Half of the hellos get through at once, so that something happens at all.
    async fn hello(&mut self, launcher: usize) {
        let payload = self.launchers[launcher].hello();
        self.send(launcher, payload);
        if let Some(arrived) = self.up.pop() {
            self.world.control_plane.ingest.receive(vec![arrived]).await;
            self.collect().await;
        }
    }

    /// A launcher takes a message.
    fn hear(&mut self, to: usize, payload: &Bytes) {
        let launcher = &mut self.launchers[to];
        let before = launcher.heard.len();
        let ack = launcher.hear(payload);
        let news = launcher.heard.split_off(before.min(launcher.heard.len()));
        if let Some(ack) = ack {
            self.send(to, ack);
        }
        for message in news {
            match message {
                FromControlPlane::Offer(offer) => {
                    let is_free = self.launchers[to].runs.is_empty();
                    if is_free {
                        self.say(to, claim(offer.attempt));
                    }
                }
                FromControlPlane::Grant(grant) => {
                    self.grants += 1;
                    if grant.attempt.stage == Stage::Write {
                        let run = grant.attempt.run;
                        self.started.entry(run).or_default().insert(grant.attempt);
                    }
                }
                _ => {}
            }
        }
        self.forget_acknowledged(to);
    }

    /// What is acknowledged is removed from the journal.
    fn forget_acknowledged(&mut self, of: usize) {
        let launcher = &mut self.launchers[of];
        let waits = |attempt: &Attempt| {
            launcher.waiting.values().any(
                |message| matches!(message, FromLauncher::Result(it) if it.attempt == *attempt),
            )
        };
        let gone: Vec<_> = launcher
            .runs
            .iter()
            .filter(|attempt| self.ended.contains(attempt) && !waits(attempt))
            .copied()
            .collect();
        for attempt in &gone {
            launcher.runs.remove(attempt);
        }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Up { which, is_kept } if !self.up.is_empty() => {
                let at = usize::from(which) % self.up.len().min(4);
                let arrived = if is_kept { self.up[at].clone() } else { self.up.remove(at) };
                self.world.control_plane.ingest.receive(vec![arrived]).await;
                self.collect().await;
            }
            Event::Down { which, is_kept } if !self.down.is_empty() => {
                let at = usize::from(which) % self.down.len().min(4);
                let (to, payload) =
                    if is_kept { self.down[at].clone() } else { self.down.remove(at) };
                self.hear(to, &payload);
            }
            Event::Fail { which, table } if !self.up.is_empty() => self.fail(which, table).await,
            Event::LoseUp(which) if !self.up.is_empty() => {
                self.up.remove(usize::from(which) % self.up.len());
            }
            Event::LoseDown(which) if !self.down.is_empty() => {
                self.down.remove(usize::from(which) % self.down.len());
            }
            Event::Release(which) if !self.held.is_empty() => {
                let arrived = self.held.remove(usize::from(which) % self.held.len());
                self.world.control_plane.ingest.receive(vec![arrived]).await;
                self.collect().await;
            }
            Event::Up { .. }
            | Event::Down { .. }
            | Event::Fail { .. }
            | Event::LoseUp(_)
            | Event::LoseDown(_)
            | Event::Release(_) => {}
            Event::Hello(launcher) => {
                let launcher = usize::from(launcher);
                if launcher.is_multiple_of(2) {
                    let payload = self.launchers[launcher].hello();
                    self.send(launcher, payload);
                } else {
                    self.hello(launcher).await;
                }
            }
            Event::HoldHello(launcher) => {
                let launcher = usize::from(launcher);
                let payload = self.launchers[launcher].hello();
                self.send(launcher, payload);
                self.held.extend(self.up.pop());
                self.hello(launcher).await;
            }
            Event::NewJournal(launcher) => {
                let now = gantry_model::Timestamp(1);
                let journal = self.world.control_plane.core.ids().ulid(now);
                let launcher = &mut self.launchers[usize::from(launcher)];
                let fresh = JournalId::from_ulid(journal);
                launcher.lose_journal(fresh);
                let at = self.launchers.iter().position(|it| it.journal == fresh).unwrap();
                self.hello(at).await;
            }
            Event::Heartbeat(launcher) => {
                let heartbeat = self.launchers[usize::from(launcher)].heartbeat();
                self.say(usize::from(launcher), heartbeat);
            }
            Event::Again(launcher) => {
                for payload in self.launchers[usize::from(launcher)].again() {
                    self.send(usize::from(launcher), payload);
                }
            }
            Event::End(launcher) => self.end(usize::from(launcher)),
            Event::Pass(ms) => self.world.clock.advance_ms(ms.into()),
            Event::Attend => {
                self.world.control_plane.service.attend().await.unwrap();
                self.collect().await;
            }
            Event::Settle => self.settle().await,
            Event::Restart => self.world.restart().await,
            Event::Forget => {
                self.world.clock.advance_ms(31 * 24 * 60 * 60_000);
                self.world.control_plane.retention.forget().await.unwrap();
            }
            Event::Trigger => {
                self.world.trigger(RunType::Tracked).await;
            }
            Event::Confirm => {
                for run in self.runs().await {
                    if self.world.state(run).await == RunState::Unconfirmed {
                        self.world.control_plane.runs.confirm("ann", run, None).await.unwrap();
                    }
                }
            }
            Event::Stop(which) => {
                let runs = self.runs().await;
                let run = runs[usize::from(which) % runs.len()];
                let _ = self.world.control_plane.runs.stop("ann", run, None).await;
                self.collect().await;
            }
        }
    }

    /// A message is taken in while changes of a table fail.
    async fn fail(&mut self, which: u16, table: &str) {
        let arrived = self.up.remove(usize::from(which) % self.up.len().min(4));
        self.world.break_updates(table, None).await;
        self.world.control_plane.ingest.receive(vec![arrived]).await;
        self.world.mend_updates(table).await;
        self.collect().await;
    }

    async fn settle(&mut self) {
        for _ in 0..4 {
            self.world.control_plane.service.attend().await.unwrap();
            let batch = self.up.drain(..).collect();
            self.world.control_plane.ingest.receive(batch).await;
            self.collect().await;
            for (to, payload) in std::mem::take(&mut self.down) {
                self.hear(to, &payload);
            }
        }
    }

    fn end(&mut self, launcher: usize) {
        let attempt = self.launchers[launcher].runs.iter().find(|it| !self.ended.contains(it));
        let Some(attempt) = attempt.copied() else { return };
        self.ended.insert(attempt);
        match attempt.stage {
            Stage::Read => self.say(launcher, workspace(attempt)),
            Stage::Write => self.say(launcher, state(attempt, attempt.epoch.0, None)),
        }
        self.say(launcher, succeeded(attempt, attempt.stage == Stage::Read));
    }

    async fn runs(&self) -> Vec<RunId> {
        let page = RunsPage { limit: 100, ..RunsPage::default() };
        let runs = self.world.control_plane.runs.runs_of(&self.world.stack, page).await.unwrap();
        runs.into_iter().map(|run| run.id).collect()
    }

    async fn check(&self) -> Result<(), TestCaseError> {
        for (run, attempts) in &self.started {
            prop_assert!(attempts.len() <= 1, "run {run} started its write stage {attempts:?}");
        }
        let active = [
            RunState::Preparing,
            RunState::Unconfirmed,
            RunState::Confirmed,
            RunState::PreparingApply,
            RunState::Ready,
        ];
        let mut count = 0;
        for run in self.runs().await {
            count += usize::from(active.contains(&self.world.state(run).await));
        }
        prop_assert!(count <= 1, "{count} blocking runs of one stack are under way");
        Ok(())
    }
}

async fn survive(events: Vec<Event>) -> Result<(usize, usize), TestCaseError> {
    let mut chaos = Chaos::new().await;
    for event in events {
        chaos.happen(event).await;
        for attempts in chaos.started.values() {
            prop_assert!(attempts.len() <= 1, "a write stage started twice: {attempts:?}");
        }
    }
    chaos.check().await?;
    Ok((chaos.grants, chaos.started.len()))
}

#[test]
fn no_write_stage_ever_starts_twice() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config =
        ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let totals = std::cell::Cell::new((0, 0));
    proptest!(config, |(events in prop::collection::vec(event(), 150..300))| {
        let (grants, writes) = runtime.block_on(survive(events))?;
        let (all_grants, all_writes) = totals.get();
        totals.set((all_grants + grants, all_writes + writes));
    });
    let (grants, writes) = totals.get();
    assert!(grants > 24 && writes > 0, "nothing happened: {grants} grants, {writes} write stages");
}
