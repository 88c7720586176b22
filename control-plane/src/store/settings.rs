//! What is set once for the whole server: the `settings` table.

use super::{Columns as _, Connection, StoreError};

/// Sets it unless it is set. Answers whether it was not.
pub(crate) async fn insert_setting(
    conn: &mut Connection,
    name: &str,
    value: &str,
) -> Result<bool, StoreError> {
    let insert = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
    let inserted = sqlx::query(insert).bind(name).bind(value).execute(conn).await?;
    Ok(inserted.rows_affected() == 1)
}

pub(crate) async fn find_setting(
    conn: &mut Connection,
    name: &str,
) -> Result<Option<String>, StoreError> {
    let select = "SELECT value FROM settings WHERE name = $1";
    let row = sqlx::query(select).bind(name).fetch_optional(conn).await?;
    row.map(|row| row.text("value")).transpose()
}
