//! Stacks in the database, and their newest source with them.

use gantry_model::{Interrupt, Phase, PoolId, RunId, RunState, StackId, StackLock, Timestamp};
use gantry_protocol::spec::{SealedBundle, Variable};
use serde::{Deserialize, Serialize};

use super::sources::{SOURCE_COLUMNS, StackSource, maybe_source};
use super::{Columns as _, Connection, Row, StoreError, run_state, to_db, to_json};

/// Commands around the phases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// Before initialize.
    pub before_init: Vec<String>,
    /// After initialize.
    pub after_init: Vec<String>,
    /// Before plan.
    pub before_plan: Vec<String>,
    /// After plan.
    pub after_plan: Vec<String>,
    /// Before apply.
    pub before_apply: Vec<String>,
    /// After apply.
    pub after_apply: Vec<String>,
    /// Before perform.
    pub before_perform: Vec<String>,
    /// After perform.
    pub after_perform: Vec<String>,
    /// Before destroy.
    pub before_destroy: Vec<String>,
    /// After destroy.
    pub after_destroy: Vec<String>,
    /// After every processed run.
    pub after_run: Vec<String>,
}

impl Hooks {
    /// The commands before and after a phase.
    #[must_use]
    pub fn around(&self, phase: Phase) -> (&[String], &[String]) {
        match phase {
            Phase::Initialize => (&self.before_init, &self.after_init),
            Phase::Plan => (&self.before_plan, &self.after_plan),
            Phase::Apply => (&self.before_apply, &self.after_apply),
            Phase::Perform => (&self.before_perform, &self.after_perform),
            Phase::Destroy => (&self.before_destroy, &self.after_destroy),
        }
    }
}

/// What a stack's phases run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Tool {
    /// Terraform or `OpenTofu`, whichever the image has.
    #[default]
    Terraform,
    /// The stack's own commands.
    Custom(Commands),
}

/// The commands of a tool that only its stack knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Commands {
    /// Of initialize; none if there is nothing to do.
    pub initialize: Option<String>,
    /// Of plan.
    pub plan: String,
    /// Of apply.
    pub apply: String,
    /// Of destroy; without it nothing of the stack can be destroyed.
    pub destroy: Option<String>,
    /// The exit code of a plan that has something to apply; none if no code says so.
    pub changes_exit_code: Option<u8>,
    /// How a command is asked to leave.
    pub interrupt: Interrupt,
}

/// Where a stack's source comes from, in the words of whoever made the stack. Kept and shown: sources
/// are uploaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repository {
    /// The host, such as `GITHUB`.
    pub provider: String,
    /// The owner.
    pub namespace: String,
    /// The repository.
    pub name: String,
    /// The branch.
    pub branch: String,
}

/// A stack.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Its slug.
    pub id: StackId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where its source comes from.
    pub repository: Repository,
    /// The pool that runs it.
    pub pool: PoolId,
    /// The part of the source that it lives in.
    pub project_root: String,
    /// The image; the launcher's default if none.
    pub image: Option<String>,
    /// What its phases run.
    pub tool: Tool,
    /// Commands around the phases.
    pub hooks: Hooks,
    /// Variables in the clear.
    pub environment: Vec<Variable>,
    /// The version of its secrets; 0 if it has none.
    pub secrets_version: u64,
    /// Its labels.
    pub labels: Vec<String>,
    /// Whether a plan's changes need no person.
    pub autodeploy: bool,
    /// Whether we keep its Terraform state.
    pub manage_state: bool,
    /// Who locked it and why; while it is locked, no blocking run begins.
    pub lock: Option<StackLock>,
    /// The newest version of its source.
    pub source: Option<StackSource>,
    /// The state of its newest run that may change something; none without such a run.
    pub state: Option<RunState>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// All columns that [`stack`] reads, of `stacks s` and its newest source.
const STACK_COLUMNS: &str = "s.id, s.name, s.description, s.provider, s.namespace, s.repository, \
    s.branch, s.pool, s.project_root, s.image, s.tool, s.hooks, s.environment, s.secrets_version, \
    s.secrets, s.labels, s.is_autodeploy, s.keeps_state, s.lock_by, s.lock_note, s.lock_at, s.created_at, \
    s.updated_at, s.deleted_at, (SELECT r.state FROM runs r WHERE r.stack = s.id \
    AND r.type <> 'PROPOSED' ORDER BY r.id DESC LIMIT 1) AS newest_state";

/// A stack as its row has it.
#[derive(Debug, Clone)]
pub(crate) struct StackRow {
    pub(crate) stack: Stack,
    /// Its secrets as they are sealed.
    pub(crate) secrets: Option<SealedBundle>,
    /// Nobody sees it any more.
    pub(crate) is_deleted: bool,
}

