//! What the launcher makes of its environment, and what it says about mistakes in it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_launcher::config::{
    Amounts, Config, DockerHost, Host, Limit, Stages, Wire, help, variables,
};
use gantry_launcher::explain::{Exit, Explain as _, explain};
use gantry_model::{PoolId, Stage};
use gantry_protocol::{
    Authority, CertificateRequest, Namespace, POOL_LIFETIME, PoolKey, PoolToken, TokenParts,
};
use insta::assert_snapshot;
use serde_json::{Value, json};
use ulid::Ulid;

/// 2026-11-21.
const NOW: i64 = 1_795_219_200;

/// One pool for all tests: keys take a while.
struct Pool {
    token: String,
    fields: Value,
    key: String,
    other_key: String,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let authority = Authority::generate(NOW).unwrap();
        let key = PoolKey::generate(2048).unwrap();
        let pool = PoolId::from_ulid(Ulid::from_parts(1, 1));
        let request = CertificateRequest::create(&key).unwrap();
        let certificate = authority.issue_pool(&request, pool, NOW).unwrap().pem;
        let token = PoolToken::new(TokenParts {
            broker: "localhost:1984".parse().unwrap(),
            namespace: Namespace::default(),
            pool,
            certificate,
            ca: authority.certificate_pem().to_owned(),
            api: None,
        })
        .unwrap()
        .encode();
        let base64 = |key: &PoolKey| STANDARD.encode(&*key.to_pem().unwrap());
        Pool {
            fields: serde_json::from_slice(&STANDARD.decode(&token).unwrap()).unwrap(),
            token,
            key: base64(&key),
            other_key: base64(&PoolKey::generate(2048).unwrap()),
        }
    })
}

/// What a customer sets at least, and `more`.
fn environment(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let least = [
        ("SPACELIFT_TOKEN", pool().token.as_str()),
        ("SPACELIFT_POOL_PRIVATE_KEY", pool().key.as_str()),
        ("PATH", "/usr/bin"),
    ];
    least
        .iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn at(now_unix: i64, more: &[(&str, &str)]) -> Result<Config, String> {
    let is_in_memory = |path: &Path| match path.to_str() {
        Some("/dev/shm" | "/run/secrets") => Ok(true),
        Some("/nowhere") => Err(io::ErrorKind::NotFound.into()),
        _ => Ok(false),
    };
    let host = Host { now_unix, is_in_memory: &is_in_memory };
    Config::on_host(&environment(more), &host).map_err(|errors| {
        assert!(matches!(errors.exit_code(), Exit::Configuration | Exit::NotNow));
        explain(&errors)
    })
}

fn read(more: &[(&str, &str)]) -> Config {
    at(NOW, more).unwrap()
}

/// The one mistake in words.
fn mistake(name: &str, value: &str) -> String {
    let text = at(NOW, &[(name, value)]).expect_err("a mistake");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "the environment has a mistake", "{text}");
    assert_eq!(lines.len(), 3, "{text}");
    lines[1].trim().to_owned()
}

/// The mistakes of one variable, a line each.
fn mistakes(name: &str, values: &[&str]) -> String {
    values.iter().map(|value| mistake(name, value) + "\n").collect()
}

/// The token with one field changed; removed if `value` is null.
fn token_with(field: &str, value: Value) -> String {
    let mut fields = pool().fields.clone();
    let object = fields.as_object_mut().unwrap();
    if value.is_null() {
        object.remove(field);
    } else {
        object.insert(field.to_owned(), value);
    }
    STANDARD.encode(fields.to_string())
}

#[test]
fn two_variables_are_enough_and_the_rest_has_the_documented_defaults() {
    let config = read(&[]);
    assert_eq!(config.run_timeout.get(), Duration::from_mins(70));
    assert_eq!(config.logs_timeout.get(), Duration::from_mins(7));
    assert_eq!(config.stop_grace.get(), Duration::from_mins(5));
    assert_eq!(config.network, "bridge");
    assert_eq!(config.runtime, None);
    assert_eq!(config.runner_image, "public.ecr.aws/spacelift/runner-terraform:latest");
    assert_eq!(config.state_dir, Path::new("/opt/spacelift/gantry"));
    assert_eq!(config.secrets_dir, Path::new("/dev/shm"));
    assert_eq!((config.docker_host, config.policy), (None, None));
    assert!(!config.shows_commands && !config.replaces_backend && !config.allows_root);
    let amounts = Amounts {
        memory: Limit::OfHost,
        nano_cpus: Limit::OfHost,
        processes: Some(4096),
        shared_memory: 64 << 20,
        disk: Limit::OfHost,
        disk_reserve: None,
    };
    assert_eq!(config.amounts, amounts);
    assert!(config.warnings.is_empty() && config.mounts.is_empty());
}

