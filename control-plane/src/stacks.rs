//! Stacks: what is planned and applied, with which source, variables, secrets and state.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{Attempt, Epoch, PoolId, StackId, Timestamp};
use gantry_protocol::spec::{SealedBundle, Variable};
use gantry_protocol::{Digest, Header};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use crate::check;
use crate::control_plane::ControlPlane;
use crate::dispatch::{bundle, millis};
use crate::error::OperationError;
use crate::objects::check_key;
use crate::store::{
    Connection, Row, StoreError, at, from_db, id, json, promote, stage, to_db, to_json,
};
use crate::unit::Unit;

/// For how long a source can be uploaded.
const UPLOAD_TTL: Duration = Duration::from_hours(1);
/// The largest source, in bytes.
const MAX_SOURCE: u64 = 1024 * 1024 * 1024;
/// The most bytes of a stack's secrets, sealed, in base64.
const MAX_SECRETS: usize = 512 * 1024;
/// The most bytes of a stack's hooks or of its variables, as JSON.
const MAX_SETTINGS: usize = 256 * 1024;
/// The most state versions of one list.
const MAX_STATES: i64 = 1000;

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

/// A stack that someone wants.
#[derive(Debug, Clone)]
pub struct NewStack {
    /// Its slug.
    pub id: StackId,
    /// Its name, 1 to 100 characters.
    pub name: String,
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

/// A version of a stack's source: an archive, `tar` in `zstd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSource {
    /// Its id.
    pub id: String,
    /// The object that holds it.
    pub key: String,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// Who uploaded it.
    pub author: String,
    /// What they said about it.
    pub message: String,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

/// A source that was uploaded.
#[derive(Debug, Clone)]
pub struct NewSource {
    /// The object that holds it, as [`ControlPlane::source_upload`] named it.
    pub key: String,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// Who made it.
    pub author: String,
    /// What they say about it.
    pub message: String,
}

/// Where to put a source.
#[derive(Debug, Clone)]
pub struct SourceUpload {
    /// The object's key.
    pub key: String,
    /// A pre-signed url. The PUT must carry `If-None-Match: *`.
    pub url: String,
    /// For how long it can be used, in milliseconds.
    pub valid_ms: u64,
}

/// A stored version of a stack's Terraform state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateVersion {
    /// Its id.
    pub id: String,
    /// The stack.
    pub stack: StackId,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// Terraform's serial.
    pub serial: u64,
    /// Terraform's lineage.
    pub lineage: String,
    /// The age header, base64.
    pub header: String,
    /// Lower-case hex of the payload's SHA-256.
    pub payload_sha256: String,
    /// The payload's length in bytes.
    pub payload_size: u64,
    /// The payload hash of the version before.
    pub predecessor: Option<String>,
    /// The pool key's signature over its statement, base64.
    pub signature: String,
    /// The object that holds the payload.
    pub key: String,
    /// When it was reported.
    pub created_at: Timestamp,
    /// Why it is not part of the stack's history, if it is not.
    pub orphaned: Option<String>,
    /// Whether the next run begins with it.
    pub is_current: bool,
}

