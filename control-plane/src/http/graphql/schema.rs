//! The schema: its roots, its limits, and who may ask for what.

use std::sync::Arc;

use async_graphql::extensions::{
    Extension, ExtensionContext, ExtensionFactory, NextResolve, ResolveInfo,
};
use async_graphql::{EmptySubscription, ServerResult, Value};

use super::error::{UNAUTHORIZED, unauthorized};
use super::mutation::Mutation;
use super::query::Query;
use crate::http::Operations;
use crate::keys::role::Access;
use crate::keys::session::{Sessions, Viewer};

/// How deep a query may be.
const MAX_DEPTH: usize = 12;
/// How many fields a query may ask for, those in lists counted several times.
const MAX_COMPLEXITY: usize = 20_000;
/// How many directives one field may have.
const MAX_DIRECTIVES: usize = 8;
/// The fields of the roots that need no session.
const OPEN: [&str; 1] = ["apiKeyUser"];

/// What GraphQL calls the root of all changes.
const MUTATION: &str = "Mutation";

/// The API's schema.
pub(crate) type Schema = async_graphql::Schema<Query, Mutation, EmptySubscription>;

/// The schema over a control plane.
pub(crate) fn build(operations: Operations, sessions: Arc<Sessions>) -> Schema {
    async_graphql::Schema::build(Query, Mutation::default(), EmptySubscription)
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .limit_directives(MAX_DIRECTIVES)
        .extension(SessionRequired)
        .data(operations)
        .data(sessions)
        .finish()
}

/// The schema in GraphQL's own language.
#[must_use]
pub fn sdl() -> String {
    async_graphql::Schema::build(Query, Mutation::default(), EmptySubscription).finish().sdl()
}

/// Refuses every field of the roots but the open ones without a session whose role may have it. It stands here once, so that
/// no field can be added and forgotten.
struct SessionRequired;

impl ExtensionFactory for SessionRequired {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_graphql::async_trait::async_trait]
impl Extension for SessionRequired {
    async fn resolve(
        &self,
        ctx: &ExtensionContext<'_>,
        info: ResolveInfo<'_>,
        next: NextResolve<'_>,
    ) -> ServerResult<Option<Value>> {
        let is_root = info.path_node.parent.is_none();
        let access = if info.parent_type == MUTATION { Access::Change } else { Access::Look };
        let may = || ctx.data_opt::<Viewer>().is_some_and(|viewer| viewer.role.may(access));
        if is_root && !OPEN.contains(&info.name) && !may() {
            debug_assert_eq!(unauthorized().message, UNAUTHORIZED);
            return Err(unauthorized().into_server_error(info.field.name.pos));
        }
        next.run(ctx, info).await
    }
}
