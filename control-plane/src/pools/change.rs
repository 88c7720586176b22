//! What happens to a pool after it was made: new words for it, its end.

use std::sync::Arc;

use gantry_model::PoolId;

use super::{Pool, check_there};
use crate::check;
use crate::core::UnitOfWork;
use crate::error::OperationError;
use crate::pools::Pools;
use crate::store::pools::PoolWords;
use crate::store::{outbox, pools, workers};

/// How many of the stacks that use a pool are named.
const NAMED: u32 = 3;

/// What is to change about a pool; what is none stays as it is.
#[derive(Debug, Clone, Default)]
pub struct PoolChange {
    /// Its name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Its labels.
    pub labels: Option<Vec<String>>,
}

impl Pools {
    /// Changes what a pool is called and described as.
    ///
    /// # Errors
    /// When there is no such pool, the name is taken, or something given is not acceptable.
    pub async fn change_pool(
        &self,
        actor: &str,
        pool: PoolId,
        change: PoolChange,
    ) -> Result<Pool, OperationError> {
        let present = self.pool(pool).await?;
        let name = change.name.unwrap_or(present.name);
        let description = change.description.unwrap_or(present.description);
        let labels = change.labels.unwrap_or(present.labels);
        check::name("name", &name)?;
        check::text("description", &description, 0, check::MAX_NOTE)?;
        check::labels(&labels)?;
        let mut unit = self.begin().await?;
        check_there(&mut unit, pool).await?;
        super::check_free(&mut unit, &name, Some(pool)).await?;
        let words = PoolWords { name: &name, description: &description, labels: &labels };
        let now = unit.now();
        pools::update_words(unit.conn(), pool, words, now).await?;
        unit.audit(actor, "pool.set", &format!("pool {pool}"), &name).await?;
        unit.commit().await?;
        self.pool(pool).await
    }

    /// Ends a pool: its certificate and token are worth nothing from the return on. Its row stays, because runs
    /// that are over were its.
    ///
    /// # Errors
    /// When there is no such pool, a stack uses it, or a run of it is not over.
    pub async fn delete_pool(&self, actor: &str, pool: PoolId) -> Result<Pool, OperationError> {
        let present = self.pool(pool).await?;
        let mut unit = self.begin().await?;
        // Somebody else may have deleted it since.
        check_there(&mut unit, pool).await?;
        check_unused(&mut unit, &present).await?;
        let now = unit.now();
        pools::revoke_certificates(unit.conn(), pool, now).await?;
        pools::end_pool(unit.conn(), pool, now).await?;
        workers::delete_of_pool(unit.conn(), pool).await?;
        outbox::delete_of_pool(unit.conn(), pool).await?;
        unit.audit(actor, "pool.delete", &format!("pool {pool}"), &present.name).await?;
        let serial = present.serial.clone();
        let (certificates, core) = (Arc::clone(&self.certificates), self.core.clone());
        let revoked = self.revoked.clone();
        unit.then(move || {
            certificates.remove(pool);
            core.sessions().end_all(pool);
            revoked.push(pool, serial);
        });
        unit.commit().await?;
        Ok(present)
    }
}

async fn check_unused(unit: &mut UnitOfWork, pool: &Pool) -> Result<(), OperationError> {
    let stacks = pools::list_stacks_of(unit.conn(), pool.id, NAMED + 1).await?;
    if !stacks.is_empty() {
        let named = stacks.iter().take(NAMED as usize).map(String::as_str).collect::<Vec<_>>();
        let more = if stacks.len() > named.len() { ", …" } else { "" };
        return Err(OperationError::Conflict(format!(
            "pool {} is used by {}{more}: delete these stacks or give them another pool first",
            pool.name,
            named.join(", ")
        )));
    }
    Ok(())
}
