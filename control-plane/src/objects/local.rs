//! Objects below a local directory, and the S3 endpoint through which others reach them.
//!
//! The control plane itself goes to the files; launchers and the command line go to [`endpoint`] with
//! signed urls. Both end in [`files`], so both keep the same promises.

pub mod endpoint;
pub mod files;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use self::files::{Files, Limits};
use super::s3::{S3Config, S3Objects};
use super::{Listed, Objects, ObjectsError};
use crate::data_dir::{DataDir, DataDirError};

/// The access key of the local endpoint.
#[derive(Clone)]
pub struct Credentials {
    /// The access key's id.
    pub key_id: String,
    /// The secret.
    pub key_secret: Zeroizing<String>,
}

/// [`Credentials`] as they are in the file.
#[derive(Serialize, Deserialize)]
struct CredentialsFile {
    key_id: String,
    key_secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the credentials of the data directory, or makes them when there are none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or no randomness can be had.
    ///
    /// # Panics
    /// Never: credentials are made of strings.
    pub fn load_or_make(dir: &DataDir) -> Result<Self, DataDirError> {
        let path = dir.objects_credentials();
        let io = |act, source| DataDirError::Io { act, path: path.clone(), source };
        match std::fs::read(&path).map(Zeroizing::new) {
            Ok(content) => {
                let file: CredentialsFile =
                    serde_json::from_slice(&content).map_err(|error| io("read", error.into()))?;
                let key_secret = Zeroizing::new(file.key_secret);
                return Ok(Self { key_id: file.key_id, key_secret });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("read", error)),
        }
        let mut bytes = Zeroizing::new([0_u8; 39]);
        openssl::rand::rand_bytes(&mut *bytes)
            .map_err(|error| io("make", std::io::Error::other(error)))?;
        let made = Self {
            key_id: format!("GANTRY{}", URL_SAFE_NO_PAD.encode(&bytes[..9]).replace('-', "0")),
            key_secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[9..])),
        };
        let (key_id, key_secret) = (made.key_id.clone(), made.key_secret.to_string());
        let file = CredentialsFile { key_id, key_secret };
        let content = serde_json::to_vec(&file).map(Zeroizing::new);
        drop(Zeroizing::new(file.key_secret));
        dir.write(&path, &content.expect("strings become JSON"))?;
        Ok(made)
    }
}

/// Objects below a local directory.
#[derive(Clone)]
pub struct LocalObjects {
    files: Arc<Files>,
    /// Signs urls of the endpoint; signing asks nobody.
    signer: S3Objects,
}

impl LocalObjects {
    /// Opens the store below `directory`. Its urls lead to `endpoint`, signed with `credentials`.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(
        directory: &Path,
        limits: Limits,
        endpoint: &str,
        credentials: &Credentials,
    ) -> Result<Self, ObjectsError> {
        let secret = credentials.key_secret.clone();
        let mut config = S3Config::own(endpoint, &credentials.key_id, secret, "");
        config.ca = None;
        let signer = S3Objects::new(&config)?;
        Ok(Self { files: Arc::new(Files::open(directory, limits)?), signer })
    }

    /// The files, for the endpoint.
    #[must_use]
    pub fn files(&self) -> Arc<Files> {
        Arc::clone(&self.files)
    }
}

impl Objects for LocalObjects {
    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), ObjectsError>> {
        Box::pin(async move {
            let size = bytes.len() as u64;
            let body = futures::stream::iter([Ok::<_, std::io::Error>(bytes)]);
            self.files.put(key, Some(size), body, |_| {}).await?.commit().await?;
            Ok(())
        })
    }

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, ObjectsError>> {
        Box::pin(async move {
            let opened = self.files.get(key).await?;
            if opened.found.size > limit {
                return Err(ObjectsError::TooLarge { key: key.to_owned(), limit });
            }
            let size = opened.found.size;
            self.read(key, opened, 0..size).await
        })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectsError>> {
        Box::pin(async move {
            let opened = self.files.get(key).await?;
            let size = opened.found.size;
            let start = range.start.min(size);
            self.read(key, opened, start..range.end.min(size).max(start)).await
        })
    }

    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>, ObjectsError>> {
        Box::pin(async move { Ok(self.files.find(key).await?.map(|found| found.size)) })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ObjectsError>> {
        Box::pin(async move { self.files.delete(key).await })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, ObjectsError>> {
        Box::pin(async move {
            let listed = self.files.list(prefix, after, limit).await?;
            let brief = |(key, found): (String, files::Found)| Listed { key, size: found.size };
            Ok(listed.into_iter().map(brief).collect())
        })
    }

    fn presign_get<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>> {
        self.signer.presign_get(key, ttl)
    }

    fn presign_put<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>> {
        self.signer.presign_put(key, ttl)
    }
}

impl LocalObjects {
    async fn read(
        &self,
        key: &str,
        opened: files::Opened,
        range: Range<u64>,
    ) -> Result<Bytes, ObjectsError> {
        let length = range.end - range.start;
        let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        let io = |source| files::failed("get", key, source);
        let mut file = opened.seek(range.start).await.map_err(io)?.take(length);
        while file.read_buf(&mut bytes).await.map_err(io)? > 0 {}
        Ok(bytes.freeze())
    }
}
