//! Why a run does not go on, in words, and what helps.
//!
//! Every state that lasts has a reason: whoever asks gets at least one for each run that is neither over
//! nor in the hands of a worker that is well.

use super::scheduler::{Queue, waits_for_another};
use crate::error::OperationError;
use crate::store::queue::{
    Hindered, Hindrance, PoolCounts, count_ahead, count_workers, find_owner_health,
    hindered_workers, run_before,
};
use crate::store::stacks::find_lock;
use crate::store::{Connection, RunRow, load_run};
use async_graphql::{Enum, SimpleObject};
use gantry_model::{Assignment, PoolId, RunId, RunState, StackLock, Stage, Timestamp, WorkerId};

/// How many of a kind are named.
const NAMED: usize = 3;
/// How many runs that go first are counted.
const COUNTED: u64 = 1000;

/// Gantry: what a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(name = "RunWaitKind")]
pub enum WaitKind {
    /// Its stack is locked by somebody else.
    Locked,
    /// Another run goes first.
    Behind,
    /// A person has to confirm or discard it.
    Unconfirmed,
    /// Its pool never had a worker.
    NoWorker,
    /// The workers, or its worker, are not connected.
    Away,
    /// Workers take no new runs because somebody said so.
    Drained,
    /// Workers, or its worker, say that they are not well.
    Unhealthy,
    /// Workers have other runs.
    Busy,
    /// A worker has been asked.
    Offered,
    /// It has been asked to stop.
    Stopping,
}

/// Gantry: one reason why a run does not go on.
#[derive(Debug, Clone, PartialEq, Eq, SimpleObject)]
#[graphql(name = "RunWait")]
pub struct Wait {
    /// What it waits for.
    pub kind: WaitKind,
    /// The same for people.
    pub reason: String,
    /// What a person can do about it, if anything.
    pub next: Option<String>,
}

impl Wait {
    fn new(kind: WaitKind, reason: String) -> Self {
        Self { kind, reason, next: None }
    }

    fn advise(self, next: String) -> Self {
        Self { next: Some(next), ..self }
    }
}

