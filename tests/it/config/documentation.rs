//! `docs/configuration.md`, and that it says what the table of keys says.

use super::*;

#[test]
fn the_configuration_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = config::documentation();
    if std::env::var_os("CONFIGURATION_RENEW").is_some() {
        fs::write(&path, &page).expect("written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let differs = committed
        .lines()
        .zip(page.lines())
        .find(|(old, new)| old != new);
    assert!(
        committed == page,
        "docs/configuration.md is not what the keys say; first difference: {differs:?}\nhint: renew it with \
         `CONFIGURATION_RENEW=yes cargo test --test it the_configuration_page`"
    );
}

#[test]
fn every_key_in_force_is_documented() {
    let page = config::documentation();
    let tls = "tls: {hosts: [a]}\nhttp: {headers: {X-One: [a]}}\nusers: {amy: {password: $2y$x}}\nacl: []\n";
    for text in [
        tls,
        "auth: {htpasswd: {realm: x, path: /dev/null}}\nserver: {real_ip_header: X-Real}\n",
    ] {
        for key in taken(text).in_force {
            let name = if key.key.starts_with("http.headers.") {
                "http.headers.*"
            } else {
                &key.key
            };
            // What is told of a section is told of the keys in it.
            let is_documented = page.contains(&format!("| `{name}` |"))
                || page.contains(&format!("| `{name}."))
                || page.contains(&format!("| `{name}["));
            assert!(is_documented, "{name}");
        }
    }
}
