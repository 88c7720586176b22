//! Stacks: what is planned and applied, with which source, variables, secrets and state.

mod change;
mod lock;
mod sealing;
mod secrets;
mod sources;
mod states;

use gantry_model::{PoolId, RunState, StackId, Timestamp};
use gantry_protocol::spec::{SealedBundle, Variable};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

pub use self::change::{HooksChange, StackChange};
pub(crate) use self::sources::read_source;
pub use self::sources::{NewSource, SourceUpload, StackSource};
pub use self::states::StateVersion;

use self::secrets::check_secrets;
use crate::check;
use crate::control_plane::ControlPlane;
use crate::dispatch::bundle;
use crate::error::OperationError;
use crate::pools::check_there;
use crate::runs::Run;
use crate::store::{Connection, at, from_db, id, json, run_state, to_db, to_json};
use crate::unit_of_work::Unit;

/// The longest name of a repository, its owner or its branch, in characters.
const MAX_REPOSITORY: usize = 255;
/// The most bytes of a stack's hooks or of its variables, as JSON.
const MAX_SETTINGS: usize = 256 * 1024;
/// The most variables in the clear.
const MAX_VARIABLES: usize = 500;

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

/// A stack that someone wants.
#[derive(Debug, Clone)]
pub struct NewStack {
    /// Its slug.
    pub id: StackId,
    /// Its name, 1 to 100 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where its source comes from.
    pub repository: Repository,
    /// The pool that runs it.
    pub pool: PoolId,
    /// The part of the source that it lives in, relative; empty for all of it.
    pub project_root: String,
    /// The image; the launcher's default if none.
    pub image: Option<String>,
    /// Commands around the phases.
    pub hooks: Hooks,
    /// Variables in the clear.
    pub environment: Vec<Variable>,
    /// Its secrets, sealed to [`ControlPlane::recipients_of_pool`].
    pub secrets: Option<SealedBundle>,
    /// Its labels.
    pub labels: Vec<String>,
    /// Whether a plan's changes need no person.
    pub autodeploy: bool,
    /// Whether we keep its Terraform state.
    pub manage_state: bool,
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
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A lock on a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackLock {
    /// Who locked it.
    pub by: String,
    /// Why.
    pub note: String,
    /// When.
    pub at: Timestamp,
}

impl ControlPlane {
    /// Creates a stack.
    ///
    /// # Errors
    /// When the slug is taken, there is no such pool, or something given is not acceptable.
    pub async fn create_stack(&self, actor: &str, new: NewStack) -> Result<Stack, OperationError> {
        check_new(&new)?;
        let mut unit = self.begin().await?;
        check_there(&mut unit, new.pool).await?;
        let taken = sqlx::query("SELECT deleted_at FROM stacks WHERE id = $1")
            .bind(new.id.as_str())
            .fetch_optional(unit.conn())
            .await?;
        if let Some(taken) = taken {
            let is = if taken.get::<Option<i64>, _>("deleted_at").is_some() { "was" } else { "is" };
            return Err(OperationError::Conflict(format!(
                "there {is} a stack {} already: choose another id",
                new.id
            )));
        }
        insert_stack(&mut unit, &new).await?;
        let subject = format!("stack {}", new.id);
        unit.audit(actor, "stack.create", &subject, &new.name).await?;
        unit.commit().await?;
        self.stack(&new.id).await
    }

    /// The stack with this slug.
    ///
    /// # Errors
    /// When there is none.
    pub async fn stack(&self, stack: &StackId) -> Result<Stack, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(read_stack_with_secrets(&mut conn, stack).await?.0)
    }

    /// The stack of a run, deleted or not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stack_of_run(&self, run: &Run) -> Result<Stack, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(read_any_stack(&mut conn, &run.stack).await?.0)
    }

    /// All stacks, by slug.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stacks(&self) -> Result<Vec<Stack>, OperationError> {
        let mut conn = self.store().read().await?;
        let select = "SELECT id FROM stacks WHERE deleted_at IS NULL ORDER BY id LIMIT 10000";
        let rows = sqlx::query(select).fetch_all(&mut *conn).await?;
        let mut stacks = Vec::new();
        for row in rows {
            let stack: StackId = id("stack", row.get("id"))?;
            stacks.push(read_stack_with_secrets(&mut conn, &stack).await?.0);
        }
        Ok(stacks)
    }

    /// The state of the stack's newest run that may change something.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stack_state(&self, stack: &StackId) -> Result<Option<RunState>, OperationError> {
        let mut conn = self.store().read().await?;
        let newest = "SELECT state FROM runs WHERE stack = $1 AND type <> 'PROPOSED' \
                      ORDER BY id DESC LIMIT 1";
        let row = sqlx::query(newest).bind(stack.as_str()).fetch_optional(&mut *conn).await?;
        Ok(row.map(|row| run_state(row.get("state"))).transpose()?)
    }

    /// How many stacks are in each such state; none stands for those that had no such run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_stacks(&self) -> Result<Vec<(Option<RunState>, u32)>, OperationError> {
        let mut conn = self.store().read().await?;
        let counts = "SELECT (SELECT r.state FROM runs r WHERE r.stack = s.id \
                      AND r.type <> 'PROPOSED' ORDER BY r.id DESC LIMIT 1) AS state, \
                      COUNT(*) AS stacks FROM stacks s WHERE s.deleted_at IS NULL GROUP BY 1 ORDER BY 1";
        let mut counted = Vec::new();
        for row in sqlx::query(counts).fetch_all(&mut *conn).await? {
            let state: Option<&str> = row.get("state");
            let stacks = u32::try_from(row.get::<i64, _>("stacks")).unwrap_or(u32::MAX);
            counted.push((state.map(run_state).transpose()?, stacks));
        }
        Ok(counted)
    }
}

