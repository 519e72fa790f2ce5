//! What is taken, and seldom meant.

use super::*;

#[test]
fn warnings_name_what_is_seldom_meant() {
    let loaded = taken(
        "http: {addr: 'localhost:1'}\nserver: {real_ip_header: X-Real-IP}\nusers: {amy: {}, bob: {password: plain}, '': {}}\nacl: []\n",
    );
    assert_eq!(loaded.warnings.len(), 3, "{:?}", loaded.warnings);
    assert!(!format!("{:?}", loaded.warnings).contains("plain\""));
    for (proxies, warnings) in [("[]", 1), ("[10.0.0.1]", 0)] {
        let loaded = taken(&format!(
            "http: {{addr: 'localhost:1', trusted_proxies: {proxies}}}\nserver: {{real_ip_header: X-Real-IP}}\n"
        ));
        assert_eq!(loaded.warnings.len(), warnings, "{:?}", loaded.warnings);
    }
}

#[test]
fn a_revocation_of_nobody_and_a_short_secret_are_warned_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.yml");
    fs::write(&path, "revoked: {bbo: 2026-01-01T00:00:00Z}\n").expect("written");
    for (secret, warnings) in [("fifteen-letters", 3), ("sixteen-letters-", 2)] {
        let loaded = taken(&format!(
            "http: {{addr: 'localhost:1', secret: {secret}}}\nusers: {{bob: {{password: $2y$x}}}}\nacl: []\nusers_file: {}\n",
            path.display()
        ));
        assert_eq!(loaded.warnings.len(), warnings, "{:?}", loaded.warnings);
        assert!(
            loaded
                .warnings
                .iter()
                .any(|text| text.contains("revoked.bbo: there is no such user"))
        );
        assert!(!format!("{:?}", loaded.warnings).contains(secret));
    }
}

