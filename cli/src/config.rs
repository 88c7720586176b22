//! Where the server is and who we are: from the environment, else from what `gantry login` kept.
//!
//! Past [`Credentials`], nothing reads the environment or guesses a default. The secret shows up in
//! no debug output and is zeroed when dropped.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::{Code, Explain as _, Failure};
use crate::file;

/// The longest file with credentials or certificates that is read.
const MAX_FILE: u64 = 256 * 1024;

/// The environment of the process, read once.
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// That of this process.
    pub fn of_this_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// A made-up one.
    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The value of `name`; an empty one counts as none.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Whether colours are wanted, see <https://no-color.org>.
    pub fn has_colours(&self) -> bool {
        self.get("NO_COLOR").is_none()
    }

    /// The value of `name` as text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        self.get(name)
            .map(|value| {
                value.to_str().ok_or_else(|| Failure::usage(format!("{name} is not UTF-8 text")))
            })
            .transpose()
    }

    fn first(&self, names: [&str; 2]) -> Result<Option<&str>, Failure> {
        Ok(self.text(names[0])?.or(self.text(names[1])?))
    }

    /// Where `gantry login` keeps the credentials.
    pub fn credentials_file(&self) -> Result<PathBuf, Failure> {
        let folder = if let Some(folder) = self.get("GANTRY_CONFIG_DIR") {
            PathBuf::from(folder)
        } else if let Some(folder) = self.get("XDG_CONFIG_HOME") {
            Path::new(folder).join("gantry")
        } else if let Some(home) = self.get("HOME") {
            Path::new(home).join(".config/gantry")
        } else {
            return Err(Failure::usage("neither GANTRY_CONFIG_DIR nor HOME is set")
                .next("set GANTRY_CONFIG_DIR to a directory of yours"));
        };
        Ok(folder.join("credentials.json"))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What `gantry login` keeps, and what the server writes as `admin.json`.
#[derive(Serialize, Deserialize)]
pub struct Kept {
    /// The API's address.
    pub endpoint: String,
    /// The API key's id.
    pub key_id: String,
    /// The API key's secret.
    pub key_secret: Zeroizing<String>,
    /// The certificates to trust: PEM text, or a path to it.
    #[serde(default)]
    pub ca: Option<String>,
}

/// Where the server is and who we are, checked.
pub struct Credentials {
    /// The API's address, without a slash at its end.
    pub endpoint: String,
    /// The API key's id.
    pub key_id: String,
    /// The API key's secret.
    pub key_secret: Zeroizing<String>,
    /// The only certificates to trust, PEM; the system's if none.
    pub ca: Option<String>,
}

impl Credentials {
    /// From the environment, and from what `gantry login` kept where that says nothing.
    pub fn find(environment: &Environment) -> Result<Self, Failure> {
        let endpoint = environment.first(["GANTRY_API_ENDPOINT", "SPACELIFT_API_KEY_ENDPOINT"])?;
        let key_id = environment.first(["GANTRY_API_KEY_ID", "SPACELIFT_API_KEY_ID"])?;
        let secret = environment.first(["GANTRY_API_KEY_SECRET", "SPACELIFT_API_KEY_SECRET"])?;
        let ca = environment.first(["GANTRY_API_CA", "SPACELIFT_API_TLS_CA"])?;
        if let (Some(endpoint), Some(key_id), Some(secret)) = (endpoint, key_id, secret) {
            return Self::check(
                Kept {
                    endpoint: endpoint.to_owned(),
                    key_id: key_id.to_owned(),
                    key_secret: Zeroizing::new(secret.to_owned()),
                    ca: ca.map(str::to_owned),
                },
                Path::new("."),
            );
        }
        let mut kept = Self::kept(&environment.credentials_file()?)?;
        if let Some(endpoint) = endpoint {
            endpoint.clone_into(&mut kept.endpoint);
        }
        if let Some(key_id) = key_id {
            key_id.clone_into(&mut kept.key_id);
        }
        if let Some(secret) = secret {
            kept.key_secret = Zeroizing::new(secret.to_owned());
        }
        if let Some(ca) = ca {
            kept.ca = Some(ca.to_owned());
        }
        Self::check(kept, Path::new("."))
    }

    fn kept(path: &Path) -> Result<Kept, Failure> {
        if path.try_exists().is_ok_and(|exists| !exists) {
            return Err(Failure::new("not logged in")
                .with(Code::Unauthorized)
                .next("run `gantry login --from DATA/admin.json`, or set GANTRY_API_ENDPOINT, GANTRY_API_KEY_ID and GANTRY_API_KEY_SECRET"));
        }
        Kept::read(path)
    }

    /// Checks what was given. A relative path in `ca` counts from `folder`.
    pub fn check(kept: Kept, folder: &Path) -> Result<Self, Failure> {
        let endpoint = checked_endpoint(&kept.endpoint)?;
        if kept.key_id.is_empty() || kept.key_secret.is_empty() {
            return Err(Failure::usage("the API key's id or secret is empty"));
        }
        let ca = kept.ca.filter(|ca| !ca.is_empty()).map(|ca| certificates(&ca, folder));
        Ok(Self { endpoint, key_id: kept.key_id, key_secret: kept.key_secret, ca: ca.transpose()? })
    }

    /// The form in which they are kept; certificates as text, so that their file may go.
    pub fn to_kept(&self) -> Kept {
        Kept {
            endpoint: self.endpoint.clone(),
            key_id: self.key_id.clone(),
            key_secret: self.key_secret.clone(),
            ca: self.ca.clone(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("endpoint", &self.endpoint)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Kept {
    /// Reads a file of credentials.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let content = file::read(path, MAX_FILE)?;
        serde_json::from_slice(&content).map_err(|error| {
            // The parser's own text may quote the secret: only the place is told.
            let place = format!("line {}, column {}", error.line(), error.column());
            Failure::new(format!("{} is not a file of credentials ({place})", path.display()))
                .next("run `gantry login` again")
        })
    }
}

fn checked_endpoint(text: &str) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::usage(format!("the address {text:?} {why}"));
    let url = reqwest::Url::parse(text).map_err(|error| {
        wrong("is not a URL").because(error).next("give one such as https://gantry.example.com")
    })?;
    let is_local = match url.host_str() {
        Some("localhost" | "127.0.0.1" | "[::1]") => true,
        Some(_) => false,
        None => return Err(wrong("names no host")),
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && is_local) {
        return Err(wrong("does not begin with https://")
            .next("the key's secret must not travel in the clear"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(wrong("has more than host and path").next("give only scheme, host and port"));
    }
    let bare = url.as_str().trim_end_matches('/');
    Ok(bare.strip_suffix("/graphql").unwrap_or(bare).trim_end_matches('/').to_owned())
}

/// PEM as it is, or the file that it names.
fn certificates(ca: &str, folder: &Path) -> Result<String, Failure> {
    if ca.contains("-----BEGIN") {
        return Ok(ca.to_owned());
    }
    let path = folder.join(ca);
    let content = file::read(&path, MAX_FILE)?;
    let text = String::from_utf8(content.to_vec())
        .or_say(|| format!("{} holds no certificate in PEM", path.display()))?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        Ok(text)
    } else {
        Err(Failure::new(format!("{} holds no certificate in PEM", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(endpoint: &str) -> Kept {
        Kept {
            endpoint: endpoint.into(),
            key_id: "ID".into(),
            key_secret: Zeroizing::new("hush".into()),
            ca: None,
        }
    }

    #[test]
    fn an_address_has_one_form() {
        for text in [
            "https://a:1983",
            "https://a:1983/",
            "https://a:1983/graphql",
            "https://a:1983/graphql/",
        ] {
            let found = Credentials::check(kept(text), Path::new(".")).unwrap();
            assert_eq!(found.endpoint, "https://a:1983", "{text}");
        }
    }

    #[test]
    fn a_secret_does_not_travel_in_the_clear() {
        for text in ["http://a", "ftp://a", "a:1983", "https://u:p@a", "https://a/?q", ""] {
            assert!(Credentials::check(kept(text), Path::new(".")).is_err(), "{text}");
        }
        assert!(Credentials::check(kept("http://127.0.0.1:1"), Path::new(".")).is_ok());
    }

    #[test]
    fn the_environment_wins_over_what_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        file::replace(&path, &serde_json::to_vec(&kept("https://kept")).unwrap()).unwrap();
        let config = folder.path().to_str().unwrap();
        let found = |more: &[(&str, &str)]| {
            let pairs = [&[("GANTRY_CONFIG_DIR", config)], more].concat();
            Credentials::find(&Environment::of(&pairs)).unwrap()
        };
        assert_eq!(found(&[]).endpoint, "https://kept");
        assert_eq!(found(&[("SPACELIFT_API_KEY_ENDPOINT", "https://b")]).endpoint, "https://b");
        let both =
            [("SPACELIFT_API_KEY_ENDPOINT", "https://b"), ("GANTRY_API_ENDPOINT", "https://c")];
        assert_eq!(found(&both).endpoint, "https://c");
        assert!(!format!("{:?}", found(&[])).contains("hush"));
    }

    #[test]
    fn without_a_login_the_next_step_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().to_str().unwrap();
        let failure =
            Credentials::find(&Environment::of(&[("GANTRY_CONFIG_DIR", config)])).unwrap_err();
        assert_eq!(failure.code(), Code::Unauthorized);
        assert!(failure.next_step().unwrap().contains("gantry login"));
    }

    #[test]
    fn a_login_that_cannot_be_read_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        file::replace(&file, b"").unwrap();
        let below_a_file = file.to_str().unwrap();
        let pairs = [("GANTRY_CONFIG_DIR", below_a_file)];
        let failure = Credentials::find(&Environment::of(&pairs)).unwrap_err();
        assert_eq!(failure.code(), Code::Failed, "{failure}");
        assert!(failure.to_string().starts_with("cannot read "), "{failure}");
    }

    #[test]
    fn a_broken_file_does_not_show_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        file::replace(&path, br#"{"endpoint":"e","key_id":"k","key_secret":hush}"#).unwrap();
        let Err(failure) = Kept::read(&path) else { panic!("it was read") };
        assert!(!failure.to_string().contains("hush"), "{failure}");
    }
}
