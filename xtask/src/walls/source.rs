//! The sources of the workspace's crates, parsed, without what is only compiled for tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Item, spanned::Spanned as _};

/// The folders of crates whose `src` is looked at.
pub const CRATES: [&str; 12] = [
    "cli",
    "control-plane",
    "crates/cluster",
    "crates/e2e",
    "crates/model",
    "crates/protocol",
    "crates/spool",
    "crates/stand",
    "launcher",
    "policy",
    "worker",
    "xtask",
];

/// A file below the `src` of a crate.
pub struct SourceFile {
    /// The crate's folder, such as `crates/model`.
    pub folder: &'static str,
    /// Its path from the repository's root, with `/`.
    pub name: String,
    /// How many lines it has that are not only for tests.
    pub lines: usize,
    /// Its items, those of tests taken out.
    pub items: Vec<Item>,
    /// Its module: the names from the crate's root to it.
    pub module: Vec<String>,
}

/// All of them.
pub struct Sources(pub Vec<SourceFile>);

impl Sources {
    /// Reads and parses them.
    pub fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for folder in CRATES {
            let src = root.join(folder).join("src");
            let mut paths = Vec::new();
            collect(&src, &mut paths).with_context(|| src.display().to_string())?;
            paths.sort();
            for path in paths {
                let text = fs::read_to_string(&path)?;
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                let module = module_of(path.strip_prefix(&src).unwrap_or(&path));
                if module.last().is_some_and(|last| last == "tests") {
                    continue;
                }
                files.push(
                    SourceFile::parse(folder, &name, module, &text)
                        .with_context(|| format!("cannot parse {name}"))?,
                );
            }
        }
        Ok(Self(files))
    }
}

impl SourceFile {
    /// Parses `text`.
    pub fn parse(
        folder: &'static str,
        name: &str,
        module: Vec<String>,
        text: &str,
    ) -> Result<Self> {
        let file = syn::parse_file(text)?;
        let (tests, items): (Vec<_>, Vec<_>) =
            file.items.into_iter().partition(|item| is_test(attributes(item)));
        let of_tests: usize = tests
            .iter()
            .map(|item| {
                let span = item.span();
                span.end().line + 1 - span.start().line
            })
            .sum();
        let lines = text.lines().count() - of_tests;
        Ok(Self { folder, name: name.to_owned(), lines, items, module })
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// `stage/state.rs` is `stage::state`; `lib.rs` and `main.rs` are the root, and so is `mod.rs` its folder.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut module: Vec<String> =
        path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let is_folder = module.last().is_some_and(|last| last == "mod");
    if is_folder || module == ["lib"] || module == ["main"] {
        module.pop();
    }
    module
}

/// Whether an item is compiled for tests alone.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<TokenStream>()
                .is_ok_and(|tokens| tokens.to_string() == "test")
    })
}

/// The attributes of an item.
#[expect(clippy::wildcard_enum_match_arm, reason = "the list is the library's, and grows")]
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// All tokens, those in brackets too, in order; documentation is none.
pub fn flat(tokens: TokenStream) -> Vec<TokenTree> {
    let mut out = Vec::new();
    flatten(tokens, &mut out);
    out
}

fn flatten(tokens: TokenStream, out: &mut Vec<TokenTree>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => flatten(group.stream(), out),
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let is_doc = matches!(tokens.peek(), Some(TokenTree::Group(group))
                    if matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(name)) if name == "doc"));
                if is_doc {
                    tokens.next();
                }
            }
            TokenTree::Ident(_) | TokenTree::Literal(_) | TokenTree::Punct(_) => out.push(token),
        }
    }
}
