//! Objects in any S3 service, and the signing of urls.

use std::error::Error as StdError;
use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use zeroize::Zeroizing;

use super::{BUCKET, Listed, MAX_LIST, MAX_TTL, Objects, ObjectsError, check_key};

/// How long the service may take to answer one try.
const ANSWER: Duration = Duration::from_secs(60);

/// How long an operation may take with all its tries.
const OPERATION: Duration = Duration::from_mins(3);

/// Which S3 service, and as whom.
#[derive(Clone)]
pub struct S3Config {
    /// The service's url; AWS's own of the region if there is none.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Whether the bucket stands in the path instead of the host name.
    pub is_path_style: bool,
    /// The access key.
    pub key_id: String,
    /// The secret key.
    pub key_secret: Zeroizing<String>,
    /// The certificate, PEM, of the authority that the service's certificate is from; one of the
    /// system's if there is none.
    pub ca: Option<String>,
}

impl S3Config {
    /// What our own endpoint at `url` needs.
    #[must_use]
    pub fn own(url: &str, key_id: &str, key_secret: Zeroizing<String>, ca: &str) -> Self {
        Self {
            endpoint: Some(url.to_owned()),
            region: "us-east-1".to_owned(),
            bucket: BUCKET.to_owned(),
            is_path_style: true,
            key_id: key_id.to_owned(),
            key_secret,
            ca: Some(ca.to_owned()),
        }
    }
}

/// Objects in an S3 service.
#[derive(Clone)]
pub struct S3Objects {
    client: Client,
    bucket: String,
}

impl S3Objects {
    /// A client of this service. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When the authority's certificate cannot be read.
    pub fn new(config: &S3Config) -> Result<Self, ObjectsError> {
        let credentials =
            Credentials::new(&config.key_id, config.key_secret.as_str(), None, None, "gantry");
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(ANSWER)
            .operation_timeout(OPERATION)
            .build();
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(config.is_path_style)
            .retry_config(RetryConfig::standard())
            .timeout_config(timeouts)
            // Older services do not know the checksums that are sent otherwise; TLS guards the way.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        builder.set_endpoint_url(config.endpoint.clone());
        if let Some(ca) = &config.ca {
            let trust = TrustStore::empty().with_pem_certificate(ca.as_bytes());
            let context = TlsContext::builder().with_trust_store(trust).build();
            let context = context.map_err(|error| failed("trust", "ca", error))?;
            let https = aws_smithy_http_client::Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .tls_context(context)
                .build_https();
            builder = builder.http_client(https);
        }
        let client = Client::from_conf(builder.build());
        Ok(Self { client, bucket: config.bucket.clone() })
    }

    fn get_object(&self, key: &str) -> GetObjectFluentBuilder {
        self.client.get_object().bucket(&self.bucket).key(key)
    }

    async fn collect(
        &self,
        key: &str,
        mut output: GetObjectOutput,
        limit: u64,
    ) -> Result<Bytes, ObjectsError> {
        let too_large = || ObjectsError::TooLarge { key: key.to_owned(), limit };
        let length = output.content_length().and_then(|length| u64::try_from(length).ok());
        if length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = output.body.next().await {
            let chunk = chunk.map_err(|error| failed("get", key, error))?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(too_large());
            }
        }
        Ok(bytes.freeze())
    }
}

impl Objects for S3Objects {
    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            let put = self.client.put_object().bucket(&self.bucket).key(key);
            let put = put.if_none_match("*").body(ByteStream::from(bytes));
            put.send().await.map_err(|error| explain("put", key, error))?;
            Ok(())
        })
    }

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            let output = self.get_object(key).send().await;
            let output = output.map_err(|error| explain("get", key, error))?;
            self.collect(key, output, limit).await
        })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            let Some(length) = range.end.checked_sub(range.start).filter(|&length| length > 0)
            else {
                return match self.size(key).await? {
                    Some(_) => Ok(Bytes::new()),
                    None => Err(ObjectsError::NotFound { key: key.to_owned() }),
                };
            };
            let header = format!("bytes={}-{}", range.start, range.end - 1);
            match self.get_object(key).range(header).send().await {
                Ok(output) => self.collect(key, output, length).await,
                Err(error) if status(&error) == Some(416) => Ok(Bytes::new()),
                Err(error) => Err(explain("get", key, error)),
            }
        })
    }

    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>, ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            match self.client.head_object().bucket(&self.bucket).key(key).send().await {
                Ok(output) => {
                    let length = output.content_length().and_then(|it| u64::try_from(it).ok());
                    Ok(Some(length.unwrap_or(0)))
                }
                Err(error) if status(&error) == Some(404) => Ok(None),
                Err(error) => Err(explain("look at", key, error)),
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            let deleted = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
            match deleted {
                Ok(_) => Ok(()),
                Err(error) if status(&error) == Some(404) => Ok(()),
                Err(error) => Err(explain("delete", key, error)),
            }
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, ObjectsError>> {
        Box::pin(async move {
            let limit = limit.min(MAX_LIST);
            if limit == 0 {
                return Ok(Vec::new());
            }
            let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
            let list = list.set_start_after(after.map(str::to_owned));
            let max_keys = i32::try_from(limit).unwrap_or(i32::MAX);
            let output = list.max_keys(max_keys).send().await;
            let output = output.map_err(|error| explain("list", prefix, error))?;
            let listed = output.contents.unwrap_or_default().into_iter().filter_map(|object| {
                let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                Some(Listed { key: object.key?, size })
            });
            Ok(listed.take(limit).collect())
        })
    }

    fn presign_get<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            let signed = self.get_object(key).presigned(expiry(key, ttl)?).await;
            Ok(signed.map_err(|error| explain("sign", key, error))?.uri().to_owned())
        })
    }

    fn presign_put<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            let put = self.client.put_object().bucket(&self.bucket).key(key).if_none_match("*");
            let signed = put.presigned(expiry(key, ttl)?).await;
            Ok(signed.map_err(|error| explain("sign", key, error))?.uri().to_owned())
        })
    }
}

fn expiry(key: &str, ttl: Duration) -> Result<PresigningConfig, ObjectsError> {
    PresigningConfig::expires_in(ttl.min(MAX_TTL)).map_err(|error| failed("sign", key, error))
}

/// The status with which the service refused.
fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

fn explain<E>(act: &'static str, key: &str, error: SdkError<E, HttpResponse>) -> ObjectsError
where
    E: StdError + Send + Sync + 'static,
{
    match status(&error) {
        Some(404) => ObjectsError::NotFound { key: key.to_owned() },
        // 409: another put of the key is under way.
        Some(412 | 409) if act == "put" => ObjectsError::Exists { key: key.to_owned() },
        Some(507) => ObjectsError::NoSpace { key: key.to_owned() },
        Some(_) | None => failed(act, key, error),
    }
}

fn failed(
    act: &'static str,
    key: &str,
    source: impl Into<Box<dyn StdError + Send + Sync>>,
) -> ObjectsError {
    ObjectsError::Failed { act, key: key.to_owned(), source: source.into() }
}
