//! How the database finds what the way of a run asks it: by indexes, whatever else it holds.

#![expect(clippy::unwrap_used, reason = "test helpers fail the test where they stand")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of message among all"
)]
#![expect(dead_code, reason = "the world has more than this test needs")]

mod database;
#[path = "runs/launcher.rs"]
mod launcher;
#[path = "runs/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gantry_control_plane::store::Connection;
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
    "SCAN due",
];

/// The steps of a statement that look through a whole table or sort.
async fn slow_in_sqlite(connection: &mut Connection, statement: &str) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {statement}");
    let plan = sqlx::query(sqlx::AssertSqlSafe(explain)).fetch_all(connection).await.unwrap();
    let steps = plan.iter().map(|row| row.get::<String, _>("detail"));
    let slow = steps.filter(|step| {
        let is_small = SMALL.iter().any(|small| step.starts_with(small));
        step.starts_with("SCAN") && !is_small || step.contains("TEMP B-TREE")
    });
    slow.collect()
}

/// PostgreSQL looks through small tables and sorts a few rows whatever indexes there are, unless it must not.
const ONLY_INDEXES: &str = "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off; \
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; \
    SET plan_cache_mode = force_generic_plan";

/// What holds no more than what is under way, as [`SMALL`], by PostgreSQL's names.
const SMALL_IN_POSTGRES: [&str; 6] = [
    " on pools",
    "Scan using pools_",
    "Scan using runs_due ",
    "Scan using runs_waiting ",
    "Scan using workers_idle ",
    "Scan using outbox_due ",
];

/// The same of PostgreSQL: it reads an index from end to end as SQLite does a table, and says so by having no condition.
async fn slow_in_postgres(connection: &mut Connection, statement: &str) -> Vec<String> {
    let count = (1..100).take_while(|n| statement.contains(&format!("${n}"))).count();
    let values = vec!["NULL"; count].join(", ");
    let values = if count == 0 { String::new() } else { format!("({values})") };
    let explain = format!(
        "DEALLOCATE ALL; PREPARE asked AS {statement}; EXPLAIN (COSTS OFF) EXECUTE asked{values}"
    );
    let plan = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(connection).await;
    let plan = plan.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let lines: Vec<String> = plan.iter().map(|row| row.get("QUERY PLAN")).collect();
    let mut slow = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let properties = lines[at + 1..].iter().take_while(|line| !line.contains("->  "));
        let has_condition = properties.into_iter().any(|line| line.contains("Index Cond:"));
        let step = line.trim_start_matches([' ', '-', '>']);
        let is_sort = ["Sort", "Incremental Sort"].iter().any(|sort| step.starts_with(sort))
            && !step.starts_with("Sort Key");
        let is_scan = step.contains("Seq Scan on") || step.contains("Scan using") && !has_condition;
        let is_small = SMALL_IN_POSTGRES.iter().any(|small| step.contains(small));
        if is_sort || is_scan && !is_small {
            slow.push(lines.join("\n"));
        }
    }
    slow
}

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
    world.control_plane.runs.confirm("ann", run, None).await.unwrap();
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
    let mut connection = world.control_plane.core.store().read().await.unwrap();
    let mut slow = Vec::new();
    let is_sqlite = world.database.is_sqlite();
    if !is_sqlite {
        sqlx::raw_sql(ONLY_INDEXES).execute(&mut *connection).await.unwrap();
    }
    for statement in seen {
        if !["SELECT", "UPDATE", "DELETE", "INSERT"].iter().any(|it| statement.starts_with(it)) {
            continue;
        }
        let steps = if is_sqlite {
            slow_in_sqlite(&mut connection, &statement).await
        } else {
            slow_in_postgres(&mut connection, &statement).await
        };
        slow.extend(steps.into_iter().map(|step| format!("{step}\n    {statement}")));
    }
    assert!(slow.is_empty(), "\n{}", slow.join("\n"));
    drop(connection);
    world.restart().await;
}