fn check_new(new: &NewStack) -> Result<(), OperationError> {
    check_settings(&Stack {
        id: new.id.clone(),
        name: new.name.clone(),
        description: new.description.clone(),
        repository: new.repository.clone(),
        pool: new.pool,
        project_root: new.project_root.clone(),
        image: new.image.clone(),
        hooks: new.hooks.clone(),
        environment: new.environment.clone(),
        secrets_version: 0,
        labels: new.labels.clone(),
        autodeploy: new.autodeploy,
        manage_state: new.manage_state,
        lock: None,
        source: None,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    })?;
    match &new.secrets {
        Some(secrets) if secrets.version != 1 => {
            Err(OperationError::invalid("secrets", "the first version of them is 1"))
        }
        Some(secrets) => check_secrets(secrets),
        None => Ok(()),
    }
}

/// What people can set about a stack.
fn check_settings(stack: &Stack) -> Result<(), OperationError> {
    check::name("name", &stack.name)?;
    check::text("description", &stack.description, 0, check::MAX_NOTE)?;
    let Repository { provider, namespace, name, branch } = &stack.repository;
    for (what, text) in
        [("provider", provider), ("namespace", namespace), ("repository", name), ("branch", branch)]
    {
        check::text(what, text, 0, MAX_REPOSITORY)?;
    }
    check::labels(&stack.labels)?;
    check::project_root(&stack.project_root)?;
    if let Some(image) = &stack.image {
        check::image(image)?;
    }
    if to_json(&stack.hooks).len() > MAX_SETTINGS {
        return Err(OperationError::invalid(
            "hooks",
            "they are longer than 256 KiB together: put long scripts into the source",
        ));
    }
    if to_json(&stack.environment).len() > MAX_SETTINGS {
        return Err(OperationError::invalid(
            "environment",
            "it is longer than 256 KiB: put large values into files of the source",
        ));
    }
    stack.environment.iter().try_for_each(check::variable)
}

async fn insert_stack(unit: &mut Unit, new: &NewStack) -> Result<(), OperationError> {
    let insert = "INSERT INTO stacks (id, name, pool, project_root, image, hooks, environment, \
        secrets_version, secrets, labels, is_autodeploy, keeps_state, created_at, updated_at, \
        description, provider, namespace, repository, branch) VALUES \
        ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $14, $15, $16, $17, $18)";
    let now = to_db(unit.now().0);
    sqlx::query(insert)
        .bind(new.id.as_str())
        .bind(&new.name)
        .bind(new.pool.to_string())
        .bind(check::project_root(&new.project_root)?.as_str())
        .bind(new.image.as_deref())
        .bind(to_json(&new.hooks))
        .bind(to_json(&new.environment))
        .bind(to_db(new.secrets.as_ref().map_or(0, |secrets| secrets.version)))
        .bind(new.secrets.as_ref().map(to_json))
        .bind(to_json(&new.labels))
        .bind(i64::from(new.autodeploy))
        .bind(i64::from(new.manage_state))
        .bind(now)
        .bind(&new.description)
        .bind(&new.repository.provider)
        .bind(&new.repository.namespace)
        .bind(&new.repository.name)
        .bind(&new.repository.branch)
        .execute(unit.conn())
        .await?;
    Ok(())
}

/// A stack that was not deleted, and its secrets as they are sealed.
pub(crate) async fn read_stack_with_secrets(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<(Stack, Option<SealedBundle>), OperationError> {
    let live = "SELECT 1 FROM stacks WHERE id = $1 AND deleted_at IS NULL";
    let live = sqlx::query(live).bind(stack.as_str()).fetch_optional(&mut *conn).await?;
    live.ok_or_else(|| OperationError::not_found("stack", stack))?;
    read_any_stack(conn, stack).await
}

/// A stack, deleted or not: its runs are still to be seen, and late reports about them taken in.
pub(crate) async fn read_any_stack(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<(Stack, Option<SealedBundle>), OperationError> {
    let row = sqlx::query("SELECT * FROM stacks WHERE id = $1")
        .bind(stack.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    let row = row.ok_or_else(|| OperationError::not_found("stack", stack))?;
    let source = match row.get::<Option<&str>, _>("source") {
        None => None,
        Some(source) => Some(read_source(conn, source).await?),
    };
    let lock = row.get::<Option<String>, _>("lock_by").map(|by| StackLock {
        by,
        note: row.get::<Option<String>, _>("lock_note").unwrap_or_default(),
        at: at(row.get::<Option<i64>, _>("lock_at").unwrap_or_default()),
    });
    let found = Stack {
        id: id("stack", row.get("id"))?,
        name: row.get("name"),
        description: row.get("description"),
        repository: Repository {
            provider: row.get("provider"),
            namespace: row.get("namespace"),
            name: row.get("repository"),
            branch: row.get("branch"),
        },
        pool: id("pool", row.get("pool"))?,
        project_root: row.get("project_root"),
        image: row.get("image"),
        hooks: json("hooks", row.get("hooks"))?,
        environment: json("environment", row.get("environment"))?,
        secrets_version: from_db(row.get("secrets_version")),
        labels: json("labels", row.get("labels"))?,
        autodeploy: row.get::<i64, _>("is_autodeploy") != 0,
        manage_state: row.get::<i64, _>("keeps_state") != 0,
        lock,
        source,
        created_at: at(row.get("created_at")),
        updated_at: at(row.get("updated_at")),
    };
    Ok((found, bundle(row.get("secrets"))))
}
