//! API keys: an id that may be seen and a secret that is shown once.
//!
//! Kept is a salted SHA-256 of the secret. A slow hash would protect words that people choose; these
//! secrets have 256 random bits.

pub(crate) mod role;
pub(crate) mod session;

use gantry_model::hex;
use openssl::memcmp;
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use zeroize::Zeroizing;

use self::role::Role;
use crate::check;
use crate::core::Core;
use crate::error::OperationError;
use crate::store::Store;
use crate::store::keys::{self, KeyRow};

pub(crate) use crate::store::keys::KeyRow as ListedKey;

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
pub(crate) struct KnownKey {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// Makes an API key that may do everything.
///
/// # Errors
/// When the name is empty or too long, or the database fails.
pub async fn create_key(core: &Core, actor: &str, name: &str) -> Result<ApiKey, OperationError> {
    check::name("name", name)?;
    let now = core.clock().now();
    let id = core.ids().ulid(now).to_string();
    let secret = Zeroizing::new(hex(&*random::<SECRET>()));
    let mut unit = core.begin().await?;
    if keys::has_live_name(unit.conn(), name).await? {
        // The name is what runs, locks and the audit show.
        return Err(OperationError::Conflict(format!(
            "there is an API key {name:?} already: choose another name, or revoke that key first"
        )));
    }
    let key = KeyRow {
        id: id.clone(),
        name: name.to_owned(),
        role: Role::Admin.as_str().to_owned(),
        secret_sha256: digest(&*random::<SALT>(), &secret),
        creator: actor.to_owned(),
        created_at: now,
        last_used_at: None,
        revoked_at: None,
    };
    keys::insert_key(unit.conn(), &key).await?;
    unit.audit(actor, "key.create", &format!("API key {id}"), name).await?;
    unit.commit().await?;
    Ok(ApiKey { id, secret })
}

/// The most keys that are listed.
const MAX_KEYS: u32 = 1000;

/// All keys, newest first.
pub(crate) async fn list(core: &Core) -> Result<Vec<ListedKey>, OperationError> {
    let mut connection = core.store().read().await?;
    Ok(keys::list_keys(&mut connection, MAX_KEYS).await?)
}

/// The key with this id, revoked or not.
pub(crate) async fn listed(core: &Core, id: &str) -> Result<ListedKey, OperationError> {
    let mut connection = core.store().read().await?;
    let found = keys::find_key(&mut connection, id).await?;
    found.ok_or_else(|| OperationError::not_found("API key", id))
}

/// Writes down that a key opened a session, unless that is known of the last hour.
pub(crate) async fn note_use(core: &Core, id: &str) -> Result<(), OperationError> {
    const HOUR_MS: u64 = 60 * 60 * 1000;
    let known = listed(core, id).await?.last_used_at;
    if known.is_some_and(|at| core.now().0 < at.0 + HOUR_MS) {
        return Ok(());
    }
    let mut unit = core.begin().await?;
    let now = unit.now();
    keys::set_used(unit.conn(), id, now).await?;
    unit.commit().await?;
    Ok(())
}

/// Makes a key worth nothing: its sessions end at once.
pub(crate) async fn revoke_key(core: &Core, actor: &str, id: &str) -> Result<(), OperationError> {
    let mut unit = core.begin().await?;
    let now = unit.now();
    let name = keys::revoke_key(unit.conn(), id, now).await?;
    let name = name.ok_or_else(|| OperationError::not_found("API key", id))?;
    if keys::count_live(unit.conn()).await? == 0 {
        return Err(OperationError::Conflict(
            "this is the last API key, and without one nobody can make another: make that first"
                .to_owned(),
        ));
    }
    unit.audit(actor, "key.revoke", &format!("API key {id}"), &name).await?;
    unit.commit().await?;
    Ok(())
}

/// The key with this id and secret; none for every way to be wrong, and all take the same time.
pub(crate) async fn check(
    store: &Store,
    id: &str,
    secret: &str,
) -> Result<Option<KnownKey>, OperationError> {
    let mut connection = store.read().await?;
    let live = keys::find_key(&mut connection, id).await?.filter(|key| key.revoked_at.is_none());
    let kept =
        live.as_ref().map_or_else(|| digest(&[0; SALT], ""), |key| key.secret_sha256.clone());
    let salt = kept.split_once(':').and_then(|(salt, _)| unhex(salt)).unwrap_or_default();
    let given = digest(&salt, secret);
    let is_right = given.len() == kept.len() && memcmp::eq(given.as_bytes(), kept.as_bytes());
    Ok(live.filter(|_| is_right).and_then(known))
}

/// The key with this id, unless it was revoked.
pub(crate) async fn find(store: &Store, id: &str) -> Result<Option<KnownKey>, OperationError> {
    let mut connection = store.read().await?;
    let live = keys::find_key(&mut connection, id).await?.filter(|key| key.revoked_at.is_none());
    Ok(live.and_then(known))
}

/// What a key that counts may do. One whose role this version does not know may do nothing.
fn known(key: KeyRow) -> Option<KnownKey> {
    let role = Role::parse(&key.role)?;
    Some(KnownKey { id: key.id, name: key.name, role })
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
