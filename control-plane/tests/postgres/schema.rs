//! Both databases have the same tables.

use std::collections::BTreeSet;

use gantry_cluster::Database;
use gantry_control_plane::store::Store;
use sqlx::Row as _;

/// Each column, and each index with its condition, in words that are the same for both.
async fn described(store: &Store, columns: &str, indexes: &str) -> BTreeSet<String> {
    let mut reader = store.read().await.unwrap();
    let mut found = BTreeSet::new();
    for (kind, select) in [("column", columns), ("index", indexes)] {
        for row in sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(&mut *reader).await.unwrap() {
            found.insert(format!("{kind} {}", row.get::<String, _>("said")));
        }
    }
    found
}

#[tokio::test]
async fn both_databases_have_the_same_tables() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Store::open(&folder.path().join("gantry.db")).await.unwrap();
    let database = Database::create();
    let postgres = Store::connect(&database.url().parse().unwrap()).await.unwrap();
    let of_sqlite = described(
        &sqlite,
        "SELECT m.name || '.' || c.name || ' ' || c.type \
         || CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN ' always' ELSE '' END \
         || CASE WHEN c.pk > 0 THEN ' key ' || c.pk ELSE '' END AS said \
         FROM sqlite_master m, pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE '%sqlite%' AND m.name NOT LIKE '%sqlx%'",
        "SELECT m.tbl_name || ' ' || m.name || ' ' || (SELECT group_concat(name, ',') FROM \
         (SELECT name FROM pragma_index_info(m.name) ORDER BY seqno)) AS said \
         FROM sqlite_master m WHERE m.type = 'index' AND m.sql IS NOT NULL",
    );
    let of_postgres = described(
        &postgres,
        "SELECT CAST(c.relname || '.' || a.attname || ' ' || upper(format_type(a.atttypid, a.atttypmod)) \
         || CASE WHEN a.attnotnull THEN ' always' ELSE '' END \
         || COALESCE(' key ' || array_position(CAST(i.indkey AS SMALLINT[]), a.attnum) + 1, '') AS TEXT) AS said \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
         WHERE c.relkind = 'r' AND c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relname NOT LIKE '%sqlx%' \
         AND c.relname <> '_gantry_writer'",
        "SELECT CAST(t.relname || ' ' || c.relname || ' ' || (SELECT string_agg(a.attname, ',' ORDER BY k.n) FROM \
         unnest(CAST(i.indkey AS SMALLINT[])) WITH ORDINALITY k (attnum, n) \
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum) AS TEXT) AS said \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid \
         WHERE t.relnamespace = CAST(current_schema() AS regnamespace) AND NOT i.indisunique",
    );
    let (of_sqlite, of_postgres) = (of_sqlite.await, of_postgres.await);
    let missing: Vec<_> = of_sqlite.difference(&of_postgres).collect();
    let more: Vec<_> = of_postgres.difference(&of_sqlite).collect();
    assert!(of_sqlite.len() > 100, "{of_sqlite:?}");
    assert!(missing.is_empty() && more.is_empty(), "missing: {missing:#?}\nmore: {more:#?}");
}

/// Whatever order its database was made with.
#[tokio::test]
async fn text_has_the_order_of_its_bytes() {
    let database = Database::create();
    let store = Store::connect(&database.url().parse().unwrap()).await.unwrap();
    let mut reader = store.read().await.unwrap();
    let select = "SELECT CAST(c.relname || '.' || a.attname AS TEXT) AS said FROM pg_class c \
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
        JOIN pg_collation o ON o.oid = a.attcollation \
        WHERE c.relkind = 'r' AND c.relnamespace = CAST(current_schema() AS regnamespace) \
        AND c.relname NOT LIKE '%sqlx%' AND o.collname <> 'C'";
    let other: Vec<String> = sqlx::query_scalar(select).fetch_all(&mut *reader).await.unwrap();
    assert_eq!(other, Vec::<String>::new());
    drop(reader);
    for name in ["b", "B", "a", "\u{0}"] {
        super::set(&store, name).await.unwrap();
    }
    // There is no room for NUL.
    assert_eq!(super::settings(&store).await, ["B", "a", "b", "\u{fffd}"]);
}

/// The files are those that are listed, and have the same numbers but for what came before PostgreSQL.
#[test]
fn every_migration_is_listed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut numbers = Vec::new();
    for (folder, source) in [("sqlite", "sqlite.rs"), ("postgres", "postgres.rs")] {
        let source = std::fs::read_to_string(root.join("src/store").join(source)).unwrap();
        let files = std::fs::read_dir(root.join("migrations").join(folder)).unwrap();
        let mut of_folder = BTreeSet::new();
        for file in files {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(
                source.contains(&format!("{folder}/{name}")),
                "{name} is not in {folder}'s list"
            );
            of_folder.insert(name[..4].parse::<u32>().unwrap());
        }
        numbers.push(of_folder);
    }
    numbers[0].remove(&1);
    assert_eq!(numbers[0], numbers[1]);
}
