//! Pool tokens and certificate signing requests.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_protocol::{
    Authority, CertificateRequest, Digest, Endpoint, KeyError, MAX_REQUEST, MAX_TOKEN, Namespace,
    PoolKey, PoolToken, RequestError, Serial, SessionPublicKey, Signature, TokenError,
    ValidityError,
};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::X509Req;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{AUTHORITY, KEY, NOW, OTHER_KEY, POOL, TOKEN, told};

const DAY: i64 = 86_400;

/// The token's fields, changed.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let json = STANDARD.decode(TOKEN.encode()).unwrap();
    let mut fields = serde_json::from_slice(&json).unwrap();
    change(&mut fields);
    STANDARD.encode(fields.to_string())
}

#[test]
fn a_token_is_read_as_it_was_written() {
    let token = PoolToken::parse(&TOKEN.encode()).unwrap();
    assert_eq!(token, *TOKEN);
    assert_eq!(token.pool.to_string(), POOL);
    assert_eq!(token.public_key(), KEY.public());
    assert_eq!(token.broker.to_string(), "localhost:8883");
    assert_eq!(token.namespace.as_str(), "spacelift");
    assert_eq!(token.ca(), AUTHORITY.certificate_pem());
    assert_eq!(token.api.as_deref(), Some("https://localhost:8443"));
}

#[test]
fn public_scripts_find_the_endpoint() {
    let fields: Value = serde_json::from_slice(&STANDARD.decode(TOKEN.encode()).unwrap()).unwrap();
    assert_eq!(fields["broker"]["endpoint"], "localhost:8883");
    assert_eq!(fields["v"], 1);
}

#[test]
fn a_later_token_of_this_version_is_read() {
    let later = changed(|it| {
        it["color"] = json!("green");
        it["broker"]["region"] = json!("eu");
        it.as_object_mut().unwrap().remove("api");
    });
    assert_eq!(PoolToken::parse(&format!(" {later}\n")).unwrap().api, None);
}

