//! The way of runs through the control plane: a real database in a temporary directory, a clock that
//! the tests turn, launchers that speak the real protocol, and no network.

mod launcher;
mod world;

mod chaos;
mod hello;
mod leases;
mod logs;
mod once;
mod people;
mod restart;
mod states;
mod tracked;