#[test]
fn named_certificates_and_keys_are_looked_at() {
    let directory = tempfile::tempdir().expect("a directory");
    let write =
        |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("written");
    for name in ["a", "b"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new([name.to_owned()])
            .and_then(|parameters| parameters.self_signed(&key))
            .expect("a certificate");
        write(&format!("{name}.crt"), &certificate.pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
    write("empty", "");
    fs::create_dir(directory.path().join("folder")).expect("made");
    // The beginning of a certificate in DER.
    fs::write(directory.path().join("der"), [0x30, 0x82, 0x01, 0xff]).expect("written");
    let load = |text: &str| load(&text.replace('@', &format!("{}/", directory.path().display())));
    let refused = |text: &str| load(text).expect_err("refused").to_string();

    let config = load("http: {tls: {certificate: @a.crt, key: @a.key}}\n")
        .expect("taken")
        .config;
    assert!(matches!(config.tls, tls::Settings::Files { .. }));
    let config = load("server: {certificate: @a.crt, key: @a.key}\nusers: {}\nacl: []\n")
        .expect("taken")
        .config;
    let settings = config.auth_settings(auth::Secret([7; 32]), None);
    assert!(
        settings
            .token
            .signing
            .expect("a key")
            .key_pem
            .contains("PRIVATE KEY")
    );
    assert!(!format!("{config:?}").contains("PRIVATE KEY"));
    let foreign = "auth: {token: {realm: 'https://x/token', service: y, issuer: z, rootcertbundle: @a.crt}}\n";
    let config = load(foreign).expect("taken").config;
    assert_eq!(config.auth.signing, Signing::None);
    assert_eq!(
        config
            .auth_settings(auth::Secret([7; 32]), None)
            .token
            .trusted_certificates_pem
            .len(),
        1
    );

    assert!(
        refused("http: {tls: {certificate: @a.crt, key: @b.key}}\n")
            .contains("http.tls.key: not the key of the certificate")
    );
    assert!(
        refused("http: {tls: {certificate: @no.crt, key: @a.key}}\n")
            .contains("no.crt: no such file")
    );
    for (file, expected) in [
        ("der", "der: a DER file, not a PEM file\nhint: convert it"),
        ("folder", "folder: cannot be read: is a directory"),
    ] {
        let message = refused(&foreign.replace("a.crt", file));
        let place = "0.yml:1: auth.token.rootcertbundle: ";
        assert!(
            message.contains(place) && message.contains(expected),
            "{message}"
        );
    }
    assert!(
        refused(&foreign.replace("a.crt", "empty"))
            .contains("auth.token.rootcertbundle: the file holds no certificate")
    );
    assert!(
        refused("token: {certificate: @a.crt}\nusers: {}\nacl: []\n")
            .contains("token.certificate: given without token.key")
    );
}

#[test]
fn a_malformed_glob_is_a_warning() {
    let loaded = taken(
        "http: {addr: 'localhost:1'}\nusers: {}\nacl: [{match: {name: '[a'}, actions: []}]\n",
    );
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("0.yml:3: acl[]: a pattern of this rule is malformed"));
}

/// Whatever stands in the place of a hash and is none closes the account, in each of the files that have accounts.
#[test]
fn a_password_that_is_no_hash_is_a_warning_and_closes_the_account() {
    const HASH: &str = "$2y$04$8V8Wmy8aZlSUUPExATbHaeieZ4/V3CAuxE0jmw820Fy60YNJLcyuq";
    let directory = tempfile::tempdir().expect("a directory");
    let users_file = directory.path().join("users.yml");
    let block = format!("|\n    {HASH}\n");
    for (password, is_usable) in [
        ("\"<redacted>\"", false),
        ("\"\"", false),
        ("", false),
        ("~", false),
        ("1234", false),
        (&HASH[..HASH.len() - 1], false),
        (HASH, true),
        (&block, true),
    ] {
        let users = format!("users:\n  amy:\n   password: {password}\n");
        let rest = "http: {addr: 'localhost:1'}\nacl: []\n";
        fs::write(&users_file, &users).expect("written");
        let of_file = format!("users_file: {}\n{rest}", users_file.display());
        for text in [format!("{users}\n{rest}"), of_file] {
            let loaded = taken(&text);
            let user = &loaded.config.auth.users()["amy"];
            // `None` would let in whoever asks.
            assert!(user.password_hash.is_some(), "any password opens {text}");
            assert_eq!(user.bcrypt_cost().is_some(), is_usable, "{text}");
            let said = loaded.warnings.join("\n");
            let place = "users.amy.password: not a bcrypt hash, so this user cannot log in";
            assert_eq!(said.contains(place), !is_usable, "{text}{said}");
            assert!(!said.contains("redacted"));
        }
    }
}

#[test]
fn what_distribution_bounds_pages_with_is_honoured() {
    let limits = |text: &str| {
        let limits = taken(text).config.registry.limits;
        (limits.tags_page, limits.catalog_page, limits.list_page)
    };
    assert_eq!(limits("{}\n---\nversion: 0.1\n"), (1_000, 1_000, 1_000));
    assert_eq!(
        limits("tags: {maxtags: 7}\ncatalog: {maxentries: 9}\n"),
        (7, 9, 1_000)
    );
    assert_eq!(
        limits("tags: {maxtags: 0}\ncatalog: {maxentries: 0}\n"),
        (1_000, 1_000, 1_000)
    );
    assert_eq!(limits("limits: {list_page: 5}\n"), (5, 1_000, 5));
}

#[test]
fn what_purges_uploads_is_kept_and_a_note_says_what_it_does() {
    let purging = |text: &str| {
        let loaded = taken(&format!(
            "storage: {{maintenance: {{uploadpurging: {text}}}}}\n"
        ));
        let told =
            |note: &String| note.contains("storage.maintenance.uploadpurging: kept for collection");
        (
            loaded.config.registry.upload_purging,
            loaded.notes.iter().any(told),
        )
    };
    let (kept, is_told) = purging("{enabled: true, age: 24h, interval: 1h, dryrun: true}");
    assert_eq!(
        kept,
        registry::UploadPurging {
            enabled: true,
            age_secs: 86_400,
            interval_secs: 3_600,
            dry_run: true
        }
    );
    assert!(is_told);
    let (kept, is_told) = purging("{enabled: false}");
    assert!(!kept.enabled && !is_told);
    let absent = taken("{}\n---\nversion: 0.1\n");
    assert_eq!(
        absent.config.registry.upload_purging,
        registry::UploadPurging::DEFAULT
    );
}
