//! How the database finds what the way of a run asks it: by indexes, whatever else it holds.

#![expect(clippy::unwrap_used, reason = "test helpers fail the test where they stand")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of message among all"
)]
#![expect(dead_code, reason = "the world has more than this test needs")]

#[path = "runs/launcher.rs"]
mod launcher;
#[path = "runs/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gantry_model::{Attempt, Phase, RunState, RunType, Section};
use gantry_protocol::message::{Decision, NeedUrls, UrlPurpose};
use sqlx::Row as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use launcher::{Launcher, began, claim, segment, state, succeeded, workspace};
use world::World;

/// Every statement that was given to the database.
#[derive(Clone, Default)]
struct Statements(Arc<Mutex<BTreeSet<String>>>);

impl Subscriber for Statements {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let statement = if text.statement.is_empty() { text.summary } else { text.statement };
        self.0.lock().unwrap().insert(statement.trim().to_owned());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text {
    summary: String,
    statement: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Tables and indexes that hold no more than what is under way at this moment, and the pools.
const SMALL: [&str; 6] = [
    "SCAN p",
    "SCAN runs USING INDEX runs_due",
    "SCAN runs USING COVERING INDEX runs_due",
    "SCAN outbox USING COVERING INDEX outbox_due",
    "SCAN (subquery",
    "SCAN both",
];

async fn all_that_a_stage_says(world: &World, launcher: &mut Launcher, attempt: Attempt) {
    let phase = if attempt.stage == gantry_model::Stage::Read { Phase::Plan } else { Phase::Apply };
    world.say(launcher, began(attempt, phase)).await;
    let (is_allowed, denials, policy_sha256) = (true, Vec::new(), "0".repeat(64));
    world.say(launcher, Decision { attempt, is_allowed, denials, policy_sha256 }).await;
    for purpose in [UrlPurpose::Log, UrlPurpose::Workspace, UrlPurpose::State] {
        world.say(launcher, NeedUrls { attempt, purpose, count: 2 }).await;
    }
    for (offset, text) in [(0, "one"), (3, "two"), (9, "gap")] {
        world.say(launcher, segment(attempt, Section::Plan, offset, text)).await;
    }
    let heartbeat = launcher.heartbeat();
    world.say(launcher, heartbeat).await;
}

#[tokio::test]
async fn nothing_on_the_way_of_a_run_looks_through_a_table() {
    let statements = Statements::default();
    let mut world = World::new().await;
    let mut launcher = world.welcomed().await;
    tracing::subscriber::set_global_default(statements.clone()).unwrap();

    let run = world.trigger(RunType::Tracked).await;
    world.deliver(&mut [&mut launcher]).await;
    let read = world.claim(&mut launcher).await;
    all_that_a_stage_says(&world, &mut launcher, read).await;
    world.hello(&mut launcher).await;
    world.say(&mut launcher, workspace(read)).await;
    world.say(&mut launcher, succeeded(read, true)).await;
    launcher.runs.clear();
    world.control_plane.confirm("ann", run, None).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    let write = world.claim(&mut launcher).await;
    all_that_a_stage_says(&world, &mut launcher, write).await;
    world.say(&mut launcher, state(write, 1, None)).await;
    world.say(&mut launcher, succeeded(write, false)).await;
    launcher.runs.clear();
    assert_eq!(world.state(run).await, RunState::Finished);
    // An offer that lapses, one that is claimed too late, a lease that lapses.
    world.trigger(RunType::Tracked).await;
    world.deliver(&mut [&mut launcher]).await;
    let late = claim(launcher.offered().unwrap());
    world.clock.advance_ms(world.terms.offer_ms);
    world.deliver(&mut [&mut launcher]).await;
    world.say(&mut launcher, late).await;
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    world.claim(&mut launcher).await;
    world.clock.advance_ms(world.terms.lease_ms);
    world.deliver(&mut [&mut launcher]).await;

    let seen = statements.0.lock().unwrap().clone();
    assert!(seen.len() > 50, "only {} statements were seen", seen.len());
    let mut connection = world.control_plane.store().read().await.unwrap();
    let mut slow = Vec::new();
    for statement in seen {
        if !["SELECT", "UPDATE", "DELETE", "INSERT"].iter().any(|it| statement.starts_with(it)) {
            continue;
        }
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        let plan = sqlx::query(sqlx::AssertSqlSafe(explain)).fetch_all(&mut *connection).await;
        for row in plan.unwrap() {
            let step: String = row.get("detail");
            let is_small = SMALL.iter().any(|small| step.starts_with(small));
            if step.starts_with("SCAN") && !is_small || step.contains("TEMP B-TREE") {
                slow.push(format!("{step}\n    {statement}"));
            }
        }
    }
    assert!(slow.is_empty(), "\n{}", slow.join("\n"));
    drop(connection);
    world.restart().await;
}
