//! API keys.

use async_graphql::{ID, Object};

use super::seconds;
use crate::keys::ListedKey;

/// An API key. In this version each may do everything.
pub(crate) struct ApiKey {
    key: ListedKey,
    secret: Option<String>,
}

impl ApiKey {
    pub(crate) fn new(key: ListedKey, secret: Option<String>) -> Self {
        Self { key, secret }
    }
}

#[Object]
impl ApiKey {
    /// Its id, a ULID.
    async fn id(&self) -> ID {
        self.key.id.clone().into()
    }

    /// Its name.
    async fn name(&self) -> &str {
        &self.key.name
    }

    /// Not kept here: none.
    async fn description(&self) -> Option<&str> {
        None
    }

    /// Its secret, when it was just made; null ever after.
    async fn secret(&self) -> Option<&str> {
        self.secret.as_deref()
    }

    /// How it proves itself.
    #[graphql(name = "type")]
    async fn key_type(&self) -> &'static str {
        "SECRET"
    }

    /// Whether it may do everything.
    async fn admin(&self) -> bool {
        true
    }

    /// Who made it.
    async fn creator(&self) -> &str {
        &self.key.creator
    }

    /// When it was made, in seconds since 1970.
    async fn created_at(&self) -> i64 {
        seconds(self.key.created_at)
    }

    /// When it last opened a session, in seconds since 1970; null if it never did.
    async fn last_used_at(&self) -> Option<i64> {
        self.key.last_used_at.map(seconds)
    }

    /// Whether it was revoked.
    async fn deleted(&self) -> bool {
        self.key.revoked_at.is_some()
    }

    /// Gantry: when it was revoked, in seconds since 1970.
    async fn revoked_at(&self) -> Option<i64> {
        self.key.revoked_at.map(seconds)
    }

    /// Teams that it acts for. There are none.
    async fn teams(&self) -> Vec<String> {
        vec![]
    }

    /// How many teams it acts for.
    async fn team_count(&self) -> i32 {
        0
    }

    /// How many spaces it may use.
    async fn space_count(&self) -> i32 {
        1
    }

    /// Whether a program uses it. Not known here.
    async fn is_machine_user(&self) -> bool {
        false
    }

    /// When it expires: never.
    async fn expires_at(&self) -> Option<i64> {
        None
    }
}
