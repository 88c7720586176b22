//! The database of a test: SQLite's, or PostgreSQL's where `GANTRY_TEST_DATABASE=postgres` says so. `cargo xtask test` runs
//! every test that has one on both.

use std::path::PathBuf;

use gantry_control_plane::config::Config;
use gantry_control_plane::store::Store;

/// A database that is nobody else's, and goes with its test.
pub(crate) enum Database {
    Sqlite(tempfile::TempDir),
    Postgres(gantry_cluster::Database),
}

/// What was in it at one moment.
pub(crate) enum Kept {
    Sqlite(Vec<u8>),
    Postgres(gantry_cluster::Kept),
}

impl Database {
    pub(crate) fn new() -> Self {
        match std::env::var_os("GANTRY_TEST_DATABASE") {
            Some(name) if name == "postgres" => Self::Postgres(gantry_cluster::Database::create()),
            Some(name) => panic!("GANTRY_TEST_DATABASE is {}, not postgres", name.display()),
            None => Self::Sqlite(tempfile::tempdir().unwrap()),
        }
    }

    pub(crate) const fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    fn file(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("gantry.db")
    }

    pub(crate) async fn open(&self) -> Store {
        match self {
            Self::Sqlite(folder) => Store::open(&Self::file(folder)).await.unwrap(),
            Self::Postgres(database) => {
                Store::connect(&database.url().parse().unwrap()).await.unwrap()
            }
        }
    }

    /// Lets a server have it.
    pub(crate) fn give(&self, config: &mut Config) {
        if let Self::Postgres(database) = self {
            config.database = Some(database.url().parse().unwrap());
        }
    }

    /// Keeps what is in it now, while nobody is connected.
    pub(crate) fn keep(&self) -> Kept {
        match self {
            Self::Sqlite(folder) => Kept::Sqlite(std::fs::read(Self::file(folder)).unwrap()),
            Self::Postgres(database) => Kept::Postgres(database.keep()),
        }
    }

    /// Has in it again what was in it then, while nobody is connected.
    pub(crate) fn restore(&self, kept: &Kept) {
        match (self, kept) {
            (Self::Sqlite(folder), Kept::Sqlite(bytes)) => {
                std::fs::write(Self::file(folder), bytes).unwrap();
            }
            (Self::Postgres(database), Kept::Postgres(kept)) => database.restore(kept),
            _ => panic!("it was kept from another database"),
        }
    }
}
