//! What is SQLite's own: how its connections are opened.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqlitePool};

use super::{Connection, StoreError, migrator};

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

/// The tables, in the order in which they came.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "first", include_str!("../../migrations/sqlite/0001_first.sql")),
    (2, "retention", include_str!("../../migrations/sqlite/0002_retention.sql")),
    (3, "who", include_str!("../../migrations/sqlite/0003_who.sql")),
    (4, "tool", include_str!("../../migrations/sqlite/0004_tool.sql")),
];

/// A file, open.
#[derive(Debug, Clone)]
pub(super) struct Database {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Database {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| {
            if is_full(&source) {
                return StoreError::Full(source);
            }
            StoreError::Open { path: path.display().to_string(), source }
        };
        let writer = writer(path).await.map_err(open)?;
        migrate(&writer).await?;
        let readers = readers(path).await.map_err(open)?;
        Ok(Self { writer, readers })
    }

    pub(super) async fn writer(&self) -> Result<Connection, StoreError> {
        Ok(Connection::sqlite(self.writer.acquire().await?))
    }

    pub(super) async fn reader(&self) -> Result<Connection, StoreError> {
        Ok(Connection::sqlite(self.readers.acquire().await?))
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Brings the tables to this version.
async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
    Ok(migrator(&MIGRATIONS).run(writer).await?)
}

/// The one connection that changes something. A commit is on the disk when it returns.
async fn writer(path: &Path) -> Result<SqlitePool, sqlx::Error> {
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
async fn readers(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(Duration::from_secs(30))
        .connect_with(options(path).pragma("query_only", "ON"))
        .await
}

/// Whether a disk is full.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    const FULL: i32 = 13;
    // It could not make the file bigger that its processes share.
    const SHARED_SIZE: i32 = 4874;
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == FULL || code == SHARED_SIZE)
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;

    use super::{migrate, options};
    use crate::store::{Store, StoreError};

    #[tokio::test]
    async fn a_full_disk_at_the_first_start_is_told_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gantry.db");
        let options = options(&path).create_if_missing(true).pragma("max_page_count", "4");
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        let error = migrate(&pool).await.unwrap_err();
        assert!(matches!(error, StoreError::Full(_)), "{error:?}");
        assert!(error.to_string().contains("free some space"), "{error}");
        let query = sqlx::query("CREATE TABLE one (x BLOB)").execute(&pool).await;
        let query = match query {
            Ok(_) => sqlx::query("INSERT INTO one VALUES (zeroblob(99999))").execute(&pool).await,
            Err(error) => Err(error),
        };
        assert!(matches!(StoreError::from(query.unwrap_err()), StoreError::Full(_)));
    }

    #[tokio::test]
    async fn a_database_of_a_newer_server_is_told_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gantry.db");
        let store = Store::open(&path).await.unwrap();
        let mut unit = store.begin().await.unwrap();
        sqlx::query("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 4")
            .execute(&mut *unit)
            .await
            .unwrap();
        unit.commit().await.unwrap();
        store.close().await;
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Newer(_)), "{error:?}");
    }

    /// The first tables were edited in place until they were released.
    #[tokio::test]
    async fn a_database_whose_tables_were_other_ones_is_refused_with_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gantry.db");
        let store = Store::open(&path).await.unwrap();
        let mut unit = store.begin().await.unwrap();
        sqlx::query("UPDATE _sqlx_migrations SET checksum = zeroblob(48) WHERE version = 1")
            .execute(&mut *unit)
            .await
            .unwrap();
        unit.commit().await.unwrap();
        store.close().await;
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreleased(_)), "{error:?}");
        assert!(error.to_string().contains("begin with an empty data directory"), "{error}");
    }

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
