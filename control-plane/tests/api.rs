//! The API over a real database and a fake object store: sessions, shapes, limits, live logs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "a database has more than these tests need")]
mod database;

mod api {
    mod changes;
    mod clients;
    mod harness;
    mod limits;
    mod logs;
    mod operations;
    mod sessions;
}