#[test]
fn what_is_no_token_is_told_apart() {
    let remove = |path: &'static str| changed(|it| drop(it.as_object_mut().unwrap().remove(path)));
    let certificate = |common_name: &str| {
        let request = CertificateRequest::create(&KEY).unwrap();
        let pool = common_name.parse().unwrap();
        AUTHORITY.issue_pool(&request, pool, NOW).unwrap().pem
    };
    let server = AUTHORITY.issue_server(&["localhost"], NOW).unwrap().pem;
    let foreign = Authority::generate(NOW).unwrap();
    let cases = [
        ("not base64", "not a token!".to_owned()),
        ("empty", String::new()),
        ("long", "A".repeat(70_000)),
        ("not json", STANDARD.encode("{\"v\":1")),
        ("no object", STANDARD.encode("[1]")),
        ("no version", remove("v")),
        ("other version", changed(|it| it["v"] = json!(2))),
        ("strange version", changed(|it| it["v"] = json!("1"))),
        ("no certificate", remove("certificate")),
        ("no endpoint", changed(|it| it["broker"] = json!({}))),
        ("no broker", remove("broker")),
        ("no pool", remove("pool")),
        ("no namespace", remove("namespace")),
        ("no ca", remove("ca")),
        ("numeric certificate", changed(|it| it["certificate"] = json!(7))),
        ("bad certificate", changed(|it| it["certificate"] = json!("-----BEGIN CERTIFICATE-----"))),
        ("endpoint without port", changed(|it| it["broker"]["endpoint"] = json!("localhost"))),
        ("endpoint with scheme", changed(|it| it["broker"]["endpoint"] = json!("tls://a:1"))),
        ("wild namespace", changed(|it| it["namespace"] = json!("a/#"))),
        ("bad pool", changed(|it| it["pool"] = json!("pool"))),
        ("server's certificate", changed(|it| it["certificate"] = json!(server))),
        (
            "other pool's certificate",
            changed(|it| it["certificate"] = json!(certificate("01FEKAGP4AYV0DWP4QDFTANRET"))),
        ),
        ("bad ca", changed(|it| it["ca"] = json!("ca"))),
        ("foreign ca", changed(|it| it["ca"] = json!(foreign.certificate_pem()))),
        ("clear api", changed(|it| it["api"] = json!("http://localhost"))),
        ("api with password", changed(|it| it["api"] = json!("https://me:pw@localhost"))),
    ];
    let mut said = String::new();
    for (name, text) in cases {
        let error = PoolToken::parse(&text).unwrap_err();
        writeln!(said, "{name}: {}", told(&error)).unwrap();
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_key_must_match_the_certificate() {
    assert!(TOKEN.check_key(&KEY).is_ok());
    let error = TOKEN.check_key(&OTHER_KEY).unwrap_err();
    assert!(error.to_string().contains("does not match"));
}

#[test]
fn a_certificate_is_good_for_ten_years() {
    let (from, until) = TOKEN.validity();
    assert_eq!(from, NOW - DAY, "a slow clock is forgiven");
    assert_eq!(until, NOW + 3_652 * DAY);
    assert_eq!(TOKEN.check_validity(NOW), Ok(()));
    let expired = TOKEN.check_validity(until + 3 * DAY).unwrap_err();
    assert_eq!(expired, ValidityError::Expired { seconds: 259_200 });
    assert!(expired.to_string().contains("expired 3 days ago"), "{expired}");
    let early = TOKEN.check_validity(from - 3_600).unwrap_err();
    assert_eq!(early, ValidityError::NotYetValid { seconds: 3_600 });
    assert!(early.to_string().contains("not valid for another 60 minutes"), "{early}");
    assert!(TOKEN.check_validity(i64::MIN).is_err());
    assert!(TOKEN.check_validity(i64::MAX).is_err());
}

#[test]
fn a_request_is_read_as_pem_and_as_its_base64() {
    let request = CertificateRequest::create(&KEY).unwrap();
    for text in [request.as_pem(), &request.to_base64(), &format!("\n{}\n", request.as_pem())] {
        let read = CertificateRequest::parse(text).unwrap();
        assert_eq!(read, request);
        assert_eq!(read.public_key(), KEY.public());
    }
}

/// A request for `key` that is signed by `signer`.
fn request(key: &PKey<Private>, signer: &PKey<Private>) -> String {
    let mut request = X509Req::builder().unwrap();
    request.set_pubkey(key).unwrap();
    request.sign(signer, MessageDigest::sha256()).unwrap();
    String::from_utf8(request.build().to_pem().unwrap()).unwrap()
}

#[test]
fn what_is_no_request_is_told_apart() {
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    let ours = PKey::private_key_from_pem(&KEY.to_pem().unwrap()).unwrap();
    let other = PKey::private_key_from_pem(&OTHER_KEY.to_pem().unwrap()).unwrap();
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let ec = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let small = rsa(1024);
    let cases = [
        ("not pem", "request".to_owned()),
        ("empty", String::new()),
        ("long", "A".repeat(70_000)),
        ("not base64", "?".to_owned()),
        ("certificate", TOKEN.certificate().to_owned()),
        ("elliptic", request(&ec, &ec)),
        ("small", request(&small, &small)),
        ("signed by another", request(&ours, &other)),
        (
            "encrypted",
            request(&ours, &ours).replacen(
                "REQUEST-----\n",
                "REQUEST-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
                1,
            ),
        ),
    ];
    let mut said = String::new();
    for (name, text) in cases {
        let error = CertificateRequest::parse(&text).unwrap_err();
        writeln!(said, "{name}: {}", told(&error)).unwrap();
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_key_beyond_the_limit_is_refused_before_it_is_used() {
    // The modulus need not be the product of two primes to be looked at.
    let mut n = openssl::bn::BigNum::new().unwrap();
    n.rand(16_384, openssl::bn::MsbOption::ONE, true).unwrap();
    let e = openssl::bn::BigNum::from_u32(65_537).unwrap();
    let huge = PKey::from_rsa(Rsa::from_public_components(n, e).unwrap()).unwrap();
    let signer = PKey::private_key_from_pem(&KEY.to_pem().unwrap()).unwrap();
    let mut request = X509Req::builder().unwrap();
    request.set_pubkey(&huge).unwrap();
    request.sign(&signer, MessageDigest::sha256()).unwrap();
    let pem = String::from_utf8(request.build().to_pem().unwrap()).unwrap();
    assert!(matches!(CertificateRequest::parse(&pem), Err(RequestError::Key(_))));
}

/// The text with white space around it, which does not matter, up to this length.
fn padded(text: &str, length: usize) -> String {
    format!("{text}{}", " ".repeat(length - text.len()))
}

#[test]
fn tokens_requests_and_keys_are_read_up_to_their_limits() {
    let token = TOKEN.encode();
    assert!(PoolToken::parse(&padded(&token, MAX_TOKEN)).is_ok());
    let over = PoolToken::parse(&padded(&token, MAX_TOKEN + 1));
    assert!(matches!(over, Err(TokenError::TooLong)), "{over:?}");

    let request = CertificateRequest::create(&KEY).unwrap();
    for text in [request.as_pem().to_owned(), request.to_base64()] {
        assert!(CertificateRequest::parse(&padded(&text, MAX_REQUEST)).is_ok());
        let over = CertificateRequest::parse(&padded(&text, MAX_REQUEST + 1));
        assert!(matches!(over, Err(RequestError::TooLong)), "{over:?}");
    }

    let key = String::from_utf8(KEY.to_pem().unwrap().to_vec()).unwrap();
    assert!(PoolKey::from_pem(padded(&key, 64 * 1024).as_bytes()).is_ok());
    let over = PoolKey::from_pem(padded(&key, 64 * 1024 + 1).as_bytes());
    assert!(matches!(over, Err(KeyError::TooLong)), "{over:?}");
    let key = STANDARD.encode(key);
    assert!(PoolKey::from_environment(&padded(&key, 64 * 1024)).is_ok());
    let over = PoolKey::from_environment(&padded(&key, 64 * 1024 + 1));
    assert!(matches!(over, Err(KeyError::TooLong)), "{over:?}");

    let url = |length: usize| format!("https://a/{}", "x".repeat(length - 10));
    let with = |length: usize| changed(|fields| fields["api"] = url(length).into());
    assert!(PoolToken::parse(&with(2048)).is_ok());
    assert!(PoolToken::parse(&with(2049)).is_err());
    let named = |length: usize| changed(|fields| fields["namespace"] = "n".repeat(length).into());
    assert!(PoolToken::parse(&named(64)).is_ok());
    assert!(PoolToken::parse(&named(65)).is_err());
}

#[test]
fn json_without_a_bottom_is_no_token() {
    for deep in ["[".repeat(40_000), "{\"v\":".repeat(8_000)] {
        let refused = PoolToken::parse(&STANDARD.encode(deep));
        assert!(matches!(refused, Err(TokenError::NotJson)), "{refused:?}");
    }
}

proptest! {
    /// One thing has one spelling: what is read is written as it was.
    #[test]
    fn small_texts_are_read_or_refused(text in "[0-9a-zA-Z:=+/.\\[\\]_-]{0,70}") {
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
        if let Ok(serial) = text.parse::<Serial>() {
            prop_assert_eq!(serial.as_str().parse::<Serial>().unwrap(), serial);
        }
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text.clone());
        }
        if let Ok(signature) = text.parse::<Signature>() {
            prop_assert_eq!(signature.to_string(), text.clone());
        }
        if let Ok(key) = text.parse::<SessionPublicKey>() {
            prop_assert_eq!(key.to_string(), text.clone());
        }
        if let Ok(namespace) = text.parse::<Namespace>() {
            prop_assert_eq!(namespace.as_str(), text);
        }
    }

    #[test]
    fn any_text_is_answered(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(PoolToken::parse(&text).is_err());
        prop_assert!(PoolToken::parse(&STANDARD.encode(&bytes)).is_err());
        prop_assert!(CertificateRequest::parse(&text).is_err());
        prop_assert!(CertificateRequest::parse(&STANDARD.encode(&bytes)).is_err());
        let der = STANDARD.encode(&bytes);
        for label in ["CERTIFICATE REQUEST", "CERTIFICATE", "PRIVATE KEY", "PUBLIC KEY"] {
            let pem = format!("-----BEGIN {label}-----\n{der}\n-----END {label}-----\n");
            prop_assert!(CertificateRequest::parse(&pem).is_err());
            prop_assert!(gantry_protocol::PoolKey::from_pem(pem.as_bytes()).is_err());
            prop_assert!(gantry_protocol::PublicKey::parse(pem.as_bytes()).is_err());
        }
    }

    /// A byte changed in the middle of the real thing gets further than noise does.
    #[test]
    fn a_changed_token_never_has_another_key(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut json = STANDARD.decode(TOKEN.encode()).unwrap();
        let at = at.index(json.len());
        json[at] ^= 1 << bit;
        match PoolToken::parse(&STANDARD.encode(json)) {
            Ok(token) => prop_assert_eq!(token.public_key(), KEY.public()),
            Err(TokenError::TooLong) => prop_assert!(false),
            Err(_) => {}
        }
    }

    /// Some bits of a request say the same either way, such as those that fill its last byte.
    #[test]
    fn a_changed_request_never_has_another_key(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let request = CertificateRequest::create(&KEY).unwrap();
        let request = X509Req::from_pem(request.as_pem().as_bytes()).unwrap();
        let mut der = request.to_der().unwrap();
        let at = at.index(der.len());
        der[at] ^= 1 << bit;
        let der = STANDARD.encode(der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{der}\n-----END CERTIFICATE REQUEST-----\n");
        if let Ok(request) = CertificateRequest::parse(&pem) {
            prop_assert_eq!(request.public_key(), KEY.public());
        }
    }
}
