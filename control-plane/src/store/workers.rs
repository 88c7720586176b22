//! Workers: the `workers` table.

use std::collections::BTreeMap;

use gantry_model::{JournalId, PoolId, RunId, SessionId, Timestamp, WorkerId};
use gantry_protocol::message::Versions;

use super::{Columns as _, Connection, Row, StoreError, to_db, to_json};

/// A worker is known by its pool and its own id: other pools' workers may call themselves the same.
pub(crate) type WorkerKey = (PoolId, WorkerId);

/// A worker.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not depend on each other")]
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// Its pool.
    pub pool: PoolId,
    /// When it first said hello.
    pub created_at: Timestamp,
    /// Since when it has had no run; none while it has one.
    pub available_at: Option<Timestamp>,
    /// When it was last heard.
    pub heard_at: Timestamp,
    /// Whether it has a session.
    pub is_connected: bool,
    /// Whether it has a run.
    pub is_busy: bool,
    /// Whether it takes no new runs.
    pub is_drained: bool,
    /// Whether it says that it is well.
    pub is_healthy: bool,
    /// Why not, in its words.
    pub note: Option<String>,
    /// The run that it has.
    pub run: Option<RunId>,
    /// `SPACELIFT_METADATA_*`, without the prefix.
    pub metadata: BTreeMap<String, String>,
    /// Its launcher's version.
    pub version: String,
    /// Its container engine.
    pub engine: String,
}

/// The launcher that a worker last was.
#[derive(Debug)]
pub(crate) struct Launcher {
    pub(crate) is_drained: bool,
    /// None if it said that it leaves.
    pub(crate) session: Option<SessionId>,
    pub(crate) instance: String,
    pub(crate) machine: String,
    pub(crate) heard_at: Timestamp,
}

/// What a launcher says about itself when it begins a session.
#[derive(Debug)]
pub(crate) struct Introduction<'a> {
    pub(crate) session: SessionId,
    pub(crate) instance: &'a str,
    pub(crate) machine: &'a str,
    pub(crate) journal: JournalId,
    pub(crate) metadata: &'a BTreeMap<String, String>,
    pub(crate) versions: &'a Versions,
    pub(crate) engine: &'a str,
}

