//! A stack's secrets, which come sealed and stay so, and whom to seal to.

use crate::stacks::Stacks;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{PoolId, StackId};
use gantry_protocol::Header;
use gantry_protocol::spec::SealedBundle;

use super::{Stack, read_stack_with_secrets};
use crate::error::OperationError;
use crate::store::stacks::set_secrets;

/// The most bytes of a stack's secrets, sealed, in base64.
const MAX_SECRETS: usize = 512 * 1024;

impl Stacks {
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
        self.pools.recipients(&mut conn, pool).await
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
        let now = unit.now();
        set_secrets(unit.conn(), stack, &secrets, now).await?;
        let detail = format!("version {}", secrets.version);
        unit.audit(actor, "stack.secrets", &format!("stack {stack}"), &detail).await?;
        unit.commit().await?;
        self.stack(stack).await
    }
}

/// Sealed as it is, nothing of it can be judged but its form.
pub(super) fn check_secrets(secrets: &SealedBundle) -> Result<(), OperationError> {
    let invalid = |problem| Err(OperationError::invalid("secrets", problem));
    if secrets.payload.len() > MAX_SECRETS {
        return invalid(
            "they are longer than 384 KiB when sealed: put large values where a hook can fetch them",
        );
    }
    let header = STANDARD.decode(&secrets.header).ok().filter(|it| Header::parse(it).is_ok());
    if header.is_none() || STANDARD.decode(&secrets.payload).is_err() {
        return invalid("they are not sealed: header and payload are those of an age file, base64");
    }
    Ok(())
}
