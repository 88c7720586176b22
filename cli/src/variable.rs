//! Variables of a stack as they are named on the command line.

use std::convert::Infallible;
use std::path::Path;
use std::str::FromStr;

use gantry_model::MAX_VARIABLE;
use gantry_protocol::spec::Secret;
use gantry_protocol::{Unmaskable, check_maskable};
use zeroize::Zeroizing;

use crate::config::Environment;
use crate::failure::{Explain as _, Failure};
use crate::file;

/// The longest file with a value.
const MAX_FILE: u64 = 128 * 1024;
/// The most bytes that all secrets of a stack have together.
const MAX_TOTAL: usize = 1 << 20;
/// The most variables of either kind.
const MAX_VARIABLES: usize = 500;

/// A variable in the clear: `NAME=VALUE`.
#[derive(Debug, Clone)]
pub struct Clear {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl FromStr for Clear {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
        check_name(name)?;
        check_value(name, value)?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

/// Where a secret's value is: `NAME=VALUE`, `NAME=@FILE`, or `NAME` for the environment variable.
#[derive(Clone)]
pub struct SecretArgument {
    name: String,
    given: Given,
}

#[derive(Clone)]
enum Given {
    Value(Zeroizing<String>),
    File(String),
    Environment,
}

impl FromStr for SecretArgument {
    type Err = Infallible;

    /// Takes every text: the parser of arguments quotes what is wrong, and this may hold the secret.
    /// [`SecretArgument::read`] checks it.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (name, given) = match text.split_once('=') {
            None => (text, Given::Environment),
            Some((name, value)) => match value.strip_prefix('@') {
                Some(path) => (name, Given::File(path.to_owned())),
                None => (name, Given::Value(Zeroizing::new(value.to_owned()))),
            },
        };
        Ok(Self { name: name.to_owned(), given })
    }
}

impl std::fmt::Debug for SecretArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=[redacted]", self.name)
    }
}

impl SecretArgument {
    /// Gets the value from where it is.
    pub fn read(&self, environment: &Environment) -> Result<Secret, Failure> {
        check_name(&self.name).map_err(|why| {
            Failure::usage(format!("one of the secrets has no name: {why}"))
                .next("give --secret NAME=@FILE, or NAME for the value of the environment variable")
        })?;
        let value = match &self.given {
            Given::Value(value) => value.clone(),
            Given::Environment => {
                let value = environment.text(&self.name)?.ok_or_else(|| {
                    Failure::usage(format!("the environment has no variable {}", self.name))
                        .next(format!("export it, or give --secret {0}=@FILE", self.name))
                })?;
                Zeroizing::new(value.to_owned())
            }
            Given::File(path) => {
                let content = file::read(Path::new(path), MAX_FILE)?;
                let text = std::str::from_utf8(&content)
                    .or_say(|| format!("{path} is not UTF-8 text, which variables must be"))?;
                // Editors end files with a line break that is no part of the secret.
                Zeroizing::new(text.strip_suffix('\n').unwrap_or(text).to_owned())
            }
        };
        check_value(&self.name, &value)
            .map_err(|why| Failure::usage(format!("secret {}: {why}", self.name)))?;
        if let Given::Value(value) = &self.given
            && looks_like_a_file(value)
        {
            // The path is not quoted: it may be a secret all the same.
            return Err(Failure::usage(format!(
                "the value of secret {} is the path of a file that exists",
                self.name
            ))
            .next(format!(
                "give --secret {0}=@PATH for the file's content, or --secret {0} with the path in the environment",
                self.name
            )));
        }
        if value.is_empty() {
            return Err(Failure::usage(format!("secret {} is empty", self.name))
                .next("give its value, or leave it out"));
        }
        if check_maskable(value.as_bytes()) == Err(Unmaskable::TooPlain) {
            let why = format!(
                "logs cannot hide the value of secret {}: {}",
                self.name,
                Unmaskable::TooPlain
            );
            return Err(Failure::usage(why).next(format!(
                "give it as --env {}=…, which hides nothing, or choose another value",
                self.name
            )));
        }
        Ok(Secret { name: self.name.clone(), value: value.as_str().to_owned() })
    }
}

/// What to say of secrets that logs cannot hide.
pub fn unmasked(secrets: &[Secret]) -> Vec<String> {
    let unmasked = secrets.iter().filter_map(|secret| {
        let why = check_maskable(secret.value.as_bytes()).err()?;
        Some(format!("warning: logs of runs will show the value of secret {}: {why}", secret.name))
    });
    unmasked.collect()
}

/// Whether a value is more likely the name of a file than what is meant.
fn looks_like_a_file(value: &str) -> bool {
    let is_path =
        value.starts_with(['/', '~']) || value.starts_with("./") || value.starts_with("../");
    is_path && Path::new(value).is_file()
}

