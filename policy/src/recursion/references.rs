//! What each rule of a policy mentions, with names resolved as Rego does: local names hide rules.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of the engine's twenty kinds of expressions three are names"
)]

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{
    AssignOp, Expr, Import, Literal, LiteralStmt, Module, Query, Ref, Rule, RuleAssign, RuleBody,
    RuleHead, Span,
};

use super::Path;
use crate::compile::Place;

/// In front of the paths of built-in functions, which `with` may replace. No package is called so.
pub(super) const BUILTIN: &str = "(builtin)";

/// A rule and the paths that it mentions.
pub(super) struct Mention {
    pub(super) from: Path,
    pub(super) file: String,
    pub(super) place: Place,
    pub(super) to: Vec<Path>,
}

/// Everything that rules of `modules` mention.
pub(super) fn of(modules: &[Ref<Module>]) -> Vec<Mention> {
    let mut known = Known::default();
    for module in modules {
        let package = path_of(&module.package.refr).0;
        for rule in &module.policy {
            known.add(&package, rule);
        }
    }
    let mut mentions = Vec::new();
    for module in modules {
        let package = path_of(&module.package.refr).0;
        let imports = module.imports.iter().filter_map(imported).collect();
        for rule in &module.policy {
            let mut walk = Walk {
                known: &known,
                package: &package,
                imports: &imports,
                locals: vec![BTreeSet::new()],
                to: Vec::new(),
                replaced: Vec::new(),
            };
            walk.rule(rule);
            let (file, place) = at(rule.span());
            let from = below(&package, head(rule).0);
            for (from, to) in walk.replaced {
                mentions.push(Mention { from, file: String::new(), place, to: vec![to] });
            }
            mentions.push(Mention { from, file, place, to: walk.to });
        }
    }
    mentions
}

/// The names of the rules that the module from `file` declares, counted from its package.
pub(crate) fn names(modules: &[Ref<Module>], file: &str) -> BTreeSet<String> {
    let own = modules.iter().filter(|module| module.package.span.source.get_path() == file);
    own.flat_map(|module| &module.policy).map(|rule| head(rule).0.join(".")).collect()
}

fn at(span: &Span) -> (String, Place) {
    (span.source.get_path().clone(), Place { line: span.line, column: span.col })
}

/// The rules of all modules.
#[derive(Default)]
struct Known {
    /// The first part of each rule's name, by package.
    names: BTreeMap<Path, BTreeSet<String>>,
    functions: BTreeSet<Path>,
}

impl Known {
    fn add(&mut self, package: &Path, rule: &Rule) {
        let (path, is_function) = head(rule);
        if let Some(name) = path.first() {
            self.names.entry(package.clone()).or_default().insert(name.clone());
        }
        if is_function {
            self.functions.insert(below(package, path));
        }
    }
}

/// The known part of a rule's name, and whether it is a function.
fn head(rule: &Rule) -> (Path, bool) {
    let (refr, is_function) = match rule {
        Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. }, .. } => {
            (refr, false)
        }
        Rule::Spec { head: RuleHead::Func { refr, .. }, .. } => (refr, true),
        Rule::Default { refr, args, .. } => (refr, !args.is_empty()),
    };
    (path_of(refr).0, is_function)
}

fn below(package: &Path, path: Path) -> Path {
    package.iter().cloned().chain(path).collect()
}

/// The name that an import introduces, and what for; none if it is no rule.
fn imported(import: &Import) -> Option<(String, Path)> {
    let path = path_of(&import.refr).0;
    let name = match &import.r#as {
        Some(name) => name.text().to_owned(),
        None => path.last()?.clone(),
    };
    Some((name, path))
}

/// A reference as far as its parts are known, and whether that is all of it.
fn path_of(expr: &Expr) -> (Path, bool) {
    let mut parts = Vec::new();
    let mut at = expr;
    loop {
        let (inner, part) = match at {
            Expr::RefDot { refr, field, .. } => (refr, text(&field.1)),
            Expr::RefBrack { refr, index, .. } => (
                refr,
                match &**index {
                    Expr::String { value, .. } | Expr::RawString { value, .. } => text(value),
                    _ => None,
                },
            ),
            Expr::Var { value, span, .. } => {
                parts.push(Some(text(value).unwrap_or_else(|| span.text().to_owned())));
                break;
            }
            // Not a reference to anything by name.
            _ => return (Path::new(), false),
        };
        parts.push(part);
        at = inner;
    }
    let all = parts.len();
    let known: Path = parts.into_iter().rev().map_while(|part| part).collect();
    let is_all = known.len() == all;
    (known, is_all)
}

fn text(value: &regorus::Value) -> Option<String> {
    value.as_string().ok().map(|text| text.as_ref().to_owned())
}

/// Goes through one rule.
struct Walk<'a> {
    known: &'a Known,
    package: &'a Path,
    imports: &'a BTreeMap<String, Path>,
    /// Names that hide rules, of each scope around.
    locals: Vec<BTreeSet<String>>,
    to: Vec<Path>,
    /// Functions that `with` puts in the place of others: whoever calls these calls those.
    replaced: Vec<(Path, Path)>,
}

