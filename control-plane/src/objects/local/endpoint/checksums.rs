//! Checksums that a request declares, in its headers or after its body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::hash::{Hasher, MessageDigest};
use s3s::checksum::ChecksumHasher;
use s3s::dto::{Checksum, PutObjectInput};
use s3s::{S3Result, TrailingHeaders, s3_error};

/// What the content must be, and what it is.
pub(super) struct Checksums {
    declared: Checksum,
    trailers: Option<TrailingHeaders>,
    actual: ChecksumHasher,
    /// `Content-MD5`, which is older than all others and which the library leaves to us.
    md5: Option<Md5>,
}

struct Md5 {
    declared: String,
    actual: Result<Hasher, ErrorStack>,
}

impl Checksums {
    /// Takes the declared checksums of a request. Which ones follow after the body is known only
    /// then, so with trailers all are calculated.
    pub(super) fn declared(input: &PutObjectInput, trailers: Option<TrailingHeaders>) -> Self {
        let declared = Checksum {
            checksum_crc32: input.checksum_crc32.clone(),
            checksum_crc32c: input.checksum_crc32c.clone(),
            checksum_crc64nvme: input.checksum_crc64nvme.clone(),
            checksum_sha1: input.checksum_sha1.clone(),
            checksum_sha256: input.checksum_sha256.clone(),
            ..Default::default()
        };
        let all = trailers.is_some();
        let actual = ChecksumHasher {
            crc32: (all || declared.checksum_crc32.is_some()).then(Default::default),
            crc32c: (all || declared.checksum_crc32c.is_some()).then(Default::default),
            crc64nvme: (all || declared.checksum_crc64nvme.is_some()).then(Default::default),
            sha1: (all || declared.checksum_sha1.is_some()).then(Default::default),
            sha256: (all || declared.checksum_sha256.is_some()).then(Default::default),
        };
        let md5 = input.content_md5.clone().map(|declared| {
            let actual = Hasher::new(MessageDigest::md5());
            Md5 { declared, actual }
        });
        Self { declared, trailers, actual, md5 }
    }

    pub(super) fn update(&mut self, chunk: &[u8]) {
        self.actual.update(chunk);
        if let Some(md5) = &mut self.md5
            && let Ok(hasher) = &mut md5.actual
            && let Err(error) = hasher.update(chunk)
        {
            md5.actual = Err(error);
        }
    }

    /// Compares, after the body.
    pub(super) fn verify(mut self) -> S3Result<()> {
        if let Some(trailers) = self.trailers.as_ref().and_then(TrailingHeaders::take) {
            let value =
                |name| trailers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
            let declared = &mut self.declared;
            for (slot, name) in [
                (&mut declared.checksum_crc32, "x-amz-checksum-crc32"),
                (&mut declared.checksum_crc32c, "x-amz-checksum-crc32c"),
                (&mut declared.checksum_crc64nvme, "x-amz-checksum-crc64nvme"),
                (&mut declared.checksum_sha1, "x-amz-checksum-sha1"),
                (&mut declared.checksum_sha256, "x-amz-checksum-sha256"),
            ] {
                *slot = slot.take().or_else(|| value(name));
            }
        }
        let actual = self.actual.finalize();
        let is_right = |declared: &Option<String>, actual: &Option<String>| {
            declared.is_none() || declared == actual
        };
        let declared = &self.declared;
        let are_right = is_right(&declared.checksum_crc32, &actual.checksum_crc32)
            && is_right(&declared.checksum_crc32c, &actual.checksum_crc32c)
            && is_right(&declared.checksum_crc64nvme, &actual.checksum_crc64nvme)
            && is_right(&declared.checksum_sha1, &actual.checksum_sha1)
            && is_right(&declared.checksum_sha256, &actual.checksum_sha256);
        let is_md5_right = match self.md5 {
            None => true,
            Some(Md5 { declared, actual }) => {
                let digest = actual.and_then(|mut hasher| hasher.finish());
                let digest = digest.map_err(|error| s3_error!(error, InternalError))?;
                let Some(declared) = STANDARD.decode(declared).ok().filter(|it| it.len() == 16)
                else {
                    return Err(s3_error!(InvalidDigest));
                };
                declared == *digest
            }
        };
        if are_right && is_md5_right { Ok(()) } else { Err(s3_error!(BadDigest)) }
    }
}