impl ControlPlane {
    /// Creates a stack.
    ///
    /// # Errors
    /// When the slug is taken, there is no such pool, or something given is not acceptable.
    pub async fn create_stack(&self, actor: &str, new: NewStack) -> Result<Stack, OperationError> {
        check_stack(&new)?;
        self.pool(new.pool).await?;
        let mut unit = self.begin().await?;
        let taken = sqlx::query("SELECT 1 FROM stacks WHERE id = $1")
            .bind(new.id.as_str())
            .fetch_optional(unit.conn())
            .await?;
        if taken.is_some() {
            return Err(OperationError::Conflict(format!(
                "there is a stack {} already: choose another id",
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

    /// All stacks, by slug.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stacks(&self) -> Result<Vec<Stack>, OperationError> {
        let mut conn = self.store().read().await?;
        let select = "SELECT id FROM stacks ORDER BY id LIMIT 10000";
        let rows = sqlx::query(select).fetch_all(&mut *conn).await?;
        let mut stacks = Vec::new();
        for row in rows {
            let stack: StackId = id("stack", row.get("id"))?;
            stacks.push(read_stack_with_secrets(&mut conn, &stack).await?.0);
        }
        Ok(stacks)
    }

    /// An url for a new version of the stack's source.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn source_upload(&self, stack: &StackId) -> Result<SourceUpload, OperationError> {
        self.stack(stack).await?;
        let key = format!("source/{stack}/{}", self.ids().ulid(self.now()));
        let url = self.objects().presign_put(&key, UPLOAD_TTL).await?;
        Ok(SourceUpload { key, url, valid_ms: millis(UPLOAD_TTL) })
    }

    /// Makes an uploaded source the newest version. Asked again with the same key, it changes nothing.
    ///
    /// # Errors
    /// When there is no such stack or object, or the object has another length.
    pub async fn set_source(
        &self,
        actor: &str,
        stack: &StackId,
        source: NewSource,
    ) -> Result<Stack, OperationError> {
        self.check_source(stack, &source).await?;
        let mut unit = self.begin().await?;
        let known = sqlx::query("SELECT 1 FROM sources WHERE stack = $1 AND key = $2")
            .bind(stack.as_str())
            .bind(&source.key)
            .fetch_optional(unit.conn())
            .await?;
        if known.is_none() {
            insert_source(&mut unit, stack, &source).await?;
            let subject = format!("stack {stack}");
            unit.audit(actor, "stack.source", &subject, &source.key).await?;
        }
        unit.commit().await?;
        self.stack(stack).await
    }

    async fn check_source(
        &self,
        stack: &StackId,
        source: &NewSource,
    ) -> Result<(), OperationError> {
        self.stack(stack).await?;
        check::text("author", &source.author, 0, check::MAX_NAME)?;
        check::text("message", &source.message, 0, check::MAX_NOTE)?;
        let problem = if !source.key.starts_with(&format!("source/{stack}/"))
            || check_key(&source.key).is_err()
        {
            "its key is not one that was given out for this stack: ask for an upload first"
        } else if source.sha256.parse::<Digest>().is_err() {
            "its hash is not 64 characters of 0-9 and a-f"
        } else if source.size > MAX_SOURCE {
            "it is larger than 1 GiB: leave out what the stack does not need"
        } else if self.objects().size(&source.key).await? != Some(source.size) {
            "no object of this length is stored: upload it first"
        } else {
            return Ok(());
        };
        Err(OperationError::invalid("source", problem))
    }

    /// The keys or certificates, PEM, to seal a stack's durable things to: its pool and the recovery key.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn recipients_of(&self, stack: &StackId) -> Result<Vec<String>, OperationError> {
        let stack = self.stack(stack).await?;
        self.recipients_of_pool(stack.pool).await
    }

    /// The same for a stack that is about to be created in this pool.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn recipients_of_pool(&self, pool: PoolId) -> Result<Vec<String>, OperationError> {
        let mut conn = self.store().read().await?;
        self.recipients(&mut conn, pool).await
    }

    /// Replaces the stack's secrets. Their version must be one more than the present one.
    ///
    /// # Errors
    /// When there is no such stack, or the version or the bundle is not acceptable.
    pub async fn set_secrets(
        &self,
        actor: &str,
        stack: &StackId,
        secrets: SealedBundle,
    ) -> Result<Stack, OperationError> {
        check_secrets(&secrets)?;
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        if secrets.version != present.secrets_version + 1 {
            return Err(OperationError::Conflict(format!(
                "the stack's secrets are of version {}: make version {} of them",
                present.secrets_version,
                present.secrets_version + 1
            )));
        }
        let now = to_db(unit.now().0);
        let update = "UPDATE stacks SET secrets = $2, secrets_version = $3, updated_at = $4 \
                      WHERE id = $1";
        sqlx::query(update)
            .bind(stack.as_str())
            .bind(to_json(&secrets))
            .bind(to_db(secrets.version))
            .bind(now)
            .execute(unit.conn())
            .await?;
        let detail = format!("version {}", secrets.version);
        unit.audit(actor, "stack.secrets", &format!("stack {stack}"), &detail).await?;
        unit.commit().await?;
        self.stack(stack).await
    }

    /// Keeps blocking runs of the stack from beginning.
    ///
    /// # Errors
    /// When there is no such stack or it is locked.
    pub async fn lock_stack(
        &self,
        actor: &str,
        stack: &StackId,
        note: &str,
    ) -> Result<Stack, OperationError> {
        check::text("note", note, 0, check::MAX_NOTE)?;
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        if let Some(lock) = present.lock {
            return Err(OperationError::Conflict(format!("the stack is locked by {}", lock.by)));
        }
        let now = to_db(unit.now().0);
        let update = "UPDATE stacks SET lock_by = $2, lock_note = $3, lock_at = $4 WHERE id = $1";
        sqlx::query(update)
            .bind(stack.as_str())
            .bind(actor)
            .bind(note)
            .bind(now)
            .execute(unit.conn())
            .await?;
        unit.audit(actor, "stack.lock", &format!("stack {stack}"), note).await?;
        unit.commit().await?;
        self.stack(stack).await
    }

    /// Lifts the stack's lock.
    ///
    /// # Errors
    /// When there is no such stack or it is not locked.
    pub async fn unlock_stack(
        &self,
        actor: &str,
        stack: &StackId,
    ) -> Result<Stack, OperationError> {
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        if present.lock.is_none() {
            return Err(OperationError::Conflict("the stack is not locked".to_owned()));
        }
        let update = "UPDATE stacks SET lock_by = NULL, lock_note = NULL, lock_at = NULL \
                      WHERE id = $1";
        sqlx::query(update).bind(stack.as_str()).execute(unit.conn()).await?;
        unit.audit(actor, "stack.unlock", &format!("stack {stack}"), "").await?;
        promote(&mut unit, stack).await?;
        unit.commit().await?;
        self.stack(stack).await
    }

    /// The stack's state versions, newest first, orphaned ones included, at most 1000.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn states_of(&self, stack: &StackId) -> Result<Vec<StateVersion>, OperationError> {
        self.stack(stack).await?;
        let mut conn = self.store().read().await?;
        let select = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                      WHERE v.stack = $1 ORDER BY v.id DESC LIMIT $2";
        let rows =
            sqlx::query(select).bind(stack.as_str()).bind(MAX_STATES).fetch_all(&mut *conn).await?;
        rows.iter().map(|row| Ok(read_state_version(row)?)).collect()
    }

