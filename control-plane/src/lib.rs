//! control-plane

pub mod authority;
pub mod broker;
pub mod data_dir;
pub mod objects;
