//! What is SQLite's own: how its connections are opened.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqlitePool};

/// How many look at the same time.
const READERS: u32 = 4;

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .statement_cache_capacity(256)
}

/// The one connection that changes something. A commit is on the disk when it returns.
pub(super) async fn writer(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = options(path).create_if_missing(true).synchronous(SqliteSynchronous::Full);
    SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(60))
        .idle_timeout(None)
        .max_lifetime(None)
        // When a disk is full SQLite rolls back by itself. The library does not learn of that and would refuse every
        // further transaction, so such a connection is closed and a new one opened.
        .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        .connect_with(options)
        .await
}

/// The connections that only look.
pub(super) async fn readers(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(Duration::from_secs(30))
        .connect_with(options(path).pragma("query_only", "ON"))
        .await
}

#[cfg(test)]
mod tests {
    use crate::store::Store;

    /// As it does by itself when a disk is full.
    #[tokio::test]
    async fn what_sqlite_rolls_back_by_itself_fails_nothing_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("gantry.db")).await.unwrap();
        let mut unit = store.begin().await.unwrap();
        sqlx::query("CREATE TABLE one (x BIGINT UNIQUE)").execute(&mut *unit).await.unwrap();
        unit.commit().await.unwrap();
        let mut unit = store.begin().await.unwrap();
        let twice = "INSERT OR ROLLBACK INTO one VALUES (1), (1)";
        assert!(sqlx::query(twice).execute(&mut *unit).await.is_err());
        drop(unit);
        let mut unit = store.begin().await.unwrap();
        sqlx::query("INSERT INTO one VALUES (1)").execute(&mut *unit).await.unwrap();
        unit.commit().await.unwrap();
    }
}