fn stack(row: &Row) -> Result<StackRow, StoreError> {
    let lock = match row.maybe_text("lock_by")? {
        None => None,
        Some(by) => Some(StackLock {
            by,
            note: row.maybe_text("lock_note")?.unwrap_or_default(),
            at: row.maybe_instant("lock_at")?.unwrap_or_default(),
        }),
    };
    let stack = Stack {
        id: row.parsed("id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        repository: Repository {
            provider: row.text("provider")?,
            namespace: row.text("namespace")?,
            name: row.text("repository")?,
            branch: row.text("branch")?,
        },
        pool: row.parsed("pool")?,
        project_root: row.text("project_root")?,
        image: row.maybe_text("image")?,
        tool: row.json("tool")?,
        hooks: row.json("hooks")?,
        environment: row.json("environment")?,
        secrets_version: row.number("secrets_version")?,
        labels: row.json("labels")?,
        autodeploy: row.flag("is_autodeploy")?,
        manage_state: row.flag("keeps_state")?,
        lock,
        source: maybe_source(row)?,
        state: row.maybe_text("newest_state")?.map(|state| run_state(&state)).transpose()?,
        created_at: row.instant("created_at")?,
        updated_at: row.instant("updated_at")?,
    };
    let secrets = row.maybe_text("secrets")?;
    Ok(StackRow {
        stack,
        secrets: secrets.map(|text| super::json("secrets", &text)).transpose()?,
        is_deleted: row.maybe_instant("deleted_at")?.is_some(),
    })
}

/// The stack with this slug, deleted or not.
pub(crate) async fn find_stack(
    conn: &mut Connection,
    id: &StackId,
) -> Result<Option<StackRow>, StoreError> {
    let select = format!(
        "SELECT {STACK_COLUMNS}, {SOURCE_COLUMNS} FROM stacks s \
         LEFT JOIN sources src ON src.id = s.source WHERE s.id = $1"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(id.as_str());
    query.fetch_optional(conn).await?.as_ref().map(stack).transpose()
}

/// The stacks that are not deleted, by slug.
pub(crate) async fn list_stacks(
    conn: &mut Connection,
    limit: i64,
) -> Result<Vec<Stack>, StoreError> {
    let select = format!(
        "SELECT {STACK_COLUMNS}, {SOURCE_COLUMNS} FROM stacks s \
         LEFT JOIN sources src ON src.id = s.source \
         WHERE s.deleted_at IS NULL ORDER BY s.id LIMIT $1"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(select)).bind(limit).fetch_all(conn).await?;
    rows.iter().map(|row| Ok(stack(row)?.stack)).collect()
}

/// Those of these stacks that there are, deleted or not.
pub(crate) async fn find_stacks(
    conn: &mut Connection,
    ids: &[StackId],
) -> Result<Vec<Stack>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<String> = (1..=ids.len()).map(|n| format!("${n}")).collect();
    let select = format!(
        "SELECT {STACK_COLUMNS}, {SOURCE_COLUMNS} FROM stacks s \
         LEFT JOIN sources src ON src.id = s.source WHERE s.id IN ({})",
        places.join(", ")
    );
    let mut query = sqlx::query(sqlx::AssertSqlSafe(select));
    for id in ids {
        query = query.bind(id.as_str());
    }
    query.fetch_all(conn).await?.iter().map(|row| Ok(stack(row)?.stack)).collect()
}

