//! The S3 endpoint over local files: what launchers and the command line reach with signed urls.
//!
//! It knows one bucket, one access key and five operations. Requests without a valid signature are
//! refused, and no request, however signed, replaces an object.

mod checksums;
mod door;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, ETag, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use self::checksums::Checksums;
use super::super::{BUCKET, MAX_LIST, ObjectsError};
use super::Credentials;
use super::files::{Files, Found};

/// How much of an object is read at a time.
const PIECE: usize = 256 * 1024;

/// The largest request that is not an object, in bytes.
const MAX_XML: usize = 64 * 1024;

/// How much the signer's clock may be ahead. It is this host's own.
const MAX_SKEW_SECONDS: u32 = 60;

/// The endpoint's routes.
pub fn router(files: Arc<Files>, credentials: &Credentials) -> Router {
    let mut builder = S3ServiceBuilder::new(Endpoint { files });
    let secret = credentials.key_secret.as_str();
    builder.set_auth(SimpleAuth::from_single(credentials.key_id.as_str(), secret));
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML;
    config.presigned_url_max_skew_time_secs = MAX_SKEW_SECONDS;
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    let service = builder.build();
    Router::new().fallback(move |request| answer(service.clone(), request))
}

async fn answer(service: S3Service, request: Request) -> Response {
    if let Some(refused) = door::turn_away(&request) {
        return refused;
    }
    match service.call(request.map(s3s::Body::http_body_unsync)).await {
        Ok(response) => response.map(axum::body::Body::new).into_response(),
        Err(error) => {
            tracing::error!(error = format!("{error:?}"), "the object store could not answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

struct Endpoint {
    files: Arc<Files>,
}

impl Endpoint {
    async fn find(&self, bucket: &str, key: &str) -> S3Result<Found> {
        check_bucket(bucket)?;
        self.files.find(key).await.map_err(refuse)?.ok_or_else(|| s3_error!(NoSuchKey))
    }
}

#[async_trait]
impl S3 for Endpoint {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { mut input, trailing_headers, .. } = request;
        check_bucket(&input.bucket)?;
        let size = match input.content_length {
            None => None,
            Some(length) => Some(u64::try_from(length).map_err(|_| s3_error!(InvalidRequest))?),
        };
        let mut checksums = Checksums::declared(&input, trailing_headers);
        let body = input.body.take().unwrap_or_else(|| s3s::Body::empty().into());
        let look = |chunk: &[u8]| checksums.update(chunk);
        let unfinished = self.files.put(&input.key, size, body, look).await.map_err(refuse)?;
        checksums.verify()?;
        let found = unfinished.commit().await.map_err(refuse)?;
        let output = PutObjectOutput { e_tag: Some(etag(&found)), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        check_bucket(&input.bucket)?;
        let opened = self.files.get(&input.key).await.map_err(refuse)?;
        let found = opened.found;
        let range = match input.range {
            None => 0..found.size,
            Some(range) => range.check(found.size).map_err(|_| s3_error!(InvalidRange))?,
        };
        let content_range = input.range.map(|_| {
            format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), found.size)
        });
        let length = range.end - range.start;
        let io = |error: io::Error| s3_error!(error, InternalError);
        let file = opened.seek(range.start).await.map_err(io)?.take(length);
        let body = StreamingBlob::wrap(ReaderStream::with_capacity(file, PIECE));
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(body),
            content_length: Some(signed(length)),
            content_range,
            e_tag: Some(etag(&found)),
            last_modified: Some(Timestamp::from(found.made)),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let found = self.find(&request.input.bucket, &request.input.key).await?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(found.size)),
            e_tag: Some(etag(&found)),
            last_modified: Some(Timestamp::from(found.made)),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        check_bucket(&request.input.bucket)?;
        self.files.delete(&request.input.key).await.map_err(refuse)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        check_bucket(&input.bucket)?;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "listing with a delimiter is not supported"));
        }
        let wanted = input.max_keys.and_then(|max| usize::try_from(max).ok());
        let wanted = wanted.unwrap_or(MAX_LIST).min(MAX_LIST);
        let prefix = input.prefix.clone().unwrap_or_default();
        // Our continuation tokens are the last key of the page before.
        let after = input.continuation_token.as_deref().or(input.start_after.as_deref());
        let listed = self.files.list(&prefix, after, wanted).await.map_err(refuse)?;
        let next = listed.last().map(|(key, _)| key.clone());
        let is_truncated = wanted > 0 && listed.len() == wanted;
        let contents: Vec<Object> = listed.into_iter().map(describe).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            max_keys: i32::try_from(wanted).ok(),
            key_count: i32::try_from(contents.len()).ok(),
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            is_truncated: Some(is_truncated),
            next_continuation_token: next.filter(|_| is_truncated),
            contents: Some(contents),
            ..Default::default()
        }))
    }
}

fn describe((key, found): (String, Found)) -> Object {
    Object {
        key: Some(key),
        size: Some(signed(found.size)),
        e_tag: Some(etag(&found)),
        last_modified: Some(Timestamp::from(found.made)),
        ..Default::default()
    }
}

fn check_bucket(bucket: &str) -> S3Result<()> {
    if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Tells objects apart that had the same key one after the other; no object changes.
fn etag(found: &Found) -> ETag {
    let since = found.made.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    ETag::Strong(format!("{:x}-{:x}", found.size, since.as_nanos()))
}

fn refuse(error: ObjectsError) -> S3Error {
    match error {
        ObjectsError::NotFound { .. } => s3_error!(NoSuchKey),
        ObjectsError::Exists { .. } => {
            s3_error!(PreconditionFailed, "the object exists: objects are only ever created")
        }
        ObjectsError::InvalidKey { expected, .. } => {
            s3_error!(InvalidArgument, "an object key is {expected}")
        }
        ObjectsError::TooLarge { limit, .. } => {
            s3_error!(EntityTooLarge, "an object has at most {limit} bytes")
        }
        ObjectsError::NoSpace { .. } => {
            tracing::error!("no space for objects: free some on the disk of the data directory");
            let mut refused = S3Error::new(S3ErrorCode::Custom("InsufficientStorage".into()));
            refused.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            refused
        }
        ObjectsError::Failed { act, key, source } => {
            tracing::error!(act, key, error = format!("{source}"), "the object store failed");
            s3_error!(InternalError)
        }
    }
}
