//! A stack's source on its way to the server: listed, packed, sealed on this machine, uploaded.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write as _};
use std::path::Path;

use clap::Args;
use gantry_protocol::{Digest, Digester, Recipient, seal};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::archive::{self, Listing, Packed, Wanted};
use crate::client::Client;
use crate::failure::{Explain as _, Failure};
use crate::output::{self, Output};
use crate::run::stack_not_found;

/// What the help says of sources.
pub const HELP: &str = "\
All files and symbolic links are sent, but for .git, .terraform, what .gitignore leaves out and what
.terraformignore at the source's root leaves out; a line `!PATH` there sends what .gitignore leaves
out. Terraform states and private keys are refused. At most 1 GiB and 200,000 entries. The source is
sealed on this machine: only the stack's pool and the recovery key open it.";

/// Which part of a source is sent.
#[derive(Debug, Args)]
pub struct Sending {
    /// Only list what would be sent
    #[arg(long)]
    dry_run: bool,
    /// Send what .gitignore leaves out too
    #[arg(long)]
    no_gitignore: bool,
    /// Send Terraform states and private keys too
    #[arg(long)]
    allow_sensitive: bool,
}

const UPLOAD: &str = "mutation($stack:ID!){sourceUpload(stack:$stack)\
    {id,uploadUrl,uploadHeaders{entries{key,value}}}}";
const USE: &str = "mutation($id:ID!$message:String$sha256:String!$size:Long!$stack:ID!){\
    sourceUse(stack:$stack,id:$id,sha256:$sha256,size:$size,message:$message)\
    {id,sha256,size,createdAt}}";
const RECIPIENTS: &str = "query($stack:ID!){stack(id:$stack){recipients{publicKey}}}";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UploadAnswer {
    source_upload: Upload,
}

#[derive(Deserialize)]
struct Upload {
    id: String,
    #[serde(rename = "uploadUrl")]
    url: String,
    #[serde(rename = "uploadHeaders")]
    headers: Entries,
}

#[derive(Deserialize)]
struct Entries {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    value: String,
}

#[derive(Deserialize)]
struct RecipientsAnswer {
    stack: Option<Recipients>,
}

#[derive(Deserialize)]
struct Recipients {
    recipients: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    public_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UseAnswer {
    source_use: Source,
}

/// A version of a stack's source, as the server names it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Its id.
    pub id: String,
    sha256: String,
    /// Its length in bytes, sealed.
    pub size: u64,
    /// When it was uploaded, in seconds since 1970.
    pub created_at: i64,
}

impl Source {
    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "sha256": self.sha256,
            "size": self.size,
            "created": output::time(self.created_at),
        })
    }
}

/// Packs what of `dir` is sent, and says how much that is. None when only that was asked for.
pub fn prepare(dir: &Path, sending: &Sending, output: Output) -> Result<Option<Packed>, Failure> {
    let wanted = Wanted { ignored: sending.no_gitignore, sensitive: sending.allow_sensitive };
    let listing = archive::list(dir, wanted)?;
    if sending.dry_run {
        show(&listing, output)?;
        return Ok(None);
    }
    let packed = archive::pack(&listing)?;
    output.note(&format!(
        "sending {}, packed into {} bytes and sealed (see which with --dry-run)",
        told(&listing),
        packed.size
    ));
    Ok(Some(packed))
}

fn told(listing: &Listing) -> String {
    let (count, left_out) = (listing.files().count(), listing.left_out);
    let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
    let out = if left_out > 0 {
        format!("; {left_out} left out by .gitignore or .terraformignore")
    } else {
        String::new()
    };
    format!("{files} with {} bytes{out}", listing.bytes)
}

