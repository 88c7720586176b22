//! A data directory's database is brought to PostgreSQL.

use gantry_cluster::Database;
use gantry_control_plane::config::{Config, DatabaseUrl};
use gantry_control_plane::server::{MoveError, Server, ServerError, bring_over};
use gantry_control_plane::store::{Progress, Store, TransferError};

use super::set;

fn config(data: &std::path::Path, database: Option<DatabaseUrl>) -> Config {
    let mut config = Config::new(data.to_owned());
    for address in [&mut config.api, &mut config.mqtt, &mut config.objects] {
        address.set_port(0);
    }
    Config { database, ..config }
}

#[tokio::test]
async fn a_database_is_brought_over_once_and_nothing_of_it_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // What a first start writes, and more rows than go with one statement.
    let running = Server::start(config(&data, None)).await.unwrap();
    let mut transaction = running.control_plane().core.store().begin().await.unwrap();
    for n in 0..3000 {
        let insert = "INSERT INTO audit (id, at, actor, act, subject, detail) \
                      VALUES ($1, $2, 'ann', 'é\u{1f980}', '', '{}')";
        sqlx::query(insert)
            .bind(format!("{n:05}"))
            .bind(i64::MAX - n)
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
    let database = Database::create();
    let url: DatabaseUrl = database.url().parse().unwrap();
    let refused = bring_over(&data, &url, &mut |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("in use by the server"), "{refused}");
    running.stop().await;

    let mut said = Vec::new();
    bring_over(&data, &url, &mut |progress| said.push(progress)).await.unwrap();
    let rows = |of: &str| {
        said.iter().find_map(|it| match it {
            Progress::Checked(table, rows, _) if *table == of => Some(*rows),
            Progress::Checked(..) | Progress::Written(..) => None,
        })
    };
    assert!(rows("audit").unwrap() > 3000, "{said:?}");
    assert_eq!((rows("api_keys"), rows("runs")), (Some(1), Some(0)));

    // The old one is nobody's any more, the new one is the server's.
    let Err(refused) = Server::start(config(&data, None)).await else { panic!("it started") };
    assert!(matches!(refused, ServerError::Moved { .. }), "{refused:?}");
    let running = Server::start(config(&data, Some(url.clone()))).await.unwrap();
    let mut reader = running.control_plane().core.store().read().await.unwrap();
    let select = "SELECT COUNT(*) FROM audit WHERE act = 'é\u{1f980}'";
    let count: i64 = sqlx::query_scalar(select).fetch_one(&mut *reader).await.unwrap();
    assert_eq!(count, 3000);
    drop(reader);
    running.stop().await;
    let again = bring_over(&data, &url, &mut |_| {}).await.unwrap_err();
    assert!(matches!(again, MoveError::Nothing(_)), "{again:?}");
}

#[tokio::test]
async fn nothing_is_brought_to_a_database_that_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Server::start(config(&data, None)).await.unwrap().stop().await;
    let database = Database::create();
    let url: DatabaseUrl = database.url().parse().unwrap();
    let store = Store::connect(&url).await.unwrap();
    set(&store, "a").await.unwrap();
    store.close().await;
    let refused = bring_over(&data, &url, &mut |_| {}).await.unwrap_err();
    let not_empty = |it: &MoveError| {
        matches!(it, MoveError::Transfer(TransferError::NotEmpty { table: "settings" }))
    };
    assert!(not_empty(&refused), "{refused:?}");
    // And nothing has become of the old one.
    let Err(refused) = Server::start(config(&data, Some(url))).await else { panic!("it started") };
    assert!(matches!(refused, ServerError::NotMoved { .. }), "{refused:?}");
    Server::start(config(&data, None)).await.unwrap().stop().await;
}
