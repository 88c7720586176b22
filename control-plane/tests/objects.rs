//! Object stores: one contract for all of them, and the local S3 endpoint against those who would reach
//! what is not theirs.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its stage up fails")]

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::{BehaviorVersion, Credentials as SdkCredentials, Region};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use bytes::Bytes;
use futures::StreamExt as _;
use gantry_control_plane::data_dir::DataDir;
use gantry_control_plane::objects::local::files::Limits;
use gantry_control_plane::objects::local::{Credentials, endpoint};
use gantry_control_plane::objects::s3::S3Config;
use gantry_control_plane::objects::{
    FakeObjects, Listed, LocalObjects, Objects, ObjectsError, S3Objects,
};
use gantry_control_plane::tls::{Bound, TlsSettings};
use gantry_protocol::Authority;
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

const TTL: Duration = Duration::from_secs(600);

/// A local store and its endpoint, which ends with it.
struct World {
    dir: DataDir,
    local: LocalObjects,
    url: String,
    credentials: Credentials,
    ca: String,
    http: reqwest::Client,
    _tasks: JoinSet<()>,
    // Last, so that it is removed when all else is closed.
    root: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(Limits { object: 1 << 20, reserve: 0 })
    }

    fn with(limits: Limits) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&root.path().join("data")).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let authority = Authority::generate(now.cast_signed()).unwrap();
        let issued = authority.issue_server(&["127.0.0.1"], now.cast_signed()).unwrap();
        let bound = Bound::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let url = format!("https://{}", bound.address());
        let credentials = Credentials::load_or_make(&dir).unwrap();
        let local = LocalObjects::open(&dir.objects(), limits, &url, &credentials).unwrap();
        let router = endpoint::router(local.files(), &credentials);
        let tls = TlsSettings::new(&issued).unwrap();
        let mut tasks = JoinSet::new();
        let handle = axum_server::Handle::new();
        tasks.spawn(async move { bound.serve(tls, router, TTL, handle).await.unwrap() });
        let ca = authority.certificate_pem().to_owned();
        let http = http_client(&ca);
        Self { dir, local, url, credentials, ca, http, _tasks: tasks, root }
    }

    fn s3(&self) -> S3Objects {
        let Credentials { key_id, key_secret } = self.credentials.clone();
        S3Objects::new(&S3Config::own(&self.url, &key_id, key_secret, &self.ca)).unwrap()
    }

    /// A plain client of the SDK, which checks nothing for us.
    fn sdk(&self, key_id: &str, key_secret: &str) -> aws_sdk_s3::Client {
        let trust = TrustStore::empty().with_pem_certificate(self.ca.as_bytes());
        let context = TlsContext::builder().with_trust_store(trust).build().unwrap();
        let https = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(context)
            .build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(SdkCredentials::new(key_id, key_secret, None, None, "test"))
            .force_path_style(true)
            .endpoint_url(&self.url)
            .http_client(https);
        aws_sdk_s3::Client::from_conf(config.build())
    }

    fn own_sdk(&self) -> aws_sdk_s3::Client {
        self.sdk(&self.credentials.key_id, &self.credentials.key_secret)
    }

    async fn send(&self, method: Method, url: &str, is_create: bool, body: &str) -> StatusCode {
        let mut request = self.http.request(method, url).body(body.to_owned());
        if is_create {
            request = request.header("If-None-Match", "*");
        }
        request.send().await.unwrap().status()
    }

    /// All files of the test, without the data directory's own.
    fn files(&self) -> HashSet<PathBuf> {
        let mut files = HashSet::new();
        let mut directories = vec![self.root.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else {
                    files.insert(entry.path().strip_prefix(self.root.path()).unwrap().to_owned());
                }
            }
        }
        files.remove(Path::new("data/lock"));
        files.remove(Path::new("data/objects.json"));
        files
    }
}

fn http_client(ca: &str) -> reqwest::Client {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder().use_preconfigured_tls(config).no_proxy().build().unwrap()
}

