//! A strict JSON reader: it reads the known fields of each object, and only checks everything else.
//!
//! All readers of a digest must see the same content. Image-spec `considerations.md` forbids duplicate names. Readers in Go
//! also treat names as equal that differ only by case, and use the last one. So two names of one object that are equal
//! under case folding are an error, and so is a known name in another spelling, which Go reads and others do not. `null`
//! means absent, as in Go. Must not know what the fields mean. Invariants: depth and width are limited, so no input
//! overflows the stack or takes much more memory than its own bytes; unknown fields are not kept.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::case_folding::fold;
use super::excerpt;
use super::json_text::as_go_reads;

/// The maximum depth of values that no field reads. A manifest has five levels. `serde_json` stops at 128 to protect the
/// stack; this limit is lower so that the error is ours.
const DEPTH_MAX: usize = 100;

/// The maximum of names in one object. Annotations have the most, some hundreds. The names are kept while their object is
/// read.
const NAMES_MAX: usize = 10_000;

/// The maximum of elements in one list: six times the layers of a virtual disk in a manifest of 4 MiB.
pub(super) const ELEMENTS_MAX: usize = 100_000;

/// The maximum of values in one document: 100,000 layers with annotations. Without it, 16 MiB could contain five million.
const VALUES_MAX: usize = 1_000_000;

/// An object with known fields.
pub(super) trait Fields: Default {
    /// The type that the object is read into.
    type Whole;
    /// The names of its fields.
    const NAMES: &'static [&'static str];

    /// Reads one field; `name` may be unknown.
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error>;

    /// Called at the end of the object; an error is a sentence that says what is wrong.
    fn finish(self) -> Result<Self::Whole, String>;
}

/// Reads `bytes`, which must be one object.
pub(super) fn read<T: Fields>(bytes: &[u8]) -> Result<T::Whole, serde_json::Error> {
    let budget = Budget {
        values_left: Cell::new(VALUES_MAX),
    };
    let text = as_go_reads(bytes);
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    let whole = Seed::<ObjectOf<T>>::new(&budget).deserialize(&mut deserializer)?;
    deserializer.end()?;
    whole.ok_or_else(|| serde_json::Error::custom("`null` instead of an object"))
}

/// What the rest of one document may contain.
struct Budget {
    values_left: Cell<usize>,
}

impl Budget {
    fn take<E: Error>(&self) -> Result<(), E> {
        let left = self.values_left.get().checked_sub(1);
        let left = left.ok_or_else(|| E::custom(format_args!("more than {VALUES_MAX} values")))?;
        self.values_left.set(left);
        Ok(())
    }
}

/// The value of the current field.
pub(super) struct Value<'a, A> {
    map: &'a mut A,
    budget: &'a Budget,
    is_map: bool,
}

impl<'de, A: MapAccess<'de>> Value<'_, A> {
    pub(super) fn text(self) -> Result<Option<String>, A::Error> {
        self.map.next_value_seed(Seed::<Text>::new(self.budget))
    }

    /// A signed number of 64 bits, as Go's `int64`.
    pub(super) fn integer(self) -> Result<Option<i64>, A::Error> {
        self.map.next_value_seed(Seed::<Integer>::new(self.budget))
    }

    pub(super) fn object<T: Fields>(self) -> Result<Option<T::Whole>, A::Error> {
        self.map
            .next_value_seed(Seed::<ObjectOf<T>>::new(self.budget))
    }

    pub(super) fn list<T: Fields>(self) -> Result<Option<Vec<T::Whole>>, A::Error> {
        self.map
            .next_value_seed(Seed::<ListOf<T>>::new(self.budget))
    }

    pub(super) fn text_list(self) -> Result<Option<Vec<String>>, A::Error> {
        self.map.next_value_seed(Seed::<TextList>::new(self.budget))
    }

    /// A map of any names and texts. Names that differ only by case are different.
    pub(super) fn text_map(self) -> Result<Option<BTreeMap<String, String>>, A::Error> {
        self.map.next_value_seed(Seed::<TextMap>::new(self.budget))
    }

    /// Checks the value and discards it.
    pub(super) fn skip(self) -> Result<(), A::Error> {
        self.map.next_value_seed(Unread {
            budget: self.budget,
            depth_left: DEPTH_MAX,
            is_map: self.is_map,
        })
    }
}

/// A type that a value is read into; all of them read `null` as `None`.
struct Seed<'a, K> {
    budget: &'a Budget,
    kind: PhantomData<K>,
}

struct Text;
struct Integer;
struct TextList;
struct TextMap;
struct ObjectOf<T>(PhantomData<T>);
struct ListOf<T>(PhantomData<T>);

impl<'a, K> Seed<'a, K> {
    fn new(budget: &'a Budget) -> Self {
        Self {
            budget,
            kind: PhantomData,
        }
    }
}

/// Implements `deserialize` for each kind of seed; the visitors differ.
macro_rules! seed {
    ([$($generics:tt)*] $kind:ty => $value:ty) => {
        impl<'de, $($generics)*> DeserializeSeed<'de> for Seed<'_, $kind> {
            type Value = Option<$value>;

            fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
                self.budget.take()?;
                from.deserialize_any(self)
            }
        }
    };
}

