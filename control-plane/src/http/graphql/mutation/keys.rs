//! API keys: made, and worth nothing any more.

use async_graphql::{Context, ID, InputObject, Object, Result};

use super::{actor, operations};
use crate::http::graphql::error::{invalid, refused};
use crate::http::graphql::types::key::ApiKey;
use crate::keys;

/// Changes of API keys.
#[derive(Default)]
pub(crate) struct KeyChanges;

/// What an API key is to be.
#[derive(InputObject)]
struct ApiKeyInput {
    /// Its name, which runs and the audit show.
    name: String,
    /// Whether it may do everything. In this version every key may.
    admin: Option<bool>,
    description: Option<String>,
    /// Not done here.
    teams: Option<Vec<String>>,
}

#[Object]
impl KeyChanges {
    /// Makes an API key. Its secret is in this answer and nowhere else.
    async fn api_key_create(&self, ctx: &Context<'_>, input: ApiKeyInput) -> Result<ApiKey> {
        if input.admin == Some(false) || input.teams.is_some_and(|teams| !teams.is_empty()) {
            return Err(invalid("this version has keys that may do everything only: give admin"));
        }
        if input.description.is_some_and(|text| !text.is_empty()) {
            return Err(invalid("this version keeps no description of a key: put it in the name"));
        }
        let operations = operations(ctx)?;
        let made = keys::create_key(&operations.core, &actor(ctx)?, &input.name).await;
        let made = made.map_err(refused)?;
        let listed = keys::listed(&operations.core, &made.id).await.map_err(refused)?;
        Ok(ApiKey::new(listed, Some(made.secret.to_string())))
    }

    /// Revokes an API key: its sessions end at once.
    async fn api_key_delete(&self, ctx: &Context<'_>, id: ID) -> Result<Option<ApiKey>> {
        let operations = operations(ctx)?;
        keys::revoke_key(&operations.core, &actor(ctx)?, &id).await.map_err(refused)?;
        let listed = keys::listed(&operations.core, &id).await.map_err(refused)?;
        Ok(Some(ApiKey::new(listed, None)))
    }
}
