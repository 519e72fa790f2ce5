//! What a recorded request and both answers show, as facts that rules ask for.

use serde_json::Value;

use super::intended::Facts;
use super::{Answer, strings, text};

/// The values of a parameter, in the query or a form.
fn parameters(source: &Value, name: &str) -> Vec<String> {
    let source = source.as_str().unwrap_or_default();
    form_urlencoded::parse(source.as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// The values of a header, in order.
pub(super) fn header(request: &Value, name: &str) -> Vec<String> {
    let headers = request["headers"].as_object().into_iter().flatten();
    headers
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .flat_map(|(_, value)| text(value).map_or_else(|| strings(value), |one| vec![one]))
        .map(|value| value.trim().to_owned())
        .collect()
}

/// Whether the first answer grants nothing that the second does not: each list is of the same scopes, in order.
fn grants_no_more(ours: &Answer, recorded: &Answer) -> bool {
    let lists = |answer: &Answer| answer.access.as_array().cloned().unwrap_or_default();
    let (ours, recorded) = (lists(ours), lists(recorded));
    let is_within = |(ours, recorded): (&Value, &Value)| {
        let granted = strings(&recorded["actions"]);
        let asked = strings(&ours["actions"]);
        ours["name"] == recorded["name"] && asked.iter().all(|action| granted.contains(action))
    };
    ours.len() == recorded.len() && ours.iter().zip(&recorded).all(is_within)
}

/// The names are those of `requests.facts` in intended.json.
pub(super) fn of_request(
    config: &Value,
    refused: Option<&String>,
    request: &Value,
    recorded: &Answer,
    ours: &Answer,
) -> Facts {
    let both = |name: &str| {
        let mut values = parameters(&request["form"], name);
        values.extend(parameters(&request["query"], name));
        values
    };
    let basic = strings(&request["basic"]);
    let user = basic.first().cloned();
    let account = user.clone().unwrap_or_default();
    let listed = &config["users"][&account];
    let labels = listed["labels"].as_object().into_iter().flatten();
    let acl = config["acl"].as_array().into_iter().flatten();
    let configured = config.as_object().into_iter().flatten();
    let server = config["server"].as_object().into_iter().flatten();
    let words = |value: &Value| text(value).into_iter().collect::<Vec<_>>();
    Facts::from([
        ("method", words(&request["method"])),
        ("path", words(&request["path"])),
        ("query", words(&request["query"])),
        ("form", words(&request["form"])),
        ("scope", both("scope")),
        ("service", both("service")),
        ("account", both("account")),
        ("form username", parameters(&request["form"], "username")),
        ("form password", parameters(&request["form"], "password")),
        ("query password", parameters(&request["query"], "password")),
        ("basic user", user.into_iter().collect()),
        (
            "basic password",
            basic.get(1).cloned().into_iter().collect(),
        ),
        ("authorization", header(request, "Authorization")),
        ("content type", header(request, "Content-Type")),
        ("user of the config", vec![listed.to_string()]),
        ("stored hash", words(&listed["password"])),
        (
            "label",
            labels.flat_map(|(_, values)| strings(values)).collect(),
        ),
        ("rule", acl.map(Value::to_string).collect()),
        ("config", configured.map(|(key, _)| key.clone()).collect()),
        (
            "server",
            server
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
        ),
        ("issuer", words(&config["token"]["issuer"])),
        ("our errors", refused.into_iter().cloned().collect()),
        ("their status", vec![recorded.status.to_string()]),
        ("their access", vec![recorded.access.to_string()]),
        ("their panic", words(&request["panic"])),
        ("our status", vec![ours.status.to_string()]),
        ("our access", vec![ours.access.to_string()]),
        (
            "ours grants",
            vec![
                if grants_no_more(ours, recorded) {
                    "no more"
                } else {
                    "more"
                }
                .to_owned(),
            ],
        ),
        ("differs in", ours.differences(recorded)),
    ])
}
