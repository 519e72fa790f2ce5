//! Reading JSON strictly: each object into the fields that it is known to have, everything else only checked.
//!
//! Readers must agree on what a digest means. Image-spec `considerations.md` forbids duplicate names; readers in Go also take
//! names for each other that differ only by case, and the last one wins. So names of one object that are equal under case
//! folding are an error, and so is a known name in another spelling, which Go reads and others do not. `null` is read as
//! absent, as Go does. Must not know what the fields mean. Invariants: depth and width are bounded, so no input overflows
//! the stack or takes much more memory than its own bytes; what no field reads is never kept.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::case_folding::fold;
use super::excerpt;
use super::json_text::as_go_reads;

/// How deep a value that no field reads may be nested. A manifest has five levels; `serde_json` stops at 128 to keep the
/// stack, and this limit comes first so that the error is ours.
const DEPTH_MAX: usize = 100;

/// Names in one object: annotations are the longest, with some hundreds at most. Each is remembered while its object is read.
const NAMES_MAX: usize = 10_000;

/// Elements of one list: six times what a manifest of 4 MiB holds of the layers of a virtual disk.
pub(super) const ELEMENTS_MAX: usize = 100_000;

/// Values altogether: what 100,000 layers with annotations have. Without it 16 MiB could hold five million of them.
const VALUES_MAX: usize = 1_000_000;

/// An object with known fields.
pub(super) trait Fields: Default {
    /// What it becomes.
    type Whole;
    /// The names of its fields, as they are spelled.
    const NAMES: &'static [&'static str];

    /// Reads one field; `name` may be none of [`Fields::NAMES`].
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error>;

    /// Called at the end of the object; an error is a sentence that names what is wrong.
    fn finish(self) -> Result<Self::Whole, String>;
}

/// Reads the one object that `bytes` are.
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

/// How much one document may still hold.
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

/// The value of a field that is being read.
pub(super) struct Value<'a, A> {
    map: &'a mut A,
    budget: &'a Budget,
    is_map: bool,
}

impl<'de, A: MapAccess<'de>> Value<'_, A> {
    pub(super) fn text(self) -> Result<Option<String>, A::Error> {
        self.map.next_value_seed(Seed::<Text>::new(self.budget))
    }

    /// A whole number of 64 bits with sign, as Go's `int64`.
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

    /// Names and texts of any kind: names that differ only by case are two.
    pub(super) fn text_map(self) -> Result<Option<BTreeMap<String, String>>, A::Error> {
        self.map.next_value_seed(Seed::<TextMap>::new(self.budget))
    }

    /// Checks it, and keeps nothing.
    pub(super) fn skip(self) -> Result<(), A::Error> {
        self.map.next_value_seed(Unread {
            budget: self.budget,
            depth_left: DEPTH_MAX,
            is_map: self.is_map,
        })
    }
}

/// What a value is read into; `null` is read as `None` by all of them.
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

/// Gives each kind of seed its `deserialize`; its visitor has what differs.
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
                return Err(A::Error::custom(format_args!(
                    "the name {name} is given twice"
                )));
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
                    "the name {} must be spelled {known:?}, or some readers take it for that and others do not",
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
    /// Whether its names, if it is an object, are free text.
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

/// The names of one object so far, in the spelling that stands for all that are taken for each other.
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

/// Annotations are a map of free text (image-spec `annotations.md`), wherever they are.
fn is_map(name: &str) -> bool {
    name == "annotations"
}

/// Whether a list of `length` elements may have one more.
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
        "the name {name} is given twice (spellings that differ only by case count as one)"
    ))
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
