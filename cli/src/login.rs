//! `gantry login`: keeps the address and key of a server for the other commands.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::client::Client;
use crate::config::{Credentials, Environment, Kept};
use crate::failure::{Code, Failure};
use crate::file;
use crate::output::Output;

/// The longest file with a secret.
const MAX_SECRET: u64 = 4096;

/// Arguments of `gantry login`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The file with the first key, which the server writes into its data directory
    /// [default: gantry-data/admin.json]
    #[arg(long, value_name = "DATA/admin.json", conflicts_with_all = ["endpoint", "key_id", "key_secret_file", "ca"])]
    from: Option<PathBuf>,
    /// The API's address, such as <https://gantry.example.com:1983>
    #[arg(long, value_name = "URL", requires_all = ["key_id", "key_secret_file"])]
    endpoint: Option<String>,
    /// The API key's id
    #[arg(long, value_name = "ID", requires = "endpoint")]
    key_id: Option<String>,
    /// A file with the API key's secret
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    key_secret_file: Option<PathBuf>,
    /// The only certificates to trust, PEM; the system's unless given
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    ca: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Answer {
    viewer: Viewer,
}

#[derive(Deserialize)]
struct Viewer {
    id: String,
    name: String,
}

/// Tries the key and keeps it.
pub async fn perform(
    arguments: Arguments,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let credentials = given(arguments, environment)?;
    let kept = credentials.to_kept();
    let client = Client::new(credentials)?;
    let Answer { viewer } = client.ask("{viewer{id,name}}", json!({})).await?;
    let path = environment.credentials_file()?;
    if let Some(folder) = path.parent() {
        file::private_folder(folder)?;
    }
    let content = serde_json::to_vec_pretty(&kept)
        .map(Zeroizing::new)
        .map_err(|error| Failure::new("cannot write the credentials").because(error))?;
    file::replace(&path, &content)?;
    let answer = json!({
        "endpoint": client.endpoint(),
        "id": viewer.id,
        "name": viewer.name,
        "file": path,
    });
    output.answer(&answer, || {
        format!("logged in to {} as {}; kept in {}", client.endpoint(), viewer.name, path.display())
    })?;
    Ok(Code::Done)
}

fn given(arguments: Arguments, environment: &Environment) -> Result<Credentials, Failure> {
    let (Some(endpoint), Some(key_id), Some(secret)) =
        (arguments.endpoint, arguments.key_id, arguments.key_secret_file)
    else {
        let from = arguments.from.unwrap_or_else(|| default_file(environment));
        let folder = from.parent().unwrap_or(Path::new("."));
        let kept = Kept::read(&from).map_err(|failure| {
            failure.next("give --from DATA/admin.json, where DATA is the server's data directory")
        })?;
        return Credentials::check(kept, folder);
    };
    let secret = file::read(&secret, MAX_SECRET)?;
    let secret = std::str::from_utf8(&secret).map_err(|_| {
        Failure::new("the file with the key's secret is not text")
            .next("give the file that has the secret and nothing else")
    })?;
    let kept = Kept {
        endpoint,
        key_id,
        key_secret: Zeroizing::new(secret.trim().to_owned()),
        ca: arguments.ca.map(|path| path.to_string_lossy().into_owned()),
    };
    Credentials::check(kept, Path::new(""))
}

fn default_file(environment: &Environment) -> PathBuf {
    let data = environment.get("GANTRY_DATA").unwrap_or("gantry-data".as_ref());
    Path::new(data).join("admin.json")
}