seed!([] Text => String);
seed!([] Integer => i64);
seed!([] TextMap => BTreeMap<String, String>);
seed!([] TextList => Vec<String>);
seed!([T: Fields] ObjectOf<T> => T::Whole);
seed!([T: Fields] ListOf<T> => Vec<T::Whole>);

impl Visitor<'_> for Seed<'_, Text> {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }
}

impl Visitor<'_> for Seed<'_, Integer> {
    type Value = Option<i64>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number of at most 63 bits")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        let too_large = |_| E::custom(format_args!("the number {number} has more than 63 bits"));
        number.try_into().map(Some).map_err(too_large)
    }
}

impl<'de> Visitor<'de> for Seed<'_, TextMap> {
    type Value = Option<BTreeMap<String, String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of strings")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if texts.len() >= NAMES_MAX {
                return Err(too_many_names());
            }
            if texts.contains_key(&name) {
                let name = excerpt(&name);
                return Err(A::Error::custom(format_args!("duplicate name {name}")));
            }
            let text = map.next_value_seed(Seed::<Text>::new(self.budget))?;
            texts.insert(name, text.unwrap_or_default());
        }
        Ok(Some(texts))
    }
}

impl<'de, T: Fields> Visitor<'de> for Seed<'_, ObjectOf<T>> {
    type Value = Option<T::Whole>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = T::default();
        let mut names = Names::default();
        while let Some(name) = map.next_key::<String>()? {
            let folded = fold(&name);
            let is_meant = |known: &&&str| fold(known) == folded;
            if let Some(known) = T::NAMES.iter().find(is_meant)
                && **known != name
            {
                return Err(A::Error::custom(format_args!(
                    "the name {} must be spelled {known:?}: some readers treat the two as equal, and others do not",
                    excerpt(&name)
                )));
            }
            names.add(&name, folded)?;
            let value = Value {
                map: &mut map,
                budget: self.budget,
                is_map: is_map(&name),
            };
            fields.read(&name, value)?;
        }
        fields.finish().map(Some).map_err(A::Error::custom)
    }
}

impl<'de> Visitor<'de> for Seed<'_, TextList> {
    type Value = Option<Vec<String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of strings")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element_seed(Seed::<Text>::new(self.budget))? {
            check_length(texts.len())?;
            texts.push(text.unwrap_or_default());
        }
        Ok(Some(texts))
    }
}

impl<'de, T: Fields> Visitor<'de> for Seed<'_, ListOf<T>> {
    type Value = Option<Vec<T::Whole>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of objects")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(Seed::<ObjectOf<T>>::new(self.budget))? {
            check_length(elements.len())?;
            // Go reads `null` as an object without fields.
            elements.push(match element {
                Some(element) => element,
                None => T::default().finish().map_err(A::Error::custom)?,
            });
        }
        Ok(Some(elements))
    }
}

/// A value that no field reads.
#[derive(Clone, Copy)]
struct Unread<'a> {
    budget: &'a Budget,
    depth_left: usize,
    /// Whether its names, if it is an object, may be any text.
    is_map: bool,
}

impl Unread<'_> {
    fn inner<E: Error>(self, is_map: bool) -> Result<Self, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| {
            E::custom(format_args!(
                "values are nested deeper than {DEPTH_MAX} levels"
            ))
        })?;
        Ok(Self {
            depth_left,
            is_map,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Unread<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.budget.take()?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unread<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let element = self.inner(false)?;
        let mut length = 0;
        while list.next_element_seed(element)?.is_some() {
            check_length(length)?;
            length += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = Names::default();
        while let Some(name) = map.next_key::<String>()? {
            let one_spelling = if self.is_map {
                name.clone()
            } else {
                fold(&name)
            };
            names.add(&name, one_spelling)?;
            map.next_value_seed(self.inner(is_map(&name))?)?;
        }
        Ok(())
    }
}

/// The names of one object so far, in their canonical spelling.
#[derive(Default)]
struct Names(HashSet<String>);

impl Names {
    fn add<E: Error>(&mut self, name: &str, one_spelling: String) -> Result<(), E> {
        if self.0.len() >= NAMES_MAX {
            return Err(too_many_names());
        }
        if self.0.insert(one_spelling) {
            Ok(())
        } else {
            Err(given_twice(name))
        }
    }
}

/// Annotations are a map of any text (image-spec `annotations.md`), wherever they are.
fn is_map(name: &str) -> bool {
    name == "annotations"
}

/// Whether a list of `length` elements may have another one.
fn check_length<E: Error>(length: usize) -> Result<(), E> {
    if length < ELEMENTS_MAX {
        return Ok(());
    }
    Err(E::custom(format_args!(
        "a list of more than {ELEMENTS_MAX} elements"
    )))
}

fn too_many_names<E: Error>() -> E {
    E::custom(format_args!("an object of more than {NAMES_MAX} names"))
}

fn given_twice<E: Error>(name: &str) -> E {
    let name = excerpt(name);
    E::custom(format_args!(
        "duplicate name {name} (names that differ only by case count as one)"
    ))
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
