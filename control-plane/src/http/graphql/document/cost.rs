//! What a document expands to, counted without expanding it.

use std::collections::HashMap;

use async_graphql::parser::types::{
    Directive, ExecutableDocument, Field, FragmentDefinition, Selection, SelectionSet,
};
use async_graphql::{Name, Positioned};
use async_graphql_value::Value;

use super::Refusal;

/// How many selections, arguments and directives may be walked in all, each as often as a walk gets
/// there.
const MAX_WALKED: u64 = 20_000;
/// How deep selections may be in each other, over fragments too.
const MAX_DEPTH: usize = 32;
/// How many fragments a document has.
const MAX_FRAGMENTS: usize = 100;
/// How many operations a document has.
const MAX_OPERATIONS: usize = 20;
/// How many aliases a document has.
const MAX_ALIASES: u64 = 500;
/// How many entries the description of the schema may have, by the measure of [`entries`].
const MAX_ENTRIES: u64 = 400_000;
/// How many bytes of variables may be copied: they are with each use.
const MAX_COPIED: u64 = 256 << 20;

/// What executing a document takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Selections, arguments and directives on the way of a walk that knows no fragment again.
    pub walked: u64,
    /// How often a variable is used on that way.
    pub uses: u64,
    /// Entries of the schema's description.
    pub entries: u64,
    /// The levels of selections.
    pub depth: usize,
}

impl Cost {
    /// Counts. It takes one look at each selection of the text.
    pub(super) fn of(document: &ExecutableDocument) -> Result<Self, Refusal> {
        Counter::new(document).count()
    }

    /// Whether that is little enough for variables of so many bytes.
    pub(super) fn check(&self, variables: usize) -> Result<(), Refusal> {
        let copied = self.uses.saturating_mul(variables as u64);
        for (count, most, what) in [
            (self.walked, MAX_WALKED, "fields, arguments and directives with all fragments"),
            (self.entries, MAX_ENTRIES, "entries of the schema"),
            (copied, MAX_COPIED, "bytes of variables"),
        ] {
            if count > most {
                return Err(Refusal::TooMuch { what, most });
            }
        }
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.walked = self.walked.saturating_add(other.walked);
        self.uses = self.uses.saturating_add(other.uses);
        self.entries = self.entries.saturating_add(other.entries);
        self.depth = self.depth.max(other.depth);
    }
}

/// How many entries a list of the schema's description has at most, or nearly: a description of a
/// description multiplies them, and nothing else limits it.
fn entries(field: &str) -> u64 {
    match field {
        "types" => 64,
        "fields" | "inputFields" => 32,
        "args" | "enumValues" | "possibleTypes" | "interfaces" | "directives" => 8,
        _ => 1,
    }
}

/// Counts each fragment once.
struct Counter<'a> {
    document: &'a ExecutableDocument,
    /// None while the fragment is being counted.
    known: HashMap<&'a str, Option<Cost>>,
    aliases: u64,
    /// How many selections this counter itself has looked at.
    looks: u64,
}

impl<'a> Counter<'a> {
    fn new(document: &'a ExecutableDocument) -> Self {
        Self { document, known: HashMap::new(), aliases: 0, looks: 0 }
    }

    fn count(&mut self) -> Result<Cost, Refusal> {
        let document = self.document;
        let many = |what, most: usize| Err(Refusal::TooMuch { what, most: most as u64 });
        if document.fragments.len() > MAX_FRAGMENTS {
            return many("fragments", MAX_FRAGMENTS);
        }
        if document.operations.iter().count() > MAX_OPERATIONS {
            return many("operations", MAX_OPERATIONS);
        }
        let mut all = Cost::default();
        for (_, operation) in document.operations.iter() {
            all.add(directives(&operation.node.directives));
            all.add(self.selections(&operation.node.selection_set, 1)?);
        }
        // Those that nobody spreads are validated too.
        for (name, fragment) in &document.fragments {
            self.fragment(name, fragment, 1)?;
        }
        if self.aliases > MAX_ALIASES {
            return Err(Refusal::TooMuch { what: "aliases", most: MAX_ALIASES });
        }
        Ok(all)
    }

