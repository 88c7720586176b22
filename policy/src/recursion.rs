//! Refuses rules and functions that need themselves.
//!
//! Rego has no recursion: what a rule is cannot depend on what it is. The engine does not look for it
//! and would follow such a circle until its stack ends. So the rules are drawn as a graph, in which one
//! points to every other that it mentions, wherever it does: in its head, its bodies and their `else`,
//! a comprehension, a default or a `with`. A circle in it is refused when the policy is compiled.
//!
//! A path that goes on with something unknown (`data.spacelift[x]`) points to all that may be meant.

pub(crate) mod references;

use std::collections::BTreeMap;

use regorus::Engine;

use crate::compile::{CompileError, Place};

/// How much of a circle is shown.
const MOST_SHOWN: usize = 8;

const HELP: &str = "Rego has no recursion: take the way back out of it, and use `walk` or `graph.reachable` to follow what is nested";

/// Where a rule stands: the path below `data`, its package included.
pub(crate) type Path = Vec<String>;

/// Checks all that `engine` holds. `name` is the file of the user's own policy.
pub(crate) fn check(engine: &mut Engine, name: &str) -> Result<(), CompileError> {
    let mut graph = Graph::default();
    for mention in references::of(engine.get_modules()) {
        let place = (mention.file == name).then_some(mention.place);
        graph.point(&mention.from, place, &mention.to);
    }
    let Some(circle) = graph.circle() else { return Ok(()) };
    Err(CompileError {
        file: name.to_owned(),
        place: circle.place,
        message: format!("`{}` needs itself: {}", circle.names[0], circle.names.join(" -> ")),
        help: HELP,
    })
}

/// Rules, and the paths on which they lie.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    /// By the path: everything that lies at it or below it.
    below: BTreeMap<Path, usize>,
    /// By the path: the rule itself.
    rules: BTreeMap<Path, usize>,
    /// What is to be connected once all rules are known.
    mentions: Vec<(usize, Path)>,
}

#[derive(Default)]
struct Node {
    /// What it is called, if it is a rule.
    rule: Option<String>,
    place: Option<Place>,
    to: Vec<usize>,
}

/// Rules that need each other.
struct Circle {
    /// Where the first one is, if it is in the user's policy.
    place: Option<Place>,
    /// Their names; the first one is also the last.
    names: Vec<String>,
}

impl Graph {
    /// The rule at `from` mentions these paths.
    fn point(&mut self, from: &Path, place: Option<Place>, to: &[Path]) {
        let rule = self.rule(from);
        let node = &mut self.nodes[rule];
        node.place = node.place.or(place);
        self.mentions.extend(to.iter().map(|path| (rule, path.clone())));
    }

    fn rule(&mut self, path: &Path) -> usize {
        if let Some(known) = self.rules.get(path) {
            return *known;
        }
        let rule = self.add(Some(shown(path)));
        self.rules.insert(path.clone(), rule);
        let mut inner = rule;
        for length in (0..=path.len()).rev() {
            let prefix = path[..length].to_vec();
            let known = self.below.get(&prefix).copied();
            let outer = known.unwrap_or_else(|| self.add(None));
            self.nodes[outer].to.push(inner);
            if known.is_some() {
                break;
            }
            self.below.insert(prefix, outer);
            inner = outer;
        }
        rule
    }

    fn add(&mut self, rule: Option<String>) -> usize {
        self.nodes.push(Node { rule, ..Node::default() });
        self.nodes.len() - 1
    }

    fn connect(&mut self) {
        for (rule, path) in std::mem::take(&mut self.mentions) {
            // A part of what a rule is needs the whole rule, and a package all that is in it.
            let around = (0..path.len()).filter_map(|length| self.rules.get(&path[..length]));
            let all: Vec<usize> = around.chain(self.below.get(&path)).copied().collect();
            self.nodes[rule].to.extend(all);
        }
    }

    fn circle(mut self) -> Option<Circle> {
        self.connect();
        let mut done = vec![false; self.nodes.len()];
        let mut at = vec![None; self.nodes.len()];
        for start in 0..self.nodes.len() {
            if done[start] {
                continue;
            }
            // Each step of the way: a node, and how many of those it points to were tried.
            let mut way = vec![(start, 0)];
            at[start] = Some(0);
            while let Some((node, tried)) = way.last_mut() {
                let Some(&next) = self.nodes[*node].to.get(*tried) else {
                    (at[*node], done[*node]) = (None, true);
                    way.pop();
                    continue;
                };
                *tried += 1;
                if let Some(first) = at[next] {
                    return Some(self.drawn(way[first..].iter().map(|(node, _)| *node)));
                }
                if !done[next] {
                    at[next] = Some(way.len());
                    way.push((next, 0));
                }
            }
        }
        None
    }

    fn drawn(&self, way: impl Iterator<Item = usize>) -> Circle {
        let rules = way.map(|node| &self.nodes[node]).filter(|node| node.rule.is_some());
        let mut rules: Vec<&Node> = rules.collect();
        let first = rules.iter().position(|node| node.place.is_some()).unwrap_or(0);
        rules.rotate_left(first);
        let mut names: Vec<String> = rules.iter().filter_map(|node| node.rule.clone()).collect();
        let first = names.first().cloned().unwrap_or_default();
        if names.len() > MOST_SHOWN {
            names.truncate(MOST_SHOWN);
            names.push("…".to_owned());
        }
        names.push(first);
        Circle { place: rules.first().and_then(|node| node.place), names }
    }
}

/// As a policy spells it.
fn shown(path: &Path) -> String {
    match path.split_first() {
        Some((package, rest)) if package == "spacelift" && !rest.is_empty() => rest.join("."),
        Some((root, rest)) if root == references::BUILTIN => rest.join("."),
        Some(_) | None => format!("data.{}", path.join(".")),
    }
}
