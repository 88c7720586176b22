//! What is PostgreSQL's own: how its connections are opened, and what is known when they break.
//!
//! One connection writes, and holds an advisory lock that says so: no second server changes this database.
//! When it breaks a new one is opened; whoever wants to begin waits for that, up to [`PATIENCE`]. When it
//! breaks during a commit, nobody knows what became of it until PostgreSQL is asked: [`Writer::commit`] waits
//! for the answer, so that what follows from a transaction follows exactly if it is durable.
//!
//! Each transaction leaves a mark of its own in the table [`MARKS`]. The mark that is found tells whether the last commit was
//! done, and whether the database is still as this server left it: if not, what is in this server's memory is of
//! no more worth, and [`Database::replaced`] resolves. PostgreSQL's own numbers of transactions do not serve for that: after
//! a crash they are given out again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Error, PgPool, Row as _};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Connection, StoreError, migrator};

/// How many look at the same time.
const READERS: u32 = 8;
/// How long a statement may take, a lost answer included.
pub(super) const STATEMENT: Duration = Duration::from_secs(40);
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long whoever wants to begin or to look waits for a database that is away.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the start waits for the connections of the server that was there before to be gone.
const HELD: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// The oldest version that can say what became of a transaction.
const OLDEST: u32 = 130_000;

/// The tables, in the order in which they came. A number is that of the same change of SQLite's tables.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (2, "first", include_str!("../../migrations/postgres/0002_first.sql")),
    (3, "who", include_str!("../../migrations/postgres/0003_who.sql")),
    (4, "tool", include_str!("../../migrations/postgres/0004_tool.sql")),
];

/// For each connection, whatever the server's own settings are: nothing waits for ever, and a commit that is
/// answered is durable.
const SESSION: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '60s'; \
    SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; \
    SET synchronous_commit = on";

/// Names this schema's writer among the advisory locks of the database.
const LOCK: &str = "SELECT pg_try_advisory_lock(1735290483, hashtext(current_schema()))";

/// Has the mark of the last transaction that is durable. Of this adapter alone, like the table of migrations.
const MARKS: &str =
    "CREATE TABLE IF NOT EXISTS _gantry_writer (id BIGINT PRIMARY KEY, mark UUID NOT NULL)";
/// Leaves the first mark of this server.
const FIRST_MARK: &str = "INSERT INTO _gantry_writer (id, mark) VALUES (1, gen_random_uuid()) \
    ON CONFLICT (id) DO UPDATE SET mark = EXCLUDED.mark RETURNING CAST(mark AS TEXT)";
/// The mark that is there.
const MARK: &str = "SELECT CAST(mark AS TEXT) FROM _gantry_writer WHERE id = 1";

/// Where the database is, and how to get in.
#[derive(Clone)]
pub(super) struct Options(PgConnectOptions);

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place())
    }
}

impl Options {
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let options: PgConnectOptions = url.parse()?;
        Ok(Self(options.statement_cache_capacity(256).application_name("gantry server")))
    }

    /// Where it is, without anything secret.
    fn place(&self) -> String {
        let database = self.0.get_database().unwrap_or_else(|| self.0.get_username());
        match self.0.get_socket() {
            Some(socket) => format!("{database} at {}", socket.display()),
            None => format!("{database} at {}:{}", self.0.get_host(), self.0.get_port()),
        }
    }

    fn unreachable(&self, source: Error) -> StoreError {
        let hint = match code(&source).as_deref() {
            Some("28000" | "28P01") => "check its user and password, and the server's pg_hba.conf",
            Some("3D000") => "create it first, with the encoding UTF8",
            Some("53300") => "it has no connection to spare: raise max_connections there",
            Some("57P03") => "it starts or stops at this moment",
            _ if matches!(source, Error::Tls(_)) => "check sslmode and sslrootcert of its URL",
            _ => "check that PostgreSQL runs there and that this host may connect",
        };
        StoreError::Unreachable { place: self.place(), hint, source }
    }

    /// A connection with the settings of [`SESSION`].
    async fn connect(&self) -> Result<PgConnection, Error> {
        timeout(CONNECT, async {
            let mut connection = self.0.connect().await?;
            sqlx::raw_sql(SESSION).execute(&mut connection).await?;
            Ok(connection)
        })
        .await
        .unwrap_or_else(|_| Err(timed_out("connecting took too long")))
    }
}