    fn selections(
        &mut self,
        set: &'a Positioned<SelectionSet>,
        depth: usize,
    ) -> Result<Cost, Refusal> {
        let mut all = Cost { depth: 1, ..Cost::default() };
        too_deep(depth)?;
        for selection in &set.node.items {
            self.looks += 1;
            let mut one = match &selection.node {
                Selection::Field(field) => self.field(&field.node, depth)?,
                Selection::FragmentSpread(spread) => {
                    let mut one = directives(&spread.node.directives);
                    let name = &spread.node.fragment_name.node;
                    if let Some(fragment) = self.document.fragments.get(name) {
                        one.add(self.fragment(name, fragment, depth + 1)?);
                    }
                    one
                }
                Selection::InlineFragment(inline) => {
                    let mut one = directives(&inline.node.directives);
                    one.add(self.selections(&inline.node.selection_set, depth + 1)?);
                    one
                }
            };
            one.walked = one.walked.saturating_add(1);
            one.depth += 1;
            all.add(one);
        }
        Ok(all)
    }

    fn field(&mut self, field: &'a Field, depth: usize) -> Result<Cost, Refusal> {
        self.aliases += u64::from(field.alias.is_some());
        let mut one = directives(&field.directives);
        one.add(arguments(&field.arguments));
        if !field.selection_set.node.items.is_empty() {
            one.add(self.selections(&field.selection_set, depth + 1)?);
        }
        one.entries = one.entries.saturating_add(1).saturating_mul(entries(&field.name.node));
        Ok(one)
    }

    fn fragment(
        &mut self,
        name: &'a Name,
        fragment: &'a Positioned<FragmentDefinition>,
        depth: usize,
    ) -> Result<Cost, Refusal> {
        match self.known.get(name.as_str()) {
            Some(Some(cost)) => {
                too_deep(depth + cost.depth - 1)?;
                return Ok(*cost);
            }
            Some(None) => return Err(Refusal::Endless(name.to_string())),
            None => {}
        }
        self.known.insert(name, None);
        let mut cost = directives(&fragment.node.directives);
        cost.add(self.selections(&fragment.node.selection_set, depth)?);
        self.known.insert(name, Some(cost));
        Ok(cost)
    }
}

fn too_deep(depth: usize) -> Result<(), Refusal> {
    let what = "levels";
    if depth > MAX_DEPTH { Err(Refusal::TooMuch { what, most: MAX_DEPTH as u64 }) } else { Ok(()) }
}

fn directives(directives: &[Positioned<Directive>]) -> Cost {
    let mut all = Cost::default();
    for directive in directives {
        all.walked += 1;
        all.add(arguments(&directive.node.arguments));
    }
    all
}

fn arguments(arguments: &[(Positioned<Name>, Positioned<Value>)]) -> Cost {
    let mut all = Cost::default();
    for (_, value) in arguments {
        all.add(literal(&value.node));
    }
    all
}