    /// The state version with this serial that is not orphaned; the current one if none is named.
    ///
    /// # Errors
    /// When there is none.
    pub async fn state_version(
        &self,
        stack: &StackId,
        serial: Option<u64>,
    ) -> Result<StateVersion, OperationError> {
        self.stack(stack).await?;
        let mut conn = self.store().read().await?;
        let found = self.read_state(&mut conn, stack, serial).await?;
        let wanted = || serial.map_or_else(|| "current".to_owned(), |serial| serial.to_string());
        found.ok_or_else(|| OperationError::not_found("state version", wanted()))
    }

    pub(crate) async fn read_state(
        &self,
        conn: &mut Connection,
        stack: &StackId,
        serial: Option<u64>,
    ) -> Result<Option<StateVersion>, OperationError> {
        let select = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                      WHERE v.stack = $1 AND v.orphaned IS NULL AND (v.serial = $2 OR \
                      ($2 IS NULL AND v.id = s.state_current)) ORDER BY v.id DESC LIMIT 1";
        let row = sqlx::query(select)
            .bind(stack.as_str())
            .bind(serial.map(to_db))
            .fetch_optional(conn)
            .await?;
        Ok(row.as_ref().map(read_state_version).transpose()?)
    }
}

fn check_stack(new: &NewStack) -> Result<(), OperationError> {
    check::text("name", &new.name, 1, check::MAX_NAME)?;
    check::labels(&new.labels)?;
    check::relative_path("project root", &new.project_root)?;
    if let Some(image) = &new.image {
        check::text("image", image, 1, check::MAX_NOTE)?;
    }
    if to_json(&new.hooks).len() > MAX_SETTINGS {
        return Err(OperationError::invalid("hooks", "they are longer than 256 KiB together"));
    }
    if to_json(&new.environment).len() > MAX_SETTINGS {
        return Err(OperationError::invalid("environment", "it is longer than 256 KiB"));
    }
    for variable in &new.environment {
        check::variable_name(&variable.name)?;
    }
    match &new.secrets {
        Some(secrets) if secrets.version != 1 => {
            Err(OperationError::invalid("secrets", "the first version of them is 1"))
        }
        Some(secrets) => check_secrets(secrets),
        None => Ok(()),
    }
}

