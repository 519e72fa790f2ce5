//! Tests of what is read strictly, and of its bounds.

use super::*;

/// An object of one field, which is such an object again.
#[derive(Default)]
struct Nested(BTreeMap<String, String>);

impl Fields for Nested {
    type Whole = Self;
    const NAMES: &'static [&'static str] = &["known", "annotations"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "known" => value.object::<Self>().map(|_| ()),
            "annotations" => {
                self.0 = value.text_map()?.unwrap_or_default();
                Ok(())
            }
            _ => value.skip(),
        }
    }

    fn finish(self) -> Result<Self, String> {
        Ok(self)
    }
}

fn refused(text: &str, reason: &str) {
    let error = match read::<Nested>(text.as_bytes()) {
        Ok(_) => panic!("{} is taken", excerpt(text)),
        Err(error) => error.to_string(),
    };
    assert!(error.contains(reason), "{error}");
    assert!(error.contains("line 1 column"), "no place: {error}");
    assert!(error.len() < 300, "{} bytes", error.len());
}

fn taken(text: &str) -> Nested {
    read::<Nested>(text.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", excerpt(text)))
}

#[test]
fn names_that_differ_only_by_case_are_refused_at_any_depth() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":1,"A":1}"#,
        r#"{"K":1,"k":2}"#,
        r#"{"known":{"b":{"c":[{"d":1,"D":2}]}}}"#,
        r#"{"known":null,"known":null}"#,
        // Both are read as the same name.
        r#"{"\ud800":1,"\udc00":2}"#,
    ] {
        refused(text, "duplicate name");
    }
    for text in [
        r#"{"Known":{}}"#,
        "{\"\u{212a}nown\":{}}",
        r#"{"known":{"KNOWN":1}}"#,
        r#"{"Annotations":{}}"#,
    ] {
        refused(text, "must be spelled");
    }
    taken(r#"{"a":1,"b":{"c":[{"d":1,"e":2}],"Known":1}}"#);
}

#[test]
fn annotations_may_differ_by_case() {
    let read = taken(r#"{"annotations":{"Known":"1","known":"2","KNOWN":null}}"#);
    assert_eq!(read.0.len(), 3);
    taken(r#"{"x":{"annotations":{"a":"1","A":"2"}}}"#);
    refused(r#"{"annotations":{"a":"1","a":"1"}}"#, "duplicate name");
    refused(
        r#"{"x":{"annotations":{"a":"1","a":"1"}}}"#,
        "duplicate name",
    );
    refused(
        r#"{"x":{"annotations":{"a":{"b":1,"B":1}}}}"#,
        "duplicate name",
    );
}

#[test]
fn depth_and_width_are_bounded() {
    let deep = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    taken(&deep(DEPTH_MAX));
    refused(&deep(DEPTH_MAX + 1), "nested deeper than 100 levels");
    refused(&deep(100_000), "nested deeper than 100 levels");
    let deep = r#"{"x":"#.repeat(100_000);
    refused(&deep, "nested deeper than 100 levels");
    let typed = r#"{"known":"#.repeat(100_000);
    refused(&typed, "recursion limit exceeded");

    let list = |length: usize| format!(r#"{{"x":[{}1]}}"#, "1,".repeat(length - 1));
    taken(&list(ELEMENTS_MAX));
    refused(&list(ELEMENTS_MAX + 1), "more than 100000 elements");
    let lists = format!("[{}1],", "1,".repeat(ELEMENTS_MAX - 2)).repeat(11);
    refused(
        &format!(r#"{{"x":[{lists}1]}}"#),
        "more than 1000000 values",
    );
    for field in ["annotations", "x"] {
        let names = |count: usize| {
            let names: Vec<String> = (0..count).map(|name| format!(r#""{name}":"""#)).collect();
            format!(r#"{{"{field}":{{{}}}}}"#, names.join(","))
        };
        taken(&names(NAMES_MAX));
        refused(&names(NAMES_MAX + 1), "more than 10000 names");
    }
}

#[test]
fn errors_do_not_repeat_what_was_sent() {
    let long = "x".repeat(1_000_000);
    refused(&format!(r#"{{"{long}":1,"{long}":2}}"#), "duplicate name");
    let error = read::<Nested>(format!(r#"{{"known":"{long}"}}"#).as_bytes()).err();
    let error = error.expect("a text is no object").to_string();
    assert!(error.contains("expected a JSON object"));
}

#[test]
fn what_is_no_object_or_more_than_one_is_refused() {
    for (text, reason) in [
        ("", "EOF"),
        ("[]", "expected a JSON object"),
        ("{} {}", "trailing characters"),
        ("{}x", "trailing characters"),
        ("\u{feff}{}", "expected value"),
        ("{\"a\":\"\t\"}", "control character"),
        (r#"{"a":01}"#, "invalid number"),
    ] {
        refused(text, reason);
    }
    assert!(read::<Nested>(b"null").is_err());
}
