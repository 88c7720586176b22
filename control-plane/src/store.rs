//! The database: one writer, many readers; SQLite or PostgreSQL.
//!
//! All that changes something goes through [`Store::begin`], one transaction at a time; what only
//! looks goes through [`Store::read`] and waits for nobody. The SQL is what SQLite and PostgreSQL
//! share: `$1` placeholders, BIGINT and TEXT; ids and JSON are TEXT, instants BIGINT milliseconds,
//! booleans BIGINT 0 and 1. What is one database's own stands in [`sqlite`] and [`postgres`].
//!
//! A statement is a `sqlx::query` that runs on a `&mut` [`Connection`], whatever is behind it: it binds `i64`, text
//! and options of these, and nothing else (`bool` is `i64::from(flag)`). What it answers is read by name through
//! [`Columns`]: `row.text("note")?`, `row.maybe_instant("due_at")?`, `row.parsed("id")?`. A column that is missing or of an
//! unexpected kind is a [`StoreError::Column`] that names it, and so it is from `row.try_get(..)?`; `row.get` would
//! end the server. Counts are BIGINT in both; a sum is `CAST(SUM(x) AS BIGINT)`.

pub(crate) mod attempts;
pub(crate) mod audit;
mod code;
mod columns;
mod connection;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod logs;
pub(crate) mod outbox;
pub(crate) mod outputs;
pub(crate) mod pools;
mod postgres;
pub(crate) mod queue;
pub(crate) mod results;
pub(crate) mod retention;
pub(crate) mod runs;
pub(crate) mod sessions;
pub(crate) mod settings;
pub(crate) mod sources;
mod sqlite;
pub(crate) mod stacks;
pub(crate) mod states;
mod transfer;
pub(crate) mod workers;
pub(crate) mod workspaces;

use std::path::Path;

use sqlx::SqlStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use crate::config::DatabaseUrl;

pub(crate) use code::{
    id, json, run_state, run_type, section, section_rank, stage, to_db, to_json,
};
pub(crate) use columns::Columns;
pub(crate) use runs::{RunRow, load_run};
pub(crate) use workers::WorkerKey;

pub use connection::{Connection, Reader, Transaction};
pub use transfer::{Progress, TransferError, transfer};

/// The row of a query's answer. [`Columns`] reads it.
pub type Row = sqlx::any::AnyRow;

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
    /// It cannot be reached.
    #[error("cannot reach the database {place}: {hint}")]
    Unreachable {
        /// Where it is, without anything secret.
        place: String,
        /// What to do about it.
        hint: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
    /// Another server writes to it.
    #[error(
        "another server uses the database {place}: stop it first, or give this server a database of its own"
    )]
    Held {
        /// Where it is.
        place: String,
    },
    /// It is not as this server left it.
    #[error(
        "the database {place} is not as this server left it: another server has changed it, or it was set back; restart \
         this server, so that it takes up what is in it now"
    )]
    Replaced {
        /// Where it is.
        place: String,
    },
    /// It is none that can be used.
    #[error("the database {place} cannot be used: {problem}")]
    Unsuitable {
        /// Where it is.
        place: String,
        /// What is wrong with it and what to do.
        problem: &'static str,
    },
    /// It takes no changes.
    #[error(
        "the database takes no changes: it is a standby or set to read-only; let the server connect to the primary"
    )]
    ReadOnly(#[source] sqlx::Error),
    /// Its URL makes no sense.
    #[error("the database's URL is not valid: give postgres://user@host/database")]
    Url(#[source] sqlx::Error),
    /// Its tables cannot be brought to this version.
    #[error("cannot bring the database to this version")]
    Migrate(#[source] MigrateError),
    /// Its tables are those of another version.
    #[error(
        "the database was written by another version: start the newest server that was used with it"
    )]
    Newer(#[source] MigrateError),
    /// Its tables were made before the first release, when they could still change in place.
    #[error(
        "the database was made by a build from before the first release, and this version cannot take it over: \
         start that build with it, or begin with an empty data directory"
    )]
    Unreleased(#[source] MigrateError),
    /// The disk has no space for it.
    #[error("the disk with the database is full: free some space there, then try again")]
    Full(#[source] sqlx::Error),
    /// A column is missing, or holds what this version does not write there.
    #[error(
        "the database's column {column} is not as this version writes it: was the database changed by hand?"
    )]
    Column {
        /// Its name.
        column: String,
        /// What is wrong with it.
        source: sqlx::Error,
    },
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

