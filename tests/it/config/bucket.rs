//! `storage.s3`: the files of distribution's users, and the guide's.

use super::*;
use boathouse::store::Settings as Storage;
use boathouse::store::s3::{Credentials, Settings};

/// Loads a file with `storage: {s3: …}`; its state is in `/srv/state`.
fn bucket_of(section: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
    let text = format!("state_directory: /srv/state\nstorage: {section}\n");
    let loaded = load_with(&[&text], environment).map_err(|errors| errors.to_string())?;
    match loaded.config.storage {
        Storage::Bucket(bucket) => Ok(*bucket),
        Storage::Filesystem { root_directory } => {
            Err(format!("a directory: {}", root_directory.display()))
        }
    }
}

fn bucket(section: &str) -> Settings {
    bucket_of(section, &[]).unwrap_or_else(|errors| panic!("{section}: {errors}"))
}

fn keys(access_key: &str, secret_key: &str) -> Credentials {
    Credentials::Keys {
        access_key: access_key.to_owned(),
        secret_key: secret_key.to_owned(),
        session_token: None,
    }
}

#[test]
fn the_block_of_the_guide_is_taken_as_it_stands() {
    let guide = r#"
  s3:
    accesskey: <YOUR-ACCESS-KEY>
    secretkey: <YOUR-SECRET-KEY>
    region: "us-east-1"
    bucket: goharbor-vm-images
    endpoint: "http://minio.example.com"
"#;
    let expected = Settings::of(
        Some("http://minio.example.com".to_owned()),
        "us-east-1",
        "goharbor-vm-images",
        keys("<YOUR-ACCESS-KEY>", "<YOUR-SECRET-KEY>"),
        "/srv/state/spool",
    );
    assert_eq!(bucket(guide), expected);
    let variables = [
        ("REGISTRY_STORAGE", "s3"),
        ("REGISTRY_STORAGE_S3_ACCESSKEY", "<YOUR-ACCESS-KEY>"),
        ("REGISTRY_STORAGE_S3_SECRETKEY", "<YOUR-SECRET-KEY>"),
        ("REGISTRY_STORAGE_S3_REGION", "us-east-1"),
        ("REGISTRY_STORAGE_S3_BUCKET", "goharbor-vm-images"),
        ("REGISTRY_STORAGE_S3_ENDPOINT", "http://minio.example.com"),
    ];
    let by_variables = bucket_of("{filesystem: {rootdirectory: /srv}}", &variables);
    assert_eq!(by_variables, Ok(expected.clone()));
    let variables = variables.map(|(name, value)| {
        let name = name
            .replace("_S3_", "_S3AWS_")
            .replace("ENDPOINT", "REGIONENDPOINT");
        (name, if value == "s3" { "s3aws" } else { value })
    });
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let by_variables = bucket_of("{filesystem: {rootdirectory: /srv}}", &variables);
    assert_eq!(by_variables, Ok(expected), "{variables:?}");
}

/// A field of the settings, and how it is shown here.
type Look = fn(&Settings) -> String;