impl Queue {
    /// Why the run does not go on, weightiest first; nothing if it does or is over.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn waits(&self, run: RunId) -> Result<Vec<Wait>, OperationError> {
        let mut conn = self.store().read().await?;
        let row = load_run(&mut conn, run).await?;
        let row = row.ok_or_else(|| OperationError::not_found("run", run))?;
        let mut waits = Vec::new();
        if row.lifecycle.state() == RunState::Queued
            || row.lifecycle.state() == RunState::Unconfirmed
        {
            waits.extend(lock(&mut conn, &row).await?);
        }
        match *row.lifecycle.assignment() {
            Assignment::Idle if row.lifecycle.state() == RunState::Queued => {
                waits.extend(behind(&mut conn, &row).await?);
            }
            Assignment::Idle if row.lifecycle.state() == RunState::Unconfirmed => {
                let wait =
                    Wait::new(WaitKind::Unconfirmed, "a person has to decide on its plan".into());
                waits.push(wait.advise(to_decide(run)));
            }
            Assignment::Idle => {}
            Assignment::Waiting => waits.extend(self.for_a_worker(&mut conn, &row).await?),
            Assignment::Offered { worker, .. } => {
                let reason = format!("worker {worker} was offered it and has yet to claim it");
                waits.push(Wait::new(WaitKind::Offered, reason));
            }
            Assignment::Granted(lease) => {
                waits.extend(self.for_its_worker(&mut conn, &row, lease.worker).await?);
            }
        }
        Ok(waits)
    }

    /// Why no worker of its pool takes it.
    async fn for_a_worker(
        &self,
        conn: &mut Connection,
        row: &RunRow,
    ) -> Result<Vec<Wait>, OperationError> {
        let pool = Pool::read(conn, row.pool).await?;
        if let Some(wait) = pool.nobody(self.now()) {
            return Ok(vec![wait]);
        }
        let ahead = count_ahead(conn, row.lifecycle.run(), COUNTED + 1).await?;
        let mut waits = Vec::new();
        if ahead > COUNTED || ahead > 0 && ahead >= pool.idle {
            let reason = match ahead {
                1 => format!("another run of pool {} goes first", pool.counts.name),
                _ if ahead > COUNTED => {
                    format!("more than {COUNTED} other runs of pool {} go first", pool.counts.name)
                }
                _ => format!("{ahead} other runs of pool {} go first", pool.counts.name),
            };
            waits.push(Wait::new(WaitKind::Behind, reason));
        }
        if pool.idle == 0 {
            waits.extend(pool.taken(conn, row.pool).await?);
        } else if waits.is_empty() && waits_for_another(conn, row, self.heard_since()).await? {
            let reason = format!(
                "every free worker of pool {} had it already: it waits for another one that is busy",
                pool.counts.name
            );
            waits.push(Wait::new(WaitKind::Busy, reason));
        } else if waits.is_empty() {
            let reason = format!(
                "a worker of pool {} is free and is about to be offered it",
                pool.counts.name
            );
            let next = "if this does not change, the server's log says what is in the way";
            waits.push(Wait::new(WaitKind::Offered, reason).advise(next.to_owned()));
        }
        Ok(waits)
    }

    /// Why it does not go on though a worker has it.
    async fn for_its_worker(
        &self,
        conn: &mut Connection,
        row: &RunRow,
        worker: WorkerId,
    ) -> Result<Vec<Wait>, OperationError> {
        let mut waits = Vec::new();
        if let Some(by) = row.lifecycle.stop_by() {
            let reason = format!(
                "{by} asked it to stop: its tool is interrupted once and given time to leave"
            );
            waits.push(Wait::new(WaitKind::Stopping, reason));
        }
        let Some(owner) = find_owner_health(conn, row.pool, worker).await? else {
            return Ok(waits);
        };
        if !owner.is_connected {
            let ago = ago(self.now(), owner.heard_at);
            let then = match row.lifecycle.stage() {
                Stage::Read => "another one gets it soon",
                Stage::Write => "it goes on there and is reported when the worker is back",
            };
            let reason = format!("its worker {worker} is away, last heard {ago} ago: {then}");
            waits.push(Wait::new(WaitKind::Away, reason));
        } else if !owner.is_healthy {
            let note = note(owner.note.as_deref());
            let reason = format!("its worker {worker} is unhealthy{note}");
            waits.push(Wait::new(WaitKind::Unhealthy, reason));
        }
        Ok(waits)
    }
}

/// What a person does about an UNCONFIRMED run.
fn to_decide(run: RunId) -> String {
    format!("apply it with `gantry run confirm {run}`, or drop it with `gantry run discard {run}`")
}

/// The lock of somebody else.
async fn lock(conn: &mut Connection, row: &RunRow) -> Result<Option<Wait>, OperationError> {
    let Some(StackLock { by, note, .. }) = find_lock(conn, &row.stack).await? else {
        return Ok(None);
    };
    let is_confirmable = row.lifecycle.state() == RunState::Unconfirmed;
    if !is_confirmable && by == row.triggered_by {
        return Ok(None);
    }
    let text = if note.is_empty() { note } else { format!(": {note}") };
    let only = if is_confirmable { "; nobody else can confirm it" } else { "" };
    let reason = format!("{by} has locked the stack{text}{only}");
    let next = format!("`gantry stack unlock {}` lifts the lock", row.stack);
    Ok(Some(Wait::new(WaitKind::Locked, reason).advise(next)))
}

/// The run of the same stack that goes first.
async fn behind(conn: &mut Connection, row: &RunRow) -> Result<Option<Wait>, OperationError> {
    let Some((other, state)) = run_before(conn, &row.stack, row.lifecycle.run()).await? else {
        return Ok(None);
    };
    let reason = format!("run {other} of the same stack goes first and is {state}");
    let wait = Wait::new(WaitKind::Behind, reason);
    Ok(Some(if state == RunState::Unconfirmed { wait.advise(to_decide(other)) } else { wait }))
}

/// A pool's workers, counted by what keeps them from taking a run.
struct Pool {
    counts: PoolCounts,
    idle: u64,
}

impl Pool {
    async fn read(conn: &mut Connection, pool: PoolId) -> Result<Self, OperationError> {
        let counts = count_workers(conn, pool).await?;
        let hindered = counts.drained + counts.unhealthy + counts.busy + counts.passed_over;
        Ok(Self { idle: counts.connected.saturating_sub(hindered), counts })
    }