#[test]
fn every_variable_has_its_effect() {
    let config = read(&[
        (
            "SPACELIFT_DEFAULT_RUNNER_IMAGE",
            "registry.example.com:5000/runner:1@sha256:abababababababababababababababababababababababababababababababab",
        ),
        ("SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY", "/etc/policy.rego"),
        ("SPACELIFT_LAUNCHER_RUN_TIMEOUT", "120m"),
        ("SPACELIFT_LAUNCHER_LOGS_TIMEOUT", "1000s"),
        ("GANTRY_STOP_GRACE", "1m30s"),
        ("SPACELIFT_WORKER_NETWORK", "runs"),
        ("SPACELIFT_WORKER_RUNTIME", "runsc"),
        ("SPACELIFT_RUN_LOGS_ON_STANDARD_OUTPUT_ENABLED", "1"),
        ("SPACELIFT_DEBUG", "T"),
        ("GANTRY_REPLACE_BACKEND", "True"),
        ("GANTRY_TOOL_DIR", "/opt/tools"),
        ("GANTRY_DISK_LIMIT", "20GiB"),
        ("GANTRY_ALLOW_ROOT", "true"),
        ("GANTRY_MEMORY_LIMIT", "6GiB"),
        ("GANTRY_CPU_LIMIT", "1.5"),
        ("GANTRY_PIDS_LIMIT", "none"),
        ("GANTRY_SHM_SIZE", "1g"),
        ("GANTRY_DISK_RESERVE", "none"),
        ("GANTRY_FORMER_POOL_KEYS", &pool().other_key),
        ("SPACELIFT_METADATA_instance_id", "i-0abc"),
        ("SPACELIFT_METADATA_Asg_ID", "workers"),
        ("SPACELIFT_WORKER_COMMS_PROTOCOL", "mqtt"),
        ("HTTPS_PROXY", "http://me:secret@proxy:3128"),
        ("NO_PROXY", "corp.example"),
        ("DOCKER_HOST", "tcp://localhost:2375"),
        ("GANTRY_STATE_DIR", "/var/lib/gantry"),
        ("GANTRY_SECRETS_DIR", "/run/secrets"),
        ("GANTRY_LOG", "human"),
        ("GANTRY_LOG_LEVEL", "debug"),
    ]);
    assert_eq!(config.docker_host, Some(DockerHost::Tcp("localhost:2375".to_owned())));
    assert_eq!(config.former_keys.len(), 1);
    assert_eq!(config.tool_dir.as_deref(), Some(std::path::Path::new("/opt/tools")));
    assert!(config.shows_commands && config.replaces_backend && config.allows_root);
    let amounts = Amounts {
        memory: Limit::At(6 << 30),
        nano_cpus: Limit::At(1_500_000_000),
        processes: None,
        shared_memory: 1 << 30,
        disk: Limit::At(20 << 30),
        disk_reserve: Some(0),
    };
    assert_eq!(config.amounts, amounts);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    // The rest as one text, which shows no secret.
    let mut shown = format!("{config:#?}");
    let token = shown.find("token: PoolToken").unwrap();
    let end = token + shown[token..].find("\n    },").unwrap();
    shown.replace_range(token..end, "token: PoolToken {");
    assert_snapshot!(shown);
}

