//! The database: one writer, many readers.
//!
//! All that changes something goes through [`Store::begin`], one transaction at a time; what only
//! looks goes through [`Store::read`] and waits for nobody. The SQL is what SQLite and PostgreSQL
//! share: `$1` placeholders, BIGINT, TEXT and BLOB; ids and JSON are TEXT, instants BIGINT
//! milliseconds. What is SQLite's own stands in [`sqlite`].

pub(crate) mod audit;
mod code;
mod columns;
pub(crate) mod keys;
pub(crate) mod leases;
mod locks;
pub(crate) mod logs;
pub(crate) mod outbox;
pub(crate) mod pools;
pub(crate) mod results;
mod runs;
pub(crate) mod sessions;
pub(crate) mod settings;
mod sqlite;
pub(crate) mod workers;

use std::path::Path;

use sqlx::migrate::MigrateError;
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqlitePool};

pub(crate) use code::{
    at, from_db, id, json, maybe_at, run_state, run_type, section, section_rank, stage, to_db,
    to_json,
};
pub(crate) use columns::Columns;
pub(crate) use locks::{SERVER, hold, lock_against, lock_of};
pub(crate) use runs::{
    RUN_COLUMNS, RunRow, block, clear_later, insert_run, load_run, promote, read_run, save_run,
};
pub(crate) use workers::WorkerKey;

/// A connection, inside or outside of a transaction.
pub type Connection = sqlx::SqliteConnection;

/// A transaction under way. It is rolled back when it is dropped.
pub type Transaction = sqlx::Transaction<'static, Sqlite>;

/// The row of a query's answer.
pub type Row = sqlx::sqlite::SqliteRow;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("cannot open the database {path}: check that this user may read and write it")]
    Open {
        /// Where it is.
        path: String,
        /// What it said.
        source: sqlx::Error,
    },
    /// Its tables cannot be brought to this version.
    #[error("cannot bring the database to this version")]
    Migrate(#[source] MigrateError),
    /// Its tables are those of another version.
    #[error(
        "the database was written by another version: start the newest server that was used with it"
    )]
    Newer(#[source] MigrateError),
    /// The disk has no space for it.
    #[error("the disk with the database is full: free some space there, then try again")]
    Full(#[source] sqlx::Error),
    /// A query failed.
    #[error("the database failed")]
    Query(#[source] sqlx::Error),
    /// A value in it is none that this version writes.
    #[error("the database holds {text:?} as a {kind}, which this version does not know")]
    Value {
        /// What it should be.
        kind: &'static str,
        /// At most 64 characters of it.
        text: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if sqlite::is_full(&error) { Self::Full(error) } else { Self::Query(error) }
    }
}

impl From<MigrateError> for StoreError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list is the library's, and grows")]
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
                if sqlite::is_full(&error) =>
            {
                Self::Full(error)
            }
            MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => {
                Self::Newer(error)
            }
            _ => Self::Migrate(error),
        }
    }
}

/// The database. Clones are the same database.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens the file, makes it if there is none, and brings its tables to this version.
    ///
    /// # Errors
    /// When the file cannot be opened or is of a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| {
            if sqlite::is_full(&source) {
                return StoreError::Full(source);
            }
            StoreError::Open { path: path.display().to_string(), source }
        };
        let writer = sqlite::writer(path).await.map_err(open)?;
        migrate(&writer).await?;
        let readers = sqlite::readers(path).await.map_err(open)?;
        Ok(Self { writer, readers })
    }

    /// Begins a transaction. There is one at a time: others wait for it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A connection to look with. It sees everything that was committed before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Closes the file; waits for what is under way.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Brings the tables to this version.
async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
    Ok(sqlx::migrate!("migrations/sqlite").run(writer).await?)
}
