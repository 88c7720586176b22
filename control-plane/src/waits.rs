//! Why a run does not go on, in words, and what helps.
//!
//! Every state that lasts has a reason: whoever asks gets at least one for each run that is neither over
//! nor in the hands of a worker that is well.

use gantry_model::{PoolId, RunId, RunState, Stage, Standing, Timestamp, WorkerId};
use sqlx::Row as _;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::scheduler::waits_for_another;
use crate::store::{Connection, Row, RunRow, at, from_db, id, load_run, to_db};

/// How many of a kind are named.
const NAMED: usize = 3;
/// How many runs that go first are counted.
const COUNTED: u64 = 1000;

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// One reason why a run does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    fn next(self, next: String) -> Self {
        Self { next: Some(next), ..self }
    }
}

impl ControlPlane {
    /// Why the run does not go on, weightiest first; nothing if it does or is over.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn waits(&self, run: RunId) -> Result<Vec<Wait>, OperationError> {
        let mut conn = self.store().read().await?;
        let row = load_run(&mut conn, run).await?;
        let row = row.ok_or_else(|| OperationError::not_found("run", run))?;
        let mut waits = Vec::new();
        if row.life.state == RunState::Queued || row.life.state == RunState::Unconfirmed {
            waits.extend(lock(&mut conn, &row).await?);
        }
        match row.life.standing {
            Standing::Idle if row.life.state == RunState::Queued => {
                waits.extend(behind(&mut conn, &row).await?);
            }
            Standing::Idle if row.life.state == RunState::Unconfirmed => {
                let wait =
                    Wait::new(WaitKind::Unconfirmed, "a person has to decide on its plan".into());
                waits.push(wait.next(to_decide(run)));
            }
            Standing::Idle => {}
            Standing::Waiting => waits.extend(self.for_a_worker(&mut conn, &row).await?),
            Standing::Offered { worker, .. } => {
                let reason = format!("worker {worker} was offered it and has yet to claim it");
                waits.push(Wait::new(WaitKind::Offered, reason));
            }
            Standing::Granted(lease) => {
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
        let ahead = ahead(conn, row).await?;
        let mut waits = Vec::new();
        if ahead > COUNTED || ahead > 0 && ahead >= pool.idle {
            let reason = match ahead {
                1 => format!("another run of pool {} goes first", pool.name),
                _ if ahead > COUNTED => {
                    format!("more than {COUNTED} other runs of pool {} go first", pool.name)
                }
                _ => format!("{ahead} other runs of pool {} go first", pool.name),
            };
            waits.push(Wait::new(WaitKind::Behind, reason));
        }
        if pool.idle == 0 {
            waits.extend(pool.taken(conn, row.pool).await?);
        } else if waits.is_empty() && waits_for_another(conn, row, self.heard_since()).await? {
            let reason = format!(
                "every free worker of pool {} had it already: it waits for another one that is busy",
                pool.name
            );
            waits.push(Wait::new(WaitKind::Busy, reason));
        } else if waits.is_empty() {
            let reason =
                format!("a worker of pool {} is free and is about to be offered it", pool.name);
            let next = "if this does not change, the server's log says what is in the way";
            waits.push(Wait::new(WaitKind::Offered, reason).next(next.to_owned()));
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
        if let Some(by) = &row.life.stop {
            let reason = format!(
                "{by} asked it to stop: its tool is interrupted once and given time to leave"
            );
            waits.push(Wait::new(WaitKind::Stopping, reason));
        }
        let select = "SELECT is_connected, is_healthy, note, heard_at FROM workers \
                      WHERE pool = $1 AND id = $2";
        let found = sqlx::query(select)
            .bind(row.pool.to_string())
            .bind(worker.to_string())
            .fetch_optional(conn)
            .await?;
        let Some(found) = found else { return Ok(waits) };
        if !flag(&found, "is_connected") {
            let ago = ago(self.now(), at(found.get("heard_at")));
            let then = match row.life.stage {
                Stage::Read => "another one gets it soon",
                Stage::Write => "it goes on there and is reported when the worker is back",
            };
            let reason = format!("its worker {worker} is away, last heard {ago} ago: {then}");
            waits.push(Wait::new(WaitKind::Away, reason));
        } else if !flag(&found, "is_healthy") {
            let note = note(&found);
            waits.push(Wait::new(
                WaitKind::Unhealthy,
                format!("its worker {worker} is unhealthy{note}"),
            ));
        }
        Ok(waits)
    }
}

/// How many runs of its pool go before this one; no more than are counted, and one.
async fn ahead(conn: &mut Connection, row: &RunRow) -> Result<u64, OperationError> {
    let ahead = "SELECT COUNT(*) AS n FROM (SELECT 1 FROM runs r JOIN runs own ON own.id = $1 \
                 WHERE r.pool = own.pool AND r.standing = 'waiting' \
                 AND (r.rank < own.rank OR r.rank = own.rank AND r.id < own.id) LIMIT $2)";
    let ahead = sqlx::query(ahead)
        .bind(row.life.run.to_string())
        .bind(to_db(COUNTED + 1))
        .fetch_one(conn)
        .await?;
    Ok(from_db(ahead.get("n")))
}

/// What a person does about an UNCONFIRMED run.
fn to_decide(run: RunId) -> String {
    format!("apply it with `gantry run confirm {run}`, or drop it with `gantry run discard {run}`")
}

/// The lock of somebody else.
async fn lock(conn: &mut Connection, row: &RunRow) -> Result<Option<Wait>, OperationError> {
    let select = "SELECT lock_by, lock_note FROM stacks WHERE id = $1 AND lock_by IS NOT NULL";
    let found = sqlx::query(select).bind(row.stack.as_str()).fetch_optional(conn).await?;
    let Some(found) = found else { return Ok(None) };
    let by: String = found.get("lock_by");
    let is_confirmable = row.life.state == RunState::Unconfirmed;
    if !is_confirmable && by == row.triggered_by {
        return Ok(None);
    }
    let text = found.get::<Option<String>, _>("lock_note").unwrap_or_default();
    let text = if text.is_empty() { text } else { format!(": {text}") };
    let only = if is_confirmable { "; nobody else can confirm it" } else { "" };
    let reason = format!("{by} has locked the stack{text}{only}");
    let next = format!("`gantry stack unlock {}` lifts the lock", row.stack);
    Ok(Some(Wait::new(WaitKind::Locked, reason).next(next)))
}

/// The run of the same stack that goes first.
async fn behind(conn: &mut Connection, row: &RunRow) -> Result<Option<Wait>, OperationError> {
    let first = "SELECT r.id, r.state FROM runs r JOIN stacks s ON s.id = r.stack \
                 WHERE r.stack = $1 AND r.id <> $2 AND (r.id = s.blocker \
                 OR r.state = 'QUEUED' AND r.id < $2 \
                 AND (s.lock_by IS NULL OR s.lock_by = r.triggered_by)) \
                 ORDER BY CASE WHEN r.id = s.blocker THEN 0 ELSE 1 END, r.id LIMIT 1";
    let found = sqlx::query(first)
        .bind(row.stack.as_str())
        .bind(row.life.run.to_string())
        .fetch_optional(conn)
        .await?;
    let Some(found) = found else { return Ok(None) };
    let other: RunId = id("run", found.get("id"))?;
    Ok(Some(match found.get("state") {
        "UNCONFIRMED" => {
            let reason = format!("run {other} of the same stack goes first and is UNCONFIRMED");
            Wait::new(WaitKind::Behind, reason).next(to_decide(other))
        }
        state => {
            let reason = format!("run {other} of the same stack goes first and is {state}");
            Wait::new(WaitKind::Behind, reason)
        }
    }))
}

/// A pool's workers, counted by what keeps them from taking a run.
struct Pool {
    name: String,
    known: u64,
    connected: u64,
    heard_at: Timestamp,
    idle: u64,
    drained: u64,
    unhealthy: u64,
    busy: u64,
    passed_over: u64,
}

/// What one worker is; the first that holds counts.
const IS_DRAINED: &str = "w.is_connected = 1 AND w.is_drained = 1";
const IS_UNHEALTHY: &str = "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 0";
const IS_BUSY: &str =
    "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 1 AND w.run IS NOT NULL";
const IS_PASSED_OVER: &str = "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 1 AND w.run IS NULL \
    AND (w.is_passed_over = 1 OR EXISTS (SELECT 1 FROM outbox o WHERE o.pool = w.pool \
    AND o.worker = w.id AND o.kind = 'offer'))";

impl Pool {
    async fn read(conn: &mut Connection, pool: PoolId) -> Result<Self, OperationError> {
        let select = format!(
            "SELECT p.name, COUNT(w.id) AS known, COALESCE(SUM(w.is_connected), 0) AS connected, \
             COALESCE(MAX(w.heard_at), 0) AS heard_at, \
             COALESCE(SUM(CASE WHEN {IS_DRAINED} THEN 1 ELSE 0 END), 0) AS drained, \
             COALESCE(SUM(CASE WHEN {IS_UNHEALTHY} THEN 1 ELSE 0 END), 0) AS unhealthy, \
             COALESCE(SUM(CASE WHEN {IS_BUSY} THEN 1 ELSE 0 END), 0) AS busy, \
             COALESCE(SUM(CASE WHEN {IS_PASSED_OVER} THEN 1 ELSE 0 END), 0) AS passed_over \
             FROM pools p LEFT JOIN workers w ON w.pool = p.id WHERE p.id = $1 GROUP BY p.name"
        );
        let row =
            sqlx::query(sqlx::AssertSqlSafe(select)).bind(pool.to_string()).fetch_one(conn).await?;
        let number = |column: &str| from_db(row.get::<i64, _>(column));
        let [connected, drained, unhealthy, busy, passed_over] =
            ["connected", "drained", "unhealthy", "busy", "passed_over"].map(number);
        Ok(Self {
            name: row.get("name"),
            known: number("known"),
            connected,
            heard_at: at(row.get("heard_at")),
            idle: connected.saturating_sub(drained + unhealthy + busy + passed_over),
            drained,
            unhealthy,
            busy,
            passed_over,
        })
    }

    /// That no worker is there at all.
    fn nobody(&self, now: Timestamp) -> Option<Wait> {
        if self.known == 0 {
            let reason = format!("pool {} has no worker", self.name);
            let next = "start a `gantry-launcher` with the pool's token and key".to_owned();
            return Some(Wait::new(WaitKind::NoWorker, reason).next(next));
        }
        if self.connected > 0 {
            return None;
        }
        let ago = ago(now, self.heard_at);
        let reason = match self.known {
            1 => format!("the only worker of pool {} is away, last heard {ago} ago", self.name),
            known => {
                format!("all {known} workers of pool {} are away, last heard {ago} ago", self.name)
            }
        };
        let next = format!(
            "start a `gantry-launcher` of the pool; `gantry pool show {}` lists its workers",
            self.name
        );
        Some(Wait::new(WaitKind::Away, reason).next(next))
    }

    /// What keeps each of its connected workers from taking a run.
    async fn taken(
        &self,
        conn: &mut Connection,
        pool: PoolId,
    ) -> Result<Vec<Wait>, OperationError> {
        let mut waits = Vec::new();
        if self.unhealthy > 0 {
            let told = examples(conn, pool, IS_UNHEALTHY, |row| {
                format!("{}{}", row.get::<&str, _>("id"), note(row))
            });
            let who = self.workers(self.unhealthy, ["is", "are"]);
            let reason = format!("{who} unhealthy: {}", told.await?);
            let next = "look at the launcher's log on its host".to_owned();
            waits.push(Wait::new(WaitKind::Unhealthy, reason).next(next));
        }
        if self.drained > 0 {
            let told = examples(conn, pool, IS_DRAINED, |row| row.get("id"));
            let who = self.workers(self.drained, ["is", "are"]);
            let reason = format!("{who} drained: {}", told.await?);
            let next =
                format!("`gantry pool undrain {} WORKER` lets it take runs again", self.name);
            waits.push(Wait::new(WaitKind::Drained, reason).next(next));
        }
        if self.busy > 0 {
            let told = examples(conn, pool, IS_BUSY, |row| row.get("run"));
            let who = self.workers(self.busy, ["is", "are"]);
            let reason = format!("{who} busy with other runs: {}", told.await?);
            waits.push(Wait::new(WaitKind::Busy, reason));
        }
        if self.passed_over > 0 {
            let told = examples(conn, pool, IS_PASSED_OVER, |row| row.get("id"));
            let who = self.workers(self.passed_over, ["has", "have"]);
            let reason =
                format!("{who} not taken the last offer and will be asked again: {}", told.await?);
            waits.push(Wait::new(WaitKind::Offered, reason));
        }
        Ok(waits)
    }

    fn workers(&self, number: u64, [one, many]: [&str; 2]) -> String {
        let (ending, verb) = if number == 1 { ("", one) } else { ("s", many) };
        format!("{number} worker{ending} of pool {} {verb}", self.name)
    }
}

/// Some workers of a pool of which this holds, newest first, as `told` names them.
async fn examples(
    conn: &mut Connection,
    pool: PoolId,
    holds: &str,
    told: impl Fn(&Row) -> String,
) -> Result<String, OperationError> {
    let select = format!(
        "SELECT w.id, w.note, w.run FROM workers w WHERE w.pool = $1 AND {holds} \
         ORDER BY w.id DESC LIMIT $2"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select))
        .bind(pool.to_string())
        .bind(i64::try_from(NAMED + 1).unwrap_or(i64::MAX));
    let rows = query.fetch_all(conn).await?;
    let mut names: Vec<String> = rows.iter().take(NAMED).map(told).collect();
    if rows.len() > NAMED {
        names.push("…".to_owned());
    }
    Ok(names.join(", "))
}

fn flag(row: &Row, column: &str) -> bool {
    row.get::<i64, _>(column) != 0
}

/// What a worker says about itself, in brackets.
fn note(row: &Row) -> String {
    let note: Option<String> = row.get("note");
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
