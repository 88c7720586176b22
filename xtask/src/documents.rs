//! What the documents say, held against the sources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser};

use crate::Arguments;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words between two marks, wherever these stand.
fn between<'a>(text: &'a str, open: &str, close: char) -> BTreeSet<&'a str> {
    text.match_indices(open)
        .filter_map(|(at, _)| text[at + open.len()..].split(close).next())
        .collect()
}

#[test]
fn every_variable_of_the_launcher_is_in_the_reference_page_with_its_default() {
    let source = read("launcher/src/config/variable.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let page = read("docs/configuration.md");
    let page = page.split("## gantry server").next().unwrap();
    let names = between(source, "name: \"", '"');
    assert!(names.len() > 20);
    assert_eq!(between(page, "\n| `", '`'), names);
    for (name, rest) in source.match_indices("name: \"").map(|(at, mark)| {
        let rest = &source[at + mark.len()..];
        rest.split_once('"').unwrap()
    }) {
        let row = page.lines().find(|line| line.contains(&format!("| `{name}` |"))).unwrap();
        let rest = rest.split("help:").next().unwrap();
        if let Some(default) = between(rest, "default: Some(\"", '"').first() {
            assert!(row.contains(default), "{name}: {default} is not in {row}");
        }
    }
}

#[test]
fn every_setting_of_the_server_is_in_the_reference_page_with_its_default() {
    let source = read("cli/src/server.rs");
    let page = read("docs/configuration.md");
    let variables = between(&source, "env = \"", '"');
    assert!(variables.len() > 4);
    for (variable, rest) in source.match_indices("env = \"").map(|(at, mark)| {
        let rest = &source[at + mark.len()..];
        rest.split_once('"').unwrap()
    }) {
        let flag = format!(
            "`--{}`",
            variable.trim_start_matches("GANTRY_").to_lowercase().replace('_', "-")
        );
        let row = page.lines().find(|line| line.contains(&format!("| `{variable}` |")));
        let row = row.unwrap_or_else(|| panic!("{variable} is not in the page"));
        assert!(row.contains(&flag), "{flag} is not in {row}");
        let rest = rest.split("env = ").next().unwrap();
        if let Some(default) = between(rest, "default_value = \"", '"').first() {
            assert!(row.contains(default), "{variable}: {default} is not in {row}");
        }
    }
}

#[test]
fn exit_codes_of_the_launcher_are_those_of_its_source() {
    let source = read("launcher/src/explain.rs");
    let page = read("docs/operations.md");
    let page = page.split("### Exit codes of gantry-launcher").nth(1).unwrap();
    let page = page.split("###").next().unwrap();
    for (at, _) in source.match_indices("=> ") {
        let after = &source[at + 3..];
        let code: String = after.chars().take_while(char::is_ascii_digit).collect();
        assert!(
            code.is_empty() || page.contains(&format!("\n| {code} |")),
            "{code} is not in the page"
        );
    }
}

#[test]
fn every_xtask_command_in_the_documents_is_one() {
    let mut seen = 0;
    for page in ["README.md", "CONTRIBUTING.md", ".ci/run"] {
        for line in read(page).lines().filter(|line| line.contains("cargo xtask ")) {
            let line = line.rsplit_once("cargo xtask ").unwrap().1;
            let words = line.split(['`', '#', '<']).next().unwrap().split_whitespace();
            let words: Vec<&str> = ["cargo xtask"].into_iter().chain(words).collect();
            Arguments::try_parse_from(&words)
                .unwrap_or_else(|error| panic!("{page}: {words:?}: {error}"));
            seen += 1;
        }
    }
    assert!(seen > 5);
    Arguments::command().debug_assert();
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|page| root.join(page)).into();
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for link in between(&text, "](", ')') {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                assert!(page.parent().unwrap().join(file).exists(), "{}: {link}", page.display());
            }
        }
    }
}
