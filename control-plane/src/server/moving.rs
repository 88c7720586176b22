//! Bringing a data directory's database to PostgreSQL.

use std::fs;
use std::path::Path;

use super::ServerError;
use crate::config::DatabaseUrl;
use crate::data_dir::{DataDir, DataDirError};
use crate::store::{Progress, Store, TransferError, transfer};

/// Why a database was not brought over.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The data directory or a database cannot be had.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// There is nothing to bring.
    #[error("{} has no database of its own: give the data directory of a server that has run", .0.display())]
    Nothing(std::path::PathBuf),
    /// It was not brought over.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

impl From<DataDirError> for MoveError {
    fn from(error: DataDirError) -> Self {
        Self::Server(error.into())
    }
}

/// Brings the database of a data directory, whose server is stopped, to a PostgreSQL database that holds nothing. What
/// was there is left under another name, which no server opens.
///
/// # Errors
/// When anything is not as it should be. Both databases are as they were then.
pub async fn bring_over(
    data: &Path,
    url: &DatabaseUrl,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), MoveError> {
    let nothing = || MoveError::Nothing(data.to_owned());
    if !data.is_dir() {
        return Err(nothing());
    }
    let dir = DataDir::open(data)?;
    let path = dir.database();
    if !path.exists() {
        return Err(nothing());
    }
    let source = Store::open(&path).await.map_err(ServerError::from)?;
    let target = Store::connect(url).await.map_err(ServerError::from)?;
    let moved = transfer(&source, &target, say).await;
    target.close().await;
    // The last one who closes it leaves one file.
    source.close().await;
    moved?;
    let left = dir.moved_database();
    let io = |source| DataDirError::Io { act: "rename", path: path.clone(), source };
    fs::rename(&path, &left).map_err(io)?;
    Ok(())
}
