//! control-plane

pub mod api;
pub mod audit;
pub mod authority;
pub mod broker;
pub mod clock;
pub mod config;
pub mod control_plane;
pub mod data_dir;
pub mod error;
pub mod ids;
pub mod logs;
pub mod objects;
pub mod pools;
pub mod runs;
pub mod server;
pub mod stacks;
pub mod store;
pub mod tls;
pub mod workers;

mod admitted;
mod check;
mod desk;
mod dispatch;
mod leases;
mod log;
mod outbox;
mod scheduler;
mod serve;
mod unit;
mod watchers;