/// The workers of a pool that are connected or have a run, newest first.
pub(crate) async fn list_present(
    conn: &mut Connection,
    pool: PoolId,
    limit: u32,
) -> Result<Vec<Worker>, StoreError> {
    let select = "SELECT * FROM workers WHERE pool = $1 AND (is_connected = 1 OR run IS NOT NULL) \
                  ORDER BY id DESC LIMIT $2";
    let rows =
        sqlx::query(select).bind(pool.to_string()).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

/// All workers of a pool, those that are connected first, then by when they were heard.
pub(crate) async fn list_all(
    conn: &mut Connection,
    pool: PoolId,
    limit: u32,
) -> Result<Vec<Worker>, StoreError> {
    let select = "SELECT * FROM workers WHERE pool = $1 \
                  ORDER BY is_connected DESC, heard_at DESC, id DESC LIMIT $2";
    let rows =
        sqlx::query(select).bind(pool.to_string()).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

pub(crate) async fn find_worker(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<Option<Worker>, StoreError> {
    let select = "SELECT * FROM workers WHERE pool = $1 AND id = $2";
    let row = sqlx::query(select)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The connected workers of a pool.
pub(crate) async fn list_connected(
    conn: &mut Connection,
    pool: PoolId,
) -> Result<Vec<WorkerId>, StoreError> {
    let select = "SELECT id FROM workers WHERE pool = $1 AND is_connected = 1";
    let rows = sqlx::query(select).bind(pool.to_string()).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// Every worker that is known, in the order in which they first came.
pub(crate) async fn list_keys(conn: &mut Connection) -> Result<Vec<WorkerKey>, StoreError> {
    let select = "SELECT pool, id FROM workers ORDER BY created_at";
    let rows = sqlx::query(select).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.parsed("pool")?, row.parsed("id")?))).collect()
}

/// How many workers of a pool are known.
pub(crate) async fn count_of_pool(conn: &mut Connection, pool: PoolId) -> Result<u64, StoreError> {
    let count = "SELECT COUNT(*) AS n FROM workers WHERE pool = $1";
    sqlx::query(count).bind(pool.to_string()).fetch_one(conn).await?.number("n")
}

/// Sets whether a worker takes no new runs. Answers whether there is such a worker.
pub(crate) async fn set_drained(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    is_drained: bool,
) -> Result<bool, StoreError> {
    let update = "UPDATE workers SET is_drained = $3 WHERE pool = $1 AND id = $2";
    let updated = sqlx::query(update)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(i64::from(is_drained))
        .execute(conn)
        .await?;
    Ok(updated.rows_affected() == 1)
}

pub(crate) async fn find_launcher(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<Option<Launcher>, StoreError> {
    let select = "SELECT is_drained, session, instance, machine, heard_at FROM workers \
                  WHERE pool = $1 AND id = $2";
    let row = sqlx::query(select)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .fetch_optional(conn)
        .await?;
    let read = |row: Row| {
        let session = row.maybe_text("session")?.filter(|session| !session.is_empty());
        Ok(Launcher {
            is_drained: row.flag("is_drained")?,
            session: session.map(|session| super::id("session", &session)).transpose()?,
            instance: row.text("instance")?,
            machine: row.text("machine")?,
            heard_at: row.instant("heard_at")?,
        })
    };
    row.map(read).transpose()
}

/// The worker as its launcher introduces it, in a new session in which nothing was sent yet.
pub(crate) async fn begin_session(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    launcher: &Introduction<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let upsert = "INSERT INTO workers (pool, id, created_at, available_at, heard_at, is_connected, \
        is_drained, is_healthy, is_passed_over, session, instance, machine, journal, sent, \
        metadata, versions, engine) \
        VALUES ($1, $2, $3, $3, $3, 1, 0, 1, 0, $4, $5, $6, $7, 0, $8, $9, $10) \
        ON CONFLICT (pool, id) DO UPDATE SET heard_at = $3, is_connected = 1, is_healthy = 1, \
        is_passed_over = 0, note = NULL, session = $4, instance = $5, machine = $6, journal = $7, \
        sent = 0, metadata = $8, versions = $9, engine = $10";
    sqlx::query(upsert)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(to_db(now.0))
        .bind(launcher.session.to_string())
        .bind(launcher.instance)
        .bind(launcher.machine)
        .bind(launcher.journal.to_string())
        .bind(to_json(launcher.metadata))
        .bind(to_json(launcher.versions))
        .bind(launcher.engine)
        .execute(conn)
        .await?;
    Ok(())
}

/// The run that keeps the worker busy, or none since now.
pub(crate) async fn set_run(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    run: Option<RunId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE workers SET run = $3, available_at = \
                  CASE WHEN CAST($3 AS TEXT) IS NULL THEN COALESCE(available_at, $4) ELSE NULL END \
                  WHERE pool = $1 AND id = $2";
    sqlx::query(update)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(run.map(|run| run.to_string()))
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// The worker was heard now, and says how it is.
pub(crate) async fn set_heard(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    is_healthy: bool,
    note: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE workers SET heard_at = $3, is_connected = 1, is_healthy = $4, note = $5, \
                  is_passed_over = 0 WHERE pool = $1 AND id = $2";
    sqlx::query(update)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(to_db(now.0))
        .bind(i64::from(is_healthy))
        .bind(note)
        .execute(conn)
        .await?;
    Ok(())
}

/// Until it is heard again, the worker gets no offers.
pub(crate) async fn pass_over(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<(), StoreError> {
    let update = "UPDATE workers SET is_passed_over = 1 WHERE pool = $1 AND id = $2";
    sqlx::query(update).bind(pool.to_string()).bind(worker.to_string()).execute(conn).await?;
    Ok(())
}

/// The worker has lost its connection.
pub(crate) async fn disconnect(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<(), StoreError> {
    let update = "UPDATE workers SET is_connected = 0 WHERE pool = $1 AND id = $2";
    sqlx::query(update).bind(pool.to_string()).bind(worker.to_string()).execute(conn).await?;
    Ok(())
}

/// The worker has left: it has no session any more.
pub(crate) async fn end_session(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<(), StoreError> {
    let update = "UPDATE workers SET is_connected = 0, session = '' WHERE pool = $1 AND id = $2";
    sqlx::query(update).bind(pool.to_string()).bind(worker.to_string()).execute(conn).await?;
    Ok(())
}

pub(crate) async fn disconnect_pool(conn: &mut Connection, pool: PoolId) -> Result<(), StoreError> {
    let update = "UPDATE workers SET is_connected = 0 WHERE pool = $1";
    sqlx::query(update).bind(pool.to_string()).execute(conn).await?;
    Ok(())
}

pub(crate) async fn disconnect_all(conn: &mut Connection) -> Result<(), StoreError> {
    sqlx::query("UPDATE workers SET is_connected = 0").execute(conn).await?;
    Ok(())
}

pub(crate) async fn delete_of_pool(conn: &mut Connection, pool: PoolId) -> Result<(), StoreError> {
    let delete = "DELETE FROM workers WHERE pool = $1";
    sqlx::query(delete).bind(pool.to_string()).execute(conn).await?;
    Ok(())
}

/// The number of the next message to the worker's session; none if there is no such worker.
pub(crate) async fn next_seq(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<Option<u64>, StoreError> {
    let update = "UPDATE workers SET sent = sent + 1 WHERE pool = $1 AND id = $2 RETURNING sent";
    let row = sqlx::query(update)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| row.number("sent")).transpose()
}

fn read(row: &Row) -> Result<Worker, StoreError> {
    let run: Option<RunId> = row.maybe_parsed("run")?;
    let versions: Versions = row.json("versions")?;
    Ok(Worker {
        id: row.parsed("id")?,
        pool: row.parsed("pool")?,
        created_at: row.instant("created_at")?,
        available_at: row.maybe_instant("available_at")?,
        heard_at: row.instant("heard_at")?,
        is_connected: row.flag("is_connected")?,
        is_busy: run.is_some(),
        is_drained: row.flag("is_drained")?,
        is_healthy: row.flag("is_healthy")?,
        note: row.maybe_text("note")?,
        run,
        metadata: row.json("metadata")?,
        version: versions.launcher,
        engine: row.text("engine")?,
    })
}