/// What every store promises.
async fn keeps_the_contract(store: &dyn Objects) {
    let body = Bytes::from_static(b"0123456789");
    store.put("log/run/1/a", body.clone()).await.unwrap();
    assert_eq!(store.get("log/run/1/a", 10).await.unwrap(), body);
    assert_eq!(store.size("log/run/1/a").await.unwrap(), Some(10));

    // Created once.
    let again = store.put("log/run/1/a", Bytes::from_static(b"other")).await;
    assert!(matches!(again, Err(ObjectsError::Exists { .. })), "{again:?}");
    assert_eq!(store.get("log/run/1/a", 10).await.unwrap(), body);

    // Bounded.
    let large = store.get("log/run/1/a", 9).await;
    assert!(matches!(large, Err(ObjectsError::TooLarge { .. })), "{large:?}");

    // Ranges end where the object ends.
    for (range, expected) in
        [(0..3, "012"), (3..10, "3456789"), (8..100, "89"), (10..20, ""), (50..60, ""), (4..4, "")]
    {
        let part = store.get_range("log/run/1/a", range.clone()).await.unwrap();
        assert_eq!(part, expected, "{range:?}");
    }

    // What is not there.
    for missing in ["log/run/1/b", "log/run/1", "log/run/1/a/b"] {
        assert_eq!(store.size(missing).await.unwrap(), None);
        let got = store.get(missing, 10).await;
        assert!(matches!(got, Err(ObjectsError::NotFound { .. })), "{got:?}");
        let got = store.get_range(missing, 0..1).await;
        assert!(matches!(got, Err(ObjectsError::NotFound { .. })), "{got:?}");
        store.delete(missing).await.unwrap();
    }

    // What is no key.
    for key in ["", "../../evil", "/etc/passwd", "a/../b", "a//b", ".a", "a b", "a\0"] {
        let put = store.put(key, body.clone()).await;
        assert!(matches!(put, Err(ObjectsError::InvalidKey { .. })), "{key:?}");
        let got = store.get(key, 10).await;
        assert!(matches!(got, Err(ObjectsError::InvalidKey { .. })), "{key:?}");
        let signed = store.presign_put(key, TTL).await;
        assert!(matches!(signed, Err(ObjectsError::InvalidKey { .. })), "{key:?}");
    }

    // One key may go on where another ends, and an object may be empty.
    for key in ["log/run/1", "log/run/1/a/b", "log/run-2", "log/run.3", "state/s/1"] {
        store.put(key, Bytes::new()).await.unwrap();
        assert_eq!(store.get(key, 0).await.unwrap(), "");
    }

    // Lists are in the order of keys.
    let keys = async |prefix: &str, after: Option<&str>, limit: usize| -> Vec<String> {
        let listed = store.list(prefix, after, limit).await.unwrap();
        listed.into_iter().map(|it| it.key).collect()
    };
    let all = ["log/run-2", "log/run.3", "log/run/1", "log/run/1/a", "log/run/1/a/b", "state/s/1"];
    assert_eq!(keys("", None, 100).await, all);
    assert_eq!(keys("", None, 2).await, all[..2]);
    for (n, key) in all.iter().enumerate() {
        assert_eq!(keys("", Some(key), 100).await, all[n + 1..], "after {key}");
    }
    assert_eq!(keys("log/run/", None, 100).await, all[2..5]);
    assert_eq!(keys("log/run", Some("log/run/1"), 1).await, all[3..4]);
    assert_eq!(keys("log/run/1/a/", None, 100).await, all[4..5]);
    assert_eq!(keys("nothing", None, 100).await, [""; 0]);
    assert_eq!(keys("", None, 0).await, [""; 0]);
    store.put("log/odd", Bytes::from_static(b"x")).await.unwrap();
    for nowhere in ["log/odd~/", "log//", "../", "log/../log/", "/", "none/"] {
        assert_eq!(keys(nowhere, None, 9).await, [""; 0], "{nowhere}");
    }
    store.delete("log/odd").await.unwrap();
    let listed = store.list("log/run/1/a", None, 1).await.unwrap();
    assert_eq!(listed, [Listed { key: "log/run/1/a".to_owned(), size: 10 }]);

    // Gone is gone, and can be made anew.
    store.delete("log/run/1/a").await.unwrap();
    store.delete("log/run/1/a").await.unwrap();
    assert_eq!(store.size("log/run/1/a").await.unwrap(), None);
    store.put("log/run/1/a", Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(store.get("log/run/1/a", 10).await.unwrap(), "new");
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    keeps_the_contract(&FakeObjects::new()).await;
}

#[tokio::test]
async fn local_files_keep_the_contract() {
    keeps_the_contract(&World::new().local).await;
}

#[tokio::test]
async fn the_endpoint_keeps_the_contract() {
    let world = World::new();
    keeps_the_contract(&world.s3()).await;
}

#[tokio::test]
async fn both_ways_lead_to_the_same_objects_and_they_outlive_a_restart() {
    let world = World::new();
    world.s3().put("a/b", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(world.local.get("a/b", 10).await.unwrap(), "x");
    let unfinished = world.dir.objects().join("unfinished~/7~");
    std::fs::write(&unfinished, "cut off").unwrap();
    let credentials = Credentials::load_or_make(&world.dir).unwrap();
    assert_eq!(credentials.key_secret, world.credentials.key_secret);
    let directory = world.dir.objects();
    let again =
        LocalObjects::open(&directory, Limits::default(), &world.url, &credentials).unwrap();
    assert_eq!(again.get("a/b", 10).await.unwrap(), "x");
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn a_signed_url_creates_one_object_once() {
    let world = World::new();
    for (n, store) in [&world.local as &dyn Objects, &world.s3()].into_iter().enumerate() {
        let key = format!("log/run/1/{n}");
        let url = store.presign_put(&key, TTL).await.unwrap();
        // The condition is part of what was signed.
        assert_eq!(world.send(Method::PUT, &url, false, "x").await, StatusCode::FORBIDDEN);
        assert_eq!(store.size(&key).await.unwrap(), None);
        assert_eq!(world.send(Method::PUT, &url, true, "first").await, StatusCode::OK);
        let second = world.send(Method::PUT, &url, true, "second").await;
        assert_eq!(second, StatusCode::PRECONDITION_FAILED);
        assert_eq!(store.get(&key, 10).await.unwrap(), "first");
        // It is good for nothing else.
        for method in [Method::GET, Method::HEAD, Method::DELETE, Method::POST] {
            let answer = world.send(method, &url, true, "").await;
            assert!(answer.is_client_error(), "{answer}");
        }
        assert_eq!(store.get(&key, 10).await.unwrap(), "first");
    }
}

#[tokio::test]
async fn a_signed_url_reads_one_object() {
    let world = World::new();
    for store in [&world.local as &dyn Objects, &world.s3()] {
        let url = store.presign_get("source/s/1", TTL).await.unwrap();
        if world.local.size("source/s/1").await.unwrap().is_none() {
            let missing = world.send(Method::GET, &url, false, "").await;
            assert_eq!(missing, StatusCode::NOT_FOUND);
            world.local.put("source/s/1", Bytes::from_static(b"0123456789")).await.unwrap();
        }
        let answer = world.http.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.content_length(), Some(10));
        assert_eq!(answer.text().await.unwrap(), "0123456789");

        let answer = world.http.get(&url).header("Range", "bytes=2-4").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.headers()["content-range"], "bytes 2-4/10");
        assert_eq!(answer.text().await.unwrap(), "234");
        let answer = world.http.get(&url).header("Range", "bytes=10-").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::RANGE_NOT_SATISFIABLE);

        let put = world.send(Method::PUT, &url, true, "evil").await;
        assert_eq!(put, StatusCode::FORBIDDEN);
        let deleted = world.send(Method::DELETE, &url, false, "").await;
        assert_eq!(deleted, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn altered_and_expired_urls_are_refused() {
    let world = World::new();
    world.local.put("state/s/1", Bytes::from_static(b"sealed")).await.unwrap();
    world.local.put("state/s/2", Bytes::from_static(b"sealed")).await.unwrap();
    let url = world.local.presign_get("state/s/1", TTL).await.unwrap();
    assert_eq!(world.send(Method::GET, &url, false, "").await, StatusCode::OK);
    for altered in [
        url.replace("state/s/1", "state/s/2"),
        url.replace("X-Amz-Expires=600", "X-Amz-Expires=604800"),
        url.replace("X-Amz-Date=2", "X-Amz-Date=3"),
        url.replace("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders="),
        url.replace("us-east-1", "us-east-2"),
        format!("{url}&versionId=1"),
        format!("{}0", &url[..url.len() - 1]),
        url.split('?').next().unwrap().to_owned(),
    ] {
        if altered == url {
            continue;
        }
        let answer = world.send(Method::GET, &altered, false, "").await;
        assert!(answer.is_client_error(), "{altered}: {answer}");
    }
    let put = world.local.presign_put("state/s/3", TTL).await.unwrap();
    let other = put.replace("state/s/3", "state/s/4");
    assert_eq!(world.send(Method::PUT, &other, true, "evil").await, StatusCode::FORBIDDEN);
    let overwrite = put.replace("state/s/3", "state/s/1");
    assert_eq!(world.send(Method::PUT, &overwrite, true, "evil").await, StatusCode::FORBIDDEN);
    assert_eq!(world.local.get("state/s/1", 10).await.unwrap(), "sealed");

    let sdk = world.own_sdk();
    for (ago, ttl, expected) in [
        (30, 60, StatusCode::OK),
        (62, 60, StatusCode::FORBIDDEN),
        (3600, 1, StatusCode::FORBIDDEN),
    ] {
        let start = SystemTime::now() - Duration::from_secs(ago);
        let config = PresigningConfig::builder()
            .start_time(start)
            .expires_in(Duration::from_secs(ttl))
            .build()
            .unwrap();
        let get = sdk.get_object().bucket("gantry").key("state/s/1").presigned(config).await;
        let answer = world.send(Method::GET, get.unwrap().uri(), false, "").await;
        assert_eq!(answer, expected, "{ttl} s, signed {ago} s ago");
    }
}

#[tokio::test]
async fn without_the_key_nothing_is_done() {
    let world = World::new();
    world.local.put("a", Bytes::from_static(b"x")).await.unwrap();
    let object = format!("{}/gantry/a", world.url);
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::POST] {
        let answer = world.send(method, &object, false, "x").await;
        assert!(!answer.is_success(), "{answer}");
    }
    for path in ["/", "/gantry", "/gantry?list-type=2", "/gantry/b", "/other"] {
        let url = format!("{}{path}", world.url);
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let answer = world.send(method, &url, false, "").await;
            assert!(!answer.is_success(), "{path}: {answer}");
        }
    }
    let own = &world.credentials;
    for (id, secret) in [(own.key_id.as_str(), "wrong"), ("GANTRYOTHER", &*own.key_secret)] {
        let get = world.sdk(id, secret).get_object().bucket("gantry").key("a").send().await;
        let status = get.unwrap_err().raw_response().map(|it| it.status().as_u16());
        assert_eq!(status, Some(403));
    }
    assert_eq!(world.local.get("a", 10).await.unwrap(), "x");
    // With the key: other buckets and other operations are not there.
    let sdk = world.own_sdk();
    assert!(sdk.get_object().bucket("objects").key("a").send().await.is_err());
    assert!(sdk.create_bucket().bucket("another").send().await.is_err());
    assert!(sdk.delete_bucket().bucket("gantry").send().await.is_err());
    let copy = sdk.copy_object().bucket("gantry").key("b").copy_source("gantry/a");
    assert!(copy.send().await.is_err());
    assert!(sdk.create_multipart_upload().bucket("gantry").key("b").send().await.is_err());
    assert_eq!(world.files().len(), 1);
}

/// A body without an end that counts what is taken of it.
fn endless(taken: &Arc<AtomicUsize>) -> axum::body::Body {
    let taken = Arc::clone(taken);
    let piece = Bytes::from(vec![b'a'; 64 * 1024]);
    let head = "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
    let head = futures::stream::once(async move { Ok::<_, std::io::Error>(head.into()) });
    let rest = futures::stream::repeat_with(move || {
        let before = taken.fetch_add(piece.len(), Ordering::SeqCst);
        if before > 64 << 20 { Err(std::io::Error::other("enough")) } else { Ok(piece.clone()) }
    });
    axum::body::Body::from_stream(head.chain(rest))
}

#[tokio::test]
async fn of_a_request_without_a_signature_nothing_is_read() {
    let world = World::new();
    let router = endpoint::router(world.local.files(), &world.credentials);
    let signed = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a/20260101/us-east-1/s3/aws4_request\
                  &X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=0";
    for (method, target, content_type) in [
        ("POST", "/gantry".to_owned(), "multipart/form-data; boundary=b"),
        ("POST", format!("/gantry?{signed}"), "multipart/form-data; boundary=b"),
        ("POST", "/gantry?delete".to_owned(), "application/xml"),
        ("POST", "/".to_owned(), "application/x-www-form-urlencoded"),
        ("PUT", "/gantry/a".to_owned(), "application/octet-stream"),
        ("PUT", format!("/gantry/a?{signed}"), "application/octet-stream"),
        ("PUT", "/gantry?tagging".to_owned(), "application/xml"),
    ] {
        let taken = Arc::new(AtomicUsize::new(0));
        let request = axum::http::Request::builder()
            .method(method)
            .uri(&target)
            .header("host", "127.0.0.1")
            .header("content-type", content_type)
            .body(endless(&taken))
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert!(response.status().is_client_error(), "{method} {target}: {response:?}");
        assert_eq!(taken.load(Ordering::SeqCst), 0, "{method} {target}");
    }
}

impl World {
    /// Says something and waits until the listener closes, sooner than it does to one who dawdles.
    async fn ended(&self, said: &[u8]) {
        let address = self.url.trim_start_matches("https://");
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer));
        // A reset is an end too.
        let _ = end.await.expect("the listener waits for more");
    }
}

