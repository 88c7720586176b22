//! Pools: workers that share one certificate, one queue and one key.

mod change;

use gantry_model::{PoolId, Timestamp};
use gantry_protocol::{CertificateRequest, PoolCertificate, PublicKey};
use sqlx::Row as _;

pub use self::change::PoolChange;

use crate::admitted::Face;
use crate::check;
use crate::control_plane::{ControlPlane, unix_seconds};
use crate::error::OperationError;
use crate::store::{Connection, Row, at, from_db, id, json, to_db, to_json};
use crate::unit::Unit;

/// Where the recovery key stands among the settings.
const RECOVERY_KEY: &str = "recovery_key";
/// What is counted for a pool `p`.
const COUNTS: &str = "(SELECT COUNT(*) FROM workers w WHERE w.pool = p.id \
    AND (w.is_connected = 1 OR w.run IS NOT NULL)) AS workers_count, \
    (SELECT COUNT(*) FROM workers w WHERE w.pool = p.id AND w.run IS NOT NULL) AS busy_workers, \
    (SELECT COUNT(*) FROM runs r WHERE r.pool = p.id AND r.standing = 'waiting') AS pending_runs";

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

/// A pool.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its present certificate, PEM.
    pub certificate: String,
    /// That certificate's serial.
    pub serial: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How many workers are connected, or away with a run.
    pub workers_count: u64,
    /// How many of those have a run.
    pub busy_workers: u64,
    /// How many runs wait for one of its workers.
    pub pending_runs: u64,
}

