//! A PostgreSQL that tests start themselves, from what the system's package brings: a folder and a socket in it.
//!
//! [`Cluster`] is a server of one test's own, whose commits are durable, which can be stopped, killed and started again.
//! [`Database`] is a database for one test on a server that all tests of this user share, whatever their process: the
//! first that needs it starts it, and it ends by itself when the last of them has ended, however that ended. It forgets
//! everything then, and nothing in it is durable.
//!
//! `initdb` refuses root: where the tests are root's, the server is `nobody`'s.

mod server;
mod shared;

pub use server::{Cluster, Stop};
pub use shared::{Database, Kept};
