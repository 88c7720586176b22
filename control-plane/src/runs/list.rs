//! Runs of one stack, and of all of them.

use gantry_model::{RunId, StackId};

use super::{Run, present};
use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{RUN_COLUMNS, read_run};

/// The most runs of one page.
const MAX_PAGE: u32 = 100;

/// Which runs of a stack are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunsKind {
    /// All of them.
    #[default]
    All,
    /// Those that only propose.
    Proposed,
    /// All others.
    Others,
}

/// Which runs of a stack to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunsPage {
    /// Only these.
    pub kind: RunsKind,
    /// Only runs older than this one.
    pub before: Option<RunId>,
    /// At most so many, and at most 100.
    pub limit: u32,
}

impl ControlPlane {
    /// Runs of a stack, newest first.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn runs_of(
        &self,
        stack: &StackId,
        page: RunsPage,
    ) -> Result<Vec<Run>, OperationError> {
        self.stack(stack).await?;
        self.list_runs(Some(stack), "", page).await
    }

    /// Runs of all stacks, newest first; only those whose id begins with `prefix`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn runs(&self, prefix: &str, page: RunsPage) -> Result<Vec<Run>, OperationError> {
        self.list_runs(None, prefix, page).await
    }

    async fn list_runs(
        &self,
        stack: Option<&StackId>,
        prefix: &str,
        page: RunsPage,
    ) -> Result<Vec<Run>, OperationError> {
        let mut conn = self.store().read().await?;
        let kind = match page.kind {
            RunsKind::All => "",
            RunsKind::Proposed => "AND r.type = 'PROPOSED' ",
            RunsKind::Others => "AND r.type <> 'PROPOSED' ",
        };
        let stacks = if stack.is_some() { "r.stack = $1" } else { "$1 = ''" };
        let select = format!(
            "SELECT {RUN_COLUMNS} FROM runs r WHERE {stacks} AND r.id < COALESCE($2, '~') \
             AND r.id >= $4 AND r.id < $4 || '~' {kind}ORDER BY r.id DESC LIMIT $3"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(select))
            .bind(stack.map_or("", StackId::as_str))
            .bind(page.before.map(|run| run.to_string()))
            .bind(i64::from(page.limit.clamp(1, MAX_PAGE)))
            .bind(prefix)
            .fetch_all(&mut *conn)
            .await?;
        let mut runs = Vec::new();
        for row in rows {
            runs.push(present(&mut conn, read_run(&row)?).await?);
        }
        Ok(runs)
    }
}
