//! Outputs of runs that a result has no room for, in the database.

use gantry_model::RunId;
use gantry_protocol::message::Output;

use super::{Columns as _, Connection, Row, StoreError, json};

/// Outputs of a run, by their place among all of it.
pub(crate) async fn list_outputs(
    conn: &mut Connection,
    run: RunId,
) -> Result<Vec<Output>, StoreError> {
    let select = "SELECT name, is_sensitive, value FROM outputs WHERE run = $1 ORDER BY n";
    let rows = sqlx::query(select).bind(run.to_string()).fetch_all(conn).await?;
    let output = |row: &Row| {
        let value = row.maybe_text("value")?;
        Ok(Output {
            name: row.text("name")?,
            is_sensitive: row.flag("is_sensitive")?,
            value: value.map(|value| json("value", &value)).transpose()?,
        })
    };
    rows.iter().map(output).collect()
}
