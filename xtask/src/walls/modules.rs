//! No circle of modules: of those that stand beside each other, none needs itself by way of others.
//!
//! A parent and its children are one concept, so what they use of each other is no part of a circle. A name that a
//! module only hands on (`pub use`) is followed to where it is.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::TokenTree;
use quote::ToTokens as _;
use syn::{Item, UseTree};

use super::exceptions::{CIRCLES, HERE};
use super::source::{SourceFile, Sources, attributes, flat, is_test};

type Path = Vec<String>;

/// A use of one module by another that stands beside it.
#[derive(Debug, Clone)]
struct Place {
    file: String,
    line: usize,
}

/// What stands beside each other below a parent, and who uses whom.
type Uses = BTreeMap<(String, String), Place>;

/// The circles, each once.
pub fn broken(sources: &Sources) -> Vec<String> {
    let mut broken = Vec::new();
    let mut needed: BTreeMap<(&str, String), BTreeSet<String>> = BTreeMap::new();
    let mut folders: Vec<&'static str> = sources.0.iter().map(|file| file.folder).collect();
    folders.dedup();
    for folder in folders {
        let files = sources.0.iter().filter(|file| file.folder == folder);
        for (parent, uses) in Crate::read(files).uses() {
            for circle in circles(&uses) {
                let known = CIRCLES.iter().find(|it| it.0 == folder && it.1 == parent);
                let is_known =
                    |name: &String| known.is_some_and(|it| it.2.contains(&name.as_str()));
                if !circle.iter().all(is_known) {
                    broken.push(told(folder, &parent, &circle, &uses));
                }
                needed.entry((folder, parent.clone())).or_default().extend(circle);
            }
        }
    }
    for (folder, parent, names) in CIRCLES {
        let needed = needed.get(&(*folder, (*parent).to_owned()));
        for name in names.iter().filter(|name| needed.is_none_or(|it| !it.contains(**name))) {
            broken.push(format!(
                "{HERE}: {parent}::{name} of {folder} is in no circle any more: remove it from CIRCLES"
            ));
        }
    }
    broken
}

fn told(folder: &str, parent: &str, circle: &BTreeSet<String>, uses: &Uses) -> String {
    let way = way_around(circle, uses);
    let first = &uses[&(way[0].clone(), way[1].clone())];
    let mut text = format!(
        "{}:{}: {} modules below {parent} of {folder} stand in a circle ({}):",
        first.file,
        first.line,
        circle.len(),
        circle.iter().cloned().collect::<Vec<_>>().join(", ")
    );
    for pair in way.windows(2) {
        let place = &uses[&(pair[0].clone(), pair[1].clone())];
        let step = format!("\n    {} uses {} at {}:{}", pair[0], pair[1], place.file, place.line);
        text.push_str(&step);
    }
    text
}

/// A shortest way from a module of the circle back to itself.
fn way_around(circle: &BTreeSet<String>, uses: &Uses) -> Vec<String> {
    let next = |from: &str| -> Vec<String> {
        uses.keys()
            .filter(|(it, to)| it == from && circle.contains(to))
            .map(|(_, to)| to.clone())
            .collect()
    };
    let mut best: Vec<String> = Vec::new();
    for start in circle {
        let mut ways: Vec<Vec<String>> = vec![vec![start.clone()]];
        let mut seen = BTreeSet::new();
        'search: while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                for to in next(way.last().expect("a way has a start")) {
                    let mut way = way.clone();
                    way.push(to.clone());
                    if to == *start {
                        if best.is_empty() || way.len() < best.len() {
                            best = way;
                        }
                        break 'search;
                    }
                    if seen.insert(to) {
                        longer.push(way);
                    }
                }
            }
            ways = longer;
        }
    }
    best
}