/// Whether a disk is full.
fn is_full(error: &sqlx::Error) -> bool {
    sqlite::is_full(error) || postgres::is_full(error)
}

impl From<sqlx::Error> for StoreError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list is the library's, and grows")]
    fn from(error: sqlx::Error) -> Self {
        let column = match &error {
            sqlx::Error::ColumnNotFound(column) => Some(column),
            sqlx::Error::ColumnDecode { index, .. } => Some(index),
            _ => None,
        };
        match column {
            Some(column) => {
                Self::Column { column: column.trim_matches('"').to_owned(), source: error }
            }
            None if is_full(&error) => Self::Full(error),
            None if postgres::is_read_only(&error) => Self::ReadOnly(error),
            None => Self::Query(error),
        }
    }
}

impl From<MigrateError> for StoreError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list is the library's, and grows")]
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
                if is_full(&error) =>
            {
                Self::Full(error)
            }
            MigrateError::VersionMissing(_) => Self::Newer(error),
            MigrateError::VersionMismatch(_) => Self::Unreleased(error),
            _ => Self::Migrate(error),
        }
    }
}

/// The database. Clones are the same database.
#[derive(Debug, Clone)]
pub struct Store(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
}

impl Store {
    /// Opens the file, makes it if there is none, and brings its tables to this version.
    ///
    /// # Errors
    /// When the file cannot be opened or is of a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(Kind::Sqlite(sqlite::Database::open(path).await?)))
    }

    /// Connects to a PostgreSQL database, and brings its tables to this version.
    ///
    /// # Errors
    /// When it cannot be reached, is another server's or of a newer version.
    pub async fn connect(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let options = postgres::Options::new(url.expose()).map_err(StoreError::Url)?;
        Ok(Self(Kind::Postgres(postgres::Database::open(options).await?)))
    }

    /// Begins a transaction. There is one at a time: others wait for it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let connection = match &self.0 {
            Kind::Sqlite(database) => database.writer().await?,
            Kind::Postgres(database) => database.writer().await?,
        };
        Transaction::begin(connection).await
    }

    /// A connection to look with. It sees everything that was committed before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(&self) -> Result<Reader, StoreError> {
        let connection = match &self.0 {
            Kind::Sqlite(database) => database.reader().await?,
            Kind::Postgres(database) => database.reader().await?,
        };
        Ok(Reader(connection))
    }

    /// Resolves when the database is not as this server left it any more: what is in memory is of no more worth, and
    /// every change is refused. Cancel safe.
    pub async fn replaced(&self) {
        match &self.0 {
            // The data directory's lock keeps others from the file.
            Kind::Sqlite(_) => std::future::pending().await,
            Kind::Postgres(database) => database.replaced().await,
        }
    }

    /// Whether it could not be reached for a while since [`Store::note_heard`], so that nothing that launchers said in
    /// that time was kept.
    pub(crate) fn was_away(&self) -> bool {
        match &self.0 {
            Kind::Sqlite(_) => false,
            Kind::Postgres(database) => database.was_away(),
        }
    }

    /// What follows from that was done.
    pub(crate) fn note_heard(&self) {
        match &self.0 {
            Kind::Sqlite(_) => {}
            Kind::Postgres(database) => database.note_heard(),
        }
    }

    /// Closes it; waits for what is under way.
    pub async fn close(&self) {
        match &self.0 {
            Kind::Sqlite(database) => database.close().await,
            Kind::Postgres(database) => database.close().await,
        }
    }
}

/// The migrations, each with its number, its name and its text.
fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = migrations.iter().map(|(version, name, sql)| {
        let sql = SqlStr::from_static(sql);
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}
