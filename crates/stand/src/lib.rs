//! How a Gantry is put together from its programs: what each is started with, and what it says when it is there.
//!
//! The demo and the benches show what they start and can leave it running; the end-to-end tests collect what it says
//! and fail by a panic. So starting, watching and ending are theirs. What is started stands here, once.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The subject of a pool's request that the Spacelift page names. The server discards it.
pub const SUBJECT: &str = "/CN=workers.spacelift.io";
/// What a launcher logs when the pool has welcomed it.
pub const REGISTERED: &str = "registered";
/// What it logs when nothing of a stage is left on its host.
pub const REMOVED: &str = "removed what the stage left on this host";
/// What of the variables of whoever starts a program is passed to it.
const KEPT: [&str; 4] = ["PATH", "HOME", "DOCKER_HOST", "RUST_BACKTRACE"];

/// A program of ours without the variables of whoever starts it.
#[must_use]
pub fn clean(program: &Path) -> Command {
    let mut command = Command::new(program); // starts: gantry, gantry-launcher
    command.env_clear();
    command.envs(KEPT.iter().filter_map(|name| Some((name, env::var_os(name)?))));
    command
}

/// `gantry server` with its data in `data`, on free ports of loopback that it keeps.
#[must_use]
pub fn server(gantry: &Path, data: &Path) -> Command {
    let mut command = clean(gantry);
    command.arg("server").arg("--data").arg(data);
    for listener in ["--listen", "--mqtt-listen", "--objects-listen"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command
}

/// Whether a server that writes this line is ready.
#[must_use]
pub fn is_ready(line: &str) -> bool {
    line.starts_with("ready:")
}

/// Where the server of this data directory is reached, as it wrote itself: `api`, `mqtt`, `objects`.
///
/// # Errors
/// When it wrote nothing, or nothing of the kind.
pub fn address(data: &Path, of: &str) -> io::Result<String> {
    let value: Value = serde_json::from_slice(&fs::read(data.join("server.json"))?)?;
    let address = value[of].as_str().map(str::to_owned);
    address.ok_or_else(|| io::Error::other(format!("server.json names no {of}")))
}

/// The operator's command in the directory `dir`; what `gantry login` keeps lies in `home`.
#[must_use]
pub fn operator(gantry: &Path, home: &Path, dir: &Path) -> Command {
    let mut command = clean(gantry);
    command.env("GANTRY_CONFIG_DIR", home).current_dir(dir);
    command
}

/// `openssl req` as the Spacelift page tells it, but for the key's length.
#[must_use]
pub fn request(bits: u32, key: &Path, request: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-newkey", &format!("rsa:{bits}"), "-nodes"]);
    command.arg("-keyout").arg(key).arg("-out").arg(request).args(["-subj", SUBJECT]);
    command
}

/// The operator's words to make a pool of a request, with or without a recovery key.
#[must_use]
pub fn pool_create<'a>(
    name: &'a str,
    request: &'a str,
    token: &'a str,
    recovery: Option<&'a str>,
) -> Vec<&'a str> {
    let mut words = vec!["pool", "create", name, "--csr", request, "--token-out", token];
    match recovery {
        Some(recovery) => words.extend(["--recovery-out", recovery]),
        None => words.push("--no-recovery"),
    }
    words
}

/// What a launcher is started with.
#[derive(Debug, Clone, Copy)]
pub struct Launching<'a> {
    /// The pool's token.
    pub token: &'a str,
    /// The pool's private key, as [`key_text`] gives it.
    pub key: &'a str,
    /// The image that runs use by default.
    pub image: &'a str,
    /// The network of their containers.
    pub network: &'a str,
    /// How it reaches its control plane: `mqtt` or `poll`.
    pub transport: &'a str,
}

impl Launching<'_> {
    /// The variables that say so.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("SPACELIFT_TOKEN", self.token.to_owned()),
            ("SPACELIFT_POOL_PRIVATE_KEY", self.key.to_owned()),
            ("SPACELIFT_DEFAULT_RUNNER_IMAGE", self.image.to_owned()),
            ("SPACELIFT_WORKER_NETWORK", self.network.to_owned()),
            ("SPACELIFT_WORKER_COMMS_PROTOCOL", self.transport.to_owned()),
        ]
    }
}

/// A launcher with its state and its runs' secrets in these directories; the rest is [`Launching`]'s to say.
#[must_use]
pub fn launcher(program: &Path, state: &Path, secrets: &Path) -> Command {
    let mut command = clean(program);
    command.env("GANTRY_STATE_DIR", state).env("GANTRY_SECRETS_DIR", secrets);
    command
}

/// A key as `SPACELIFT_POOL_PRIVATE_KEY` holds it.
///
/// # Errors
/// When the file cannot be read.
pub fn key_text(key: &Path) -> io::Result<String> {
    Ok(STANDARD.encode(fs::read(key)?))
}

/// A line of a launcher's log, if it says `message`.
#[must_use]
pub fn logged(line: &str, message: &str) -> Option<Value> {
    let entry: Value = serde_json::from_str(line).ok()?;
    (entry["msg"] == message).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_log_is_known_by_its_message() {
        assert!(logged(r#"{"msg":"registered","worker":"w"}"#, REGISTERED).is_some());
        for other in [r#"{"msg":"not registered"}"#, "registered", "{}"] {
            assert!(logged(other, REGISTERED).is_none(), "{other}");
        }
    }

    #[test]
    fn nothing_of_whoever_starts_a_program_is_passed_but_what_it_needs() {
        let command = server(Path::new("/bin/gantry"), Path::new("/data"));
        let passed = command.get_envs().filter_map(|(name, _)| name.to_str());
        assert!(passed.into_iter().all(|name| KEPT.contains(&name)));
        let words: Vec<_> = command.get_args().filter_map(|word| word.to_str()).collect();
        assert_eq!(words[..3], ["server", "--data", "/data"]);
    }
}
