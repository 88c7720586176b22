//! The API over a real database and a fake object store: sessions, shapes, limits, live logs.

mod api {
    mod clients;
    mod harness;
    mod limits;
    mod logs;
    mod operations;
    mod sessions;
}