impl ControlPlane {
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
        let token = self.issuer().token(pool, &certificate.pem)?.encode();
        let face = face(&certificate.pem)?;
        let mut unit = self.begin().await?;
        check_free(&mut unit, &new.name, None).await?;
        let now = to_db(unit.now().0);
        let insert = "INSERT INTO pools (id, name, description, labels, certificate, serial, \
                      created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)";
        sqlx::query(insert)
            .bind(pool.to_string())
            .bind(&new.name)
            .bind(&new.description)
            .bind(to_json(&new.labels))
            .bind(&certificate.pem)
            .bind(certificate.serial.as_str())
            .bind(now)
            .execute(unit.conn())
            .await?;
        note_certificate(&mut unit, pool, &certificate).await?;
        unit.audit(actor, "pool.create", &format!("pool {pool}"), &new.name).await?;
        unit.then(move |this| this.inner.admitted.set(pool, certificate.serial.as_str(), face));
        unit.commit().await?;
        Ok((self.pool(pool).await?, token))
    }

    /// The pool with this id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn pool(&self, pool: PoolId) -> Result<Pool, OperationError> {
        let mut conn = self.store().read().await?;
        let select =
            format!("SELECT p.*, {COUNTS} FROM pools p WHERE p.id = $1 AND p.deleted_at IS NULL");
        let row = sqlx::query(sqlx::AssertSqlSafe(select))
            .bind(pool.to_string())
            .fetch_optional(&mut *conn)
            .await?;
        read_pool(&row.ok_or_else(|| OperationError::not_found("pool", pool))?)
    }

    /// All pools, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pools(&self) -> Result<Vec<Pool>, OperationError> {
        let mut conn = self.store().read().await?;
        let select =
            format!("SELECT p.*, {COUNTS} FROM pools p WHERE p.deleted_at IS NULL ORDER BY p.name");
        let rows = sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(&mut *conn).await?;
        rows.iter().map(read_pool).collect()
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
        let token = self.issuer().token(pool, &certificate.pem)?.encode();
        let face = face(&certificate.pem)?;
        let mut unit = self.begin().await?;
        let old = sqlx::query("SELECT serial FROM pools WHERE id = $1 AND deleted_at IS NULL")
            .bind(pool.to_string())
            .fetch_optional(unit.conn())
            .await?;
        let old = old.ok_or_else(|| OperationError::not_found("pool", pool))?;
        let old: String = old.get("serial");
        let now = to_db(unit.now().0);
        sqlx::query(
            "UPDATE certificates SET revoked_at = $2 WHERE pool = $1 AND revoked_at IS NULL",
        )
        .bind(pool.to_string())
        .bind(now)
        .execute(unit.conn())
        .await?;
        note_certificate(&mut unit, pool, &certificate).await?;
        sqlx::query(
            "UPDATE pools SET certificate = $2, serial = $3, updated_at = $4 WHERE id = $1",
        )
        .bind(pool.to_string())
        .bind(&certificate.pem)
        .bind(certificate.serial.as_str())
        .bind(now)
        .execute(unit.conn())
        .await?;
        sqlx::query("UPDATE workers SET is_connected = 0 WHERE pool = $1")
            .bind(pool.to_string())
            .execute(unit.conn())
            .await?;
        sqlx::query("DELETE FROM outbox WHERE pool = $1")
            .bind(pool.to_string())
            .execute(unit.conn())
            .await?;
        unit.audit(actor, "pool.reset", &format!("pool {pool}"), "").await?;
        unit.then(move |this| {
            this.inner.admitted.set(pool, certificate.serial.as_str(), face);
            this.drop_bonds(pool);
            this.close_sessions(pool, old);
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
        let insert = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let insert = sqlx::query(insert).bind(RECOVERY_KEY).bind(key.to_pem()?);
        if insert.execute(unit.conn()).await?.rows_affected() == 0 {
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
        read_recovery_key(&mut conn).await
    }

    /// Admits the present certificate of every pool.
    pub(crate) async fn load_pools(&self) -> Result<(), OperationError> {
        let mut conn = self.store().read().await?;
        let live = "SELECT id, serial, certificate FROM pools WHERE deleted_at IS NULL";
        let rows = sqlx::query(live).fetch_all(&mut *conn).await?;
        for row in rows {
            let face = face(row.get("certificate"))?;
            self.inner.admitted.set(id("pool", row.get("id"))?, row.get("serial"), face);
        }
        let known = "SELECT pool, id FROM workers ORDER BY created_at";
        for row in sqlx::query(known).fetch_all(&mut *conn).await? {
            let worker = id("worker", row.get("id"))?;
            self.inner.admitted.note_worker(worker, id("pool", row.get("pool"))?);
        }
        Ok(())
    }

    /// Whom durable things of a pool's stacks are sealed to, PEM.
    pub(crate) async fn recipients(
        &self,
        conn: &mut Connection,
        pool: PoolId,
    ) -> Result<Vec<String>, OperationError> {
        let face = self.inner.admitted.face(pool);
        let face = face.ok_or_else(|| OperationError::not_found("pool", pool))?;
        let recovery = read_recovery_key(conn).await?;
        Ok(std::iter::once(face.certificate.clone()).chain(recovery).collect())
    }

    /// Asks the broker to close the sessions of a certificate that counts no more.
    fn close_sessions(&self, pool: PoolId, serial: String) {
        // Without a broker there is no session to close, and nobody to wait for.
        if self.inner.revoked.try_send(serial).is_err() {
            tracing::error!(%pool, "too many certificates are revoked at once");
        }
    }

    fn certify(&self, pool: PoolId, csr: &str) -> Result<PoolCertificate, OperationError> {
        let request = CertificateRequest::parse(csr)?;
        Ok(self.issuer().issue_pool(&request, pool, unix_seconds(self.now()))?)
    }
}

/// Refuses a name that another pool has.
async fn check_free(
    unit: &mut Unit,
    name: &str,
    but: Option<PoolId>,
) -> Result<(), OperationError> {
    let taken = sqlx::query("SELECT 1 FROM pools WHERE name = $1 AND id <> COALESCE($2, '')")
        .bind(name)
        .bind(but.map(|pool| pool.to_string()))
        .fetch_optional(unit.conn())
        .await?;
    match taken {
        Some(_) => Err(OperationError::Conflict(format!(
            "there is a pool {name:?} already: choose another name"
        ))),
        None => Ok(()),
    }
}

fn face(certificate: &str) -> Result<Face, OperationError> {
    Face::new(certificate)
        .map_err(|error| OperationError::invalid("certificate", error.to_string()))
}

async fn note_certificate(
    unit: &mut Unit,
    pool: PoolId,
    certificate: &PoolCertificate,
) -> Result<(), OperationError> {
    let now = to_db(unit.now().0);
    sqlx::query("INSERT INTO certificates (serial, pool, issued_at) VALUES ($1, $2, $3)")
        .bind(certificate.serial.as_str())
        .bind(pool.to_string())
        .bind(now)
        .execute(unit.conn())
        .await?;
    Ok(())
}

async fn read_recovery_key(conn: &mut Connection) -> Result<Option<String>, OperationError> {
    let row = sqlx::query("SELECT value FROM settings WHERE name = $1")
        .bind(RECOVERY_KEY)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|row| row.get("value")))
}

/// That there is such a pool, and will be until the transaction is over.
pub(crate) async fn check_there(unit: &mut Unit, pool: PoolId) -> Result<(), OperationError> {
    let live = "SELECT 1 FROM pools WHERE id = $1 AND deleted_at IS NULL";
    let live = sqlx::query(live).bind(pool.to_string()).fetch_optional(unit.conn()).await?;
    live.map(drop).ok_or_else(|| OperationError::not_found("pool", pool))
}

fn read_pool(row: &Row) -> Result<Pool, OperationError> {
    Ok(Pool {
        id: id("pool", row.get("id"))?,
        name: row.get("name"),
        description: row.get("description"),
        labels: json("labels", row.get("labels"))?,
        certificate: row.get("certificate"),
        serial: row.get("serial"),
        created_at: at(row.get("created_at")),
        updated_at: at(row.get("updated_at")),
        workers_count: from_db(row.get("workers_count")),
        busy_workers: from_db(row.get("busy_workers")),
        pending_runs: from_db(row.get("pending_runs")),
    })
}
