//! `gantry whoami`, `logout` and `version`: who we are to which server, and what it is.

use std::io;

use serde::Deserialize;
use serde_json::json;

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Explain as _, Failure};
use crate::output::{self, Output};

#[derive(Deserialize)]
struct Answer {
    viewer: Viewer,
}

#[derive(Deserialize)]
struct Viewer {
    id: String,
    name: String,
}

/// Says which server the other commands use, and as whom.
pub async fn whoami(environment: &Environment, output: Output) -> Result<Code, Failure> {
    let client = Client::new(Credentials::find(environment)?)?;
    let Answer { viewer } = client.ask("{viewer{id,name}}", json!({})).await?;
    let value = json!({ "endpoint": client.endpoint(), "id": viewer.id, "name": viewer.name });
    output.answer(&value, || {
        output::pairs(&[
            ("server", client.endpoint().to_owned()),
            ("API key", output::named(&viewer.name, &viewer.id)),
        ])
    })?;
    Ok(Code::Done)
}

/// Removes what `gantry login` kept. The key itself stays good.
pub fn logout(environment: &Environment, output: Output) -> Result<Code, Failure> {
    let path = environment.credentials_file()?;
    let was_there = match std::fs::remove_file(&path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error).or_say(|| format!("cannot remove {}", path.display()));
        }
    };
    output.answer(&json!({ "file": path, "removed": was_there }), || {
        if was_there {
            format!(
                "logged out: {} is gone. The key stays good until `gantry key revoke`",
                path.display()
            )
        } else {
            "not logged in".to_owned()
        }
    })?;
    Ok(Code::Done)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    debug_info: DebugInfo,
}

#[derive(Deserialize)]
struct DebugInfo {
    version: String,
}

/// Says the versions of this program and of the server, if we are logged in to one.
pub async fn version(environment: &Environment, output: Output) -> Result<Code, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let server = match Credentials::find(environment) {
        Ok(credentials) => {
            let client = Client::new(credentials)?;
            let answer: VersionAnswer = client.ask("{debugInfo{version}}", json!({})).await?;
            Some((client.endpoint().to_owned(), answer.debug_info.version))
        }
        Err(failure) if failure.code() == Code::Unauthorized => None,
        Err(failure) => return Err(failure),
    };
    let value = json!({ "gantry": own, "server": server.as_ref().map(|(_, version)| version) });
    output.answer(&value, || {
        let server = match &server {
            Some((endpoint, version)) => format!("{version} at {endpoint}"),
            None => "not logged in".to_owned(),
        };
        output::pairs(&[("gantry", own.to_owned()), ("server", server)])
    })?;
    Ok(Code::Done)
}
