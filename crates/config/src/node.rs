//! YAML and JSON documents as trees that know where each value stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::meta::Position;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Position,
}

/// What YAML can say, as far as resources need it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A field of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Position,
    pub(crate) node: Node,
}

impl Value {
    /// What a user would call it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Uint(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }

    /// The JSON that protobuf's Struct would give: every number is an IEEE double, keys stay in order
    /// (spec: wasmplugin-and-routing §1.7).
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => double(*i as f64),
            Self::Uint(u) => double(*u as f64),
            Self::Float(f) => double(*f),
            Self::Text(s) => Json::String(s.clone()),
            Self::List(items) => Json::Array(items.iter().map(|n| n.value.to_json()).collect()),
            Self::Map(entries) => {
                Json::Object(entries.iter().map(|e| (e.key.clone(), e.node.value.to_json())).collect())
            }
        }
    }
}

fn double(value: f64) -> serde_json::Value {
    /// Integers up to here have a double of their own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        serde_json::Value::from(value as i64)
    } else {
        serde_json::Number::from_f64(value).map_or(serde_json::Value::Null, serde_json::Value::Number)
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { at: position(&spanned.referenced), value: spanned.value }
    }
}

fn position(location: &serde_saphyr::Location) -> Position {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(i64::try_from(v).map_or(Value::Uint(v), Value::Int))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::Text(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<Value>>()? {
            let node: Spanned<Value> = map.next_value()?;
            let key_at = position(&key.referenced);
            let key = match key.value {
                Value::Text(text) => text,
                Value::Int(i) => i.to_string(),
                Value::Bool(b) => b.to_string(),
                other => {
                    return Err(serde::de::Error::custom(format!("{} cannot be a field name", other.kind())));
                }
            };
            entries.push(Entry { key, key_at, node: node.into() });
        }
        Ok(Value::Map(entries))
    }
}

/// Why a file is not YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) at: Position,
    pub(crate) message: String,
}

/// Parses all documents of a file. Empty documents are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let documents: Vec<Spanned<Value>> = serde_saphyr::from_multiple(text).map_err(|e| {
        let at = e.location().map_or(Position { line: 1, column: 1 }, |l| position(&l));
        SyntaxError { at, message: one_line(&e.without_snippet().to_string()) }
    })?;
    Ok(documents.into_iter().map(Node::from).filter(|n| n.value != Value::Null).collect())
}

/// The library's message without its own "at line …", which the diagnostic says better.
fn one_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or(message);
    let line = line.strip_prefix("error: ").unwrap_or(line);
    match line.find(" at line ") {
        Some(end) => line.get(..end).unwrap_or(line).to_owned(),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_place() {
        let documents = parse("a: 1\n---\n# comment\nb:\n  - x\n  - {c: true}\n").unwrap();
        assert_eq!(documents.len(), 2);
        let Value::Map(entries) = &documents[1].value else { panic!("{documents:?}") };
        assert_eq!((entries[0].key.as_str(), entries[0].key_at), ("b", Position { line: 4, column: 1 }));
        let Value::List(items) = &entries[0].node.value else { panic!("{entries:?}") };
        assert_eq!(items[0].at, Position { line: 5, column: 5 });
        let Value::Map(inner) = &items[1].value else { panic!("{items:?}") };
        assert_eq!(inner[0].node, Node { value: Value::Bool(true), at: Position { line: 6, column: 9 } });
    }

    #[test]
    fn a_syntax_error_has_a_place() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.at.line >= 2, "{error:?}");
        assert!(!error.message.contains("line"), "{error:?}");
    }

    #[test]
    fn numbers_become_doubles() {
        let documents = parse("{a: 1, b: 1.0, c: 9007199254740993, d: 1.5, e: '2', f: 1e30}").unwrap();
        let json = documents[0].value.to_json().to_string();
        assert_eq!(json, r#"{"a":1,"b":1,"c":9007199254740992,"d":1.5,"e":"2","f":1e+30}"#);
    }

    #[test]
    fn json_is_yaml() {
        let json = r#"{"kind": "List", "items": [{"a": null}]}"#;
        assert_eq!(
            parse(json).unwrap()[0].value.to_json().to_string(),
            r#"{"kind":"List","items":[{"a":null}]}"#
        );
    }
}