    /// That no worker is there at all.
    fn nobody(&self, now: Timestamp) -> Option<Wait> {
        if self.counts.known == 0 {
            let reason = format!("pool {} has no worker", self.counts.name);
            let next = "start a `gantry-launcher` with the pool's token and key".to_owned();
            return Some(Wait::new(WaitKind::NoWorker, reason).advise(next));
        }
        if self.counts.connected > 0 {
            return None;
        }
        let ago = ago(now, self.counts.heard_at);
        let reason = match self.counts.known {
            1 => format!(
                "the only worker of pool {} is away, last heard {ago} ago",
                self.counts.name
            ),
            known => {
                format!(
                    "all {known} workers of pool {} are away, last heard {ago} ago",
                    self.counts.name
                )
            }
        };
        let next = format!(
            "start a `gantry-launcher` of the pool; `gantry pool show {}` lists its workers",
            self.counts.name
        );
        Some(Wait::new(WaitKind::Away, reason).advise(next))
    }

    /// What keeps each of its connected workers from taking a run.
    async fn taken(
        &self,
        conn: &mut Connection,
        pool: PoolId,
    ) -> Result<Vec<Wait>, OperationError> {
        let mut waits = Vec::new();
        let counts = &self.counts;
        if counts.unhealthy > 0 {
            let told = examples(conn, pool, Hindrance::Unhealthy, |worker| {
                Some(format!("{}{}", worker.id, note(worker.note.as_deref())))
            });
            let who = self.workers(counts.unhealthy, ["is", "are"]);
            let reason = format!("{who} unhealthy: {}", told.await?);
            let next = "look at the launcher's log on its host".to_owned();
            waits.push(Wait::new(WaitKind::Unhealthy, reason).advise(next));
        }
        if counts.drained > 0 {
            let told = examples(conn, pool, Hindrance::Drained, |it| Some(it.id.to_string()));
            let who = self.workers(counts.drained, ["is", "are"]);
            let reason = format!("{who} drained: {}", told.await?);
            let next =
                format!("`gantry pool undrain {} WORKER` lets it take runs again", counts.name);
            waits.push(Wait::new(WaitKind::Drained, reason).advise(next));
        }
        if counts.busy > 0 {
            let run = |worker: &Hindered| worker.run.map(|run| run.to_string());
            let told = examples(conn, pool, Hindrance::Busy, run);
            let who = self.workers(counts.busy, ["is", "are"]);
            let reason = format!("{who} busy with other runs: {}", told.await?);
            waits.push(Wait::new(WaitKind::Busy, reason));
        }
        if counts.passed_over > 0 {
            let told = examples(conn, pool, Hindrance::PassedOver, |it| Some(it.id.to_string()));
            let who = self.workers(counts.passed_over, ["has", "have"]);
            let reason =
                format!("{who} not taken the last offer and will be asked again: {}", told.await?);
            waits.push(Wait::new(WaitKind::Offered, reason));
        }
        Ok(waits)
    }

    fn workers(&self, number: u64, [one, many]: [&str; 2]) -> String {
        let (ending, verb) = if number == 1 { ("", one) } else { ("s", many) };
        format!("{number} worker{ending} of pool {} {verb}", self.counts.name)
    }
}

/// Some workers of a pool that this keeps from taking a run, newest first, as `told` names them.
async fn examples(
    conn: &mut Connection,
    pool: PoolId,
    by: Hindrance,
    told: impl Fn(&Hindered) -> Option<String>,
) -> Result<String, OperationError> {
    let limit = i64::try_from(NAMED + 1).unwrap_or(i64::MAX);
    let workers = hindered_workers(conn, pool, by, limit).await?;
    let mut names: Vec<String> = workers.iter().take(NAMED).filter_map(told).collect();
    if workers.len() > NAMED {
        names.push("…".to_owned());
    }
    Ok(names.join(", "))
}

/// What a worker says about itself, in brackets.
fn note(note: Option<&str>) -> String {
    note.map_or(String::new(), |note| format!(" ({note})"))
}

/// How long ago something was, in its largest unit.
fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.0.saturating_sub(then.0) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
