//! Which pool a stage goes to, and which of its workers.

use crate::{PoolId, WorkerId};

/// A pool, as far as it matters for who may run a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolChoice {
    /// Its id.
    pub id: PoolId,
    /// Whether stages go to it that name none. At most one pool is.
    pub is_default: bool,
}

/// Why a stage goes to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolReason {
    /// Its target names the pool.
    Target,
    /// Its stack names the pool.
    Stack,
    /// Nothing names one, and this is the default.
    Default,
}

/// Why there is no pool for a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPool {
    /// What is named does not exist.
    #[error("there is no pool {0}: name another one")]
    Missing(PoolId),
    /// Nothing is named, and no pool is the default.
    #[error("no pool is named, and none is the default: name one")]
    NoDefault,
}

/// The pool of a stage, and why: its target's if that names one, else its stack's, else the default.
///
/// # Errors
/// When there is none.
pub fn resolve_pool(
    stack: Option<PoolId>,
    target: Option<PoolId>,
    pools: &[PoolChoice],
) -> Result<(PoolId, PoolReason), NoPool> {
    let named = match (target, stack) {
        (Some(pool), _) => Some((pool, PoolReason::Target)),
        (None, Some(pool)) => Some((pool, PoolReason::Stack)),
        (None, None) => None,
    };
    match named {
        Some((pool, reason)) if pools.iter().any(|known| known.id == pool) => Ok((pool, reason)),
        Some((pool, _)) => Err(NoPool::Missing(pool)),
        None => {
            let default = pools.iter().find(|pool| pool.is_default).ok_or(NoPool::NoDefault)?;
            Ok((default.id, PoolReason::Default))
        }
    }
}

/// Which worker a stage goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenWorker {
    /// This one.
    This(WorkerId),
    /// All that are free gave the stage back before. This one has it again, unless another one could have it
    /// soon: then it waits.
    Again(WorkerId),
    /// Nobody is free.
    Nobody,
}

/// The worker for a stage among those that are free: the newest one, but for a stage that came back one that
/// has not had it, as long as there is one.
#[must_use]
pub fn choose_worker(free: &[WorkerId], tried: &[WorkerId]) -> ChosenWorker {
    let fresh = free.iter().filter(|worker| !tried.contains(worker)).max();
    match (fresh, free.iter().max()) {
        (Some(worker), _) => ChosenWorker::This(*worker),
        (None, Some(worker)) => ChosenWorker::Again(*worker),
        (None, None) => ChosenWorker::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::{ChosenWorker, NoPool, PoolChoice, PoolReason, choose_worker, resolve_pool};
    use crate::{PoolId, WorkerId};

    fn pool(n: u128) -> PoolId {
        PoolId::from_ulid(Ulid::from_parts(1, n))
    }

    fn worker(n: u128) -> WorkerId {
        WorkerId::from_ulid(Ulid::from_parts(1, n))
    }

    #[test]
    fn a_targets_pool_comes_before_its_stacks_and_the_default_comes_last() {
        let pools = [1, 2, 3].map(|n| PoolChoice { id: pool(n), is_default: n == 3 });
        let resolve = |stack, target| resolve_pool(stack, target, &pools);
        assert_eq!(resolve(Some(pool(1)), Some(pool(2))), Ok((pool(2), PoolReason::Target)));
        assert_eq!(resolve(Some(pool(1)), None), Ok((pool(1), PoolReason::Stack)));
        assert_eq!(resolve(None, None), Ok((pool(3), PoolReason::Default)));
        assert_eq!(resolve(Some(pool(9)), None), Err(NoPool::Missing(pool(9))));
        assert_eq!(resolve_pool(None, None, &pools[..2]), Err(NoPool::NoDefault));
    }

    #[test]
    fn the_newest_worker_gets_a_stage_that_it_has_not_had() {
        let free = [1, 3, 2].map(worker);
        assert_eq!(choose_worker(&free, &[]), ChosenWorker::This(worker(3)));
        assert_eq!(choose_worker(&free, &[worker(3)]), ChosenWorker::This(worker(2)));
        assert_eq!(choose_worker(&free, &free), ChosenWorker::Again(worker(3)));
        assert_eq!(choose_worker(&[], &free), ChosenWorker::Nobody);
    }
}