fn timed_out(what: &'static str) -> Error {
    Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

/// PostgreSQL's own code for what went wrong.
fn code(error: &Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether another attempt may go better: the server is away, starting, or has no place for us.
fn is_passing(error: &Error) -> bool {
    match code(error) {
        Some(code) => code.starts_with("08") || code.starts_with("57P") || code.starts_with("53"),
        None => matches!(error, Error::Io(_) | Error::Protocol(_) | Error::PoolTimedOut),
    }
}

/// Whether the connection is of no more use after this.
pub(super) fn is_lost(error: &Error) -> bool {
    is_passing(error) || is_read_only(error) || code(error).is_some_and(|it| it == "25P03")
}

/// Whether the database takes no changes.
pub(super) fn is_read_only(error: &Error) -> bool {
    code(error).is_some_and(|code| code == "25006")
}

/// Whether its disk is full.
pub(super) fn is_full(error: &Error) -> bool {
    code(error).is_some_and(|code| code == "53100")
}

/// A database on a server.
#[derive(Debug, Clone)]
pub(super) struct Database {
    options: Arc<Options>,
    writer: Arc<Mutex<Writer>>,
    readers: PgPool,
    leave: CancellationToken,
    replaced: CancellationToken,
    was_away: Arc<AtomicBool>,
}

/// The one connection that changes something.
#[derive(Debug)]
pub(super) struct Writer {
    options: Arc<Options>,
    connection: Option<PgConnection>,
    /// The mark that the transaction under way will leave.
    transaction: Option<String>,
    /// The mark of a commit whose answer was lost.
    undecided: Option<String>,
    /// The mark of the last transaction that is known to be durable; none until the start is over.
    last: Option<String>,
    /// It must not be used again.
    is_broken: bool,
    /// Since when it cannot be reached.
    away_since: Option<Instant>,
    /// It was away since somebody asked last.
    was_away: Arc<AtomicBool>,
    leave: CancellationToken,
    /// The database is not as this server left it.
    replaced: CancellationToken,
}

impl Database {
    pub(super) async fn open(options: Options) -> Result<Self, StoreError> {
        let options = Arc::new(options);
        let (leave, replaced) = (CancellationToken::new(), CancellationToken::new());
        let was_away = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            options: Arc::clone(&options),
            connection: None,
            transaction: None,
            undecided: None,
            last: None,
            is_broken: false,
            away_since: None,
            was_away: Arc::clone(&was_away),
            leave: leave.clone(),
            replaced: replaced.clone(),
        };
        writer.start().await?;
        let readers = PgPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| {
                Box::pin(async {
                    sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
                    let read_only = "SET default_transaction_read_only = on";
                    sqlx::raw_sql(read_only).execute(&mut *connection).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options.0.clone());
        let writer = Arc::new(Mutex::new(writer));
        Ok(Self { options, writer, readers, leave, replaced, was_away })
    }

    /// The writer, in a transaction.
    pub(super) async fn writer(&self) -> Result<Connection, StoreError> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        writer.begin().await?;
        Ok(Connection::postgres_writer(writer))
    }

    pub(super) async fn reader(&self) -> Result<Connection, StoreError> {
        let connection = self.readers.acquire().await;
        let connection = connection.map_err(|error| {
            if is_passing(&error) { self.options.unreachable(error) } else { error.into() }
        })?;
        Ok(Connection::postgres_reader(connection))
    }

    /// Resolves when the database is not as this server left it. Cancel safe.
    pub(super) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    pub(super) fn was_away(&self) -> bool {
        self.was_away.load(Ordering::Acquire)
    }

    pub(super) fn note_heard(&self) {
        self.was_away.store(false, Ordering::Release);
    }

    pub(super) async fn close(&self) {
        self.leave.cancel();
        self.readers.close().await;
        let mut writer = self.writer.lock().await;
        if let Some(connection) = writer.connection.take() {
            // It ends either way.
            let _ = timeout(CONNECT, connection.close()).await;
        }
    }
}

impl Writer {
    /// The first connection; brings the tables to this version.
    async fn start(&mut self) -> Result<(), StoreError> {
        let until = Instant::now() + HELD;
        loop {
            match self.connect().await {
                Err(StoreError::Held { .. }) if Instant::now() < until => sleep(PAUSE).await,
                result => break result?,
            }
        }
        let connection = self.connection.as_mut().expect("it was just opened");
        sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0")
            .execute(&mut *connection)
            .await?;
        migrator(&MIGRATIONS).run_direct(None, &mut *connection, false).await?;
        sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
        sqlx::raw_sql(MARKS).execute(&mut *connection).await?;
        self.last = Some(sqlx::raw_sql(FIRST_MARK).fetch_one(connection).await?.try_get(0)?);
        Ok(())
    }

    /// One attempt to get a connection that may write.
    async fn connect(&mut self) -> Result<(), StoreError> {
        let place = || self.options.place();
        let mut connection =
            self.options.connect().await.map_err(|error| self.options.unreachable(error))?;
        if connection.server_version_num().is_some_and(|version| version < OLDEST) {
            return Err(StoreError::Unsuitable {
                place: place(),
                problem: "it is older than PostgreSQL 13",
            });
        }
        let encoding = sqlx::query("SHOW server_encoding").fetch_one(&mut connection).await?;
        if encoding.try_get::<String, _>(0)? != "UTF8" {
            let problem =
                "its encoding is not UTF8: create it with ENCODING 'UTF8' TEMPLATE template0";
            return Err(StoreError::Unsuitable { place: place(), problem });
        }
        if !sqlx::query(LOCK).fetch_one(&mut connection).await?.try_get::<bool, _>(0)? {
            return Err(StoreError::Held { place: place() });
        }
        // The lock is let go of after the transaction of whoever held it has ended: what is found now stays.
        if let Some(last) = &self.last {
            let found = sqlx::raw_sql(MARK).fetch_optional(&mut connection).await?;
            let found = found.map(|row| row.try_get::<String, _>(0)).transpose()?;
            if found.is_some() && found == self.undecided {
                self.last = found;
            } else if found.as_ref() != Some(last) {
                let error = StoreError::Replaced { place: place() };
                if !self.replaced.is_cancelled() {
                    tracing::error!(error = %error, "nothing is changed any more by this server");
                }
                self.replaced.cancel();
                return Err(error);
            }
        }
        self.connection = Some(connection);
        self.is_broken = false;
        self.transaction = None;
        if let Some(since) = self.away_since.take() {
            self.was_away.store(true, Ordering::Release);
            tracing::info!("PostgreSQL is back after {} s", since.elapsed().as_secs());
        }
        Ok(())
    }

    /// Notes that it is away, once, and says what to do.
    fn note_away(&mut self, error: &StoreError) {
        if self.away_since.is_none() {
            self.away_since = Some(Instant::now());
            tracing::error!(
                error = error as &dyn std::error::Error,
                "changes wait for the database; what was acknowledged is in it, and launchers go on"
            );
        }
    }

    /// Tries until there is a connection, for [`PATIENCE`] in all since the database is away.
    async fn connected(&mut self) -> Result<&mut PgConnection, StoreError> {
        let begun = Instant::now();
        while self.connection.is_none() || self.is_broken {
            // Not closed gently: whatever is at its other end does not answer.
            self.connection = None;
            let Err(error) = self.connect().await else { break };
            // Who holds it may be our own last session, whose end the server has yet to notice.
            let is_passing = matches!(error, StoreError::Held { .. })
                || std::error::Error::source(&error)
                    .and_then(|source| source.downcast_ref::<Error>())
                    .is_some_and(is_passing);
            self.note_away(&error);
            let since = self.away_since.map_or(begun, |since| since.max(begun));
            let waited = self.away_since.is_some_and(|since| since.elapsed() >= PATIENCE);
            if !is_passing || waited || since.elapsed() >= PATIENCE || self.leave.is_cancelled() {
                return Err(error);
            }
            sleep(PAUSE).await;
        }
        Ok(self.connection.as_mut().expect("the loop ends with one"))
    }

    /// Begins a transaction. One that is still open was given up.
    async fn begin(&mut self) -> Result<(), StoreError> {
        let mut is_first = true;
        loop {
            let rollback = if self.transaction.take().is_some() { "ROLLBACK; " } else { "" };
            let connection = self.connected().await?;
            let begin = format!("{rollback}BEGIN; SELECT CAST(gen_random_uuid() AS TEXT)");
            let begin = sqlx::raw_sql(AssertSqlSafe(begin)).fetch_one(connection);
            let begun = timeout(CONNECT, begin).await;
            match begun.unwrap_or_else(|_| Err(timed_out("a transaction could not begin"))) {
                Ok(row) => {
                    self.transaction = Some(row.try_get(0)?);
                    return Ok(());
                }
                Err(error) => {
                    // Nothing was done yet, so nothing is lost with it: another one may do better, once.
                    self.is_broken = true;
                    if !is_first {
                        return Err(error.into());
                    }
                    is_first = false;
                }
            }
        }
    }

    /// Makes the transaction durable. An answer is given only when it is known: however long that takes, nobody
    /// else writes before.
    pub(super) async fn commit(&mut self) -> Result<(), StoreError> {
        let connection = self.connection.as_mut().expect("a transaction is under way");
        let mark = self.transaction.as_deref().expect("a transaction is under way");
        // A transaction in which a statement failed is rolled back by COMMIT, which is not even told as an error. The
        // first statement is. The mark is PostgreSQL's own spelling of a UUID.
        let commit = format!("UPDATE _gantry_writer SET mark = '{mark}' WHERE id = 1; COMMIT");
        let commit = sqlx::raw_sql(AssertSqlSafe(commit)).execute(connection);
        let committed = timeout(STATEMENT, commit).await;
        match committed.unwrap_or_else(|_| Err(timed_out("a commit was not answered"))) {
            Ok(_) => {
                self.last = self.transaction.take();
                Ok(())
            }
            Err(error) if is_lost(&error) => self.outcome(error).await,
            Err(error) => Err(error.into()),
        }
    }

    /// What became of a commit whose answer was lost: the mark that is found after it says so.
    async fn outcome(&mut self, lost: Error) -> Result<(), StoreError> {
        self.undecided = self.transaction.take();
        self.is_broken = true;
        tracing::warn!(error = %lost, "the answer to a commit was lost: nothing else is changed until it is known");
        let is_done = loop {
            if self.leave.is_cancelled() {
                break false;
            }
            match self.connected().await {
                Ok(_) => break self.last == self.undecided,
                // Somebody else goes on from whatever became of it.
                Err(StoreError::Replaced { .. }) => break false,
                Err(error) => {
                    tracing::warn!(error = %error, "what became of a commit is still unknown");
                    sleep(PAUSE).await;
                }
            }
        };
        self.undecided = None;
        if is_done { Ok(()) } else { Err(lost.into()) }
    }

    /// The connection, and the mark that it is of no more use.
    pub(super) fn parts(&mut self) -> (&mut PgConnection, &mut bool) {
        let connection = self.connection.as_mut().expect("a transaction is under way");
        (connection, &mut self.is_broken)
    }
}

/// The writer, for as long as a transaction of it is under way.
pub(super) type Held = OwnedMutexGuard<Writer>;