impl Walk<'_> {
    fn rule(&mut self, rule: &Rule) {
        match rule {
            Rule::Spec { head, bodies, .. } => {
                if let RuleHead::Func { args, .. } = head {
                    self.declare_all(args);
                }
                if bodies.is_empty() {
                    self.head(head);
                }
                for RuleBody { assign, is_else, query, .. } in bodies {
                    self.enter(query);
                    self.assign(assign.as_ref());
                    if !is_else {
                        self.head(head);
                    }
                    self.leave();
                }
            }
            Rule::Default { args, value, .. } => {
                self.declare_all(args);
                self.expr(value);
            }
        }
    }

    fn head(&mut self, head: &RuleHead) {
        match head {
            RuleHead::Compr { refr, assign, .. } => {
                self.indexes(refr);
                self.assign(assign.as_ref());
            }
            RuleHead::Set { refr, key, .. } => {
                self.indexes(refr);
                if let Some(key) = key {
                    self.expr(key);
                }
            }
            RuleHead::Func { refr, args, assign, .. } => {
                self.indexes(refr);
                self.all(args);
                self.assign(assign.as_ref());
            }
        }
    }

    fn assign(&mut self, assign: Option<&RuleAssign>) {
        if let Some(assign) = assign {
            self.expr(&assign.value);
        }
    }

    /// What stands in the brackets of a reference, not the reference itself.
    fn indexes(&mut self, expr: &Expr) {
        match expr {
            Expr::RefDot { refr, .. } => self.indexes(refr),
            Expr::RefBrack { refr, index, .. } => {
                self.indexes(refr);
                self.expr(index);
            }
            Expr::Var { .. } => {}
            other => self.expr(other),
        }
    }

    /// Goes through a query. Its names hold until [`Self::leave`].
    fn enter(&mut self, query: &Query) {
        self.locals.push(BTreeSet::new());
        for statement in &query.stmts {
            self.statement(statement);
        }
    }

    fn leave(&mut self) {
        self.locals.pop();
    }

    fn statement(&mut self, statement: &LiteralStmt) {
        for modifier in &statement.with_mods {
            self.expr(&modifier.r#as);
            let [target, by] = [&modifier.refr, &modifier.r#as].map(|expr| self.resolved(expr));
            if let (Some(target), Some(by)) = (target, by)
                && self.known.functions.contains(&by)
            {
                self.replaced.push((target, by));
            }
        }
        match &statement.literal {
            Literal::SomeVars { vars, .. } => {
                for name in vars {
                    self.declare(name.text());
                }
            }
            Literal::SomeIn { key, value, collection, .. } => {
                self.expr(collection);
                for pattern in key.iter().chain([value]) {
                    self.declare_in(pattern);
                    self.expr(pattern);
                }
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr),
            Literal::Every { key, value, domain, query, .. } => {
                self.expr(domain);
                self.locals.push(BTreeSet::new());
                for name in key.iter().chain([value]) {
                    self.declare(name.text());
                }
                self.enter(query);
                self.leave();
                self.leave();
            }
        }
    }

    fn declare(&mut self, name: &str) {
        if let Some(scope) = self.locals.last_mut() {
            scope.insert(name.to_owned());
        }
    }

    /// Every name in a pattern is a new one.
    fn declare_in(&mut self, pattern: &Expr) {
        match pattern {
            Expr::Var { span, .. } => self.declare(span.text()),
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.declare_all(items),
            Expr::Object { fields, .. } => {
                for (_, _, value) in fields {
                    self.declare_in(value);
                }
            }
            _ => {}
        }
    }

    fn declare_all(&mut self, patterns: &[Ref<Expr>]) {
        for pattern in patterns {
            self.declare_in(pattern);
        }
    }

    fn all(&mut self, exprs: &[Ref<Expr>]) {
        for expr in exprs {
            self.expr(expr);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                self.to.extend(self.resolved(expr));
                self.indexes(expr);
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.all(items),
            Expr::Object { fields, .. } => {
                for (_, key, value) in fields {
                    self.expr(key);
                    self.expr(value);
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.enter(query);
                self.expr(term);
                self.leave();
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.enter(query);
                self.expr(key);
                self.expr(value);
                self.leave();
            }
            Expr::Call { fcn, params, .. } => {
                self.expr(fcn);
                self.all(params);
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => {
                // What stands to the right does not see the new name yet.
                self.expr(rhs);
                self.declare_in(lhs);
                self.expr(lhs);
            }
            Expr::Membership { key, value, collection, .. } => {
                if let Some(key) = key {
                    self.expr(key);
                }
                self.expr(value);
                self.expr(collection);
            }
        }
    }

    /// What a reference means; none if it is a local name, or the input.
    fn resolved(&self, expr: &Expr) -> Option<Path> {
        let (path, _) = path_of(expr);
        let (root, rest) = path.split_first()?;
        if self.locals.iter().any(|scope| scope.contains(root)) {
            return None;
        }
        let known = self.known.names.get(self.package).is_some_and(|names| names.contains(root));
        let absolute = match self.imports.get(root) {
            _ if known => return Some(below(self.package, path)),
            Some(import) => below(import, rest.to_vec()),
            None if matches!(root.as_str(), "data" | "input") => path,
            None => return Some(std::iter::once(BUILTIN.to_owned()).chain(path).collect()),
        };
        let (root, rest) = absolute.split_first()?;
        (root == "data").then(|| rest.to_vec())
    }
}
