//! Who changed what: the `audit` table.

use gantry_model::Timestamp;

use super::{Columns as _, Connection, Row, StoreError, to_db};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its id; later ones are greater.
    pub id: String,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub actor: String,
    /// What was done, such as `run.confirm`.
    pub act: String,
    /// To what.
    pub subject: String,
    /// More about it.
    pub detail: String,
}

pub(crate) async fn insert_entry(
    conn: &mut Connection,
    entry: &AuditEntry,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO audit (id, at, actor, act, subject, detail) \
                  VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(insert)
        .bind(&entry.id)
        .bind(to_db(entry.at.0))
        .bind(&entry.actor)
        .bind(&entry.act)
        .bind(&entry.subject)
        .bind(&entry.detail)
        .execute(conn)
        .await?;
    Ok(())
}

/// The newest first; only those before an entry, if that is given.
pub(crate) async fn list_entries(
    conn: &mut Connection,
    before: Option<&str>,
    limit: u32,
) -> Result<Vec<AuditEntry>, StoreError> {
    let select = "SELECT * FROM audit WHERE id < COALESCE($1, '~') ORDER BY id DESC LIMIT $2";
    let rows = sqlx::query(select).bind(before).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.text("id")?,
        at: row.instant("at")?,
        actor: row.text("actor")?,
        act: row.text("act")?,
        subject: row.text("subject")?,
        detail: row.text("detail")?,
    })
}
