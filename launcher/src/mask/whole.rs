//! Texts and JSON that are there as a whole.

use serde_json::Value;

use super::{Masker, Secrets};

impl Secrets {
    /// A text with its secrets masked.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        Hider::new(self).text(text)
    }

    /// A value with the secrets masked in everything that it says. They are looked for in the strings
    /// themselves, not in how JSON spells them.
    #[must_use]
    pub fn hide_in(&self, value: Value) -> Value {
        Hider::new(self).value(value)
    }
}

/// Masks one text after the other: making a masker costs more than masking a short text.
struct Hider(Masker);

impl Hider {
    fn new(secrets: &Secrets) -> Self {
        Self(Masker::new(secrets))
    }

    fn text(&mut self, text: &str) -> String {
        let mut shown = Vec::new();
        self.0.push(text.as_bytes(), &mut shown);
        self.0.finish(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    }

    fn value(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(values) => {
                Value::Array(values.into_iter().map(|value| self.value(value)).collect())
            }
            Value::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .map(|(name, value)| (self.text(&name), self.value(value)))
                    .collect(),
            ),
            Value::Number(number) => {
                let text = number.to_string();
                let shown = self.text(&text);
                if shown == text { Value::Number(number) } else { Value::String(shown) }
            }
            Value::Null | Value::Bool(_) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_that_json_spells_otherwise_is_masked() {
        let mut secrets = Secrets::default();
        secrets.insert("A", b"pass\"word").unwrap();
        secrets.insert("B", b"12345").unwrap();
        let value = json!({"pass\"word": ["x pass\"word y", 12345, true]});
        assert_eq!(secrets.hide_in(value), json!({"*****": ["x ***** y", "*****", true]}));
        assert_eq!(secrets.hide("a 12345"), "a *****");
    }
}
