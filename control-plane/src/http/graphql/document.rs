//! A document, looked at before anything else works on it.
//!
//! The parser and the validation of the GraphQL library take time that grows much faster than the text:
//! brackets nest on the stack, and a fragment is walked once for every spread of it, so that 27 of them
//! in a row are walked 2^27 times. Therefore the text is first cut into [`tokens`], which takes one pass,
//! and its size is limited there; then it is parsed; then [`cost`] counts what it expands to, each
//! fragment once. Only what is small by all of that is validated and executed.
//!
//! Without a session only a document that opens one gets as far as the parser.

mod cost;
mod tokens;

use async_graphql::parser::parse_query;
use async_graphql::parser::types::{ExecutableDocument, OperationType, Selection};

use self::cost::Cost;
use self::tokens::{Limits, Token};

/// Of a document with a session.
const SESSION: Limits = Limits { tokens: 5_000, nesting: 32, name: 200, directives: 100 };
/// Of a document without one: the login of public clients has some 40 tokens and nests twice.
const OPEN: Limits = Limits { tokens: 100, nesting: 4, name: 100, directives: 0 };
/// The only field without a session.
pub(super) const LOGIN: &str = "apiKeyUser";

/// Why a document is not executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It asks for more than to open a session.
    #[error("unauthorized")]
    Unauthorized,
    /// It cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// It is too much.
    #[error("the query is too large: it has more than {most} {what}: ask for less at once")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        most: u64,
    },
    /// A fragment that has no end.
    #[error("the fragment {0} contains itself")]
    Endless(String),
}

/// A document that may be executed.
#[derive(Debug)]
pub(super) struct Document {
    /// As the library takes it.
    pub parsed: ExecutableDocument,
    /// Whether it changes something.
    pub is_change: bool,
}

/// Reads the document of somebody with a session, whose variables have so many bytes.
pub(super) fn read(text: &str, variables: usize) -> Result<Document, Refusal> {
    tokens::scan(text, &SESSION)?;
    let parsed = parse(text)?;
    Cost::of(&parsed)?.check(variables)?;
    let mut operations = parsed.operations.iter();
    let is_change = operations.any(|(_, it)| it.node.ty == OperationType::Mutation);
    Ok(Document { parsed, is_change })
}

/// Reads the document of somebody without a session, who can only open one.
pub(super) fn read_open(text: &str) -> Result<Document, Refusal> {
    let tokens = tokens::scan(text, &OPEN).map_err(|_| Refusal::Unauthorized)?;
    if !looks_like_login(&tokens) {
        return Err(Refusal::Unauthorized);
    }
    let parsed = parse(text)?;
    if !is_login(&parsed) {
        return Err(Refusal::Unauthorized);
    }
    Ok(Document { parsed, is_change: true })
}

fn parse(text: &str) -> Result<ExecutableDocument, Refusal> {
    parse_query(text).map_err(|error| Refusal::Malformed(error.to_string()))
}

/// Whether the text is one mutation whose first field opens a session.
fn looks_like_login(tokens: &[Token<'_>]) -> bool {
    let mut rest = tokens.iter().copied();
    if rest.next() != Some(Token::Name("mutation")) {
        return false;
    }
    let mut rest = rest.skip_while(|token| *token != Token::Mark(b'{')).skip(1);
    let first = rest.next();
    let named = match rest.next() {
        Some(Token::Mark(b':')) => rest.next(),
        _ => first,
    };
    named == Some(Token::Name(LOGIN))
}

/// Whether it opens one session and does nothing else.
fn is_login(document: &ExecutableDocument) -> bool {
    let mut operations = document.operations.iter();
    let (Some((_, operation)), None) = (operations.next(), operations.next()) else { return false };
    let [selection] = operation.node.selection_set.node.items.as_slice() else { return false };
    let Selection::Field(field) = &selection.node else { return false };
    let is_leaf = |selection: &Selection| match selection {
        Selection::Field(field) => field.node.selection_set.node.items.is_empty(),
        Selection::FragmentSpread(_) | Selection::InlineFragment(_) => false,
    };
    document.fragments.is_empty()
        && operation.node.ty == OperationType::Mutation
        && field.node.name.node == LOGIN
        && field.node.selection_set.node.items.iter().all(|selection| is_leaf(&selection.node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_session_only_the_login_gets_to_the_parser() {
        for login in [
            "mutation($id:ID!$secret:String!){apiKeyUser(id: $id, secret: $secret){jwt,validUntil}}",
            "mutation GetToken($id: ID!, $secret: String!) { user: apiKeyUser(id: $id, secret: $secret) { jwt } }",
            "mutation{apiKeyUser(id:\"a\",secret:\"{\"){__typename jwt}}",
        ] {
            assert!(read_open(login).unwrap().is_change, "{login}");
        }
        for other in [
            "",
            "{apiKeyUser(id:\"a\",secret:\"b\"){jwt}}",
            "query{viewer{id}}",
            "{__schema{types{name}}}",
            "mutation{runStop(stack:\"a\",run:\"b\"){id}}",
            "mutation{a:apiKeyUser(id:\"a\",secret:\"b\"){jwt} b:apiKeyUser(id:\"a\",secret:\"b\"){jwt}}",
            "mutation{apiKeyUser(id:\"a\",secret:\"b\"){...f}} fragment f on UserSession{jwt}",
            "mutation{apiKeyUser(id:\"a\",secret:\"b\"){jwt}} {viewer{id}}",
            "mutation{apiKeyUser(id:\"a\",secret:\"b\"){jwt{a}}}",
            "mutation{apiKeyUser(id:\"a\",secret:\"b\")@skip(if:true){jwt}}",
        ] {
            assert!(read_open(other).is_err(), "{other}");
        }
        let many =
            format!("mutation{{apiKeyUser(id:\"a\",secret:\"b\"){{{}}}}}", "jwt ".repeat(100));
        assert_eq!(read_open(&many).unwrap_err(), Refusal::Unauthorized);
    }

    #[test]
    fn what_nests_deeply_is_refused_before_the_parser_nests_with_it() {
        // Each of these would take the stack of a thread.
        for text in ["{a(b:[", "{a(b:{c:", "{a{", "query($a:["] {
            let text = text.repeat(60_000 / text.len());
            assert!(matches!(read(&text, 0), Err(Refusal::TooMuch { .. })), "{}", &text[..9]);
        }
    }
}
