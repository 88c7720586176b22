//! API keys: an id that may be seen and a secret that is shown once.
//!
//! Kept is a salted SHA-256 of the secret. A slow hash would protect words that people choose; these
//! secrets have 256 random bits.

use openssl::memcmp;
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use sqlx::Row as _;
use zeroize::Zeroizing;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{Store, to_db};

const SALT: usize = 16;
const SECRET: usize = 32;
/// The longest name of a key.
const MAX_NAME: usize = 100;

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
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        let problem = format!("give 1 to {MAX_NAME} characters");
        return Err(OperationError::Invalid { what: "name", problem });
    }
    let now = control_plane.clock().now();
    let id = control_plane.ids().ulid(now).to_string();
    let secret = Zeroizing::new(hex(&*random::<SECRET>()));
    let mut unit = control_plane.begin().await?;
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