#[test]
fn each_key_of_distribution_has_its_meaning() {
    let endpoint: Look = |bucket| format!("{:?} {}", bucket.endpoint, bucket.is_path_style);
    let root: Look = |bucket| bucket.root_directory.clone();
    let class: Look = |bucket| format!("{:?}", bucket.storage_class);
    let encryption: Look = |bucket| format!("{:?}", bucket.encryption);
    let redirects: Look = |bucket| bucket.redirects_pulls.to_string();
    let table = [
        ("", endpoint, "None false"),
        (
            "regionendpoint: 'https://s3.lab:9000'",
            endpoint,
            "Some(\"https://s3.lab:9000\") true",
        ),
        (
            "regionendpoint: 'https://s3.lab/'",
            endpoint,
            "Some(\"https://s3.lab\") true",
        ),
        (
            "regionendpoint: 's3.lab:9000'",
            endpoint,
            "Some(\"https://s3.lab:9000\") true",
        ),
        (
            "regionendpoint: 's3.lab:9000', secure: false",
            endpoint,
            "Some(\"http://s3.lab:9000\") true",
        ),
        (
            "regionendpoint: 's3.lab', forcepathstyle: false",
            endpoint,
            "Some(\"https://s3.lab\") false",
        ),
        ("forcepathstyle: true", endpoint, "None true"),
        ("rootdirectory: /lab/registry/", root, "lab/registry"),
        ("rootdirectory: /", root, ""),
        ("storageclass: standard_ia", class, "Some(\"STANDARD_IA\")"),
        ("storageclass: NONE", class, "None"),
        ("", class, "None"),
        ("encrypt: true", encryption, "Some(Own)"),
        (
            "encrypt: true, keyid: k",
            encryption,
            "Some(KeyService(\"k\"))",
        ),
        ("encrypt: false, keyid: k", encryption, "None"),
        (
            "chunksize: 33554432",
            |bucket| bucket.part_size_bytes.to_string(),
            "33554432",
        ),
        (
            "skipverify: true",
            |bucket| bucket.skips_verification.to_string(),
            "true",
        ),
        (
            "ca_file: /srv/ca.pem",
            |bucket| format!("{:?}", bucket.ca_file),
            "Some(\"/srv/ca.pem\")",
        ),
        (
            "spool_bytes: 1073741824",
            |bucket| bucket.spool_bytes.to_string(),
            "1073741824",
        ),
        (
            "requests_at_once: 8",
            |bucket| bucket.requests_at_once.to_string(),
            "8",
        ),
        (
            "v4auth: true, objectacl: private, accelerate: false",
            redirects,
            "false",
        ),
        (
            "multipartcopychunksize: 1, useragent: x, loglevel: debug",
            redirects,
            "false",
        ),
    ];
    for (keys, look, expected) in table {
        let section = format!("{{s3aws: {{bucket: b, {keys}}}}}");
        assert_eq!(look(&bucket(&section)), expected, "{keys}");
    }
    let redirecting = "{s3: {bucket: b}, redirect: {disable: false}}";
    assert!(bucket(redirecting).redirects_pulls);
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_hint() {
    let table = [
        ("s3", "storage.s3.bucket: missing"),
        (
            "{s3: {bucket: b}, filesystem: {}}",
            "cannot be in a bucket and in a directory",
        ),
        (
            "{s3: {bucket: b, accesskey: hunter2}}",
            "storage.s3.accesskey: is given without secretkey",
        ),
        (
            "{s3: {bucket: b, secretkey: hunter2}}",
            "storage.s3.secretkey: is given without accesskey",
        ),
        (
            "{s3: {bucket: b, endpoint: 'http://a/hunter2'}}",
            "regionendpoint: must be a URL without a path",
        ),
        (
            "{s3: {bucket: b, endpoint: a, regionendpoint: b}}",
            "storage.s3.regionendpoint: given twice",
        ),
        (
            "{s3: {bucket: b}, s3aws: {bucket: c}}",
            "storage.s3.bucket: given twice",
        ),
        (
            "{s3: {bucket: b, storageclass: GLACIER}}",
            "storage.s3.storageclass: must be NONE",
        ),
        (
            "{s3: {bucket: b, rootdirectory: a//b}}",
            "storage.s3.rootdirectory: must be names",
        ),
        (
            "{s3: {bucket: b, chunksize: 1}}",
            "storage.s3.chunksize: must be",
        ),
        (
            "{s3: {bucket: b, v4auth: false}}",
            "storage.s3.v4auth: not supported",
        ),
        (
            "{s3: {bucket: b, objectacl: public-read}}",
            "storage.s3.objectacl: not supported",
        ),
        (
            "{s3: {bucket: b, accelerate: true}}",
            "storage.s3.accelerate: not supported",
        ),
        (
            "{s3: {bucket: b, accesskey_file: /nonexistent}}",
            "/nonexistent: no such file",
        ),
        (
            "{s3: {bucket: b, buckett: x}}",
            "did you mean `storage.s3.bucket`?",
        ),
    ];
    for (section, expected) in table {
        let said = bucket_of(section, &[]).expect_err(section);
        assert!(said.contains(expected), "{section}: {said}");
        assert!(said.contains("hint: "), "{section}: {said}");
        assert!(!said.contains("hunter2"), "{section}: {said}");
    }
}

#[test]
fn keys_may_be_in_files_and_are_never_shown() {
    const SECRET: &str = "s3cr3t-hunter2";
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (access, secret) = (
        file("access", "amy\n"),
        file("secret", &format!("{SECRET}\n")),
    );
    let in_files =
        format!("{{s3: {{bucket: b, accesskey_file: {access}, secretkey_file: {secret}}}}}");
    let found = bucket(&in_files);
    assert_eq!(found.credentials, keys("amy", SECRET));
    assert!(!format!("{found:?}").contains(SECRET));
    let both = format!(
        "{{s3: {{bucket: b, accesskey: a, secretkey: {SECRET}, secretkey_file: {secret}}}}}"
    );
    let said = bucket_of(&both, &[]).unwrap_err();
    assert!(
        said.contains("secretkey_file: is given beside `storage.s3.secretkey`"),
        "{said}"
    );
    let empty = file("empty", "\n");
    let said = bucket_of(
        &format!("{{s3: {{bucket: b, accesskey_file: {empty}}}}}"),
        &[],
    );
    assert!(said.unwrap_err().contains("is empty"));

    let text = format!(
        "state_directory: /srv\nstorage: {{s3: {{bucket: b, accesskey: {SECRET}, secretkey: {SECRET}, sessiontoken: {SECRET}}}}}\n"
    );
    let loaded = load_with(&[&text], &[]).unwrap();
    let shown: Vec<String> = loaded.in_force.iter().map(InForce::to_string).collect();
    let shown = format!("{shown:?} {:?} {}", loaded.config, loaded.config.storage);
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("storage.s3.secretkey: (set)"), "{shown}");
    assert_eq!(loaded.config.storage.to_string(), "bucket b in us-east-1");
}

#[test]
fn without_keys_the_surroundings_have_the_credentials() {
    assert_eq!(
        bucket("{s3: {bucket: b}}").credentials,
        Credentials::Surroundings
    );
}

#[test]
fn the_state_of_a_bucket_has_a_usual_place() {
    let text = "storage: {s3: {bucket: b}}\n";
    let state = |environment: &[(&str, &str)]| {
        let loaded = load_with(&[text], environment)?;
        Ok::<_, ConfigErrors>(loaded.config.state_directory)
    };
    let service = [
        ("STATE_DIRECTORY", "/var/lib/one:/var/lib/two"),
        ("HOME", "/home/amy"),
    ];
    assert_eq!(state(&service).unwrap(), Path::new("/var/lib/one"));
    // Root's place needs no variable.
    match state(&[]) {
        Ok(root) => assert_eq!(root, Path::new("/var/lib/boathouse")),
        Err(errors) => assert!(errors.to_string().contains("state_directory: missing")),
    }
}
