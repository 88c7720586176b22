//! What changes about a stack after it was made, and its end.

use crate::stacks::Stacks;
use std::collections::BTreeSet;

use gantry_model::{PoolId, StackId};
use gantry_protocol::spec::{SealedBundle, Variable};
use gantry_protocol::{Header, Kind, Recipient, Signature, Statement};

use super::secrets::check_secrets;
use super::{
    Hooks, MAX_VARIABLES, Repository, Stack, StateVersion, Tool, check_settings,
    read_stack_with_secrets,
};
use crate::check;
use crate::core::UnitOfWork as Unit;
use crate::error::OperationError;
use crate::pools::check_there;
use crate::store::runs::unfinished_run;
use crate::store::stacks;
use crate::store::states::current_state;

/// What is to change about a stack; what is none stays as it is.
#[derive(Debug, Clone, Default)]
pub struct StackChange {
    /// Its name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Where its source comes from.
    pub repository: Option<Repository>,
    /// The pool that runs it.
    pub pool: Option<PoolId>,
    /// The part of the source that it lives in.
    pub project_root: Option<String>,
    /// The image; an empty one stands for the launcher's default.
    pub image: Option<String>,
    /// What its phases run.
    pub tool: Option<Tool>,
    /// Commands around the phases.
    pub hooks: HooksChange,
    /// Variables to set.
    pub set_environment: Vec<Variable>,
    /// Names of variables to remove.
    pub unset_environment: Vec<String>,
    /// Its secrets, all of them, sealed to the pool that runs it from now on.
    pub secrets: Option<SealedBundle>,
    /// Whether its secrets are removed.
    pub clear_secrets: bool,
    /// Its labels, all of them.
    pub labels: Option<Vec<String>>,
    /// Whether a plan's changes need no person.
    pub autodeploy: Option<bool>,
    /// Whether we keep its Terraform state.
    pub manage_state: Option<bool>,
}

/// Which commands around the phases are replaced.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "named as in `Hooks`")]
pub struct HooksChange {
    pub before_init: Option<Vec<String>>,
    pub after_init: Option<Vec<String>>,
    pub before_plan: Option<Vec<String>>,
    pub after_plan: Option<Vec<String>>,
    pub before_apply: Option<Vec<String>>,
    pub after_apply: Option<Vec<String>>,
    pub before_perform: Option<Vec<String>>,
    pub after_perform: Option<Vec<String>>,
    pub before_destroy: Option<Vec<String>>,
    pub after_destroy: Option<Vec<String>>,
    pub after_run: Option<Vec<String>>,
}

impl HooksChange {
    /// Replaces those that are given; whether there are any.
    fn apply(self, hooks: &mut Hooks) -> bool {
        let pairs = [
            (self.before_init, &mut hooks.before_init),
            (self.after_init, &mut hooks.after_init),
            (self.before_plan, &mut hooks.before_plan),
            (self.after_plan, &mut hooks.after_plan),
            (self.before_apply, &mut hooks.before_apply),
            (self.after_apply, &mut hooks.after_apply),
            (self.before_perform, &mut hooks.before_perform),
            (self.after_perform, &mut hooks.after_perform),
            (self.before_destroy, &mut hooks.before_destroy),
            (self.after_destroy, &mut hooks.after_destroy),
            (self.after_run, &mut hooks.after_run),
        ];
        let mut is_any = false;
        for (new, present) in pairs {
            if let Some(new) = new {
                *present = new;
                is_any = true;
            }
        }
        is_any
    }
}

impl From<Hooks> for HooksChange {
    /// All of them.
    fn from(hooks: Hooks) -> Self {
        Self {
            before_init: Some(hooks.before_init),
            after_init: Some(hooks.after_init),
            before_plan: Some(hooks.before_plan),
            after_plan: Some(hooks.after_plan),
            before_apply: Some(hooks.before_apply),
            after_apply: Some(hooks.after_apply),
            before_perform: Some(hooks.before_perform),
            after_perform: Some(hooks.after_perform),
            before_destroy: Some(hooks.before_destroy),
            after_destroy: Some(hooks.after_destroy),
            after_run: Some(hooks.after_run),
        }
    }
}

