//! Why a request to the bucket failed, and what follows from it: try again, give up, or a plain answer.
//!
//! Source of the table: seen on MinIO and versitygw. Must not know who asked. Invariants:
//! absence is believed only where the bucket names the code of it, so that a wrong proxy or bucket never makes data look
//! deleted; nothing that a server has written is repeated but the code, so no secret can be in it.

use std::error::Error;
use std::fmt;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};

/// Why one request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What it means for the request.
    pub kind: Kind,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The S3 code of the answer (`NoSuchKey`), if it had one.
    pub code: Option<String>,
    /// What happened, where no answer came.
    text: String,
    /// What to do about it, where the certificate of the server is the cause.
    certificate_hint: Option<&'static str>,
}

/// What [`Trouble`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bucket says that the key, or the upload in parts, is not there.
    Absent,
    /// A condition of the request does not hold.
    ConditionFailed,
    /// The content has none of the bytes that were asked for.
    OutOfRange,
    /// The bucket takes no more bytes.
    Full,
    /// It may go away by itself: another attempt is worth it.
    Passing,
    /// It stays until somebody changes the configuration or the bucket.
    Lasting,
}

/// Stands for a code where no request could be signed.
const NO_CREDENTIALS: &str = "NoCredentials";

/// The longest code of an answer that is repeated; S3's are shorter.
const CODE_LENGTH_MAX: usize = 64;

impl Trouble {
    /// No answer within the time of one attempt.
    pub(super) fn silence() -> Self {
        Self::without_answer(Kind::Passing, "no answer in time")
    }

    /// The answer is not one that S3 gives.
    pub(super) fn strange(text: &str) -> Self {
        Self::without_answer(Kind::Passing, text)
    }

    /// A request cannot be made of this.
    pub(super) fn unusable(text: impl Into<String>) -> Self {
        Self::without_answer(Kind::Lasting, text)
    }

    fn without_answer(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            status: None,
            code: None,
            text: text.into(),
            certificate_hint: None,
        }
    }

    /// By status and code of an answer.
    pub(super) fn answered(status: u16, code: Option<&str>) -> Self {
        let is_code = |code: &&str| {
            let is_short = !code.is_empty() && code.len() <= CODE_LENGTH_MAX;
            is_short && code.chars().all(|letter| letter.is_ascii_alphanumeric())
        };
        let code = code.filter(is_code);
        Self {
            kind: kind_of(status, code),
            status: Some(status),
            code: code.map(str::to_owned),
            text: String::new(),
            certificate_hint: None,
        }
    }

    pub(super) fn of_connector(error: &ConnectorError) -> Self {
        if error.is_timeout() {
            return Self::silence();
        }
        if let Some(tls) = cause::<rustls::Error>(error) {
            // A certificate is refused each time.
            return Self {
                certificate_hint: hint_of_tls(tls),
                ..Self::without_answer(Kind::Lasting, tls.to_string())
            };
        }
        let kind = if error.is_user() {
            Kind::Lasting
        } else {
            Kind::Passing
        };
        Self::without_answer(kind, root_cause(error))
    }

    /// Whether the request may have had its effect all the same: there was no answer, or one that something between here and the
    /// bucket may have given.
    pub(super) fn may_have_happened(&self) -> bool {
        match (self.status, self.code.as_deref()) {
            (None, _) => true,
            (Some(500..=599), code) => {
                !matches!(code, Some("SlowDown" | "SlowDownRead" | "SlowDownWrite"))
            }
            (Some(_), _) => false,
        }
    }

    /// Whether it is a refusal whose cause the answer to a HEAD, which has no body, cannot name.
    pub(super) fn is_mute(&self) -> bool {
        let is_refusal = matches!(self.status, Some(400..=499));
        is_refusal && !matches!(self.status, Some(408 | 425 | 429))
    }

    /// What to do about it, for the operator.
    pub fn hint(&self) -> Option<&'static str> {
        if self.certificate_hint.is_some() {
            return self.certificate_hint;
        }
        let by_code = match self.code.as_deref()? {
            "NoSuchBucket" => {
                "create the bucket, or correct `bucket`; a path in `regionendpoint` counts as a bucket, too"
            }
            NO_CREDENTIALS => {
                "set `accesskey` and `secretkey` (or `accesskey_file` and `secretkey_file`), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            "InvalidAccessKeyId" | "XAdminUserNotFound" => "correct `accesskey`",
            "SignatureDoesNotMatch" => "correct `secretkey`",
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "IllegalLocationConstraintException" => "correct `region`: it is not the bucket's",
            "RequestTimeTooSkewed" => "set the clock, of this machine or of the bucket's",
            "AccessDenied" | "AllAccessDisabled" => {
                "the account needs s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts for this bucket"
            }
            _ => return None,
        };
        Some(by_code)
    }
}

fn hint_of_tls(error: &rustls::Error) -> Option<&'static str> {
    use rustls::CertificateError as Certificate;
    let reason = match error {
        rustls::Error::InvalidCertificate(reason) => reason,
        rustls::Error::InvalidMessage(_) => {
            return Some("if its server does not speak TLS, write http:// in `regionendpoint`");
        }
        _ => return None,
    };
    let hint = match reason {
        Certificate::UnknownIssuer | Certificate::BadSignature => {
            "name the certificate of its authority in `ca_file`"
        }
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
            "write a name in `regionendpoint` that its certificate is for"
        }
        Certificate::Expired
        | Certificate::ExpiredContext { .. }
        | Certificate::NotValidYet
        | Certificate::NotValidYetContext { .. } => {
            "renew the certificate of its server, or set the clock of this machine"
        }
        Certificate::Other(other)
            if matches!(
                other.0.downcast_ref(),
                Some(webpki::Error::CaUsedAsEndEntity)
            ) =>
        {
            "its certificate is self-signed as an authority (openssl's default), which is refused even if trusted: make it with `-addext basicConstraints=CA:FALSE`"
        }
        _ => return None,
    };
    Some(hint)
}

