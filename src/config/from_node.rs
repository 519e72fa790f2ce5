//! Trees into values, by serde.
//!
//! Must not know any key. Invariants: a scalar is the text in the file, and what reads it decides what it means; a
//! null is nothing, an empty list or an empty map; an error has the place and the key of what does not fit, and never the
//! value.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::error::ConfigError;
use super::node::{Entry, Node, Value, join};

/// The value of `node`, whose key is `key`.
pub(super) fn read<'de, T: Deserialize<'de>>(node: &'de Node, key: &str) -> Result<T, ConfigError> {
    T::deserialize(node).map_err(|error| below(key, node, error))
}

/// The error with the place and the key of the value in which it was found.
fn below(key: &str, node: &Node, mut error: ConfigError) -> ConfigError {
    error.place.get_or_insert_with(|| node.place.clone());
    error.key = match error.key.as_str() {
        "" => key.to_owned(),
        inner => join(key, inner),
    };
    error
}

impl de::Error for ConfigError {
    /// What follows `hint: ` on a line of its own is the hint.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        match text.split_once("\nhint: ") {
            Some((message, hint)) => Self::new(None, "", message).hint(hint),
            None => Self::new(None, "", text),
        }
    }
}

impl Node {
    fn refused(&self, expected: &str) -> ConfigError {
        let message = format!("must be {expected}, not {}", self.kind());
        ConfigError::new(Some(&self.place), "", message)
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar { .. } => self.deserialize_str(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Scalar { text, .. } => visitor.visit_borrowed_str(text),
            Value::Null | Value::List(_) | Value::Map(_) => Err(self.refused("a single value")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        if self.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        let items = match &self.value {
            Value::Null => &[][..],
            Value::List(items) => items,
            Value::Scalar { .. } | Value::Map(_) => {
                let error = self.refused("a list");
                return Err(error.hint("a list is written `[one, two]`"));
            }
        };
        visitor.visit_seq(de::value::SeqDeserializer::new(items.iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        if matches!(self.value, Value::Scalar { .. } | Value::List(_)) {
            return Err(self.refused("a map"));
        }
        visitor.visit_map(Entries {
            rest: self.entries().iter(),
            value_of: None,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct enum identifier
    }
}

impl<'de> de::IntoDeserializer<'de, ConfigError> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The entries of a map, one by one.
struct Entries<'de> {
    rest: std::slice::Iter<'de, Entry>,
    value_of: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = ConfigError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConfigError> {
        self.value_of = self.rest.next();
        let key = self.value_of.map(|entry| entry.key.as_str());
        key.map(|key| seed.deserialize(de::value::BorrowedStrDeserializer::new(key)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ConfigError> {
        let entry = self
            .value_of
            .ok_or_else(|| de::Error::custom("a value without a key"))?;
        seed.deserialize(&entry.value)
            .map_err(|error| below(&entry.key, &entry.value, error))
    }
}
