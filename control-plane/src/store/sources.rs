//! Versions of stacks' sources in the database.

use gantry_model::{StackId, Timestamp};

use super::{Columns as _, Connection, Row, StoreError, to_db};

/// A version of a stack's source: an archive, `tar` in `zstd`, in an age file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSource {
    /// Its id.
    pub id: String,
    /// The object that holds it.
    pub key: String,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// Who uploaded it.
    pub author: String,
    /// What they said about it.
    pub message: String,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

/// All columns that [`source`] and [`maybe_source`] read, of `sources src`.
pub(crate) const SOURCE_COLUMNS: &str = "src.id AS source_id, src.key AS source_key, \
    src.sha256 AS source_sha256, src.size AS source_size, src.author AS source_author, \
    src.message AS source_message, src.created_at AS source_created_at";

/// Reads a row that has [`SOURCE_COLUMNS`].
pub(crate) fn source(row: &Row) -> Result<StackSource, StoreError> {
    Ok(StackSource {
        id: row.text("source_id")?,
        key: row.text("source_key")?,
        sha256: row.text("source_sha256")?,
        size: row.number("source_size")?,
        author: row.text("source_author")?,
        message: row.text("source_message")?,
        created_at: row.instant("source_created_at")?,
    })
}

/// Reads a row that has [`SOURCE_COLUMNS`] of a source that may not be there.
pub(crate) fn maybe_source(row: &Row) -> Result<Option<StackSource>, StoreError> {
    row.maybe_text("source_id")?.map(|_| source(row)).transpose()
}

/// The source with this id.
pub(crate) async fn find_source(
    conn: &mut Connection,
    id: &str,
) -> Result<Option<StackSource>, StoreError> {
    let select = format!("SELECT {SOURCE_COLUMNS} FROM sources src WHERE src.id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(select)).bind(id).fetch_optional(conn).await?;
    row.as_ref().map(source).transpose()
}

/// The key of what became of an upload to this key.
pub(crate) async fn find_uploaded(
    conn: &mut Connection,
    stack: &StackId,
    uploaded: &str,
) -> Result<Option<String>, StoreError> {
    let row = sqlx::query("SELECT key FROM sources WHERE stack = $1 AND uploaded = $2")
        .bind(stack.as_str())
        .bind(uploaded)
        .fetch_optional(conn)
        .await?;
    row.map(|row| row.text("key")).transpose()
}

/// Writes down a source that was uploaded to this key, and makes it the stack's newest.
pub(crate) async fn insert_source(
    conn: &mut Connection,
    stack: &StackId,
    source: &StackSource,
    uploaded: &str,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO sources (id, stack, key, sha256, size, author, message, created_at, uploaded) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    sqlx::query(insert)
        .bind(&source.id)
        .bind(stack.as_str())
        .bind(&source.key)
        .bind(&source.sha256)
        .bind(to_db(source.size))
        .bind(&source.author)
        .bind(&source.message)
        .bind(to_db(source.created_at.0))
        .bind(uploaded)
        .execute(&mut *conn)
        .await?;
    sqlx::query("UPDATE stacks SET source = $2, updated_at = $3 WHERE id = $1")
        .bind(stack.as_str())
        .bind(&source.id)
        .bind(to_db(source.created_at.0))
        .execute(conn)
        .await?;
    Ok(())
}
