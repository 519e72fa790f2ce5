//! Tests of what is a manifest, and of what is refused.

use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn image(extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"sha256:{HEX}","size":0}},"layers":[]{extra}}}"#
    )
}

#[test]
fn an_image_is_read() {
    let text = image(&format!(
        r#","subject":{{"digest":"sha256:{HEX}","size":1}},"annotations":{{"a":"b"}}"#
    ));
    let manifest = Manifest::parse(text.as_bytes(), Some(OCI)).expect("valid");
    assert_eq!(manifest.artifact_type.as_deref(), Some("c"));
    assert_eq!(manifest.blobs().count(), 1);
    assert!(manifest.subject.is_some());
    assert_eq!(manifest.annotations.get("a").map(String::as_str), Some("b"));
}

#[test]
fn the_type_comes_from_header_or_field_and_both_must_agree() {
    let parse = |text: &str, header: Option<&str>| {
        Manifest::parse(text.as_bytes(), header).map(|manifest| manifest.media_type)
    };
    let named = image(&format!(r#","mediaType":"{OCI}""#));
    assert_eq!(parse(&named, None), Ok(MediaType::OciManifest));
    assert_eq!(
        parse(&named, Some(&format!("{OCI}; charset=utf-8"))),
        Ok(MediaType::OciManifest)
    );
    assert!(parse(&named, Some(DOCKER)).is_err());
    assert!(parse(&image(""), None).is_err());
    assert!(parse(&image(""), Some(DOCKER)).is_err());
    assert!(parse(&image(""), Some("application/json")).is_err());
}

#[test]
fn confusing_manifests_are_refused() {
    let cases = [
        ("", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("null", "`null` instead of an object"),
        (r#"{"schemaVersion":2}"#, "`config` is missing"),
        (&image(r#","manifests":[]"#), "must have one kind"),
        (&image(r#","schemaVersion":2"#), "duplicate name"),
        (&image("").replace(":2,", ":1,"), "must be 2"),
        (
            &image("").replace("\"size\":0", "\"size\":-1"),
            "must not be negative at line 1 column",
        ),
        (&image("").replace("sha256:e3", "sha256:E3"), "not a digest"),
    ];
    for (text, reason) in cases {
        let error = Manifest::parse(text.as_bytes(), Some(OCI))
            .expect_err(text)
            .to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert!(Manifest::parse(image("").as_bytes(), Some(INDEX)).is_err());
}

#[test]
fn null_lists_are_empty_lists() {
    let index = r#"{"schemaVersion":2,"manifests":null}"#;
    assert_eq!(
        Manifest::parse(index.as_bytes(), Some(INDEX))
            .expect("valid")
            .children(),
        []
    );
    let image = image("").replace("[]", "null");
    assert_eq!(
        Manifest::parse(image.as_bytes(), Some(OCI))
            .expect("valid")
            .blobs()
            .count(),
        1
    );
}

#[test]
fn what_only_some_readers_see_is_refused() {
    let image = image("");
    let bodies = [
        (image.replacen("config", "Config", 1), OCI),
        (image.replacen("layers", "Layers", 1), OCI),
        (image.replacen("mediaType", "MediaType", 1), OCI),
        (image.replacen("digest", "DIGEST", 1), OCI),
        (image.replacen("size", "\u{17f}ize", 1), OCI),
        (image.replacen('{', r#"{"Subject":null,"#, 1), OCI),
        (image.replacen('{', r#"{"MANIFESTS":[],"#, 1), OCI),
        (image.replacen('{', r#"{"Blobs":[],"#, 1), OCI),
        (image.replacen('{', r#"{"x":1,"X":2,"#, 1), OCI),
        (image.replacen("\"size\"", "\"Urls\":[],\"size\"", 1), OCI),
        (
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{HEX}","platform":{{"OS":"linux"}}}}]}}"#
            ),
            INDEX,
        ),
    ];
    for (body, media_type) in bodies {
        let error = Manifest::parse(body.as_bytes(), Some(media_type)).expect_err(&body);
        let error = error.to_string();
        let is_told = error.contains("must be spelled") || error.contains("duplicate name");
        assert!(
            is_told && error.contains("line 1 column"),
            "{body}: {error}"
        );
    }
    // Names of annotations are free text, wherever they are.
    let annotations = r#""annotations":{"Config":"1","config":"2"}"#;
    let body = image.replacen('{', &format!("{{{annotations},"), 1);
    let body = body.replacen("\"size\"", &format!("{annotations},\"size\""), 1);
    assert!(Manifest::parse(body.as_bytes(), Some(OCI)).is_ok());
}

#[test]
fn what_go_reads_is_read() {
    let image = image("");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{HEX}","size":0,"platform":null,"urls":null}}]}}"#
    );
    let with = |more: &str| image.replacen('{', &format!("{{{more},"), 1).into_bytes();
    let taken = [
        with(r#""annotations":null"#),
        with(r#""annotations":{"a":null}"#),
        with(r#""annotations":{"a":"\ud800"}"#),
        with(r#""subject":null,"artifactType":null,"mediaType":null,"manifests":null"#),
        with(r#""x":[1e999,-0,null,{"\udfff":1}]"#),
        with("\"annotations\":{\"a\":\"\u{7f}\"}"),
        [br#"{"x":"#.as_slice(), b"\"\xff\",", &image.as_bytes()[1..]].concat(),
        image.replace(",\"size\":0", "").into_bytes(),
        image.replace("\"size\":0", "\"size\":null").into_bytes(),
        image.replace("\"mediaType\":\"c\",", "").into_bytes(),
        image.replace("[]", "null").into_bytes(),
    ];
    for body in taken {
        let text = String::from_utf8_lossy(&body);
        let read = Manifest::parse(&body, Some(OCI)).map_err(|error| format!("{text}: {error}"));
        let read = read.unwrap();
        assert_eq!(
            Manifest::parse_stored(&body).as_ref(),
            Some(&read),
            "{text}"
        );
    }
    assert!(Manifest::parse(index.as_bytes(), Some(INDEX)).is_ok());
    let body = with(r#""annotations":{"a":"\ud800b"}"#);
    let read = Manifest::parse(&body, Some(OCI)).unwrap();
    assert_eq!(read.annotations["a"], "\u{fffd}b");

    let refused = [
        with(r#""annotations":[]"#),
        with(r#""annotations":{"a":1}"#),
        with(r#""subject":[]"#),
        with(r#""subject":{}"#),
        with(r#""artifactType":1"#),
        image.replace("[]", "{}").into_bytes(),
        image.replace("[]", "[null]").into_bytes(),
        image.replace("[]", "[[]]").into_bytes(),
        image.replace(":2,", ":2.0,").into_bytes(),
        image.replace(":2,", ":\"2\",").into_bytes(),
        image.replace(":2,", ":null,").into_bytes(),
        image
            .replace("\"size\":0", "\"size\":9223372036854775808")
            .into_bytes(),
        image.replace("\"size\":0", "\"size\":0.0").into_bytes(),
        image.replace("\"size\":0", "\"size\":0e0").into_bytes(),
        image.replace("\"size\":0", "\"size\":\"0\"").into_bytes(),
        image
            .replace("\"size\":0", "\"size\":0,\"urls\":\"x\"")
            .into_bytes(),
        image
            .replace("\"size\":0", "\"size\":0,\"platform\":1")
            .into_bytes(),
        image
            .replace("\"size\":0", "\"size\":0,\"annotations\":{\"a\":[]}")
            .into_bytes(),
    ];
    for body in refused {
        let text = String::from_utf8_lossy(&body);
        assert!(Manifest::parse(&body, Some(OCI)).is_err(), "{text}");
    }
}

#[test]
fn an_artifact_is_read() {
    const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    let blob = format!(r#"{{"mediaType":"b","digest":"sha256:{HEX}","size":0}}"#);
    let text = format!(
        r#"{{"mediaType":"{ARTIFACT}","artifactType":"sbom","blobs":[{blob},{blob}],"subject":{blob}}}"#
    );
    let read = Manifest::parse(text.as_bytes(), Some(ARTIFACT)).unwrap();
    assert_eq!(read.media_type, MediaType::OciArtifact);
    assert_eq!(read.artifact_type.as_deref(), Some("sbom"));
    assert_eq!((read.blobs().count(), read.children().len()), (2, 0));
    assert!(read.subject.is_some());
    assert_eq!(Manifest::parse_stored(text.as_bytes()), Some(read));
    let bare = format!(r#"{{"mediaType":"{ARTIFACT}","blobs":null}}"#);
    let read = Manifest::parse(bare.as_bytes(), None).unwrap();
    assert_eq!((read.artifact_type, read.subject), (None, None));
    let unsaid = text.replacen(&format!(r#""mediaType":"{ARTIFACT}","#), "", 1);
    for (body, media_type) in [
        (&unsaid, ARTIFACT),
        (&text, OCI),
        (&text.replace("\"blobs\"", "\"layers\""), ARTIFACT),
        (&text.replacen('{', r#"{"manifests":[],"#, 1), ARTIFACT),
        (&text.replace("\"blobs\"", "\"Blobs\""), ARTIFACT),
    ] {
        assert!(
            Manifest::parse(body.as_bytes(), Some(media_type)).is_err(),
            "{body}"
        );
    }
}

#[test]
fn an_index_of_nothing_is_stored_as_an_index() {
    for body in [
        r#"{"schemaVersion":2,"manifests":null}"#,
        r#"{"schemaVersion":2,"manifests":[],"config":null}"#,
    ] {
        let read = Manifest::parse(body.as_bytes(), Some(INDEX)).unwrap();
        assert_eq!(Manifest::media_type_of(body.as_bytes()), INDEX);
        assert_eq!(Manifest::parse_stored(body.as_bytes()), Some(read));
    }
}

#[test]
fn a_reason_is_short_and_tells_the_place() {
    let long = "x".repeat(1_000_000);
    for (text, media_type) in [
        (format!(r#"{{"config":"{long}"}}"#), OCI),
        (format!(r#"{{"{long}":1,"{long}":1}}"#), OCI),
        (image("").replace(HEX, &long), OCI),
    ] {
        let error = Manifest::parse(text.as_bytes(), Some(media_type)).unwrap_err();
        let error = error.to_string();
        assert!(error.chars().count() <= REASON_CHARS_MAX + 2, "{error}");
        assert!(error.contains("at line 1 column"), "{error}");
    }
    let error = Manifest::parse(image("").as_bytes(), Some(&long)).unwrap_err();
    assert!(error.to_string().len() < 2 * REASON_CHARS_MAX);
}

#[test]
fn stored_bytes_are_served_as_what_they_say() {
    assert_eq!(Manifest::media_type_of(image("").as_bytes()), OCI);
    assert_eq!(Manifest::media_type_of(br#"{"manifests":[]}"#), INDEX);
    assert_eq!(Manifest::media_type_of(br#"{"mediaType":"x/y"}"#), "x/y");
    assert_eq!(
        Manifest::media_type_of(br#"{"schemaVersion":1}"#),
        SCHEMA_1_SIGNED
    );
    assert_eq!(Manifest::media_type_of(b"\xff"), "application/octet-stream");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = Manifest::parse(&bytes, None);
        let _ = Manifest::media_type_of(&bytes);
    }
}
