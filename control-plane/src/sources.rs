//! The versions of a stack's source: uploaded first, then used.

mod sealing;

use std::time::Duration;

use gantry_model::{MAX_SOURCE, StackId};
use gantry_protocol::Digest;

use crate::check;
use crate::clock::millis;
use crate::error::OperationError;
use crate::objects::check_key;
use crate::stacks::{Stack, Stacks, read_stack_with_secrets};
use crate::store::Connection;
use crate::store::sources::{find_source, find_uploaded, insert_source};

pub use crate::store::sources::StackSource;

/// For how long a source can be uploaded.
const UPLOAD_TTL: Duration = Duration::from_hours(1);

/// A source that was uploaded.
#[derive(Debug, Clone)]
pub struct NewSource {
    /// The object that holds it, as [`Stacks::source_upload`] named it.
    pub key: String,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// Who made it.
    pub author: String,
    /// What they say about it.
    pub message: String,
}

/// Where to put a source.
#[derive(Debug, Clone)]
pub struct SourceUpload {
    /// The object's key.
    pub key: String,
    /// A pre-signed url. The PUT must carry `If-None-Match: *`.
    pub url: String,
    /// For how long it can be used, in milliseconds.
    pub valid_ms: u64,
}

impl Stacks {
    /// An url for a new version of the stack's source.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn source_upload(&self, stack: &StackId) -> Result<SourceUpload, OperationError> {
        self.stack(stack).await?;
        let key = format!("source/{stack}/{}", self.ids().ulid(self.now()));
        let url = self.objects.presign_put(&key, UPLOAD_TTL).await?;
        Ok(SourceUpload { key, url, valid_ms: millis(UPLOAD_TTL) })
    }

    /// Makes an uploaded source the newest version, sealed if it is not yet. Asked again with the same
    /// key, it changes nothing.
    ///
    /// # Errors
    /// When there is no such stack or object, the object has another length, or another source is being
    /// sealed.
    pub async fn set_source(
        &self,
        actor: &str,
        stack: &StackId,
        source: NewSource,
    ) -> Result<Stack, OperationError> {
        if self.is_known_source(stack, &source.key).await? {
            return self.stack(stack).await;
        }
        let pool = self.stack(stack).await?.pool;
        self.check_source(stack, &source).await?;
        let uploaded = source.key.clone();
        let source = self.sealed_source(stack, source).await?;
        let mut unit = self.begin().await?;
        if read_stack_with_secrets(unit.conn(), stack).await?.0.pool != pool {
            return Err(OperationError::Conflict(format!(
                "stack {stack} has got another pool meanwhile: upload the source again"
            )));
        }
        let source = StackSource {
            id: self.ids().ulid(unit.now()).to_string(),
            key: source.key,
            sha256: source.sha256,
            size: source.size,
            author: source.author,
            message: source.message,
            created_at: unit.now(),
        };
        insert_source(unit.conn(), stack, &source, &uploaded).await?;
        let subject = format!("stack {stack}");
        unit.audit(actor, "stack.source", &subject, &source.key).await?;
        unit.commit().await?;
        self.drop_clear(&uploaded, &source.key).await?;
        self.stack(stack).await
    }

    /// Whether what was uploaded under this key was taken in before.
    async fn is_known_source(&self, stack: &StackId, key: &str) -> Result<bool, OperationError> {
        let mut conn = self.store().read().await?;
        let Some(kept) = find_uploaded(&mut conn, stack, key).await? else { return Ok(false) };
        // Whoever asks again may have been cut off before the clear archive was gone.
        self.drop_clear(key, &kept).await?;
        Ok(true)
    }

    async fn drop_clear(&self, uploaded: &str, kept: &str) -> Result<(), OperationError> {
        if uploaded != kept {
            self.objects.delete(uploaded).await?;
        }
        Ok(())
    }

    /// The source as it is kept: as it was uploaded if that is an age file, and else sealed.
    async fn sealed_source(
        &self,
        stack: &StackId,
        source: NewSource,
    ) -> Result<NewSource, OperationError> {
        if sealing::is_sealed(self.objects.as_ref(), &source.key).await? {
            return Ok(source);
        }
        let recipients = self.recipients_of(stack).await?;
        // Held until the sealed one is stored and its memory free. Who comes meanwhile is told so rather
        // than kept waiting behind an object store that may be slow.
        let _turn = self.sealing.try_acquire().map_err(|_| {
            let said = "another source is being sealed: try again in a moment";
            OperationError::Conflict(said.to_owned())
        })?;
        let (key, size) = (&source.key, source.size);
        let sealed =
            sealing::seal_object(self.objects.as_ref(), key, size, &source.sha256, &recipients)
                .await?;
        let key = format!("source/{stack}/{}", self.ids().ulid(self.now()));
        let (sha256, size) = (sealed.sha256, sealed.file.len() as u64);
        self.objects.put(&key, sealed.file).await?;
        Ok(NewSource { key, sha256, size, ..source })
    }

    async fn check_source(
        &self,
        stack: &StackId,
        source: &NewSource,
    ) -> Result<(), OperationError> {
        check::text("author", &source.author, 0, check::MAX_NAME)?;
        check::text("message", &source.message, 0, check::MAX_NOTE)?;
        let problem = if !source.key.starts_with(&format!("source/{stack}/"))
            || check_key(&source.key).is_err()
        {
            "its key is not one that was given out for this stack: ask for an upload first"
        } else if source.sha256.parse::<Digest>().is_err() {
            "its hash is not 64 characters of 0-9 and a-f"
        } else if source.size > MAX_SOURCE {
            "it is larger than 1 GiB: leave out what the stack does not need"
        } else if self.objects.size(&source.key).await? != Some(source.size) {
            "no object of this length is stored: upload it first"
        } else {
            return Ok(());
        };
        Err(OperationError::invalid("source", problem))
    }
}

/// The version of a stack's source with this id.
pub(crate) async fn read_source(
    conn: &mut Connection,
    source: &str,
) -> Result<StackSource, OperationError> {
    let found = find_source(conn, source).await?;
    found.ok_or_else(|| OperationError::not_found("source", source))
}
