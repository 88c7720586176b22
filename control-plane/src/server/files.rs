//! The secrets that a server makes at its first start.

use std::{fs, io};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::ServerError;
use crate::config::DatabaseUrl;
use crate::core::Core;
use crate::data_dir::{DataDir, DataDirError};
use crate::keys;
use crate::store::Store;

/// The length of the key that signs the API's sessions.
const SESSION_KEY: usize = 32;

/// `admin.json`: what `gantry login --from` reads.
#[derive(Serialize, Deserialize)]
struct Admin {
    endpoint: String,
    key_id: String,
    key_secret: String,
    /// The authority's certificate, PEM, so that the file can be taken elsewhere.
    ca: String,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.key_secret.zeroize();
    }
}

/// Opens the database: that of the URL, else the file in the data directory.
pub(super) async fn open_store(
    dir: &DataDir,
    url: Option<&DatabaseUrl>,
) -> Result<Store, ServerError> {
    let (own, moved) = (dir.database(), dir.moved_database());
    let Some(url) = url else {
        if moved.exists() && !own.exists() {
            return Err(ServerError::Moved { moved });
        }
        dir.keep_private(&own)?;
        return Ok(Store::open(&own).await?);
    };
    if own.exists() {
        return Err(ServerError::NotMoved { own });
    }
    Ok(Store::connect(url).await?)
}

/// Writes the first API key, or the API's present address beside it.
pub(super) async fn write_admin(
    dir: &DataDir,
    core: &Core,
    ca: &str,
    endpoint: &str,
) -> Result<(), ServerError> {
    let path = dir.admin();
    let io = |act, source| DataDirError::Io { act, path: path.clone(), source };
    let ca = ca.to_owned();
    let admin = match fs::read(&path).map(Zeroizing::new) {
        Ok(content) => {
            let mut kept: Admin =
                serde_json::from_slice(&content).map_err(|error| io("read", error.into()))?;
            if kept.endpoint == endpoint && kept.ca == ca {
                return Ok(());
            }
            endpoint.clone_into(&mut kept.endpoint);
            kept.ca = ca;
            kept
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = keys::create_key(core, "server", "admin").await?;
            let key_secret = key.secret.to_string();
            Admin { endpoint: endpoint.to_owned(), key_id: key.id, key_secret, ca }
        }
        Err(error) => return Err(io("read", error).into()),
    };
    let content = serde_json::to_vec_pretty(&admin).map(Zeroizing::new);
    let content = content.map_err(|error| io("write", error.into()))?;
    Ok(dir.write(&path, &content)?)
}

/// The key that signs the API's sessions, which outlive a restart.
pub(super) fn session_key(dir: &DataDir) -> Result<Zeroizing<Vec<u8>>, DataDirError> {
    let path = dir.session_key();
    let io = |act, source| DataDirError::Io { act, path: path.clone(), source };
    match fs::read(&path).map(Zeroizing::new) {
        Ok(key) if key.len() == SESSION_KEY => return Ok(key),
        // A damaged key ends sessions, nothing else.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("read", error)),
    }
    let mut key = Zeroizing::new(vec![0; SESSION_KEY]);
    openssl::rand::rand_bytes(&mut key).map_err(|error| io("make", io::Error::other(error)))?;
    dir.write(&path, &key)?;
    Ok(key)
}
