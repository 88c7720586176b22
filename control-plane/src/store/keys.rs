//! API keys: the `api_keys` table.

use gantry_model::Timestamp;

use super::{Columns as _, Connection, Row, StoreError, to_db};

/// An API key.
#[derive(Clone)]
pub(crate) struct KeyRow {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: String,
    /// `<salt>:<SHA-256 of salt and secret>`, in hex.
    pub(crate) secret_sha256: String,
    /// Who made it.
    pub(crate) creator: String,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// When it last opened a session.
    pub(crate) last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub(crate) revoked_at: Option<Timestamp>,
}

pub(crate) async fn insert_key(conn: &mut Connection, key: &KeyRow) -> Result<(), StoreError> {
    let insert = "INSERT INTO api_keys (id, name, secret_sha256, role, created_at, created_by) \
                  VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(insert)
        .bind(&key.id)
        .bind(&key.name)
        .bind(&key.secret_sha256)
        .bind(&key.role)
        .bind(to_db(key.created_at.0))
        .bind(&key.creator)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether a key that was not revoked has this name.
pub(crate) async fn has_live_name(conn: &mut Connection, name: &str) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM api_keys WHERE name = $1 AND revoked_at IS NULL";
    Ok(sqlx::query(select).bind(name).fetch_optional(conn).await?.is_some())
}

/// The newest keys, revoked ones too.
pub(crate) async fn list_keys(
    conn: &mut Connection,
    limit: u32,
) -> Result<Vec<KeyRow>, StoreError> {
    let select = "SELECT * FROM api_keys ORDER BY id DESC LIMIT $1";
    let rows = sqlx::query(select).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

/// The key with this id, revoked or not.
pub(crate) async fn find_key(
    conn: &mut Connection,
    id: &str,
) -> Result<Option<KeyRow>, StoreError> {
    let select = "SELECT * FROM api_keys WHERE id = $1";
    let row = sqlx::query(select).bind(id).fetch_optional(conn).await?;
    row.as_ref().map(read).transpose()
}

pub(crate) async fn set_used(
    conn: &mut Connection,
    id: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE api_keys SET last_used_at = $2 WHERE id = $1";
    sqlx::query(update).bind(id).bind(to_db(at.0)).execute(conn).await?;
    Ok(())
}

/// Revokes a key and answers its name; none if there is no such key that still counts.
pub(crate) async fn revoke_key(
    conn: &mut Connection,
    id: &str,
    at: Timestamp,
) -> Result<Option<String>, StoreError> {
    let revoke = "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL \
                  RETURNING name";
    let row = sqlx::query(revoke).bind(id).bind(to_db(at.0)).fetch_optional(conn).await?;
    row.map(|row| row.text("name")).transpose()
}

/// How many keys were not revoked.
pub(crate) async fn count_live(conn: &mut Connection) -> Result<u64, StoreError> {
    let count = "SELECT COUNT(*) AS n FROM api_keys WHERE revoked_at IS NULL";
    sqlx::query(count).fetch_one(conn).await?.number("n")
}

fn read(row: &Row) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        id: row.text("id")?,
        name: row.text("name")?,
        role: row.text("role")?,
        secret_sha256: row.text("secret_sha256")?,
        creator: row.text("created_by")?,
        created_at: row.instant("created_at")?,
        last_used_at: row.maybe_instant("last_used_at")?,
        revoked_at: row.maybe_instant("revoked_at")?,
    })
}
