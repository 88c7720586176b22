//! launcher
pub mod mask;