/// Sets of modules that each reach all others of the set.
fn circles(uses: &Uses) -> Vec<BTreeSet<String>> {
    let names: BTreeSet<&String> = uses.keys().flat_map(|(from, to)| [from, to]).collect();
    let reached = |start: &String| {
        let (mut found, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(from) = open.pop() {
            for (_, to) in uses.keys().filter(|(it, _)| *it == from) {
                if found.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        found
    };
    let reach: BTreeMap<&String, BTreeSet<String>> =
        names.iter().map(|name| (*name, reached(name))).collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for name in &names {
        if !reach[name].contains(*name) || circles.iter().any(|circle| circle.contains(*name)) {
            continue;
        }
        let mutual = reach[name].iter().filter(|other| reach[other].contains(*name));
        circles.push(mutual.cloned().collect());
    }
    circles
}

/// The modules of a crate.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Path, Module>,
}

#[derive(Default)]
struct Module {
    /// What it declares itself.
    own: BTreeSet<String>,
    /// What it names of others, by the name that it has here.
    named: BTreeMap<String, Path>,
    /// Whose names it hands on, all of them.
    globs: Vec<Path>,
    /// The paths that it uses, as they are written.
    paths: Vec<(Path, Place)>,
}

impl Crate {
    fn read<'a>(files: impl Iterator<Item = &'a SourceFile>) -> Self {
        let mut read = Self::default();
        read.modules.entry(Path::new()).or_default();
        for file in files {
            read.add(&file.module, &file.items, &file.name);
        }
        read
    }

    fn add(&mut self, path: &[String], items: &[Item], file: &str) {
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            if let Item::Mod(module) = item
                && let Some((_, items)) = &module.content
            {
                let inner: Path = path.iter().cloned().chain([module.ident.to_string()]).collect();
                self.add(&inner, items, file);
            }
            let module = self.modules.entry(path.to_vec()).or_default();
            module.add(item, file);
        }
        self.modules.entry(path.to_vec()).or_default();
    }

    /// For each parent, by its name, who of its children uses whom.
    fn uses(&self) -> BTreeMap<String, Uses> {
        let mut uses: BTreeMap<String, Uses> = BTreeMap::new();
        for (from, module) in &self.modules {
            for (written, place) in &module.paths {
                let Some(to) = self.resolve(from, written, 0) else { continue };
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                // One of them is the other's parent, or both are the same.
                let (Some(a), Some(b)) = (from.get(common), to.get(common)) else { continue };
                let parent =
                    std::iter::once("crate").chain(from[..common].iter().map(String::as_str));
                let parent = parent.collect::<Vec<_>>().join("::");
                let edge = (a.clone(), b.clone());
                uses.entry(parent).or_default().entry(edge).or_insert_with(|| place.clone());
            }
        }
        uses
    }

    /// The module that a path leads to; none if that is of another crate.
    fn resolve(&self, from: &[String], written: &[String], depth: usize) -> Option<Path> {
        if depth > 16 {
            return None;
        }
        let (mut at, mut rest) = match written.first()?.as_str() {
            "crate" => (Path::new(), &written[1..]),
            "self" => (from.to_vec(), &written[1..]),
            "super" => {
                let ups = written.iter().take_while(|part| *part == "super").count();
                (from[..from.len().checked_sub(ups)?].to_vec(), &written[ups..])
            }
            name => {
                let child: Path = from.iter().cloned().chain([name.to_owned()]).collect();
                if !self.modules.contains_key(&child) {
                    return None;
                }
                (from.to_vec(), written)
            }
        };
        while let Some(name) = rest.first() {
            let child: Path = at.iter().cloned().chain([name.clone()]).collect();
            let module = self.modules.get(&at)?;
            if self.modules.contains_key(&child) {
                (at, rest) = (child, &rest[1..]);
                continue;
            }
            if module.own.contains(name) {
                break;
            }
            if let Some(target) = module.named.get(name) {
                let further: Path = target.iter().chain(&rest[1..]).cloned().collect();
                return self.resolve(&at, &further, depth + 1).or(Some(at));
            }
            let of_glob = module.globs.iter().find_map(|glob| {
                let target = self.resolve(&at, glob, depth + 1)?;
                self.modules.get(&target)?.own.contains(name).then_some(target)
            });
            return Some(of_glob.unwrap_or(at));
        }
        Some(at)
    }
}

impl Module {
    fn add(&mut self, item: &Item, file: &str) {
        if let Some(name) = name_of(item) {
            self.own.insert(name);
        }
        if let Item::Use(item) = item {
            self.add_use(&item.tree, &mut Vec::new(), file);
        } else if !matches!(item, Item::Mod(_)) {
            self.add_paths(item, file);
        }
    }

