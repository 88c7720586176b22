//! The strings in a secret that is JSON: tools take it apart and show what is in it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::forms::Pattern;

/// JSON within a string of JSON is looked into as well, so deep.
const DEEPEST: u8 = 3;

/// All strings in `value`, if it is JSON.
pub(super) fn of(value: &[u8]) -> Vec<Pattern> {
    let mut leaves = Vec::new();
    gather(value, DEEPEST, &mut leaves);
    leaves
}

fn gather(value: &[u8], deepest: u8, leaves: &mut Vec<Pattern>) {
    if deepest == 0 || !matches!(value.trim_ascii().first(), Some(b'{' | b'[' | b'"')) {
        return;
    }
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(value);
    if Gather(&mut found).deserialize(&mut reader).and_then(|()| reader.end()).is_err() {
        return;
    }
    for leaf in found {
        gather(&leaf, deepest - 1, leaves);
        leaves.push(leaf);
    }
}

struct Gather<'a>(&'a mut Vec<Pattern>);

impl<'de> DeserializeSeed<'de> for Gather<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Gather<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, leaf: &str) -> Result<(), E> {
        self.0.push(Zeroizing::new(leaf.as_bytes().to_vec()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(Gather(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while fields.next_key::<serde::de::IgnoredAny>()?.is_some() {
            fields.next_value_seed(Gather(self.0))?;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