fn kind_of(status: u16, code: Option<&str>) -> Kind {
    match (status, code) {
        // What the bucket could not hold is not there.
        (_, Some("NoSuchKey" | "NoSuchUpload" | "KeyTooLongError")) => Kind::Absent,
        (
            _,
            Some(
                "XMinioStorageFull"
                | "XMinioAdminBucketQuotaExceeded"
                | "QuotaExceeded"
                | "InsufficientStorage"
                | "StorageFull",
            ),
        )
        | (507, _) => Kind::Full,
        (412, _) => Kind::ConditionFailed,
        (416, _) => Kind::OutOfRange,
        (
            _,
            Some(
                "SlowDown"
                | "SlowDownRead"
                | "SlowDownWrite"
                | "RequestTimeout"
                | "InternalError"
                | "ServiceUnavailable"
                | "OperationAborted"
                | "ConditionalRequestConflict"
                // The next attempt is dated by the clock that this answer showed.
                | "RequestTimeTooSkewed"
                // Bytes were damaged on their way.
                | "BadDigest"
                | "XAmzContentChecksumMismatch"
                | "XAmzContentSHA256Mismatch"
                | "IncompleteBody",
            ),
        )
        | (408 | 425 | 429 | 500..=599, _)
        // Nothing of S3 has answered: a proxy whose server is away, most often.
        | (404, None) => Kind::Passing,
        _ => Kind::Lasting,
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Trouble
where
    E: ProvideErrorMetadata + Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if cause::<CredentialsError>(&error).is_some() {
            return Self {
                code: Some(NO_CREDENTIALS.to_owned()),
                ..Self::unusable("no credentials were found")
            };
        }
        match &error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                Self::answered(status, answer.err().code())
            }
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                if (200..300).contains(&status) {
                    // The answer broke off, or it is that of another program.
                    return Self::strange("an answer that S3 does not give");
                }
                Self::answered(status, None)
            }
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(error) => Self::of_connector(error),
                None => Self::without_answer(Kind::Passing, root_cause(&error)),
            },
            SdkError::TimeoutError(_) => Self::silence(),
            _ => Self::unusable(root_cause(&error)),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, &self.code) {
            (Some(status), Some(code)) => write!(out, "the bucket answered {status} {code}"),
            (Some(status), None) => {
                write!(out, "the bucket answered {status} without a code of S3")
            }
            (None, _) => out.write_str(&self.text),
        }
    }
}

impl Error for Trouble {}

/// The first cause of this type.
pub(super) fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = inner(error);
    }
    None
}

/// The last cause: those above it say "dispatch failure" and the like.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = inner(last) {
        last = next;
    }
    last.to_string()
}

/// What is inside `error`; `source` of an [`io::Error`] leaves one out.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_proves_absence() {
        let kind = |status, code| Trouble::answered(status, code).kind;
        assert_eq!(kind(404, Some("NoSuchKey")), Kind::Absent);
        assert_eq!(kind(404, Some("NoSuchUpload")), Kind::Absent);
        assert_eq!(kind(404, None), Kind::Passing, "a proxy");
        assert_eq!(kind(404, Some("NoSuchBucket")), Kind::Lasting);
        assert_eq!(kind(404, Some("XAdminUserNotFound")), Kind::Lasting);
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let kind = |status, code| Trouble::answered(status, code).kind;
        for status in [429, 500, 502, 503, 504] {
            assert_eq!(kind(status, None), Kind::Passing, "{status}");
        }
        assert_eq!(kind(503, Some("SlowDown")), Kind::Passing);
        assert_eq!(kind(409, Some("ConditionalRequestConflict")), Kind::Passing);
        assert_eq!(kind(403, Some("RequestTimeTooSkewed")), Kind::Passing);
        for (status, code) in [
            (403, Some("AccessDenied")),
            (403, Some("InvalidAccessKeyId")),
            (400, Some("AuthorizationHeaderMalformed")),
            (301, None),
        ] {
            assert_eq!(kind(status, code), Kind::Lasting, "{status}");
        }
        assert_eq!(kind(507, None), Kind::Full);
        assert_eq!(kind(412, Some("PreconditionFailed")), Kind::ConditionFailed);
    }

    #[test]
    fn without_a_clear_refusal_it_may_have_happened() {
        let may = |status, code| Trouble::answered(status, code).may_have_happened();
        assert!(Trouble::silence().may_have_happened());
        assert!(may(500, Some("InternalError")) && may(504, None));
        assert!(!may(503, Some("SlowDown")) && !may(429, None));
        assert!(!may(409, Some("ConditionalRequestConflict")));
    }

    #[test]
    fn only_the_code_of_an_answer_is_repeated() {
        let text = Trouble::answered(403, Some("wJalrXUtnFEMI/K7MDENG is wrong")).to_string();
        assert_eq!(text, "the bucket answered 403 without a code of S3");
    }
}