    fn add_use(&mut self, tree: &UseTree, before: &mut Path, file: &str) {
        let place =
            |name: &syn::Ident| Place { file: file.to_owned(), line: name.span().start().line };
        let ends_with = |before: &Path, name: &syn::Ident| -> Path {
            let is_itself = name == "self" && !before.is_empty();
            before.iter().cloned().chain((!is_itself).then(|| name.to_string())).collect()
        };
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_use(&path.tree, before, file);
                before.pop();
            }
            UseTree::Name(name) => {
                let path = ends_with(before, &name.ident);
                let known_as = path.last().cloned().unwrap_or_default();
                self.paths.push((path.clone(), place(&name.ident)));
                self.named.insert(known_as, path);
            }
            UseTree::Rename(name) => {
                let path = ends_with(before, &name.ident);
                self.paths.push((path.clone(), place(&name.ident)));
                self.named.insert(name.rename.to_string(), path);
            }
            UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.paths.push((before.clone(), Place { file: file.to_owned(), line }));
                self.globs.push(before.clone());
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, before, file);
                }
            }
        }
    }

    /// The paths that begin with `crate`, `super` or `self`, in macros too.
    fn add_paths(&mut self, item: &Item, file: &str) {
        let tokens = flat(item.to_token_stream());
        let mut at = 0;
        while at < tokens.len() {
            let (begin, mut path) = (at, Path::new());
            while let Some(TokenTree::Ident(name)) = tokens.get(at) {
                path.push(name.to_string());
                let is_on = matches!((tokens.get(at + 1), tokens.get(at + 2)),
                    (Some(TokenTree::Punct(a)), Some(TokenTree::Punct(b))) if a.as_char() == ':' && b.as_char() == ':');
                at += if is_on { 3 } else { 1 };
                if !is_on {
                    break;
                }
            }
            at = at.max(begin + 1);
            let is_ours =
                matches!(path.first().map(String::as_str), Some("crate" | "super" | "self"));
            if is_ours && path.len() > 1 {
                let line = tokens[begin].span().start().line;
                self.paths.push((path, Place { file: file.to_owned(), line }));
            }
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the list is the library's, and grows")]
fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> BTreeMap<String, Uses> {
        let files: Vec<_> = files
            .iter()
            .map(|(module, text)| {
                let path = module.split("::").filter(|part| !part.is_empty()).map(str::to_owned);
                SourceFile::parse("cli", &format!("{module}.rs"), path.collect(), text).unwrap()
            })
            .collect();
        Crate::read(files.iter()).uses()
    }

    fn circle(files: &[(&str, &str)], parent: &str) -> Vec<String> {
        let uses = of(files);
        let circles = uses.get(parent).map(circles).unwrap_or_default();
        circles.into_iter().flatten().collect()
    }

    #[test]
    fn modules_that_use_each_other_are_a_circle_and_are_told_with_their_places() {
        let files = [
            ("a", "use crate::b::B;\nfn f() {}"),
            ("b", "struct B;\nfn f() { crate::c::g!(super::c::f()) }"),
            ("c", "fn f() {}\n\nuse super::{a::{self}, d};"),
            ("d", "fn f() {}"),
        ];
        assert_eq!(circle(&files, "crate"), ["a", "b", "c"]);
        let uses = &of(&files)["crate"];
        let told = told("cli", "crate", &circles(uses)[0], uses);
        assert!(
            told.starts_with("a.rs:1: 3 modules below crate of cli stand in a circle"),
            "{told}"
        );
        assert!(
            told.contains("b uses c at b.rs:2") && told.contains("c uses a at c.rs:3"),
            "{told}"
        );
    }

    #[test]
    fn parents_and_children_are_one_concept() {
        let files = [
            ("a", "pub use self::child::Child;\nuse crate::b;"),
            ("a::child", "use super::helper;\nuse crate::a;"),
            ("b", "fn f() {}"),
        ];
        assert_eq!(circle(&files, "crate"), [""; 0]);
    }

    #[test]
    fn a_name_that_is_handed_on_is_followed() {
        let files = [
            ("", "pub use a::Made;\npub use b::*;"),
            ("a", "struct Made;\nuse crate::Other;"),
            ("b", "pub struct Other;\nuse crate::Made;"),
        ];
        assert_eq!(circle(&files, "crate"), ["a", "b"]);
        let files = [
            ("p", "pub use self::x::X;"),
            ("p::x", "pub struct X;\nuse super::y::Y;"),
            ("p::y", "pub struct Y;\nuse super::X;"),
        ];
        assert_eq!(circle(&files, "crate::p"), ["x", "y"]);
    }

    #[test]
    fn what_tests_use_is_no_part_of_it() {
        let files = [
            ("a", "use crate::b;"),
            ("b", "#[cfg(test)]\nmod tests { use crate::a; }\n#[cfg(test)]\nuse crate::a;"),
        ];
        assert_eq!(circle(&files, "crate"), [""; 0]);
    }
}
