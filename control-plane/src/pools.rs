//! Pools: workers that share one certificate, one queue and one key.

pub(crate) mod certificates;
mod change;
pub(crate) mod revoked;

use std::ops::Deref;
use std::sync::Arc;

use gantry_model::PoolId;
use gantry_protocol::{CertificateRequest, PoolCertificate, PublicKey};

use crate::authority::Issuer;
use crate::check;
use crate::clock::unix_seconds;
use crate::core::{Core, UnitOfWork};
use crate::error::OperationError;
use crate::pools::certificates::{Certificates, PoolIdentity};
use crate::pools::revoked::Revoked;
use crate::store::pools::{self, CertificateRow, PoolWords};
use crate::store::{Connection, outbox, settings, workers};
use crate::transport::Admissions;

pub use self::change::PoolChange;
pub use crate::store::pools::Pool;

/// Where the recovery key stands among the settings.
const RECOVERY_KEY: &str = "recovery_key";
/// A pool that someone wants.
#[derive(Debug, Clone, Default)]
pub struct NewPool {
    /// Its name, 1 to 100 characters, unique.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// The certificate request, PEM, that `openssl req` or `gantry pool create` made.
    pub csr: String,
}

/// Pools and their certificates. Clones are the same.
#[derive(Clone)]
pub struct Pools {
    core: Core,
    issuer: Arc<Issuer>,
    certificates: Arc<Certificates>,
    revoked: Revoked,
}

impl Deref for Pools {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Pools {
    pub(crate) fn new(
        core: Core,
        issuer: Arc<Issuer>,
        certificates: Arc<Certificates>,
        revoked: Revoked,
    ) -> Self {
        Self { core, issuer, certificates, revoked }
    }

    /// Creates a pool and answers its token, the value of `SPACELIFT_TOKEN`.
    ///
    /// # Errors
    /// When the name is taken or something given is not acceptable.
    pub async fn create_pool(
        &self,
        actor: &str,
        new: NewPool,
    ) -> Result<(Pool, String), OperationError> {
        check::name("name", &new.name)?;
        check::text("description", &new.description, 0, check::MAX_NOTE)?;
        check::labels(&new.labels)?;
        let pool = PoolId::from_ulid(self.ids().ulid(self.now()));
        let certificate = self.certify(pool, &new.csr)?;
        let token = self.issuer.token(pool, &certificate.pem)?.encode();
        let identity = identity(&certificate.pem)?;
        let mut unit = self.begin().await?;
        check_free(&mut unit, &new.name, None).await?;
        let now = unit.now();
        let words =
            PoolWords { name: &new.name, description: &new.description, labels: &new.labels };
        let present = certificate_row(pool, &certificate);
        pools::insert_pool(unit.conn(), words, &present, now).await?;
        pools::insert_certificate(unit.conn(), pool, &present.serial, now).await?;
        unit.audit(actor, "pool.create", &format!("pool {pool}"), &new.name).await?;
        let certificates = Arc::clone(&self.certificates);
        unit.then(move || certificates.set(pool, certificate.serial.as_str(), identity));
        unit.commit().await?;
        Ok((self.pool(pool).await?, token))
    }

    /// The pool with this id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn pool(&self, pool: PoolId) -> Result<Pool, OperationError> {
        let mut conn = self.store().read().await?;
        let found = pools::find_pool(&mut conn, pool).await?;
        found.ok_or_else(|| OperationError::not_found("pool", pool))
    }

