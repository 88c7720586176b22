//! Everything that one database holds, brought to another one that holds nothing.
//!
//! It happens in one transaction of the target, which becomes durable only after each table was read back from it, and
//! count and hash are those of the source.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use openssl::sha::Sha256;
use sqlx::{AssertSqlSafe, Row as _};

use super::{Columns as _, Connection, Row, Store, StoreError};

/// All tables, each after those that it refers to.
const TABLES: [&str; 20] = [
    "settings",
    "api_keys",
    "audit",
    "pools",
    "certificates",
    "workers",
    "journals",
    "nonces",
    "stacks",
    "sources",
    "runs",
    "history",
    "attempts",
    "segments",
    "closings",
    "states",
    "workspaces",
    "outputs",
    "decisions",
    "outbox",
];

/// So many values go with one statement: less than PostgreSQL's limit of 65535.
const VALUES: usize = 10_000;
/// After so many rows of a table it is said how far it is.
const SAID_EVERY: u64 = 100_000;

/// Why nothing was brought over.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target is in use.
    #[error(
        "the database is not empty: its table {table} has rows; give one in which no server has worked yet"
    )]
    NotEmpty {
        /// The first table that has some.
        table: &'static str,
    },
    /// The source has a table that this version does not know.
    #[error("the table {0} is of no version that this server knows, and would be lost")]
    Unknown(String),
    /// What was read back is not what was written.
    #[error(
        "the table {table} has {found} rows of {expected} or others than it should have: nothing was brought over"
    )]
    Different {
        /// Which one.
        table: &'static str,
        /// How many rows the source has.
        expected: u64,
        /// How many the target has.
        found: u64,
    },
}

