//! Pools and their certificates: the `pools` and `certificates` tables.

use gantry_model::{PoolId, Timestamp};

use super::{Columns as _, Connection, Row, StoreError, to_db, to_json};

/// What is counted for a pool `p`.
const COUNTS: &str = "(SELECT COUNT(*) FROM workers w WHERE w.pool = p.id \
    AND (w.is_connected = 1 OR w.run IS NOT NULL)) AS workers_count, \
    (SELECT COUNT(*) FROM workers w WHERE w.pool = p.id AND w.run IS NOT NULL) AS busy_workers, \
    (SELECT COUNT(*) FROM runs r WHERE r.pool = p.id AND r.standing = 'waiting') AS pending_runs";

/// A pool.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its present certificate, PEM.
    pub certificate: String,
    /// That certificate's serial.
    pub serial: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How many workers are connected, or away with a run.
    pub workers_count: u64,
    /// How many of those have a run.
    pub busy_workers: u64,
    /// How many runs wait for one of its workers.
    pub pending_runs: u64,
}

/// What people call a pool and say about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolWords<'a> {
    pub(crate) name: &'a str,
    pub(crate) description: &'a str,
    pub(crate) labels: &'a [String],
}

/// A pool's present certificate.
#[derive(Debug)]
pub(crate) struct CertificateRow {
    pub(crate) pool: PoolId,
    pub(crate) serial: String,
    /// PEM.
    pub(crate) certificate: String,
}

pub(crate) async fn insert_pool(
    conn: &mut Connection,
    words: PoolWords<'_>,
    present: &CertificateRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO pools (id, name, description, labels, certificate, serial, \
                  created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)";
    sqlx::query(insert)
        .bind(present.pool.to_string())
        .bind(words.name)
        .bind(words.description)
        .bind(to_json(&words.labels))
        .bind(&present.certificate)
        .bind(&present.serial)
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn find_pool(
    conn: &mut Connection,
    pool: PoolId,
) -> Result<Option<Pool>, StoreError> {
    let select =
        format!("SELECT p.*, {COUNTS} FROM pools p WHERE p.id = $1 AND p.deleted_at IS NULL");
    let row = sqlx::query(sqlx::AssertSqlSafe(select))
        .bind(pool.to_string())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(read).transpose()
}

/// All pools, by name.
pub(crate) async fn list_pools(conn: &mut Connection) -> Result<Vec<Pool>, StoreError> {
    let select =
        format!("SELECT p.*, {COUNTS} FROM pools p WHERE p.deleted_at IS NULL ORDER BY p.name");
    let rows = sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

/// The serial of a pool's present certificate; none if there is no such pool.
pub(crate) async fn find_serial(
    conn: &mut Connection,
    pool: PoolId,
) -> Result<Option<String>, StoreError> {
    let select = "SELECT serial FROM pools WHERE id = $1 AND deleted_at IS NULL";
    let row = sqlx::query(select).bind(pool.to_string()).fetch_optional(conn).await?;
    row.map(|row| row.text("serial")).transpose()
}

/// The present certificate of every pool.
pub(crate) async fn list_certificates(
    conn: &mut Connection,
) -> Result<Vec<CertificateRow>, StoreError> {
    let select = "SELECT id, serial, certificate FROM pools WHERE deleted_at IS NULL";
    let rows = sqlx::query(select).fetch_all(conn).await?;
    let read = |row: &Row| {
        Ok(CertificateRow {
            pool: row.parsed("id")?,
            serial: row.text("serial")?,
            certificate: row.text("certificate")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Whether a pool has this name; one of them, `but`, does not count.
pub(crate) async fn has_name(
    conn: &mut Connection,
    name: &str,
    but: Option<PoolId>,
) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM pools WHERE name = $1 AND id <> COALESCE($2, '')";
    let but = but.map(|pool| pool.to_string());
    Ok(sqlx::query(select).bind(name).bind(but).fetch_optional(conn).await?.is_some())
}

pub(crate) async fn update_words(
    conn: &mut Connection,
    pool: PoolId,
    words: PoolWords<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE pools SET name = $2, description = $3, labels = $4, updated_at = $5 \
                  WHERE id = $1";
    sqlx::query(update)
        .bind(pool.to_string())
        .bind(words.name)
        .bind(words.description)
        .bind(to_json(&words.labels))
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn update_certificate(
    conn: &mut Connection,
    present: &CertificateRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE pools SET certificate = $2, serial = $3, updated_at = $4 WHERE id = $1";
    sqlx::query(update)
        .bind(present.pool.to_string())
        .bind(&present.certificate)
        .bind(&present.serial)
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn insert_certificate(
    conn: &mut Connection,
    pool: PoolId,
    serial: &str,
    issued_at: Timestamp,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO certificates (serial, pool, issued_at) VALUES ($1, $2, $3)";
    sqlx::query(insert)
        .bind(serial)
        .bind(pool.to_string())
        .bind(to_db(issued_at.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Revokes every certificate of a pool.
pub(crate) async fn revoke_certificates(
    conn: &mut Connection,
    pool: PoolId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE certificates SET revoked_at = $2 WHERE pool = $1 AND revoked_at IS NULL";
    sqlx::query(update).bind(pool.to_string()).bind(to_db(now.0)).execute(conn).await?;
    Ok(())
}

/// Ends a pool. Its row stays for the runs that were its, and its name is free again.
pub(crate) async fn end_pool(
    conn: &mut Connection,
    pool: PoolId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE pools SET deleted_at = $2, updated_at = $2, \
                  name = name || ' (' || id || ')' WHERE id = $1";
    sqlx::query(update).bind(pool.to_string()).bind(to_db(now.0)).execute(conn).await?;
    Ok(())
}

/// The first stacks that use a pool, by id.
pub(crate) async fn list_stacks_of(
    conn: &mut Connection,
    pool: PoolId,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    let select =
        "SELECT id FROM stacks WHERE pool = $1 AND deleted_at IS NULL ORDER BY id LIMIT $2";
    let rows =
        sqlx::query(select).bind(pool.to_string()).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(|row| row.text("id")).collect()
}

fn read(row: &Row) -> Result<Pool, StoreError> {
    Ok(Pool {
        id: row.parsed("id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        labels: row.json("labels")?,
        certificate: row.text("certificate")?,
        serial: row.text("serial")?,
        created_at: row.instant("created_at")?,
        updated_at: row.instant("updated_at")?,
        workers_count: row.number("workers_count")?,
        busy_workers: row.number("busy_workers")?,
        pending_runs: row.number("pending_runs")?,
    })
}