/// Refuses a name that is given twice.
pub fn check_distinct<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Failure::usage(format!("variable {name} is given twice"))
                .next("give it once: in the clear, or as a secret"));
        }
    }
    if seen.len() > MAX_VARIABLES {
        return Err(Failure::usage(format!("more than {MAX_VARIABLES} variables"))
            .next("put what is more into files of the source"));
    }
    Ok(())
}

/// Refuses more bytes of secrets than one request carries.
pub fn check_total<'a>(values: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    if values.map(str::len).sum::<usize>() > MAX_TOTAL {
        return Err(Failure::usage(format!(
            "the secrets have more than {MAX_TOTAL} bytes together"
        ))
        .next("put what is large where a hook can fetch it"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let is_name = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= 255;
    if is_name {
        Ok(())
    } else {
        Err("a variable's name is 1 to 255 of A-Z, a-z, 0-9 and _, not beginning with a digit"
            .into())
    }
}

fn check_value(name: &str, value: &str) -> Result<(), String> {
    if name.len() + value.len() > MAX_VARIABLE {
        Err(format!(
            "name and value have more than {MAX_VARIABLE} bytes together, which no program can be given: let a hook fetch it"
        ))
    } else if value.contains('\0') {
        Err("the value has a zero byte, which no variable can have".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_argument_file_or_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        std::fs::write(&path, "from file\nwith lines\n").unwrap();
        let environment = Environment::of(&[("TOKEN", "from environment")]);
        let value = |text: &str| {
            text.parse::<SecretArgument>().unwrap().read(&environment).unwrap().value.clone()
        };
        assert_eq!(value("TOKEN=a=b"), "a=b");
        assert_eq!(value("TOKEN"), "from environment");
        assert_eq!(value(&format!("TOKEN=@{}", path.display())), "from file\nwith lines");
        let path = format!("TOKEN={}", path.display());
        let failure = path.parse::<SecretArgument>().unwrap().read(&environment).err().unwrap();
        assert!(failure.to_string().contains("is the path of a file that exists"), "{failure}");
        assert!(failure.next_step().unwrap().contains("--secret TOKEN=@PATH"));
        assert_eq!(value("TOKEN=/no/such/file"), "/no/such/file");
        let missing = "OTHER".parse::<SecretArgument>().unwrap().read(&environment).err().unwrap();
        assert!(missing.next_step().unwrap().contains("--secret OTHER=@FILE"));
    }

    #[test]
    fn a_wrong_secret_is_not_quoted() {
        for wrong in ["1BAD=hush", "=hush", "hush hush"] {
            let secret: SecretArgument = wrong.parse().unwrap();
            let failure = secret.read(&Environment::of(&[])).err().unwrap();
            assert!(!failure.to_string().contains("hush"), "{failure}");
        }
        let secret: SecretArgument = "GOOD=hush".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "GOOD=[redacted]");
    }

    /// Linux gives a program no longer text, whether the name or the value makes it long.
    #[test]
    fn a_name_and_a_value_fit_together() {
        let long = "v".repeat(MAX_VARIABLE - 4);
        assert!(format!("NAME={long}").parse::<Clear>().is_ok());
        let refused = format!("NAMES={long}").parse::<Clear>().unwrap_err();
        assert!(refused.contains("together"), "{refused}");
        let secret: SecretArgument = format!("NAMES={long}").parse().unwrap();
        let refused = secret.read(&Environment::of(&[])).err().unwrap();
        assert!(refused.to_string().contains("secret NAMES: name and value"), "{refused}");
        let env = std::process::Command::new("true").env("NAME", &long).status();
        assert!(env.unwrap().success(), "the longest one can be given");
        assert!(std::process::Command::new("true").env("NAMES", &long).status().is_err());
    }

    #[test]
    fn what_logs_cannot_hide_is_said_where_it_is_entered() {
        let read = |text: &str| text.parse::<SecretArgument>().unwrap().read(&Environment::of(&[]));
        for plain in ["FLAG=true", "FLAG=    ", "FLAG=0000"] {
            let failure = read(plain).err().unwrap();
            assert!(
                failure.to_string().contains("cannot hide the value of secret FLAG"),
                "{failure}"
            );
            assert!(failure.next_step().unwrap().contains("--env FLAG="), "{failure}");
        }
        let secrets = [read("PIN=q7z").unwrap(), read("TOKEN=hunter2").unwrap()];
        assert_eq!(
            unmasked(&secrets),
            [
                "warning: logs of runs will show the value of secret PIN: it has fewer than 4 characters"
            ]
        );
    }

    #[test]
    fn a_name_is_one_that_a_shell_takes() {
        for wrong in ["", "=v", "A-B=v", "1A=v", "A B=v", "Ä=v"] {
            assert!(wrong.parse::<Clear>().is_err(), "{wrong}");
        }
        assert!("_a1=".parse::<Clear>().is_ok());
        assert!(check_distinct(["A", "B", "A"].into_iter()).is_err());
    }
}