impl Stacks {
    /// Changes a stack. Runs that were triggered before begin their stages with what is set when they do;
    /// whether they need a person stays as it was. A stack that gets another pool has no source until one
    /// is uploaded again.
    ///
    /// # Errors
    /// When there is no such stack, or something given is not acceptable.
    pub async fn change_stack(
        &self,
        actor: &str,
        stack: &StackId,
        change: StackChange,
    ) -> Result<Stack, OperationError> {
        let opened = match change.pool {
            Some(pool) => self.state_that_opens(stack, pool).await?,
            None => None,
        };
        let mut unit = self.begin().await?;
        // The pool may have got another key since it was looked at.
        let opened = match (opened, change.pool) {
            (Some((version, key)), Some(pool)) => {
                (self.key_of_pool(pool).await? == key).then_some(version)
            }
            (None, _) | (_, None) => None,
        };
        let (mut present, secrets) = read_stack_with_secrets(unit.conn(), stack).await?;
        let had_pool = present.pool;
        let mut secrets = secrets;
        let had_tool = std::mem::discriminant(&present.tool);
        let mut changed = apply(&mut present, &mut secrets, change)?;
        check_settings(&present)?;
        if std::mem::discriminant(&present.tool) != had_tool {
            check_finished(&mut unit, stack).await?;
        }
        if present.pool != had_pool {
            check_there(&mut unit, present.pool).await?;
            let keeps = secrets.is_some() && !changed.contains("secrets");
            check_move(&mut unit, &present, keeps).await?;
            check_state(&mut unit, &present, opened.as_deref()).await?;
            // It is sealed to the old pool's key: a run with it could not even begin.
            if present.source.take().is_some() {
                changed.insert("source");
            }
        }
        let root = check::project_root(&present.project_root)?;
        root.as_str().clone_into(&mut present.project_root);
        present.updated_at = unit.now();
        stacks::update_stack(unit.conn(), &present, secrets.as_ref()).await?;
        let detail = changed.into_iter().collect::<Vec<_>>().join(", ");
        unit.audit(actor, "stack.set", &format!("stack {stack}"), &detail).await?;
        unit.commit().await?;
        self.stack(stack).await
    }

