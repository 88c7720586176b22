//! The parts of a control plane, each with what it needs.
//!
//! Everything that must survive is in the database. In memory there are only the launchers' sessions,
//! which end with the process, and what can be read back: which certificate each pool has.

use std::sync::Arc;

use gantry_model::LeaseTerms;
use tokio::sync::{Mutex, Semaphore};

use crate::audit::AuditLog;
use crate::authority::Issuer;
use crate::clock::Clock;
use crate::core::{Changes, Core};
use crate::error::OperationError;
use crate::fleet::ingest::Ingest;
use crate::fleet::leases::Leases;
use crate::fleet::notices::Notices;
use crate::fleet::outbound::Outbound;
use crate::fleet::workers::Workers;
use crate::fleet::{Hellos, OpenSsl, SignatureCheck};
use crate::http::Operations;
use crate::ids::Ids;
use crate::logs::Logs;
use crate::objects::Objects;
use crate::pools::Pools;
use crate::pools::certificates::Certificates;
use crate::pools::revoked::Revoked;
use crate::queue::Queue;
use crate::queue::Specs;
use crate::retention::Retention;
use crate::runs::Runs;
use crate::serve::Service;
use crate::stacks::Stacks;
use crate::store::Store;

/// What a control plane is made of.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Sources, logs, workspaces and states.
    pub objects: Arc<dyn Objects>,
    /// The certificate authority and the signing leaf.
    pub issuer: Arc<Issuer>,
    /// Where new ids come from.
    pub ids: Ids,
    /// How long offers and leases hold.
    pub terms: LeaseTerms,
}

/// All parts of a control plane. Clones are the same control plane.
#[derive(Clone)]
pub struct Services {
    /// The database, the time and new ids.
    pub core: Core,
    /// Pools and their certificates.
    pub pools: Pools,
    /// Workers.
    pub workers: Workers,
    /// Stacks.
    pub stacks: Stacks,
    /// Runs.
    pub runs: Runs,
    /// What waits for a worker.
    pub queue: Queue,
    /// Logs of runs.
    pub logs: Logs,
    /// Who changed what.
    pub audit: AuditLog,
    /// What launchers say.
    pub ingest: Ingest,
    /// What launchers are sent.
    pub outbound: Outbound,
    /// What is forgotten.
    pub retention: Retention,
    /// What happens by itself.
    pub service: Service,
    /// What people change and may not be left half done.
    pub changes: Changes,
    issuer: Arc<Issuer>,
}

impl Services {
    /// Takes up the database's content: every lease gets a fresh term, every worker has to say hello again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new(parts: Parts) -> Result<Self, OperationError> {
        Self::with_check(parts, Arc::new(OpenSsl)).await
    }

    /// The same, with something else that checks the launchers' signatures.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn with_check(
        parts: Parts,
        signatures: Arc<dyn SignatureCheck>,
    ) -> Result<Self, OperationError> {
        let Parts { store, clock, objects, issuer, ids, terms } = parts;
        let notices = Arc::new(Notices::new(Arc::clone(&clock)));
        let core = Core::new(store, clock, ids, terms);
        let (certificates, revoked) = (Arc::<Certificates>::default(), Revoked::new());
        let pools = Pools::new(
            core.clone(),
            Arc::clone(&issuer),
            Arc::clone(&certificates),
            revoked.clone(),
        );
        let stacks = Stacks::new(
            core.clone(),
            Arc::clone(&objects),
            pools.clone(),
            Arc::new(Semaphore::new(1)),
        );
        let runs = Runs::new(core.clone(), stacks.clone());
        let specs = Specs::new(core.clone(), Arc::clone(&objects), pools.clone());
        let queue = Queue::new(core.clone(), specs.clone());
        let outbound = Outbound::new(core.clone(), specs.clone());
        let leases = Leases::new(core.clone());
        let ingest = Ingest::new(
            core.clone(),
            Arc::clone(&issuer),
            Arc::clone(&certificates),
            specs,
            notices,
            Arc::new(Hellos::new()),
            Arc::new(Mutex::default()),
            signatures,
        );
        let retention =
            Retention::new(core.clone(), Arc::clone(&objects), certificates, ingest.clone());
        pools.load().await?;
        leases.take_up_leases().await?;
        Ok(Self {
            workers: Workers::new(core.clone(), pools.clone()),
            logs: Logs::new(core.clone(), objects),
            audit: AuditLog::new(core.clone()),
            service: Service::new(
                core.clone(),
                ingest.clone(),
                outbound.clone(),
                leases,
                queue.clone(),
                retention.clone(),
                revoked,
            ),
            changes: Changes::default(),
            core,
            pools,
            stacks,
            runs,
            queue,
            ingest,
            outbound,
            retention,
            issuer,
        })
    }

    /// What people can ask for.
    #[must_use]
    pub fn operations(&self) -> Operations {
        Operations {
            core: self.core.clone(),
            pools: self.pools.clone(),
            workers: self.workers.clone(),
            stacks: self.stacks.clone(),
            runs: self.runs.clone(),
            queue: self.queue.clone(),
            logs: self.logs.clone(),
            audit: self.audit.clone(),
            changes: self.changes.clone(),
            ca: self.issuer.ca_pem().into(),
        }
    }
}
