//! The API over a real database and a fake object store: sessions, shapes, limits, live logs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api {
    mod changes;
    mod clients;
    mod harness;
    mod limits;
    mod logs;
    mod operations;
    mod sessions;
}