    /// The stack's current state version, if it is sealed to this pool and signed by it: so that a stack can
    /// go to another pool with the same key. With the key that was looked at.
    async fn state_that_opens(
        &self,
        stack: &StackId,
        pool: PoolId,
    ) -> Result<Option<(String, String)>, OperationError> {
        let current = match self.state_version(stack, None).await {
            Ok(current) => current,
            Err(OperationError::NotFound { kind: "state version", .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let pem = self.key_of_pool(pool).await?;
        let key = Recipient::parse(pem.as_bytes());
        let key = key.map_err(|error| OperationError::Conflict(error.to_string()))?;
        let header = current.header.parse::<Header>();
        let is_sealed_to = header.is_ok_and(|header| header.names(&key));
        let is_signed = signed(&current).is_some_and(|(statement, signature)| {
            key.key().verify_statement(&statement, &signature).is_ok()
        });
        Ok((is_sealed_to && is_signed).then_some((current.id, pem)))
    }

    async fn key_of_pool(&self, pool: PoolId) -> Result<String, OperationError> {
        Ok(self.recipients_of_pool(pool).await?.swap_remove(0))
    }

    /// Ends a stack: nobody sees it any more and it takes no runs. Its rows and objects stay, sealed as they are,
    /// and so its id stays taken.
    ///
    /// # Errors
    /// When there is no such stack, it is locked by somebody else, or a run of it is not over.
    pub async fn delete_stack(
        &self,
        actor: &str,
        stack: &StackId,
    ) -> Result<Stack, OperationError> {
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        if let Some(lock) = present.lock.as_ref().filter(|lock| lock.by != actor) {
            return Err(OperationError::Conflict(format!(
                "{} has locked stack {stack}: `gantry stack unlock {stack}` lifts that",
                lock.by
            )));
        }
        check_finished(&mut unit, stack).await?;
        let now = unit.now();
        stacks::delete_stack(unit.conn(), stack, now).await?;
        unit.audit(actor, "stack.delete", &format!("stack {stack}"), &present.name).await?;
        unit.commit().await?;
        Ok(present)
    }
}

/// Does it to `stack`; answers what changed, in words for the audit.
fn apply(
    stack: &mut Stack,
    secrets: &mut Option<SealedBundle>,
    change: StackChange,
) -> Result<BTreeSet<&'static str>, OperationError> {
    let mut changed = BTreeSet::new();
    let mut note = |what| {
        changed.insert(what);
    };
    macro_rules! take {
        ($($field:ident $what:literal),*) => {$(
            if let Some(value) = change.$field {
                note($what);
                stack.$field = value;
            }
        )*};
    }
    take!(name "name", description "description", repository "repository", pool "pool",
        project_root "project root", labels "labels", autodeploy "autodeploy",
        manage_state "state");
    if let Some(tool) = change.tool {
        note("tool");
        // A state is kept here unless somebody says otherwise, where there is one.
        if tool.has_state() != stack.tool.has_state() && change.manage_state.is_none() {
            stack.manage_state = tool.has_state();
        }
        stack.tool = tool;
    }
    if change.hooks.apply(&mut stack.hooks) {
        note("hooks");
    }
    if let Some(image) = change.image {
        note("image");
        stack.image = Some(image).filter(|image| !image.is_empty());
    }
    // Each is looked for among all that there are.
    if change.set_environment.len().max(change.unset_environment.len()) > MAX_VARIABLES {
        let problem = format!("more than {MAX_VARIABLES} variables at once: give fewer");
        return Err(OperationError::invalid("environment", problem));
    }
    for variable in change.set_environment {
        note("environment");
        match stack.environment.iter_mut().find(|it| it.name == variable.name) {
            Some(present) => present.value = variable.value,
            None => stack.environment.push(variable),
        }
    }
    for name in change.unset_environment {
        note("environment");
        let before = stack.environment.len();
        stack.environment.retain(|variable| variable.name != name);
        if stack.environment.len() == before {
            let name: String = name.chars().take(64).collect();
            let problem =
                format!("the stack has no variable {name}: `gantry stack show` lists them");
            return Err(OperationError::invalid("environment", problem));
        }
    }
    if stack.environment.len() > MAX_VARIABLES {
        let problem = format!("more than {MAX_VARIABLES} variables: remove some");
        return Err(OperationError::invalid("environment", problem));
    }
    if change.clear_secrets {
        note("secrets");
        *secrets = None;
    }
    if let Some(mut bundle) = change.secrets {
        check_secrets(&bundle)?;
        note("secrets");
        bundle.version = stack.secrets_version + 1;
        stack.secrets_version = bundle.version;
        *secrets = Some(bundle);
    }
    Ok(changed)
}

/// Whether all runs of the stack are over.
async fn check_finished(unit: &mut Unit, stack: &StackId) -> Result<(), OperationError> {
    match unfinished_run(unit.conn(), stack).await? {
        None => Ok(()),
        Some(run) => Err(OperationError::Conflict(format!(
            "run {run} of stack {stack} is not over: stop or discard it first"
        ))),
    }
}

/// Whether the stack can go to another pool: what is sealed to the old one's key opens there only.
async fn check_move(
    unit: &mut Unit,
    stack: &Stack,
    keeps_secrets: bool,
) -> Result<(), OperationError> {
    if keeps_secrets {
        return Err(OperationError::Conflict(
            "the stack's secrets are sealed to its present pool: give all of them again together with the \
             new pool"
                .to_owned(),
        ));
    }
    if let Some(run) = unfinished_run(unit.conn(), &stack.id).await? {
        return Err(OperationError::Conflict(format!(
            "run {run} is not over and is the present pool's: stop or discard it first"
        )));
    }
    Ok(())
}

/// Whether the new pool opens the stack's state; `opened` is the version that it does open.
async fn check_state(
    unit: &mut Unit,
    stack: &Stack,
    opened: Option<&str>,
) -> Result<(), OperationError> {
    let current = current_state(unit.conn(), &stack.id).await?;
    if current.is_none_or(|current| opened == Some(current.id.as_str())) {
        return Ok(());
    }
    let id = &stack.id;
    Err(OperationError::Conflict(format!(
        "the state of stack {id} is sealed to its present pool, and the new one cannot open it: get it with `gantry \
         state pull {id} --key PRESENT.key -o FILE`, then `gantry state push {id} FILE --pool NEW --key NEW.key` \
         takes stack and state to the new pool"
    )))
}

/// What the pool said of a version, and its signature.
fn signed(version: &StateVersion) -> Option<(Statement, Signature)> {
    let predecessor = match &version.predecessor {
        Some(digest) => Some(digest.parse().ok()?),
        None => None,
    };
    let statement = Statement {
        kind: Kind::State,
        stack: version.stack.clone(),
        run: version.attempt.run,
        epoch: version.attempt.epoch,
        serial: version.serial,
        predecessor,
        payload_sha256: version.payload_sha256.parse().ok()?,
        payload_len: version.payload_size,
    };
    Some((statement, version.signature.parse().ok()?))
}

/// Gives the stack to the pool that its state was just sealed to and signed by.
pub(super) async fn move_stack(
    unit: &mut Unit,
    mut stack: Stack,
    secrets: Option<SealedBundle>,
    pool: PoolId,
) -> Result<(), OperationError> {
    check_there(unit, pool).await?;
    if secrets.is_some() {
        return Err(OperationError::Conflict(format!(
            "the stack's secrets are sealed to its present pool: `gantry stack set {} --replace-secrets` removes \
             them; push then, and give them again",
            stack.id
        )));
    }
    check_move(unit, &stack, false).await?;
    stack.pool = pool;
    stack.source = None;
    stack.updated_at = unit.now();
    Ok(stacks::update_stack(unit.conn(), &stack, None).await?)
}
