//! The way of runs through the control plane: a real database in a temporary directory, a clock that
//! the tests turn, launchers that speak the real protocol, and no network.

#![expect(clippy::unwrap_used, reason = "test helpers fail the test where they stand")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of message among all"
)]

#[path = "../database/mod.rs"]
#[expect(dead_code, reason = "a database has more than these tests need")]
mod database;
mod launcher;
mod world;

mod chaos;
mod checks;
mod cycle;
mod faults;
mod hello;
mod leases;
mod locks;
mod logs;
mod once;
mod people;
mod push;
mod restart;
mod restore;
mod retention;
mod served;
mod sources;
mod states;
mod tools;
mod tracked;
mod waits;