/// Writes down a new stack.
pub(crate) async fn insert_stack(
    conn: &mut Connection,
    stack: &Stack,
    secrets: Option<&SealedBundle>,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO stacks (id, name, pool, project_root, image, hooks, environment, \
        secrets_version, secrets, labels, is_autodeploy, keeps_state, created_at, updated_at, \
        description, provider, namespace, repository, branch, tool) VALUES ($1, $2, $3, $4, $5, $6, \
        $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";
    sqlx::query(insert)
        .bind(stack.id.as_str())
        .bind(&stack.name)
        .bind(stack.pool.to_string())
        .bind(&stack.project_root)
        .bind(stack.image.as_deref())
        .bind(to_json(&stack.hooks))
        .bind(to_json(&stack.environment))
        .bind(to_db(stack.secrets_version))
        .bind(secrets.map(to_json))
        .bind(to_json(&stack.labels))
        .bind(i64::from(stack.autodeploy))
        .bind(i64::from(stack.manage_state))
        .bind(to_db(stack.created_at.0))
        .bind(to_db(stack.updated_at.0))
        .bind(&stack.description)
        .bind(&stack.repository.provider)
        .bind(&stack.repository.namespace)
        .bind(&stack.repository.name)
        .bind(&stack.repository.branch)
        .bind(to_json(&stack.tool))
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes a stack's settings, secrets and source what is given here.
pub(crate) async fn update_stack(
    conn: &mut Connection,
    stack: &Stack,
    secrets: Option<&SealedBundle>,
) -> Result<(), StoreError> {
    let update = "UPDATE stacks SET name = $2, pool = $3, project_root = $4, image = $5, hooks = $6, \
        environment = $7, secrets_version = $8, secrets = $9, labels = $10, is_autodeploy = $11, \
        keeps_state = $12, updated_at = $13, description = $14, provider = $15, namespace = $16, \
        repository = $17, branch = $18, source = $19, tool = $20 WHERE id = $1";
    sqlx::query(update)
        .bind(stack.id.as_str())
        .bind(&stack.name)
        .bind(stack.pool.to_string())
        .bind(&stack.project_root)
        .bind(stack.image.as_deref())
        .bind(to_json(&stack.hooks))
        .bind(to_json(&stack.environment))
        .bind(to_db(stack.secrets_version))
        .bind(secrets.map(to_json))
        .bind(to_json(&stack.labels))
        .bind(i64::from(stack.autodeploy))
        .bind(i64::from(stack.manage_state))
        .bind(to_db(stack.updated_at.0))
        .bind(&stack.description)
        .bind(&stack.repository.provider)
        .bind(&stack.repository.namespace)
        .bind(&stack.repository.name)
        .bind(&stack.repository.branch)
        .bind(stack.source.as_ref().map(|source| source.id.as_str()))
        .bind(to_json(&stack.tool))
        .execute(conn)
        .await?;
    Ok(())
}

/// Replaces a stack's secrets.
pub(crate) async fn set_secrets(
    conn: &mut Connection,
    id: &StackId,
    secrets: &SealedBundle,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE stacks SET secrets = $2, secrets_version = $3, updated_at = $4 \
                  WHERE id = $1";
    sqlx::query(update)
        .bind(id.as_str())
        .bind(to_json(secrets))
        .bind(to_db(secrets.version))
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Hides a stack for good.
pub(crate) async fn delete_stack(
    conn: &mut Connection,
    id: &StackId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE stacks SET deleted_at = $2, updated_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Replaces a stack's lock; none lifts it.
pub(crate) async fn set_lock(
    conn: &mut Connection,
    id: &StackId,
    lock: Option<&StackLock>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE stacks SET lock_by = $2, lock_note = $3, lock_at = $4 WHERE id = $1")
        .bind(id.as_str())
        .bind(lock.map(|lock| lock.by.as_str()))
        .bind(lock.map(|lock| lock.note.as_str()))
        .bind(lock.map(|lock| to_db(lock.at.0)))
        .execute(conn)
        .await?;
    Ok(())
}

/// A stack's lock, if it has one.
pub(crate) async fn find_lock(
    conn: &mut Connection,
    id: &StackId,
) -> Result<Option<StackLock>, StoreError> {
    let select = "SELECT lock_by, lock_note, lock_at FROM stacks \
                  WHERE id = $1 AND lock_by IS NOT NULL";
    let Some(row) = sqlx::query(select).bind(id.as_str()).fetch_optional(conn).await? else {
        return Ok(None);
    };
    Ok(Some(StackLock {
        by: row.text("lock_by")?,
        note: row.maybe_text("lock_note")?.unwrap_or_default(),
        at: row.maybe_instant("lock_at")?.unwrap_or_default(),
    }))
}

/// The run that keeps the others of the stack waiting.
pub(crate) async fn find_blocker(
    conn: &mut Connection,
    id: &StackId,
) -> Result<Option<RunId>, StoreError> {
    let select = "SELECT blocker FROM stacks WHERE id = $1";
    let row = sqlx::query(select).bind(id.as_str()).fetch_optional(conn).await?;
    row.map_or(Ok(None), |row| row.maybe_parsed("blocker"))
}

/// The run keeps others of its stack waiting, unless another one does already.
pub(crate) async fn block_stack(
    conn: &mut Connection,
    id: &StackId,
    run: RunId,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE stacks SET blocker = $2 WHERE id = $1 AND blocker IS NULL")
        .bind(id.as_str())
        .bind(run.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// The run keeps others of its stack waiting no more.
pub(crate) async fn release_stack(
    conn: &mut Connection,
    id: &StackId,
    run: RunId,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE stacks SET blocker = NULL WHERE id = $1 AND blocker = $2")
        .bind(id.as_str())
        .bind(run.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// How many stacks have a newest run in each state; none stands for those without such a run.
pub(crate) async fn count_by_state(
    conn: &mut Connection,
) -> Result<Vec<(Option<RunState>, u64)>, StoreError> {
    let counts = "SELECT (SELECT r.state FROM runs r WHERE r.stack = s.id \
                  AND r.type <> 'PROPOSED' ORDER BY r.id DESC LIMIT 1) AS state, \
                  COUNT(*) AS stacks FROM stacks s WHERE s.deleted_at IS NULL GROUP BY 1 ORDER BY 1 NULLS FIRST";
    let mut counted = Vec::new();
    for row in sqlx::query(counts).fetch_all(conn).await? {
        let state = row.maybe_text("state")?;
        let state = state.map(|state| run_state(&state)).transpose()?;
        counted.push((state, row.number("stacks")?));
    }
    Ok(counted)
}
