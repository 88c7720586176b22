//! Tokens: what holds, what does not, and the way that launchers' users verify a run with one.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use serde_json::{Value, json};
use support::{evaluate, example};

/// Why `source` denies `input`.
fn denials(source: &str, input: &Value) -> Vec<String> {
    match evaluate(source, input) {
        Ok(decision) => decision.denials,
        Err(error) => panic!("{error}\n{source}"),
    }
}

const SECRET: &str = "a-shared-secret";
/// The second that `support::now` stands for.
const NOW: i64 = 1_800_000_000;

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn sign(header: &Value, payload: &Value, key: &PKey<Private>, digest: MessageDigest) -> String {
    let signed = format!("{}.{}", part(header), part(payload));
    let signature = Signer::new(digest, key)
        .and_then(|mut signer| signer.sign_oneshot_to_vec(signed.as_bytes()))
        .expect("it signs");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hs256(payload: &Value) -> String {
    hmac("HS256", payload, SECRET, MessageDigest::sha256())
}

fn hmac(alg: &str, payload: &Value, secret: &str, digest: MessageDigest) -> String {
    let key = PKey::hmac(secret.as_bytes()).expect("it is a key");
    sign(&json!({"alg": alg, "typ": "JWT"}), payload, &key, digest)
}

fn rsa() -> (PKey<Private>, String) {
    let key = PKey::from_rsa(Rsa::generate(2048).expect("it generates")).expect("it is a key");
    let public =
        String::from_utf8(key.public_key_to_pem().expect("it encodes")).expect("PEM is text");
    (key, public)
}

/// Whether `decode_verify` holds `token` valid under `constraints`.
fn valid(token: &str, constraints: &Value) -> bool {
    let source = format!(
        "package spacelift\ndeny[m] {{ [valid, _, _] := io.jwt.decode_verify(input.token, {constraints}); m := sprintf(\"%v\", [valid]) }}"
    );
    match denials(&source, &json!({ "token": token })).as_slice() {
        [one] if one == "true" => true,
        [one] if one == "false" => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_with_the_right_secret_holds() {
    let token = hs256(&json!({"sub": "x"}));
    assert!(valid(&token, &json!({"secret": SECRET})));
    assert!(valid(&token, &json!({"secret": SECRET, "alg": "HS256"})));
    assert!(!valid(&token, &json!({"secret": "another-secret"})));
    assert!(!valid(&token, &json!({"secret": SECRET, "alg": "HS512"})));
    for (alg, digest) in [("HS384", MessageDigest::sha384()), ("HS512", MessageDigest::sha512())] {
        assert!(valid(&hmac(alg, &json!({}), SECRET, digest), &json!({"secret": SECRET})), "{alg}");
    }
}

#[test]
fn a_changed_or_malformed_token_does_not_hold() {
    let token = hs256(&json!({"sub": "x"}));
    let (signed, signature) = token.rsplit_once('.').expect("it has three parts");
    let other = hs256(&json!({"sub": "y"}));
    let grafted = format!("{}.{signature}", other.rsplit_once('.').expect("it has three parts").0);
    for bad in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        signed,
        &format!("{signed}."),
        &format!("{token}="),
        &grafted,
        &format!("{token}.x"),
        &"x".repeat(100_000),
        &format!("{signed}.{}", &signature[..signature.len() - 4]),
    ] {
        assert!(!valid(bad, &json!({"secret": SECRET})), "{bad}");
    }
}

#[test]
fn rsa_holds_with_a_public_key_only_of_the_same_pair() {
    let ((key, public), (_, foreign)) = (rsa(), rsa());
    for (alg, digest) in [
        ("RS256", MessageDigest::sha256()),
        ("RS384", MessageDigest::sha384()),
        ("RS512", MessageDigest::sha512()),
    ] {
        let token = sign(&json!({"alg": alg}), &json!({}), &key, digest);
        assert!(valid(&token, &json!({"cert": public})), "{alg}");
        assert!(!valid(&token, &json!({"cert": foreign})), "{alg}");
    }
}

#[test]
fn the_header_cannot_choose_another_kind_of_key() {
    let (key, public) = rsa();
    // Signed by HMAC with the text of the public key, which everyone knows.
    let confused = hmac("HS256", &json!({}), &public, MessageDigest::sha256());
    assert!(!valid(&confused, &json!({"cert": public})));
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none"})), part(&json!({})));
    assert!(!valid(&unsigned, &json!({"secret": SECRET})));
    assert!(!valid(&unsigned, &json!({"cert": public})));
    let asymmetric = sign(&json!({"alg": "RS256"}), &json!({}), &key, MessageDigest::sha256());
    assert!(!valid(&asymmetric, &json!({"secret": public})));
    let critical = PKey::hmac(SECRET.as_bytes()).expect("it is a key");
    let critical = sign(
        &json!({"alg": "HS256", "crit": ["exp"]}),
        &json!({}),
        &critical,
        MessageDigest::sha256(),
    );
    assert!(!valid(&critical, &json!({"secret": SECRET})));
}

#[test]
fn times_are_held_against_the_time_handed_in() {
    let secret = json!({"secret": SECRET});
    for (claims, holds) in [
        (json!({"exp": NOW + 1}), true),
        (json!({"exp": NOW}), false),
        (json!({"exp": NOW - 1}), false),
        (json!({"nbf": NOW}), true),
        (json!({"nbf": NOW + 1}), false),
        (json!({"exp": "tomorrow"}), false),
        (json!({"nbf": null}), false),
    ] {
        assert_eq!(valid(&hs256(&claims), &secret), holds, "{claims}");
    }
    let earlier = json!({"secret": SECRET, "time": (NOW - 10) * 1_000_000_000});
    assert!(valid(&hs256(&json!({"exp": NOW - 5})), &earlier));
}

#[test]
fn issuer_and_audience_are_held_against_the_constraints() {
    let with = |name: &str, value: &str| json!({"secret": SECRET, name: value});
    let alone = json!({"secret": SECRET});
    assert!(valid(&hs256(&json!({"iss": "ci"})), &with("iss", "ci")));
    assert!(valid(&hs256(&json!({"iss": "ci"})), &alone));
    assert!(!valid(&hs256(&json!({"iss": "other"})), &with("iss", "ci")));
    assert!(!valid(&hs256(&json!({})), &with("iss", "ci")));
    assert!(valid(&hs256(&json!({"aud": "pool"})), &with("aud", "pool")));
    assert!(valid(&hs256(&json!({"aud": ["x", "pool"]})), &with("aud", "pool")));
    assert!(!valid(&hs256(&json!({"aud": ["x"]})), &with("aud", "pool")));
    assert!(!valid(&hs256(&json!({"aud": "pool"})), &alone));
    assert!(!valid(&hs256(&json!({})), &with("aud", "pool")));
}

#[test]
fn decode_shows_a_token_without_verifying_it() {
    let source = "package spacelift\ndeny[m] { [h, p, s] := io.jwt.decode(input.token); m := sprintf(\"%s %s %s\", [h.alg, p.sub, s]) }";
    let token = format!("{}.{}.AQ8", part(&json!({"alg": "HS256"})), part(&json!({"sub": "x"})));
    assert_eq!(denials(source, &json!({ "token": token })), ["HS256 x 010f"]);
}

#[test]
fn verify_functions_answer_for_their_algorithm_only() {
    let (key, public) = rsa();
    let source = "package spacelift
deny[\"hs256\"] { io.jwt.verify_hs256(input.token, input.secret) }
deny[\"rs256\"] { io.jwt.verify_rs256(input.token, input.public) }";
    let ask = |token: String| {
        denials(source, &json!({"token": token, "secret": SECRET, "public": public}))
    };
    assert_eq!(ask(hs256(&json!({}))), ["hs256"]);
    assert_eq!(
        ask(sign(&json!({"alg": "RS256"}), &json!({}), &key, MessageDigest::sha256())),
        ["rs256"]
    );
    assert!(ask(hmac("HS512", &json!({}), SECRET, MessageDigest::sha512())).is_empty());
    assert!(ask(hmac("HS256", &json!({}), &public, MessageDigest::sha256())).is_empty());
    assert!(ask("rubbish".into()).is_empty());
}

/// A token, made by whoever may start runs, names the stack and the commit.
const SIGNED_RUNS: &str = r#"package spacelift

checked = io.jwt.decode_verify(input.run.user_provided_metadata[0], {"secret": "a-shared-secret"})

deny["no token was sent"] { count(input.run.user_provided_metadata) == 0 }
deny["the token does not hold"] { [valid, _, _] := checked; not valid }
deny["the token is for another stack"] {
  [true, _, claims] := checked
  claims.spacelift_stack != input.static_run_environment.stack_slug
}
deny["the token is for another commit"] {
  [true, _, claims] := checked
  claims.sub != input.run.commit.hash
}
sample { true }
"#;

#[test]
fn a_run_can_be_bound_to_a_token() {
    let ask = |metadata: &[String]| {
        let mut input = example();
        input.run.user_provided_metadata = metadata.to_vec();
        let decision = evaluate(SIGNED_RUNS, &input.to_value()).expect("it decides");
        assert!(decision.sample);
        decision.denials
    };
    let good = json!({"spacelift_stack": "network", "sub": "4f2a9c1e", "exp": NOW + 60});
    assert!(ask(&[hs256(&good)]).is_empty());
    assert!(ask(&[hs256(&good), "confirmed".into()]).is_empty());
    assert_eq!(ask(&[]), ["no token was sent"]);
    assert_eq!(ask(&["rubbish".into()]), ["the token does not hold"]);
    assert_eq!(
        ask(&[hmac("HS256", &good, "guessed", MessageDigest::sha256())]),
        ["the token does not hold"]
    );
    let other = json!({"spacelift_stack": "other", "sub": "ffff"});
    assert_eq!(
        ask(&[hs256(&other)]),
        ["the token is for another commit", "the token is for another stack"]
    );
}

/// Otherwise OpenSSL asks for a passphrase on the terminal that the program was started from.
#[test]
fn an_encrypted_cert_is_an_error_and_no_question() {
    for label in ["CERTIFICATE", "PUBLIC KEY"] {
        let pem = format!(
            "-----BEGIN {label}-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n-----END {label}-----\n"
        );
        let source = "package spacelift\ndeny[\"x\"] { io.jwt.verify_rs256(\"a.b.c\", input.pem) }";
        let policy = gantry_policy::Policy::compile("init.rego", source).expect("it is a policy");
        let error = policy
            .evaluate(&json!({ "pem": pem }), std::time::SystemTime::UNIX_EPOCH)
            .expect_err("it holds no key");
        assert!(error.to_string().contains("the cert is encrypted"), "{error}");
    }
}