/// A value in the text. The parser has limited its depth.
fn literal(value: &Value) -> Cost {
    let mut one = Cost { walked: 1, ..Cost::default() };
    match value {
        Value::Variable(_) => one.uses = 1,
        Value::String(text) => one.walked += text.len() as u64 / 64,
        Value::List(values) => values.iter().for_each(|value| one.add(literal(value))),
        Value::Object(values) => values.values().for_each(|value| one.add(literal(value))),
        Value::Null | Value::Number(_) | Value::Boolean(_) | Value::Binary(_) | Value::Enum(_) => {}
    }
    one
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use async_graphql::parser::parse_query;
    use proptest::prelude::*;

    use super::*;

    /// `{...F0}`, and each fragment spreads the next one so often.
    fn chain(fragments: usize, spreads: usize) -> ExecutableDocument {
        let mut text = "{...F0}".to_owned();
        for n in 0..fragments {
            let next = format!("...F{} ", n + 1).repeat(spreads);
            write!(text, " fragment F{n} on Query{{{next}}}").unwrap();
        }
        write!(text, " fragment F{fragments} on Query{{__typename}}").unwrap();
        parse_query(text).unwrap()
    }

    #[test]
    fn fragments_that_double_are_counted_with_one_look_at_each() {
        let document = chain(26, 2);
        let mut counter = Counter::new(&document);
        let cost = counter.count().unwrap();
        assert_eq!(cost.walked, 3 * (1 << 26) - 1, "that many steps a plain walk takes");
        assert_eq!(counter.looks, 1 + 26 * 2 + 1);
        let refused = cost.check(0).unwrap_err();
        assert!(matches!(refused, Refusal::TooMuch { most: MAX_WALKED, .. }), "{refused}");
    }

    #[test]
    fn a_number_without_an_end_stays_at_the_largest() {
        let mut text = "{...F0}".to_owned();
        for n in 0..30 {
            let next = format!("...F{} ", n + 1).repeat(50);
            write!(text, " fragment F{n} on Query{{{next}}}").unwrap();
        }
        text += " fragment F30 on Query{__typename}";
        assert_eq!(Cost::of(&parse_query(text).unwrap()).unwrap().walked, u64::MAX);
    }

    #[test]
    fn a_document_without_an_end_is_refused() {
        for (text, expected) in [
            ("{...a} fragment a on Query{...a ...a}", "contains itself"),
            ("{viewer{id}} fragment a on Query{...b} fragment b on Query{...a}", "contains itself"),
        ] {
            let refused = Cost::of(&parse_query(text).unwrap()).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        let refused = Cost::of(&chain(60, 1)).unwrap_err().to_string();
        assert!(refused.contains("levels"), "{refused}");
        assert!(Cost::of(&chain(101, 1)).unwrap_err().to_string().contains("fragments"));
    }

    #[test]
    fn what_multiplies_elsewhere_is_refused_too() {
        let introspection =
            "{__schema{types{fields{args{name type{name ofType{name}}}type{name}}}}}";
        Cost::of(&parse_query(introspection).unwrap()).unwrap().check(0).unwrap();
        let nested = "{__schema{types{fields{type{fields{type{fields{type{fields{name}}}}}}}}}}";
        let refused = Cost::of(&parse_query(nested).unwrap()).unwrap().check(0).unwrap_err();
        assert!(refused.to_string().contains("entries of the schema"), "{refused}");
        let uses = format!("query($a:ID!){{{}}}", "stack(id:$a){id}".repeat(100));
        let cost = Cost::of(&parse_query(uses).unwrap()).unwrap();
        cost.check(100_000).unwrap();
        assert!(cost.check(4 << 20).unwrap_err().to_string().contains("bytes of variables"));
    }

    /// The walk that the library takes, which looks at a fragment with every spread of it.
    fn walk(document: &ExecutableDocument, set: &SelectionSet) -> u64 {
        let inner = set.items.iter().map(|selection| match &selection.node {
            Selection::Field(field) => walk(document, &field.node.selection_set.node),
            Selection::InlineFragment(inline) => walk(document, &inline.node.selection_set.node),
            Selection::FragmentSpread(spread) => {
                let fragment = document.fragments.get(&spread.node.fragment_name.node);
                fragment.map_or(0, |it| walk(document, &it.node.selection_set.node))
            }
        });
        set.items.len() as u64 + inner.sum::<u64>()
    }

    proptest! {
        #[test]
        fn the_count_is_that_of_a_plain_walk(sets in proptest::collection::vec(proptest::collection::vec(0_u8..8, 1..5), 1..6)) {
            let last = sets.len() - 1;
            let mut text = String::new();
            for (n, set) in sets.iter().enumerate() {
                if n == 0 { text += "{" } else { write!(text, " fragment F{n} on Query{{").unwrap() }
                for kind in set {
                    match kind {
                        // Only later ones, so that there is an end.
                        0..=3 if n < last => write!(text, " ...F{}", n + 1 + usize::from(*kind) % (last - n)).unwrap(),
                        4 => text += " ...{b}",
                        5 => text += " c{d e}",
                        _ => text += " a",
                    }
                }
                text += "}";
            }
            let document = parse_query(&text).unwrap();
            let (_, operation) = document.operations.iter().next().unwrap();
            let cost = Cost::of(&document).unwrap();
            prop_assert_eq!(cost.walked, walk(&document, &operation.node.selection_set.node), "{}", text);
        }
    }
}
