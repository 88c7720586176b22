//! API keys: an id that may be seen and a secret that is shown once.
//!
//! Kept is a salted SHA-256 of the secret. A slow hash would protect words that people choose; these
//! secrets have 256 random bits.

use gantry_model::Timestamp;
use openssl::memcmp;
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use sqlx::Row as _;
use zeroize::Zeroizing;

use crate::check;
use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{Row, Store, at, maybe_at, to_db};

const SALT: usize = 16;
const SECRET: usize = 32;

/// A new API key.
pub struct ApiKey {
    /// Its id, a ULID.
    pub id: String,
    /// Its secret, which is nowhere else.
    pub secret: Zeroizing<String>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What is known of a key whose secret was right.
#[derive(Debug, Clone)]
pub(super) struct KnownKey {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// Makes an API key that may do everything.
///
/// # Errors
/// When the name is empty or too long, or the database fails.
pub async fn create_key(
    control_plane: &ControlPlane,
    actor: &str,
    name: &str,
) -> Result<ApiKey, OperationError> {
    check::name("name", name)?;
    let now = control_plane.clock().now();
    let id = control_plane.ids().ulid(now).to_string();
    let secret = Zeroizing::new(hex(&*random::<SECRET>()));
    let mut unit = control_plane.begin().await?;
    let taken = sqlx::query("SELECT 1 FROM api_keys WHERE name = $1 AND revoked_at IS NULL")
        .bind(name)
        .fetch_optional(unit.conn())
        .await?;
    if taken.is_some() {
        // The name is what runs, locks and the audit show.
        return Err(OperationError::Conflict(format!(
            "there is an API key {name:?} already: choose another name, or revoke that key first"
        )));
    }
    let insert = "INSERT INTO api_keys (id, name, secret_sha256, role, created_at, created_by) \
                  VALUES ($1, $2, $3, 'admin', $4, $5)";
    sqlx::query(insert)
        .bind(&id)
        .bind(name)
        .bind(digest(&*random::<SALT>(), &secret))
        .bind(to_db(now.0))
        .bind(actor)
        .execute(unit.conn())
        .await?;
    unit.audit(actor, "key.create", &format!("API key {id}"), name).await?;
    unit.commit().await?;
    Ok(ApiKey { id, secret })
}

/// An API key as it is listed.
#[derive(Debug, Clone)]
pub(super) struct ListedKey {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last opened a session.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// All keys, newest first, at most 1000.
pub(super) async fn list(control_plane: &ControlPlane) -> Result<Vec<ListedKey>, OperationError> {
    let mut connection = control_plane.store().read().await?;
    let select = "SELECT * FROM api_keys ORDER BY id DESC LIMIT 1000";
    let rows = sqlx::query(select).fetch_all(&mut *connection).await?;
    Ok(rows.iter().map(read).collect())
}

/// The key with this id, revoked or not.
pub(super) async fn listed(
    control_plane: &ControlPlane,
    id: &str,
) -> Result<ListedKey, OperationError> {
    let mut connection = control_plane.store().read().await?;
    let select = sqlx::query("SELECT * FROM api_keys WHERE id = $1").bind(id);
    let row = select.fetch_optional(&mut *connection).await?;
    Ok(read(&row.ok_or_else(|| OperationError::not_found("API key", id))?))
}

fn read(row: &Row) -> ListedKey {
    ListedKey {
        id: row.get("id"),
        name: row.get("name"),
        creator: row.get("created_by"),
        created_at: at(row.get("created_at")),
        last_used_at: maybe_at(row.get("last_used_at")),
        revoked_at: maybe_at(row.get("revoked_at")),
    }
}

/// Writes down that a key opened a session, unless that is known of the last hour.
pub(super) async fn note_use(control_plane: &ControlPlane, id: &str) -> Result<(), OperationError> {
    const HOUR_MS: u64 = 60 * 60 * 1000;
    let known = listed(control_plane, id).await?.last_used_at;
    if known.is_some_and(|at| control_plane.now().0 < at.0 + HOUR_MS) {
        return Ok(());
    }
    let mut unit = control_plane.begin().await?;
    let now = to_db(unit.now().0);
    sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
        .bind(id)
        .bind(now)
        .execute(unit.conn())
        .await?;
    unit.commit().await?;
    Ok(())
}

/// Makes a key worth nothing: its sessions end at once.
pub(super) async fn revoke_key(
    control_plane: &ControlPlane,
    actor: &str,
    id: &str,
) -> Result<(), OperationError> {
    let mut unit = control_plane.begin().await?;
    let now = to_db(unit.now().0);
    let revoke = "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL \
                  RETURNING name";
    let row = sqlx::query(revoke).bind(id).bind(now).fetch_optional(unit.conn()).await?;
    let row = row.ok_or_else(|| OperationError::not_found("API key", id))?;
    let left = "SELECT COUNT(*) AS n FROM api_keys WHERE revoked_at IS NULL";
    let left = sqlx::query(left).fetch_one(unit.conn()).await?;
    if left.get::<i64, _>("n") == 0 {
        return Err(OperationError::Conflict(
            "this is the last API key, and without one nobody can make another: make that first"
                .to_owned(),
        ));
    }
    unit.audit(actor, "key.revoke", &format!("API key {id}"), row.get("name")).await?;
    unit.commit().await?;
    Ok(())
}

/// The key with this id and secret; none for every way to be wrong, and all take the same time.
pub(super) async fn check(
    store: &Store,
    id: &str,
    secret: &str,
) -> Result<Option<KnownKey>, OperationError> {
    let mut connection = store.read().await?;
    let row = sqlx::query(
        "SELECT name, secret_sha256 FROM api_keys \
         WHERE id = $1 AND role = 'admin' AND revoked_at IS NULL",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let (name, kept) = match row {
        Some(row) => (Some(row.try_get("name")?), row.try_get("secret_sha256")?),
        None => (None, digest(&[0; SALT], "")),
    };
    let kept: String = kept;
    let salt = kept.split_once(':').and_then(|(salt, _)| unhex(salt)).unwrap_or_default();
    let given = digest(&salt, secret);
    let is_right = given.len() == kept.len() && memcmp::eq(given.as_bytes(), kept.as_bytes());
    Ok(name.filter(|_| is_right).map(|name| KnownKey { id: id.to_owned(), name }))
}

/// The key with this id, unless it was revoked.
pub(super) async fn find(store: &Store, id: &str) -> Result<Option<KnownKey>, OperationError> {
    let mut connection = store.read().await?;
    let row = sqlx::query(
        "SELECT name FROM api_keys WHERE id = $1 AND role = 'admin' AND revoked_at IS NULL",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    row.map(|row| Ok(KnownKey { id: id.to_owned(), name: row.try_get("name")? })).transpose()
}

/// `<salt>:<SHA-256 of salt and secret>`, in hex.
fn digest(salt: &[u8], secret: &str) -> String {
    let mut state = Sha256::new();
    state.update(salt);
    state.update(secret.as_bytes());
    format!("{}:{}", hex(salt), hex(&state.finish()))
}

fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    rand_bytes(&mut *bytes).expect("OpenSSL has entropy on every running system");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_kept_salted() {
        let (one, two) = (digest(&[1; SALT], "hush"), digest(&[2; SALT], "hush"));
        assert_ne!(one, two);
        assert!(!one.contains("hush"));
        let salt = unhex(one.split_once(':').unwrap().0).unwrap();
        assert_eq!(digest(&salt, "hush"), one);
        assert_ne!(digest(&salt, "hus"), one);
    }
}
