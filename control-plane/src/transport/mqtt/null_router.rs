//! A router without routes: no message of a client reaches another client, whatever the access rules
//! let through. The control plane reaches sessions without a router.

use async_trait::async_trait;
use rmqtt::router::Router;
use rmqtt::types::{
    AllRelationsMap, HashMap, Id, NodeId, Route, SubRelationsMap, SubsSearchParams,
    SubsSearchResult, SubscriptionOptions, TopicName,
};
use rmqtt::utils::Counter;

/// Forgets every subscription.
#[derive(Default)]
pub(super) struct NullRouter {
    nothing: AllRelationsMap,
}

#[async_trait]
impl Router for NullRouter {
    async fn add(&self, _: &str, _: Id, _: SubscriptionOptions) -> rmqtt::Result<()> {
        Ok(())
    }

    async fn remove(&self, _: &str, _: Id) -> rmqtt::Result<bool> {
        Ok(true)
    }

    async fn matches(&self, _: Id, _: &TopicName) -> rmqtt::Result<SubRelationsMap> {
        Ok(SubRelationsMap::default())
    }

    async fn is_online(&self, _: NodeId, _: &str) -> bool {
        false
    }

    async fn gets(&self, _: usize) -> Vec<Route> {
        Vec::new()
    }

    async fn get(&self, _: &str) -> rmqtt::Result<Vec<Route>> {
        Ok(Vec::new())
    }

    async fn query_subscriptions(&self, _: &SubsSearchParams) -> Vec<SubsSearchResult> {
        Vec::new()
    }

    async fn topics_tree(&self) -> usize {
        0
    }

    fn topics(&self) -> Counter {
        Counter::new()
    }

    fn routes(&self) -> Counter {
        Counter::new()
    }

    fn merge_topics(&self, _: &HashMap<NodeId, Counter>) -> Counter {
        Counter::new()
    }

    fn merge_routes(&self, _: &HashMap<NodeId, Counter>) -> Counter {
        Counter::new()
    }

    async fn list_topics(&self, _: usize) -> Vec<String> {
        Vec::new()
    }

    async fn list_relations(&self, _: usize) -> Vec<serde_json::Value> {
        Vec::new()
    }

    fn relations(&self) -> &AllRelationsMap {
        &self.nothing
    }
}
