//! What PostgreSQL may do to us. Nothing that was acknowledged is lost, and whoever waits is told why.

use std::time::Duration;

use gantry_cluster::{Cluster, Stop};
use gantry_control_plane::store::{Store, StoreError};
use sqlx::Connection as _;

use super::{connect, set, settings};

#[tokio::test]
async fn what_was_committed_outlives_a_crash_and_whoever_writes_next_notices_nothing() {
    let mut cluster = Cluster::start(&[]);
    let store = connect(&cluster).await;
    set(&store, "a").await.unwrap();
    for (name, how) in [("b", Stop::Fast), ("c", Stop::Immediate)] {
        cluster.stop(how);
        cluster.start_again();
        set(&store, name).await.unwrap();
    }
    assert_eq!(settings(&store).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn whoever_writes_waits_for_a_server_that_is_away_for_a_while() {
    let mut cluster = Cluster::start(&[]);
    let store = connect(&cluster).await;
    set(&store, "a").await.unwrap();
    cluster.stop(Stop::Fast);
    let mut waiting = Box::pin(set(&store, "b"));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    cluster.start_again();
    waiting.await.unwrap();
    assert_eq!(settings(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn a_transaction_that_a_restart_cut_off_is_not_done_and_holds_nobody_up() {
    let mut cluster = Cluster::start(&[]);
    let store = connect(&cluster).await;
    let mut cut = store.begin().await.unwrap();
    let insert = "INSERT INTO settings (name, value) VALUES ('cut', 'x')";
    sqlx::query(insert).execute(&mut *cut).await.unwrap();
    cluster.stop(Stop::Fast);
    cluster.start_again();
    assert!(sqlx::query("SELECT 1 AS one").fetch_one(&mut *cut).await.is_err());
    drop(cut);
    set(&store, "a").await.unwrap();
    assert_eq!(settings(&store).await, ["a"]);
}

/// A failed statement spoils the whole transaction there, and its end would not say so.
#[tokio::test]
async fn a_transaction_in_which_a_statement_failed_is_never_taken_as_done() {
    let cluster = Cluster::start(&[]);
    let store = connect(&cluster).await;
    let mut spoiled = store.begin().await.unwrap();
    let insert = "INSERT INTO settings (name, value) VALUES ('a', 'x')";
    sqlx::query(insert).execute(&mut *spoiled).await.unwrap();
    assert!(sqlx::query(insert).execute(&mut *spoiled).await.is_err());
    assert!(spoiled.commit().await.is_err());
    assert_eq!(settings(&store).await, Vec::<String>::new());
    set(&store, "b").await.unwrap();
}

#[tokio::test]
async fn without_a_connection_to_spare_it_is_said_what_to_do_and_tried_again() {
    let cluster = Cluster::start(&["max_connections=6", "superuser_reserved_connections=0"]);
    let store = connect(&cluster).await;
    set(&store, "a").await.unwrap();
    let mut others = Vec::new();
    let refused = loop {
        match sqlx::PgConnection::connect(&cluster.url()).await {
            Ok(connection) => others.push(connection),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("too many clients"), "{refused}");
    // A second server does not start, and says why.
    let error = Store::connect(&cluster.url().parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("raise max_connections"), "{error}");
    // Ours loses its connection, and somebody else has the place.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'gantry server'";
    sqlx::query(end).execute(&mut others[0]).await.unwrap();
    let thief = loop {
        if let Ok(connection) = sqlx::PgConnection::connect(&cluster.url()).await {
            break connection;
        }
    };
    let mut waiting = Box::pin(set(&store, "b"));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    thief.close().await.unwrap();
    others.pop().unwrap().close().await.unwrap();
    waiting.await.unwrap();
    drop(others);
    assert_eq!(settings(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn a_database_that_takes_no_changes_says_so_and_is_used_again_when_it_does() {
    let cluster = Cluster::start(&[]);
    let store = connect(&cluster).await;
    set(&store, "a").await.unwrap();
    let read_only = |on: &str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
        let _ = cluster.psql("gantry", &set);
        let _ = cluster.psql("gantry", "SELECT pg_reload_conf()");
        // The reload reaches a session before its next statement, when the signal did: one of ours was later.
        let shown = || cluster.psql("gantry", "SHOW default_transaction_read_only");
        while shown() != on {}
    };
    read_only("on");
    let error = loop {
        match set(&store, "b").await {
            Ok(()) => set_back(&store, "b").await,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error:?}");
    assert!(error.to_string().contains("the primary"), "{error}");
    assert_eq!(settings(&store).await, ["a"]);
    read_only("off");
    while set(&store, "b").await.is_err() {}
    assert_eq!(settings(&store).await, ["a", "b"]);
}

async fn set_back(store: &Store, name: &str) {
    let mut transaction = store.begin().await.unwrap();
    let delete = "DELETE FROM settings WHERE name = $1";
    let _ = sqlx::query(delete).bind(name).execute(&mut *transaction).await;
    let _ = transaction.commit().await;
}

/// As a host that is cut off: nobody answers, and no connection is closed.
#[tokio::test]
async fn a_server_that_hangs_holds_nobody_up_for_ever() {
    let cluster = Cluster::start(&[]);
    let store = connect(&cluster).await;
    set(&store, "a").await.unwrap();
    cluster.suspend();
    let error = set(&store, "b").await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("check that PostgreSQL runs there"), "{error}");
    cluster.resume();
    set(&store, "b").await.unwrap();
    assert_eq!(settings(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn one_server_at_a_time_writes_to_a_database() {
    let cluster = Cluster::start(&[]);
    let first = connect(&cluster).await;
    let error = Store::connect(&cluster.url().parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, StoreError::Held { .. }), "{error:?}");
    first.close().await;
    connect(&cluster).await;
}

/// Our connection ends, and another server has the database before we are back.
#[tokio::test]
async fn a_server_whose_database_another_one_has_changed_changes_nothing_and_says_to_restart_it() {
    let cluster = Cluster::start(&[]);
    let first = connect(&cluster).await;
    set(&first, "a").await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'gantry server'";
    let _ = cluster.psql("gantry", end);
    let second = connect(&cluster).await;
    set(&second, "b").await.unwrap();
    second.close().await;
    for _ in 0..2 {
        let error = set(&first, "c").await.unwrap_err();
        assert!(matches!(error, StoreError::Replaced { .. }), "{error:?}");
        assert!(error.to_string().contains("restart this server"), "{error}");
    }
    first.replaced().await;
    first.close().await;
    let third = connect(&cluster).await;
    set(&third, "c").await.unwrap();
    assert_eq!(settings(&third).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_password_is_in_no_error() {
    let cluster = Cluster::start(&[]);
    for end in ["", "?sslmode=none", "?sslmode=verify-full&sslrootcert=/nowhere", "?port=x"] {
        let url = cluster.url().replace("gantry@", "ann:s3cret@") + end;
        let Err(error) = Store::connect(&url.parse().unwrap()).await else { panic!("{end}") };
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
    }
}
