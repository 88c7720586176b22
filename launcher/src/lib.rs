//! launcher
pub mod config;
pub mod explain;
pub mod mask;
