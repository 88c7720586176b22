//! One connection of either database, which runs `sqlx::query` as it stands.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, future, stream};
use sqlx::any::{Any, AnyArguments, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::pool::PoolConnection;
use sqlx::{Either, Error, Execute, Executor, Postgres, SqlStr, Sqlite};
use sqlx_core::any::{AnyConnectionBackend, AnyValueKind};
use tokio::time::timeout;

use super::{StoreError, postgres};

/// A connection, inside or outside of a transaction. `&mut Connection` runs any `sqlx::query`.
#[derive(Debug)]
pub struct Connection(Kind);

#[derive(Debug)]
enum Kind {
    Sqlite(PoolConnection<Sqlite>),
    PostgresReader(PoolConnection<Postgres>),
    PostgresWriter(postgres::Held),
}

impl Connection {
    pub(super) const fn sqlite(connection: PoolConnection<Sqlite>) -> Self {
        Self(Kind::Sqlite(connection))
    }

    pub(super) const fn postgres_reader(connection: PoolConnection<Postgres>) -> Self {
        Self(Kind::PostgresReader(connection))
    }

    pub(super) const fn postgres_writer(writer: postgres::Held) -> Self {
        Self(Kind::PostgresWriter(writer))
    }

    /// What runs the statements, and the place for the mark that it is of no more use.
    fn backend(&mut self) -> (&mut dyn AnyConnectionBackend, Option<&mut bool>) {
        match &mut self.0 {
            Kind::Sqlite(connection) => (&mut **connection, None),
            Kind::PostgresReader(connection) => (&mut **connection, None),
            Kind::PostgresWriter(writer) => {
                let (connection, is_broken) = writer.parts();
                (connection, Some(is_broken))
            }
        }
    }

    const fn is_remote(&self) -> bool {
        match self.0 {
            Kind::Sqlite(_) => false,
            Kind::PostgresReader(_) | Kind::PostgresWriter(_) => true,
        }
    }
}

/// Text as both databases keep it: PostgreSQL has no room for NUL in it, and nothing that is meant for people has one.
fn text_only(arguments: Option<AnyArguments>) -> Option<AnyArguments> {
    let mut arguments = arguments?;
    for value in &mut arguments.values.0 {
        if let AnyValueKind::Text(text) = value
            && text.contains('\0')
        {
            *text = Arc::new(text.replace('\0', "\u{fffd}"));
        }
    }
    Some(arguments)
}

fn late() -> Error {
    let what = "a statement was not answered";
    Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

/// Looks at how a statement went.
fn seen<T>(result: Result<T, Error>, is_broken: &mut Option<&mut bool>) -> Result<T, Error> {
    if let (Err(error), Some(is_broken)) = (&result, is_broken) {
        **is_broken |= postgres::is_lost(error);
    }
    result
}

type Step = Either<AnyQueryResult, AnyRow>;

/// The same answers, none of which is waited for without an end.
fn bounded<'e>(
    answers: BoxStream<'e, Result<Step, Error>>,
    is_broken: Option<&'e mut bool>,
) -> BoxStream<'e, Result<Step, Error>> {
    stream::unfold((Some(answers), is_broken), |(answers, mut is_broken)| async move {
        let mut answers = answers?;
        let next = timeout(postgres::STATEMENT, answers.next()).await;
        let next = seen(next.unwrap_or_else(|_| Some(Err(late()))).transpose(), &mut is_broken);
        let rest = if next.is_err() { None } else { Some(answers) };
        Some((next.transpose()?, (rest, is_broken)))
    })
    .boxed()
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, mut query: E) -> BoxStream<'e, Result<Step, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let persistent = query.persistent();
        let arguments = match query.take_arguments() {
            Ok(arguments) => text_only(arguments),
            Err(error) => return stream::once(future::ready(Err(Error::Encode(error)))).boxed(),
        };
        let is_remote = self.is_remote();
        let (backend, is_broken) = self.backend();
        let answers = backend.fetch_many(query.sql(), persistent, arguments);
        if is_remote { bounded(answers, is_broken) } else { answers }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        mut query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let persistent = query.persistent();
        let arguments = match query.take_arguments() {
            Ok(arguments) => text_only(arguments),
            Err(error) => return future::ready(Err(Error::Encode(error))).boxed(),
        };
        let is_remote = self.is_remote();
        let (backend, mut is_broken) = self.backend();
        let answer = backend.fetch_optional(query.sql(), persistent, arguments);
        if !is_remote {
            return answer;
        }
        async move {
            let answer = timeout(postgres::STATEMENT, answer).await;
            seen(answer.unwrap_or_else(|_| Err(late())), &mut is_broken)
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'c: 'e,
    {
        self.backend().0.prepare_with(sql, parameters)
    }
}

/// A connection that only looks. It goes back when it is dropped.
#[derive(Debug)]
pub struct Reader(pub(super) Connection);

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

/// A transaction under way. It is rolled back when it is dropped.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    is_open: bool,
}

impl Transaction {
    /// On a connection that may write; PostgreSQL's is in its transaction already.
    pub(super) async fn begin(mut connection: Connection) -> Result<Self, StoreError> {
        if let Kind::Sqlite(connection) = &mut connection.0 {
            let begin = SqlStr::from_static("BEGIN IMMEDIATE");
            AnyConnectionBackend::begin(&mut **connection, Some(begin)).await?;
        }
        Ok(Self { connection, is_open: true })
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// When the database fails. Nothing of the transaction is kept then.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        match &mut self.connection.0 {
            Kind::PostgresWriter(writer) => writer.commit().await?,
            Kind::Sqlite(connection) => AnyConnectionBackend::commit(&mut **connection).await?,
            Kind::PostgresReader(_) => {}
        }
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // PostgreSQL's is rolled back by the next one that begins.
        if self.is_open
            && let Kind::Sqlite(connection) = &mut self.connection.0
        {
            AnyConnectionBackend::start_rollback(&mut **connection);
        }
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
