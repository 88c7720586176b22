//! What monitoring asks for. Nothing is billed and no resource is counted here.

use async_graphql::{Context, Object, Result, SimpleObject};
use gantry_model::RunState;

use crate::http::Operations;
use crate::http::graphql::error::refused;

/// What is billed: nothing.
#[derive(Default, SimpleObject)]
pub(crate) struct Usage {
    /// When the period began, in seconds since 1970.
    billing_period_start: i64,
    /// When the period ends, in seconds since 1970.
    billing_period_end: i64,
    /// Minutes of private workers.
    used_private_minutes: i32,
    /// Minutes of public workers.
    used_public_minutes: i32,
    /// Seats.
    used_seats: i32,
}

/// A number and what it counts.
#[derive(SimpleObject)]
pub(crate) struct MetricsDataPoint {
    /// The number.
    value: f64,
    /// What it counts.
    labels: Vec<String>,
}

/// Numbers over all stacks.
pub(crate) struct Metrics;

#[Object]
impl Metrics {
    /// How many stacks are in each state.
    #[graphql(complexity = "50 + child_complexity")]
    async fn stacks_count_by_state(&self, ctx: &Context<'_>) -> Result<Vec<MetricsDataPoint>> {
        let operations = ctx.data::<Operations>()?;
        let counts = operations.stacks.count_stacks().await.map_err(refused)?;
        let points = counts.into_iter().map(|(state, count)| MetricsDataPoint {
            value: count.into(),
            labels: vec![state.map_or("NONE", RunState::as_str).to_owned()],
        });
        Ok(points.collect())
    }

    /// Not counted.
    async fn resources_count_by_drift(&self) -> Vec<MetricsDataPoint> {
        vec![]
    }

    /// Not counted.
    async fn avg_stack_size_by_resource_count(&self) -> Vec<MetricsDataPoint> {
        vec![]
    }

    /// Not counted.
    async fn average_run_duration(&self) -> Vec<MetricsDataPoint> {
        vec![]
    }

    /// Not counted.
    async fn median_run_duration(&self) -> Vec<MetricsDataPoint> {
        vec![]
    }
}