    /// All pools, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pools(&self) -> Result<Vec<Pool>, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(pools::list_pools(&mut conn).await?)
    }

    /// Gives the pool a new certificate and token. The old ones are worth nothing from the return on,
    /// and the broker closes the sessions of the old one.
    ///
    /// # Errors
    /// When there is no such pool or the request is not acceptable.
    pub async fn reset_pool(
        &self,
        actor: &str,
        pool: PoolId,
        csr: &str,
    ) -> Result<(Pool, String), OperationError> {
        let certificate = self.certify(pool, csr)?;
        let token = self.issuer.token(pool, &certificate.pem)?.encode();
        let identity = identity(&certificate.pem)?;
        let mut unit = self.begin().await?;
        let old = pools::find_serial(unit.conn(), pool).await?;
        let old = old.ok_or_else(|| OperationError::not_found("pool", pool))?;
        let now = unit.now();
        let present = certificate_row(pool, &certificate);
        pools::revoke_certificates(unit.conn(), pool, now).await?;
        pools::insert_certificate(unit.conn(), pool, &present.serial, now).await?;
        pools::update_certificate(unit.conn(), &present, now).await?;
        workers::disconnect_pool(unit.conn(), pool).await?;
        outbox::delete_of_pool(unit.conn(), pool).await?;
        unit.audit(actor, "pool.reset", &format!("pool {pool}"), "").await?;
        let (certificates, core) = (Arc::clone(&self.certificates), self.core.clone());
        let revoked = self.revoked.clone();
        unit.then(move || {
            certificates.set(pool, certificate.serial.as_str(), identity);
            core.sessions().end_all(pool);
            revoked.push(pool, old);
        });
        unit.commit().await?;
        Ok((self.pool(pool).await?, token))
    }

    /// Sets the public key, PEM, to which everything durable is sealed besides its pools. Once: what is
    /// sealed to it would not be sealed to another, and whoever holds it relies on it.
    ///
    /// # Errors
    /// When the text is no RSA public key or certificate, or there is a recovery key.
    pub async fn set_recovery_key(&self, actor: &str, pem: &str) -> Result<(), OperationError> {
        let key = PublicKey::parse(pem.as_bytes())
            .map_err(|error| OperationError::invalid("recovery key", error.to_string()))?;
        let mut unit = self.begin().await?;
        if !settings::insert_setting(unit.conn(), RECOVERY_KEY, &key.to_pem()?).await? {
            let problem = "the server has a recovery key already, and it is set once: use the one that was made with the first pool".to_owned();
            return Err(OperationError::Conflict(problem));
        }
        let detail = key.fingerprint().to_string();
        unit.audit(actor, "recovery_key.set", "recovery key", &detail).await?;
        unit.commit().await?;
        Ok(())
    }

    /// The recovery key, PEM, if one was set.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recovery_key(&self) -> Result<Option<String>, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(settings::find_setting(&mut conn, RECOVERY_KEY).await?)
    }

    /// The token that a pool's launchers start with: the value of `SPACELIFT_TOKEN`.
    ///
    /// # Errors
    /// When the pool's certificate cannot be part of one.
    pub fn token(&self, pool: &Pool) -> Result<String, OperationError> {
        Ok(self.issuer.token(pool.id, &pool.certificate)?.encode())
    }

    /// Which certificates a transport may admit.
    #[must_use]
    pub fn admissions(&self) -> Arc<dyn Admissions> {
        Arc::clone(&self.certificates) as Arc<dyn Admissions>
    }

    /// The pool's present certificate and key, if there is such a pool.
    pub(crate) fn identity(&self, pool: PoolId) -> Option<Arc<PoolIdentity>> {
        self.certificates.identity(pool)
    }

    /// Admits the present certificate of every pool.
    pub(crate) async fn load(&self) -> Result<(), OperationError> {
        let mut conn = self.store().read().await?;
        for present in pools::list_certificates(&mut conn).await? {
            let identity = identity(&present.certificate)?;
            self.certificates.set(present.pool, &present.serial, identity);
        }
        for (pool, worker) in workers::list_keys(&mut conn).await? {
            self.certificates.note_worker(worker, pool);
        }
        Ok(())
    }

    /// Whom durable things of a pool's stacks are sealed to, PEM.
    pub(crate) async fn recipients(
        &self,
        conn: &mut Connection,
        pool: PoolId,
    ) -> Result<Vec<String>, OperationError> {
        let identity = self.certificates.identity(pool);
        let identity = identity.ok_or_else(|| OperationError::not_found("pool", pool))?;
        let recovery = settings::find_setting(conn, RECOVERY_KEY).await?;
        Ok(std::iter::once(identity.certificate.clone()).chain(recovery).collect())
    }

    fn certify(&self, pool: PoolId, csr: &str) -> Result<PoolCertificate, OperationError> {
        let request = CertificateRequest::parse(csr)?;
        Ok(self.issuer.issue_pool(&request, pool, unix_seconds(self.now()))?)
    }
}

/// Refuses a name that another pool has.
async fn check_free(
    unit: &mut UnitOfWork,
    name: &str,
    but: Option<PoolId>,
) -> Result<(), OperationError> {
    if pools::has_name(unit.conn(), name, but).await? {
        return Err(OperationError::Conflict(format!(
            "there is a pool {name:?} already: choose another name"
        )));
    }
    Ok(())
}

fn identity(certificate: &str) -> Result<PoolIdentity, OperationError> {
    PoolIdentity::new(certificate)
        .map_err(|error| OperationError::invalid("certificate", error.to_string()))
}

fn certificate_row(pool: PoolId, certificate: &PoolCertificate) -> CertificateRow {
    CertificateRow {
        pool,
        serial: certificate.serial.as_str().to_owned(),
        certificate: certificate.pem.clone(),
    }
}

/// That there is such a pool, and will be until the transaction is over.
pub(crate) async fn check_there(unit: &mut UnitOfWork, pool: PoolId) -> Result<(), OperationError> {
    let live = pools::find_serial(unit.conn(), pool).await?;
    live.map(drop).ok_or_else(|| OperationError::not_found("pool", pool))
}