impl From<sqlx::Error> for TransferError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// So many rows of a table were written.
    Written(&'static str, u64),
    /// A table was read back: its rows, and what the hash of their values is on both sides.
    Checked(&'static str, u64, String),
}

struct Table {
    name: &'static str,
    /// Its columns, and whether each is text.
    columns: Vec<(String, bool)>,
    select: String,
}

/// A value as both databases hold it.
enum Value {
    Text(Option<String>),
    Number(Option<i64>),
}

impl Table {
    async fn of(source: &mut Connection, name: &'static str) -> Result<Self, StoreError> {
        let info = "SELECT name, type, pk FROM pragma_table_info($1) ORDER BY cid";
        let rows = sqlx::query(info).bind(name).fetch_all(source).await?;
        let mut columns = Vec::new();
        let mut key = Vec::new();
        for row in &rows {
            let column = row.text("name")?;
            let place = row.integer("pk")?;
            if place > 0 {
                key.push((place, column.clone()));
            }
            columns.push((column, row.text("type")? == "TEXT"));
        }
        key.sort();
        let names = |names: Vec<&str>| names.join(", ");
        let select = format!(
            "SELECT {} FROM {name} ORDER BY {}",
            names(columns.iter().map(|(column, _)| column.as_str()).collect()),
            names(key.iter().map(|(_, column)| column.as_str()).collect()),
        );
        Ok(Self { name, columns, select })
    }

    fn values(&self, row: &Row) -> Result<Vec<Value>, StoreError> {
        let values = self.columns.iter().map(|(column, is_text)| {
            Ok(if *is_text {
                // As the target keeps it.
                let text: Option<String> = row.try_get(column.as_str())?;
                Value::Text(text.map(|text| text.replace('\0', "\u{fffd}")))
            } else {
                Value::Number(row.try_get(column.as_str())?)
            })
        });
        values.collect()
    }

    /// Reads it in the order of its key.
    async fn sum(&self, connection: &mut Connection) -> Result<Sum, StoreError> {
        let mut sum = Sum::default();
        let mut rows = sqlx::query(AssertSqlSafe(self.select.as_str())).fetch(connection);
        while let Some(row) = rows.try_next().await? {
            sum.add(&self.values(&row)?);
        }
        Ok(sum)
    }

    /// Copies it; answers what was read.
    async fn copy(
        &self,
        source: &mut Connection,
        target: &mut Connection,
        say: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Sum, StoreError> {
        let mut sum = Sum::default();
        let most = (VALUES / self.columns.len()).max(1);
        let mut waiting = Vec::new();
        let mut rows = sqlx::query(AssertSqlSafe(self.select.as_str())).fetch(source);
        while let Some(row) = rows.try_next().await? {
            let values = self.values(&row)?;
            sum.add(&values);
            waiting.push(values);
            if waiting.len() == most {
                self.write(target, std::mem::take(&mut waiting)).await?;
            }
            if sum.rows.is_multiple_of(SAID_EVERY) {
                say(Progress::Written(self.name, sum.rows));
            }
        }
        if !waiting.is_empty() {
            self.write(target, waiting).await?;
        }
        Ok(sum)
    }

    async fn write(
        &self,
        target: &mut Connection,
        rows: Vec<Vec<Value>>,
    ) -> Result<(), StoreError> {
        let names: Vec<&str> = self.columns.iter().map(|(column, _)| column.as_str()).collect();
        let places = |row: usize| {
            let first = row * names.len() + 1;
            let places: Vec<String> =
                (first..first + names.len()).map(|n| format!("${n}")).collect();
            format!("({})", places.join(", "))
        };
        let places: Vec<String> = (0..rows.len()).map(places).collect();
        let (name, names) = (self.name, names.join(", "));
        let insert = format!("INSERT INTO {name} ({names}) VALUES {}", places.join(", "));
        let mut query = sqlx::query(AssertSqlSafe(insert)).persistent(false);
        for value in rows.into_iter().flatten() {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            };
        }
        query.execute(target).await?;
        Ok(())
    }
}

/// Count and hash of a table's rows.
#[derive(Default)]
struct Sum {
    rows: u64,
    hash: Sha256,
}

impl Sum {
    fn add(&mut self, values: &[Value]) {
        self.rows += 1;
        for value in values {
            match value {
                Value::Text(Some(text)) => {
                    self.hash.update(b"t");
                    self.hash.update(&(text.len() as u64).to_be_bytes());
                    self.hash.update(text.as_bytes());
                }
                Value::Number(Some(number)) => {
                    self.hash.update(b"n");
                    self.hash.update(&number.to_be_bytes());
                }
                Value::Text(None) | Value::Number(None) => self.hash.update(b"0"),
            }
        }
    }

    fn digest(self) -> String {
        self.hash.finish().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    }
}

/// Brings everything over.
///
/// # Errors
/// When the target is not empty, a database fails, or what was read back differs. The target is empty then as it was.
pub async fn transfer(
    source: &Store,
    target: &Store,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), TransferError> {
    let mut source = source.read().await?;
    let known = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
    let found = sqlx::query(known).fetch_all(&mut *source).await?;
    let found: Result<BTreeSet<String>, _> = found.iter().map(|row| row.text("name")).collect();
    let is_known = |name: &String| TABLES.contains(&name.as_str()) || name == "_sqlx_migrations";
    if let Some(unknown) = found?.into_iter().find(|name| !is_known(name)) {
        return Err(TransferError::Unknown(unknown));
    }
    let mut target = target.begin().await?;
    for table in TABLES {
        let any = format!("SELECT 1 AS one FROM {table} LIMIT 1");
        if sqlx::query(AssertSqlSafe(any)).fetch_optional(&mut *target).await?.is_some() {
            return Err(TransferError::NotEmpty { table });
        }
    }
    // A large table takes its time.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *target).await?;
    for name in TABLES {
        let table = Table::of(&mut source, name).await?;
        let written = table.copy(&mut source, &mut target, say).await?;
        let read = table.sum(&mut target).await?;
        let (expected, found) = (written.rows, read.rows);
        let digest = written.digest();
        if expected != found || digest != read.digest() {
            return Err(TransferError::Different { table: name, expected, found });
        }
        say(Progress::Checked(name, found, digest));
    }
    target.commit().await?;
    Ok(())
}