#[tokio::test]
async fn a_handshake_that_claims_to_be_large_ends_with_its_first_bytes() {
    let world = World::new();
    // A record with the head of a ClientHello that says it has 16 MB; then one that is too long itself.
    let claims =
        [&[0x16, 3, 1, 0, 8, 1, 0xff, 0xff, 0xff, 3, 3, 0, 0][..], &[0x16, 3, 1, 0xff, 0xff]];
    for claim in claims {
        world.ended(claim).await;
    }
    // And one that is no TLS.
    world.ended(b"GET / HTTP/1.1\r\n\r\n").await;
}

#[tokio::test]
async fn a_head_has_so_many_headers_and_bytes() {
    let world = World::new();
    let mut request = world.http.get(&world.url);
    for n in 0..70 {
        request = request.header(format!("a-{n}"), "b");
    }
    let status = request.send().await.unwrap().status();
    assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let large = world.http.get(&world.url).header("a", "b".repeat(300_000)).send().await;
    // It may be told, or cut off before it has sent all; one that is taken is told that it is unsigned.
    // The limit is looked at between reads, which take as much again.
    let status = large.map(|answer| answer.status());
    assert!(status.map_or(true, |it| it == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
}

#[tokio::test]
async fn no_key_leads_out_of_the_bucket() {
    let world = World::new();
    let sdk = world.own_sdk();
    let before = world.files();
    for key in [
        "../../evil",
        "../evil",
        "..",
        "a/../../../evil",
        "a/../b",
        "./a",
        "/tmp/evil",
        "//evil",
        "..\\evil",
        "%2e%2e/evil",
        "..%2fevil",
        "a/\u{0}/b",
        "unfinished~/1~",
        "a~",
        ".ssh/authorized_keys",
    ] {
        let put = sdk.put_object().bucket("gantry").key(key).if_none_match("*");
        let put = put.body(ByteStream::from_static(b"evil")).send().await;
        assert!(put.is_err(), "{key:?}");
        assert!(sdk.get_object().bucket("gantry").key(key).send().await.is_err(), "{key:?}");
        assert!(sdk.delete_object().bucket("gantry").key(key).send().await.is_err(), "{key:?}");
    }
    assert_eq!(world.files(), before);
}

#[tokio::test]
async fn a_directory_goes_with_its_last_object() {
    let world = World::new();
    let bucket = world.dir.objects().join("gantry");
    for key in ["spec/run/1/a", "spec/run/1/b", "spec/other"] {
        world.local.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    world.local.delete("spec/run/1/a").await.unwrap();
    assert!(bucket.join("spec/run/1").exists());
    world.local.delete("spec/run/1/b").await.unwrap();
    assert!(!bucket.join("spec/run").exists() && bucket.join("spec").exists());
    world.local.delete("spec/run/1/b").await.unwrap();
    world.local.delete("spec/other").await.unwrap();
    assert!(!bucket.join("spec").exists() && bucket.exists());
    // Whoever puts something into it at that moment does not fail.
    for _ in 0..50 {
        let (here, there) = ("spec/run/1/a", "spec/run/1/b");
        world.local.put(here, Bytes::from_static(b"x")).await.unwrap();
        let put = world.local.put(there, Bytes::from_static(b"x"));
        let (deleted, put) = futures::join!(world.local.delete(here), put);
        deleted.unwrap();
        put.unwrap();
        world.local.delete(there).await.unwrap();
    }
}

#[tokio::test]
async fn links_are_not_followed() {
    let world = World::new();
    let outside = world.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret~"), "secret").unwrap();
    let bucket = world.dir.objects().join("gantry");
    std::os::unix::fs::symlink(&outside, bucket.join("log")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret~"), bucket.join("plain~")).unwrap();
    for store in [&world.local as &dyn Objects, &world.s3()] {
        assert!(store.get("log/secret", 100).await.is_err());
        assert!(store.get("plain", 100).await.is_err());
        assert!(store.put("log/new", Bytes::new()).await.is_err());
        assert!(store.put("plain", Bytes::new()).await.is_err());
        assert_eq!(store.list("", None, 10).await.unwrap(), []);
        let _ = store.delete("log/secret").await;
    }
    assert_eq!(std::fs::read(outside.join("secret~")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn objects_are_limited_and_leave_nothing_when_refused() {
    let world = World::with(Limits { object: 1000, reserve: 0 });
    let url = world.local.presign_put("a", TTL).await.unwrap();
    let large = "x".repeat(1001);
    assert_eq!(world.send(Method::PUT, &url, true, &large).await, StatusCode::BAD_REQUEST);
    // Without a declared length.
    let parts = (0..30).map(|_| Ok::<_, std::io::Error>(Bytes::from("x".repeat(100))));
    let body = futures::stream::iter(parts.collect::<Vec<_>>());
    let unfinished = world.local.files().put("a", None, body, |_| {}).await;
    assert!(matches!(unfinished, Err(ObjectsError::TooLarge { .. })));
    let put = world.local.put("a", large.into()).await;
    assert!(matches!(put, Err(ObjectsError::TooLarge { .. })));
    assert_eq!(world.files(), HashSet::new());
    assert_eq!(world.send(Method::PUT, &url, true, &"x".repeat(1000)).await, StatusCode::OK);
}

#[tokio::test]
async fn a_cut_off_body_leaves_nothing() {
    let world = World::new();
    let files = world.local.files();
    let cut = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("cut off"))];
    assert!(files.put("a", None, futures::stream::iter(cut), |_| {}).await.is_err());
    let short = [Ok::<_, std::io::Error>(Bytes::from_static(b"half"))];
    assert!(files.put("a", Some(8), futures::stream::iter(short), |_| {}).await.is_err());
    let whole = [Ok::<_, std::io::Error>(Bytes::from_static(b"whole"))];
    let forgotten = files.put("a", None, futures::stream::iter(whole), |_| {}).await.unwrap();
    drop(forgotten);
    assert_eq!(world.local.size("a").await.unwrap(), None);
    assert_eq!(world.files(), HashSet::new());
}

#[tokio::test]
async fn a_full_disk_is_said_so() {
    let world = World::with(Limits { object: 1 << 20, reserve: u64::MAX });
    let put = world.local.put("a", Bytes::from_static(b"x")).await;
    assert!(matches!(put, Err(ObjectsError::NoSpace { .. })));
    let url = world.local.presign_put("a", TTL).await.unwrap();
    let answer = world.send(Method::PUT, &url, true, "x").await;
    assert_eq!(answer, StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(world.files(), HashSet::new());
}

#[tokio::test]
async fn of_many_puts_of_one_key_one_wins() {
    let world = World::new();
    let mut puts = JoinSet::new();
    for n in 0..16 {
        let store = world.local.clone();
        puts.spawn(async move { (n, store.put("a/b/c", Bytes::from(n.to_string())).await) });
    }
    let mut winners = Vec::new();
    for (n, put) in puts.join_all().await {
        match put {
            Ok(()) => winners.push(n),
            Err(error) => assert!(matches!(error, ObjectsError::Exists { .. }), "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    let stored = world.local.get("a/b/c", 10).await.unwrap();
    assert_eq!(stored, winners[0].to_string());
}

#[tokio::test]
async fn declared_checksums_are_checked() {
    let world = World::new();
    let sdk = world.own_sdk();
    let put = |key: &str| sdk.put_object().bucket("gantry").key(key);
    // The SDK's own: a CRC32 that follows the body.
    put("a").body(ByteStream::from_static(b"content")).send().await.unwrap();
    assert_eq!(world.local.get("a", 10).await.unwrap(), "content");
    let wrong = put("b").body(ByteStream::from_static(b"content")).checksum_crc32("AAAAAA==");
    assert!(wrong.send().await.is_err());
    assert_eq!(world.local.size("b").await.unwrap(), None);
    // The oldest one, of "content".
    let right = "mgNkuembtIDdJeHwKEyFVQ==";
    put("c").body(ByteStream::from_static(b"content")).content_md5(right).send().await.unwrap();
    for wrong in ["mgNkuembtIDdJeHwKEyFVA==", "bm8=", "?"] {
        let put = put("d").body(ByteStream::from_static(b"content")).content_md5(wrong);
        let answer = put.send().await.unwrap_err();
        assert_eq!(answer.raw_response().map(|it| it.status().as_u16()), Some(400), "{wrong}");
    }
    assert_eq!(world.local.size("d").await.unwrap(), None);
    assert_eq!(world.files().len(), 2);
}
