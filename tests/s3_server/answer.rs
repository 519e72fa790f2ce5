//! Answers, and the XML in them.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// An answer as operations make it: whole.
pub(super) type Answer = Response<Bytes>;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// More elements: name and text.
    details: Vec<(&'static str, String)>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str) -> Self {
        Self {
            status,
            code,
            message: format!("refused: {code}"),
            details: Vec::new(),
        }
    }

    pub(super) fn bad_request(code: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code)
    }

    pub(super) fn forbidden(code: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, code)
    }

    pub(super) fn not_found(code: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code)
    }

    pub(super) fn precondition_failed() -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed")
    }

    pub(super) fn invalid_argument(name: &str) -> Self {
        Self::bad_request("InvalidArgument").because(format!("not a valid {name}"))
    }

    pub(super) fn not_implemented(what: &str) -> Self {
        let failure = Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented");
        failure.because(format!("this server does not know {what}"))
    }

    pub(super) fn because(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    pub(super) fn with(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.details.push((name, text.into()));
        self
    }

    pub(super) fn answer(self) -> Answer {
        if self.status == StatusCode::NOT_MODIFIED {
            return empty(self.status);
        }
        let mut xml = Xml::new();
        xml.open("Error");
        xml.element("Code", self.code);
        xml.element("Message", &self.message);
        for (name, text) in &self.details {
            xml.element(name, text);
        }
        xml.close("Error");
        xml.answer(self.status)
    }
}

/// XML as it is written.
pub(super) struct Xml(String);

impl Xml {
    pub(super) fn new() -> Self {
        Self(r#"<?xml version="1.0" encoding="UTF-8"?>"#.to_owned())
    }

    pub(super) fn open(&mut self, name: &str) {
        let _ = write!(self.0, "<{name}>");
    }

    pub(super) fn close(&mut self, name: &str) {
        let _ = write!(self.0, "</{name}>");
    }

    pub(super) fn element(&mut self, name: &str, text: &str) {
        let _ = write!(self.0, "<{name}>{}</{name}>", escaped(text));
    }

    pub(super) fn answer(self, status: StatusCode) -> Answer {
        let mut answer = Response::new(self.0.into());
        *answer.status_mut() = status;
        set(&mut answer, "content-type", "application/xml");
        answer
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The content of every element `name`, without a look at what it is in. Enough for the few documents that clients send.
pub(super) fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let contents = xml.split(&open).skip(1);
    contents
        .filter_map(|rest| Some(rest.split_once(&close)?.0))
        .map(|text| {
            text.replace("&quot;", "\"")
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&amp;", "&")
        })
        .collect()
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = status;
    answer
}

/// Sets a header. A text that cannot be one was stored by a test, which learns it here.
pub(super) fn set(answer: &mut Answer, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes()).expect("a name of a header");
    let value = HeaderValue::from_str(value).expect("a value of a header");
    answer.headers_mut().insert(name, value);
}

const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
const XML_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

pub(super) fn http_date(moment: OffsetDateTime) -> String {
    moment.format(&HTTP_DATE).expect("a date")
}

pub(super) fn xml_date(moment: OffsetDateTime) -> String {
    moment.format(&XML_DATE).expect("a date")
}
