//! Which of our crates uses which is what the table in `ARCHITECTURE.md` says.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const MAP: &str = "ARCHITECTURE.md";
/// The table's head.
const HEAD: &str = "| folder | what it is | may depend on |";

/// A crate, as the table or cargo has it: which others it uses, each by its folder.
type Uses = BTreeMap<String, (usize, Vec<String>)>;

/// Where the two differ.
pub fn broken(root: &Path) -> Result<Vec<String>> {
    let map = fs::read_to_string(root.join(MAP)).context(MAP)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo); // starts: cargo
    command.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(root);
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice(&output.stdout)?;
    Ok(judge(&table(&map), &packages(&metadata, root)))
}

/// The rows that name crates.
fn table(map: &str) -> Uses {
    let lines = map.lines().enumerate().skip_while(|(_, line)| *line != HEAD).skip(2);
    let rows = lines.take_while(|(_, line)| line.starts_with('|'));
    let mut uses = Uses::new();
    for (at, row) in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [folder, _, others] = cells[..] else { continue };
        let others = others.split(',').map(str::trim).filter(|other| !other.is_empty());
        let mut others: Vec<String> = others.map(str::to_owned).collect();
        others.sort();
        uses.insert(folder.trim_matches('`').to_owned(), (at + 1, others));
    }
    uses
}

/// What each crate's `Cargo.toml` has beside what only its tests use.
fn packages(metadata: &Value, root: &Path) -> Uses {
    let folder = |path: &str| {
        let path = Path::new(path);
        path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
    };
    let mut uses = Uses::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let mut others = Vec::new();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let is_ours = dependency["path"].as_str().map(folder);
            if let Some(other) = is_ours.filter(|_| dependency["kind"] != "dev") {
                others.push(short(&other).to_owned());
            }
        }
        others.sort();
        others.dedup();
        uses.insert(folder(manifest.trim_end_matches("/Cargo.toml")), (1, others));
    }
    uses
}

/// `model` is `crates/model`.
fn short(folder: &str) -> &str {
    folder.strip_prefix("crates/").unwrap_or(folder)
}

fn judge(table: &Uses, packages: &Uses) -> Vec<String> {
    let mut broken = Vec::new();
    for (folder, (_, used)) in packages {
        let Some((line, allowed)) = table.get(folder) else {
            broken.push(format!("{MAP}:1: the map has no row for {folder}: add one"));
            continue;
        };
        for other in used.iter().filter(|other| !allowed.contains(other)) {
            broken.push(format!(
                "{folder}/Cargo.toml:1: it uses {other}, and {MAP}:{line} does not allow that"
            ));
        }
        for other in allowed.iter().filter(|other| !used.contains(other)) {
            broken.push(format!(
                "{MAP}:{line}: {folder} does not use {other}: take it out of the row"
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_map_does_not_allow_and_what_nothing_uses_is_told() {
        let map = format!(
            "# Map\n\n{HEAD}\n|---|---|---|\n| `launcher` | runs | model, spool |\n| `docs` | pages | |\n\n"
        );
        let metadata = serde_json::json!({ "packages": [
            { "manifest_path": "/r/launcher/Cargo.toml", "dependencies": [
                { "path": "/r/crates/model", "kind": null }, { "path": "/r/policy", "kind": "build" },
                { "path": "/r/crates/e2e", "kind": "dev" }, { "kind": null },
            ] },
            { "manifest_path": "/r/worker/Cargo.toml", "dependencies": [] },
        ] });
        let told = judge(&table(&map), &packages(&metadata, Path::new("/r")));
        assert_eq!(
            told,
            [
                "launcher/Cargo.toml:1: it uses policy, and ARCHITECTURE.md:5 does not allow that",
                "ARCHITECTURE.md:5: launcher does not use spool: take it out of the row",
                "ARCHITECTURE.md:1: the map has no row for worker: add one",
            ]
        );
    }
}
