//! PostgreSQL as the database: what it is given, and what it may do to us.

#![expect(clippy::unwrap_used, reason = "test helpers fail the test where they stand")]

mod faults;
mod lost_answers;
mod moving;
mod schema;

use gantry_cluster::Cluster;
use gantry_control_plane::store::{Store, StoreError};

async fn connect(cluster: &Cluster) -> Store {
    Store::connect(&cluster.url().parse().unwrap()).await.unwrap()
}

/// Writes a setting in a transaction of its own.
async fn set(store: &Store, name: &str) -> Result<(), StoreError> {
    let mut transaction = store.begin().await?;
    let insert = "INSERT INTO settings (name, value) VALUES ($1, 'x')";
    sqlx::query(insert).bind(name).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// The names of all settings, in their order.
async fn settings(store: &Store) -> Vec<String> {
    let mut reader = store.read().await.unwrap();
    let select = "SELECT name FROM settings ORDER BY name";
    sqlx::query_scalar(select).fetch_all(&mut *reader).await.unwrap()
}