#[test]
fn polls_go_to_the_url_that_is_set_or_else_to_that_of_the_token() {
    let (protocol, url) = ("SPACELIFT_WORKER_COMMS_PROTOCOL", "SPACELIFT_WORKER_COMMS_URL");
    let of = |more: &[(&str, &str)]| match read(more).transport {
        Wire::Poll(base) => (base.endpoint(), base.at("/x")),
        Wire::Mqtt => panic!("not mqtt"),
    };
    let set = (protocol, "poll");
    assert_eq!(
        of(&[set, (url, "https://gantry.example.com/")]),
        ("gantry.example.com:443".to_owned(), "https://gantry.example.com/x".to_owned())
    );
    let token = token_with("api", json!("https://127.0.0.1:1983"));
    let named = ("SPACELIFT_TOKEN", token.as_str());
    assert_eq!(of(&[set, named]).0, "127.0.0.1:1983");
    assert_eq!(
        of(&[set, named, (url, "https://proxy:8443/gantry")]).1,
        "https://proxy:8443/gantry/x"
    );
    // Scripts may set both whatever the wire is.
    assert_eq!(read(&[(protocol, "mqtt"), (url, "not looked at")]).transport, Wire::Mqtt);
    let mut text = String::new();
    for wrong in ["http://host", "host:443", "https://", "https://me@host", "https://host/?a=b"] {
        text += &at(NOW, &[set, (url, wrong)]).unwrap_err();
    }
    assert_snapshot!(text);
}

#[test]
fn more_authorities_come_in_each_of_three_forms() {
    let pem = pool().fields["ca"].as_str().unwrap();
    let base64 = |text: &str| STANDARD.encode(text);
    let listed = json!({"caCertificates": [base64(pem), base64(pem)]}).to_string();
    for (text, count) in
        [(pem.to_owned(), 1), (format!("{pem}\n{pem}"), 2), (base64(pem), 1), (base64(&listed), 2)]
    {
        assert_eq!(read(&[("ADDITIONAL_ROOT_CAS", &text)]).additional_roots.len(), count);
    }
    assert!(read(&[("ADDITIONAL_ROOT_CAS", " ")]).additional_roots.is_empty());
}

#[test]
fn no_secret_shows_up_in_debug_output() {
    let more = [
        ("SPACELIFT_WHITELIST_ENVS", "API_KEY"),
        ("SPACELIFT_MASK_ENVS", "API_KEY"),
        ("API_KEY", "hunter2hunter2"),
    ];
    let shown = format!("{:?}", read(&more));
    assert!(shown.contains("API_KEY=[redacted]"), "{shown}");
    assert!(!shown.contains("hunter2") && !shown.contains(&pool().key), "{shown}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = at(
        NOW,
        &[
            ("SPACELIFT_TOKEN", ""),
            ("SPACELIFT_POOL_PRIVATE_KEY", ""),
            ("SPACELIFT_TOKN", "x"),
            ("SPACELIFT_LAUNCHER_RUN_TIMEOUT", "70"),
            ("SPACELIFT_LAUNCHER_LOGS_TIMEOUT", "7 minutes"),
            ("SPACELIFT_WORKER_EXTRA_MOUNTS", "data:/data,/a:/gantry/spool"),
            ("GANTRY_LOG", "xml"),
        ],
    );
    assert_snapshot!(text.unwrap_err());
}

#[test]
fn each_mistake_of_a_token_is_one_sentence_with_the_next_step() {
    let base64 = |text: &str| STANDARD.encode(text);
    assert_snapshot!(mistakes(
        "SPACELIFT_TOKEN",
        &[
            " ",
            "not base64!",
            &base64("no json"),
            &base64("[]"),
            &base64("{}"),
            &token_with("v", json!(2)),
            &token_with("broker", Value::Null),
            &token_with("broker", json!({"endpoint": "nowhere"})),
            &token_with("namespace", json!("a/b")),
            &token_with("pool", json!("x")),
            &token_with("pool", json!(PoolId::from_ulid(Ulid::from_parts(2, 2)))),
            &token_with("certificate", Value::Null),
            &token_with("certificate", json!("-----BEGIN")),
            &token_with("ca", Value::Null),
            &token_with("ca", pool().fields["certificate"].clone()),
            &"A".repeat(100_000),
        ]
    ));
}