fn show(listing: &Listing, output: Output) -> Result<(), Failure> {
    let files = listing.files();
    let values: Vec<_> =
        files.map(|(path, bytes)| json!({ "path": path, "bytes": bytes })).collect();
    let value = json!({ "files": values, "bytes": listing.bytes, "left_out": listing.left_out });
    output.answer(&value, || {
        let rows: Vec<_> = listing
            .files()
            .map(|(path, bytes)| [path.display().to_string(), bytes.to_string()])
            .collect();
        format!("{}\n{}", output::table(["FILE", "BYTES"], &rows, ""), told(listing))
    })
}

/// Uploads a version of the stack's source, sealed, and makes it the newest.
pub async fn upload(
    client: &Client,
    stack: &str,
    packed: Packed,
    message: Option<&str>,
) -> Result<Source, Failure> {
    let answer: RecipientsAnswer = client.ask(RECIPIENTS, json!({ "stack": stack })).await?;
    let keys = answer.stack.ok_or_else(|| stack_not_found(stack))?.recipients;
    let sealed = seal_archive(packed, &keys)?;
    let UploadAnswer { source_upload: upload } =
        client.ask(UPLOAD, json!({ "stack": stack })).await?;
    let headers: Vec<_> = upload.headers.entries.into_iter().map(|it| (it.key, it.value)).collect();
    client.put(&upload.url, &headers, sealed.file, sealed.size).await?;
    let variables = json!({
        "stack": stack,
        "id": upload.id,
        "sha256": sealed.sha256.to_string(),
        "size": sealed.size,
        "message": message,
    });
    let answer: UseAnswer = client.ask(USE, variables).await?;
    Ok(answer.source_use)
}

/// An age file, on its way out.
struct Sealed {
    file: File,
    size: u64,
    sha256: Digest,
}

/// The header is known at the end, and stands in front of the payload.
fn seal_archive(packed: Packed, keys: &[Key]) -> Result<Sealed, Failure> {
    let cannot = || "cannot seal the source in the directory for temporary files".to_owned();
    let recipients = keys
        .iter()
        .map(|key| Recipient::parse(key.public_key.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .or_say(|| "the server names a key to seal to that is none".into())?;
    let mut archive = packed.file;
    let mut payload = tempfile::tempfile().or_say(cannot)?;
    let mut sealer = seal(&recipients, BufWriter::new(&mut payload)).or_say(cannot)?;
    io::copy(&mut archive, &mut sealer).or_say(cannot)?;
    let header = sealer.finish().or_say(cannot)?.header;
    payload.rewind().or_say(cannot)?;
    let mut whole =
        Digested { file: tempfile::tempfile().or_say(cannot)?, digester: Digester::new() };
    whole.write_all(header.as_bytes()).or_say(cannot)?;
    io::copy(&mut payload, &mut whole).or_say(cannot)?;
    let Digested { mut file, digester } = whole;
    file.rewind().or_say(cannot)?;
    Ok(Sealed { file, size: digester.len(), sha256: digester.digest() })
}

struct Digested {
    file: File,
    digester: Digester,
}

impl io::Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digester.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use gantry_protocol::{PoolKey, SealedBytes};

    use super::*;

    #[test]
    fn a_source_leaves_this_machine_sealed() {
        let pool = PoolKey::generate(2048).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("main.tf"), "locals { a = \"unmistakable\" }").unwrap();
        let wanted = Wanted { ignored: false, sensitive: false };
        let packed = || archive::pack(&archive::list(folder.path(), wanted).unwrap()).unwrap();
        let mut clear = Vec::new();
        packed().file.read_to_end(&mut clear).unwrap();
        let keys = [Key { public_key: pool.public().to_pem().unwrap() }];
        let mut sealed = seal_archive(packed(), &keys).unwrap();
        let mut bytes = Vec::new();
        sealed.file.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.len() as u64, Digest::of(&bytes)), (sealed.size, sealed.sha256));
        let opened = SealedBytes::from_file(&bytes).unwrap().open(&[&pool]).unwrap();
        assert_eq!(*opened, clear);
    }
}