/// Sealed as it is, nothing of it can be judged but its form.
fn check_secrets(secrets: &SealedBundle) -> Result<(), OperationError> {
    let invalid = |problem| Err(OperationError::invalid("secrets", problem));
    if secrets.payload.len() > MAX_SECRETS {
        return invalid("they are longer than 384 KiB when sealed");
    }
    let header = STANDARD.decode(&secrets.header).ok().filter(|it| Header::parse(it).is_ok());
    if header.is_none() || STANDARD.decode(&secrets.payload).is_err() {
        return invalid("they are not sealed: header and payload are those of an age file, base64");
    }
    Ok(())
}

async fn insert_stack(unit: &mut Unit, new: &NewStack) -> Result<(), OperationError> {
    let insert = "INSERT INTO stacks (id, name, pool, project_root, image, hooks, environment, \
        secrets_version, secrets, labels, is_autodeploy, keeps_state, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)";
    let now = to_db(unit.now().0);
    sqlx::query(insert)
        .bind(new.id.as_str())
        .bind(&new.name)
        .bind(new.pool.to_string())
        .bind(&new.project_root)
        .bind(new.image.as_deref())
        .bind(to_json(&new.hooks))
        .bind(to_json(&new.environment))
        .bind(to_db(new.secrets.as_ref().map_or(0, |secrets| secrets.version)))
        .bind(new.secrets.as_ref().map(to_json))
        .bind(to_json(&new.labels))
        .bind(i64::from(new.autodeploy))
        .bind(i64::from(new.manage_state))
        .bind(now)
        .execute(unit.conn())
        .await?;
    Ok(())
}

async fn insert_source(
    unit: &mut Unit,
    stack: &StackId,
    source: &NewSource,
) -> Result<(), OperationError> {
    let now = to_db(unit.now().0);
    let source_id = unit.control_plane().ids().ulid(unit.now()).to_string();
    let insert = "INSERT INTO sources (id, stack, key, sha256, size, author, message, created_at) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    sqlx::query(insert)
        .bind(&source_id)
        .bind(stack.as_str())
        .bind(&source.key)
        .bind(&source.sha256)
        .bind(to_db(source.size))
        .bind(&source.author)
        .bind(&source.message)
        .bind(now)
        .execute(unit.conn())
        .await?;
    sqlx::query("UPDATE stacks SET source = $2, updated_at = $3 WHERE id = $1")
        .bind(stack.as_str())
        .bind(&source_id)
        .bind(now)
        .execute(unit.conn())
        .await?;
    Ok(())
}

/// A stack, and its secrets as they are sealed.
pub(crate) async fn read_stack_with_secrets(
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

/// The version of a stack's source with this id.
pub(crate) async fn read_source(
    conn: &mut Connection,
    source: &str,
) -> Result<StackSource, OperationError> {
    let row = sqlx::query("SELECT * FROM sources WHERE id = $1")
        .bind(source)
        .fetch_optional(conn)
        .await?;
    let row = row.ok_or_else(|| OperationError::not_found("source", source))?;
    Ok(StackSource {
        id: row.get("id"),
        key: row.get("key"),
        sha256: row.get("sha256"),
        size: from_db(row.get("size")),
        author: row.get("author"),
        message: row.get("message"),
        created_at: at(row.get("created_at")),
    })
}

fn read_state_version(row: &Row) -> Result<StateVersion, StoreError> {
    let version: String = row.get("id");
    let is_current = row.get::<Option<&str>, _>("state_current") == Some(&version);
    Ok(StateVersion {
        id: version,
        stack: id("stack", row.get("stack"))?,
        attempt: Attempt {
            run: id("run", row.get("run"))?,
            stage: stage(row.get("stage"))?,
            epoch: Epoch(from_db(row.get("epoch"))),
        },
        serial: from_db(row.get("serial")),
        lineage: row.get("lineage"),
        header: row.get("header"),
        payload_sha256: row.get("payload_sha256"),
        payload_size: from_db(row.get("payload_size")),
        predecessor: row.get("predecessor"),
        signature: row.get("signature"),
        key: row.get("key"),
        created_at: at(row.get("created_at")),
        orphaned: row.get("orphaned"),
        is_current,
    })
}