#[test]
fn each_mistake_of_a_key_is_one_sentence_with_the_next_step() {
    let base64 = |text: &str| STANDARD.encode(text);
    let pem = String::from_utf8(STANDARD.decode(&pool().key).unwrap()).unwrap();
    let certificate = pool().fields["certificate"].as_str().unwrap();
    assert_snapshot!(mistakes(
        "SPACELIFT_POOL_PRIVATE_KEY",
        &[
            " ",
            "not base64!",
            &pem,
            &base64("not PEM"),
            &base64(certificate),
            &base64(&pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")),
            &base64(&pem.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY")),
            &base64(&pem.replace("MII", "MIJ")),
            &pool().other_key,
        ]
    ));
}

#[test]
fn a_path_and_a_swapped_value_are_told_as_what_they_are() {
    let Pool { token, key, .. } = pool();
    let path =
        "it looks like the path of a file, and takes the file's content: set it to the output of";
    for (name, value, told) in [
        ("SPACELIFT_TOKEN", "./main.token", format!("{path} `cat main.token`")),
        ("SPACELIFT_TOKEN", "/root/main", format!("{path} `cat main.token`")),
        ("SPACELIFT_POOL_PRIVATE_KEY", "pool.key", format!("{path} `base64 -w0 pool.key`")),
        ("SPACELIFT_POOL_PRIVATE_KEY", "/root/pool.pem", format!("{path} `base64 -w0 pool.key`")),
        ("SPACELIFT_TOKEN", key, "it holds the pool's private key: swap it with SPACELIFT_POOL_PRIVATE_KEY, and set this one to the pool's token".to_owned()),
        ("SPACELIFT_POOL_PRIVATE_KEY", token, "it holds the pool's token: swap it with SPACELIFT_TOKEN, and set this one to the output of `base64 -w0 pool.key`".to_owned()),
    ] {
        let said = at(NOW, &[(name, value)]).unwrap_err();
        assert!(said.contains(&format!("{name}: {told}")), "{said}");
        assert!(value.len() < 100 || !said.contains(value), "{said}");
    }
}

/// Only where nothing else is wrong: then a service manager may go on trying.
#[test]
fn a_wrong_clock_alone_is_no_mistake_of_the_environment() {
    let early = |more: &[(&str, &str)]| {
        let host = Host { now_unix: NOW - 2 * 86_400, is_in_memory: &|_| Ok(true) };
        Config::on_host(&environment(more), &host).unwrap_err().exit_code()
    };
    assert_eq!(early(&[]), Exit::NotNow);
    assert_eq!(early(&[("GANTRY_LOG", "loud")]), Exit::Configuration);
}

#[test]
fn a_certificate_out_of_its_time_is_told_in_words() {
    let after = NOW + i64::try_from(POOL_LIFETIME.as_secs()).unwrap();
    let second = |now| at(now, &[]).unwrap_err().lines().nth(1).unwrap().to_owned();
    assert_snapshot!(
        [second(after + 3 * 86_400), second(after + 100), second(NOW - 2 * 86_400)].join("\n")
    );
}

#[test]
fn each_mistake_of_the_other_variables_is_one_sentence_with_the_next_step() {
    let long = "a".repeat(9000);
    let many_keys = vec![pool().other_key.as_str(); 17].join(",");
    let many_names = vec!["A"; 257].join(",");
    let mut text = String::new();
    for (name, values) in [
        ("SPACELIFT_LAUNCHER_RUN_TIMEOUT", &["70", "1d", "10M", "0s", "-5m", "721h", "0.5ns"][..]),
        ("GANTRY_STOP_GRACE", &["soon", &long]),
        ("GANTRY_FORMER_POOL_KEYS", &["???", &format!("{},x", pool().other_key), &many_keys]),
        (
            "SPACELIFT_WHITELIST_ENVS",
            &[
                "A B",
                "1A",
                "ro_",
                "SPACELIFT_POOL_PRIVATE_KEY",
                "wo_SPACELIFT_TOKEN",
                "ro_GANTRY_FORMER_POOL_KEYS",
                &many_names,
            ],
        ),
        ("SPACELIFT_MASK_ENVS", &["a-b"]),
        ("GANTRY_MEMORY_LIMIT", &["much", "1MiB", "1.5g"]),
        ("GANTRY_CPU_LIMIT", &["0", "all"]),
        ("GANTRY_PIDS_LIMIT", &["1"]),
        ("GANTRY_SHM_SIZE", &["none"]),
        ("GANTRY_DISK_RESERVE", &["5%"]),
        (
            "SPACELIFT_WORKER_EXTRA_MOUNTS",
            &[
                "/only-one",
                "/a:/b:ro",
                ":/b",
                "a:/b",
                "/a:b",
                "/a/../etc:/b",
                "/a:/b/./c",
                "/a:/",
                "/a:/gantry",
                "/a:/mnt",
                "/a:/mnt/workspace/source",
                "/a:/bin",
                "/a:/usr/lib/",
                "/a:/etc",
                "/a:/proc",
                "/a:/proc/1/root",
                "/a:/sys/fs/cgroup",
                "/a:/dev",
                "/a:/dev/pts",
                "/opt:/a",
                "/opt/spacelift/gantry:/a",
                "/dev:/a",
                "/a:/b,/c:/b/",
                "/a\u{7}:/b",
            ],
        ),
        ("SPACELIFT_WORKER_NETWORK", &["container:abc", "-x"]),
        ("SPACELIFT_WORKER_RUNTIME", &["/usr/bin/runsc"]),
        ("SPACELIFT_DEFAULT_RUNNER_IMAGE", &["my image", &long]),
        ("SPACELIFT_DEBUG", &["yes"]),
        ("SPACELIFT_METADATA_note", &["a\nb", &"a".repeat(600)]),
        ("SPACELIFT_WORKER_COMMS_PROTOCOL", &["poll", "amqp"]),
        ("ADDITIONAL_ROOT_CAS", &["ca.pem", "e30=", "eyJjYUNlcnRpZmljYXRlcyI6WyJ4Il19"]),
        ("DOCKER_HOST", &["ssh://host", "unix://docker.sock", "tcp://host", "tcp://host:0"]),
        ("GANTRY_STATE_DIR", &["state", "/a/../b"]),
        ("GANTRY_SECRETS_DIR", &["/tmp", "/nowhere", "x"]),
        ("GANTRY_LOG", &["xml"]),
        ("GANTRY_LOG_LEVEL", &["loud"]),
    ] {
        text += &mistakes(name, values);
    }
    assert_snapshot!(text);
}

#[test]
fn no_error_shows_a_secret() {
    let damaged = format!("{}!!", pool().key);
    for name in ["SPACELIFT_TOKEN", "SPACELIFT_POOL_PRIVATE_KEY", "GANTRY_FORMER_POOL_KEYS"] {
        let text = mistake(name, &damaged);
        assert!(!text.contains(&pool().key[..16]), "{text}");
    }
}

#[test]
fn too_many_mounts_are_refused() {
    let entries =
        |count: usize| (0..count).map(|it| format!("/a:/b{it}")).collect::<Vec<_>>().join(",");
    assert_eq!(read(&[("SPACELIFT_WORKER_EXTRA_MOUNTS", &entries(64))]).mounts.len(), 64);
    let text = mistake("SPACELIFT_WORKER_EXTRA_MOUNTS", &entries(65));
    assert!(text.contains("more than 64 mounts"), "{text}");
}

#[test]
fn too_much_metadata_is_refused() {
    let names: Vec<_> = (0..65).map(|it| format!("SPACELIFT_METADATA_k{it}")).collect();
    let more: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let text = at(NOW, &more).unwrap_err();
    assert!(text.contains("more than 64 keys"), "{text}");

    // In bytes of names and values, as the control plane counts: 32 times 2 and 510 are 16 KiB.
    let names: Vec<_> = (0..32).map(|it| format!("SPACELIFT_METADATA_{it:02}")).collect();
    let value = "\"".repeat(511);
    let mut full: Vec<_> = names.iter().map(|name| (name.as_str(), &value[..510])).collect();
    assert_eq!(read(&full).metadata.len(), 32);
    full[0].1 = &value;
    let text = at(NOW, &full).unwrap_err();
    assert!(text.contains("16 KiB in all"), "{text}");
}

#[test]
fn a_mount_is_there_in_its_stages_only() {
    let config = read(&[
        ("SPACELIFT_WORKER_EXTRA_MOUNTS", "/etc/ssl//certs/:/certs, /a:/both"),
        ("SPACELIFT_WORKER_RO_EXTRA_MOUNTS", "/read:/cache"),
        ("SPACELIFT_WORKER_WO_EXTRA_MOUNTS", "/write:/cache"),
    ]);
    let hosts = |stage| {
        config.mounts_of(stage).map(|it| it.host.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Single things in what an image needs are nobody's loss.
    for fits in
        ["/a:/usr/local/bin", "/a:/bin/tool", "/a:/etc/ssl/certs", "/a:/dev/shm", "/opt/a:/b"]
    {
        assert_eq!(read(&[("SPACELIFT_WORKER_EXTRA_MOUNTS", fits)]).mounts.len(), 1, "{fits}");
    }
    assert_eq!(hosts(Stage::Read), ["/etc/ssl/certs", "/a", "/read"]);
    assert_eq!(hosts(Stage::Write), ["/etc/ssl/certs", "/a", "/write"]);
}

#[test]
fn a_variable_is_passed_to_its_stages_only() {
    let config = read(&[
        ("SPACELIFT_WHITELIST_ENVS", "BOTH, ro_ROLE,wo_ROLE,ro_PLAIN,MIX,wo_MIX,BOTH"),
        ("BOTH", "b"),
        ("ro_ROLE", "reader"),
        ("wo_ROLE", "writer"),
        ("PLAIN", "p"),
        ("MIX", "general"),
        ("wo_MIX", "special"),
        ("NOT_LISTED", "n"),
    ]);
    let passed = |stage| {
        let mut all: Vec<_> = config
            .passed_to(stage)
            .map(|it| format!("{}={}", it.name, it.value.as_str()))
            .collect();
        all.sort();
        all
    };
    assert_eq!(passed(Stage::Read), ["BOTH=b", "MIX=general", "PLAIN=p", "ROLE=reader"]);
    assert_eq!(passed(Stage::Write), ["BOTH=b", "MIX=special", "ROLE=writer"]);
    assert!(config.passed.iter().all(|it| it.stages != Stages::All));
}

#[test]
fn every_value_of_a_masked_name_is_masked() {
    let config = read(&[
        ("SPACELIFT_WHITELIST_ENVS", "ro_KEY,wo_KEY,OTHER"),
        ("SPACELIFT_MASK_ENVS", "KEY,UNLISTED,MISSING"),
        ("ro_KEY", "read-secret"),
        ("wo_KEY", "write-secret"),
        ("OTHER", "public"),
        ("UNLISTED", "unlisted-secret"),
    ]);
    let values: Vec<_> = config.masked.iter().map(|it| it.value.as_str()).collect();
    assert_eq!(values, ["read-secret", "write-secret", "unlisted-secret"]);
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_snapshot!(warnings.join("\n"));
}

#[test]
fn a_misspelt_name_is_pointed_out() {
    let config = read(&[
        ("SPACELIFT_WORKER_NETWROK", "runs"),
        ("GANTRY_STATEDIR", "/x"),
        ("SPACELIFT_PRIVATEVCS_MAPPING_NAME_0", "x"),
        ("SPACELIFT_WHITELIST_ENVS", "SPACELIFT_CUSTOM,ABSENT"),
        ("SPACELIFT_CUSTOM", "for runs"),
        ("SPACELIFT_API_KEY_ID", "of the command line"),
    ]);
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_snapshot!(warnings.join("\n"));
}

#[test]
fn help_names_every_variable_and_every_exit_code() {
    let help = help();
    assert_snapshot!(help);
    assert!(help.lines().all(|line| line.len() <= 80), "it fits a terminal");
    for variable in variables() {
        assert!(help.contains(variable.name));
    }
    for exit in Exit::ALL {
        assert!(help.contains(&format!("\n  {:<6}", exit.code())));
    }
}

/// The key that the documented `openssl` line makes is taken as it is.
#[test]
fn a_key_made_by_openssl_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (key, csr) = (directory.path().join("pool.key"), directory.path().join("pool.csr"));
    let made = Command::new("openssl")
        .args(["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout"])
        .args([&key, Path::new("-out"), &csr])
        .output()
        .expect("this test needs openssl: apt-get install -y openssl");
    assert!(made.status.success(), "{made:?}");
    let authority = Authority::generate(NOW).unwrap();
    let pool = PoolId::from_ulid(Ulid::from_parts(1, 9));
    let request = CertificateRequest::parse(&std::fs::read_to_string(&csr).unwrap()).unwrap();
    let token = PoolToken::new(TokenParts {
        broker: "localhost:1984".parse().unwrap(),
        namespace: Namespace::default(),
        pool,
        certificate: authority.issue_pool(&request, pool, NOW).unwrap().pem,
        ca: authority.certificate_pem().to_owned(),
        api: None,
    })
    .unwrap();
    let config = read(&[
        ("SPACELIFT_TOKEN", &token.encode()),
        ("SPACELIFT_POOL_PRIVATE_KEY", &STANDARD.encode(std::fs::read(&key).unwrap())),
    ]);
    assert_eq!(config.token.pool, pool);
}
