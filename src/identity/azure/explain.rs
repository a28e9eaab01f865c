//! What an error of a credential means, in words that hold nothing which somebody else has written.
//!
//! An identity provider may quote in its text what it was sent. So of an answer only the status, Microsoft's numbers and
//! OAuth's word for the error are told.

use std::error::Error;
use std::io;

use azure_core::error::ErrorKind;
use serde::Deserialize;

use crate::config::{AuthConfig, AuthMethod};
use crate::identity::token::TokenError;

/// The most that is told of a text of a library.
const MAX_TEXT: usize = 200;

/// What is read of a refusal. RFC 6749, 5.2.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
}

/// Why a credential has no token; `status` is that of the last answer, if there was one.
pub(super) fn explain(error: &azure_core::Error, auth: &AuthConfig, status: Option<u16>) -> TokenError {
    let from = provider(auth);
    for cause in causes(error) {
        if let Some(tls) = tls_error(cause) {
            let hint = match auth.method {
                AuthMethod::ManagedIdentity => String::new(),
                _ => format!(": its authority can be named by {}", auth.fields().ca_file),
            };
            let certificate = matches!(tls, rustls::Error::InvalidCertificate(_));
            return match certificate {
                true => TokenError::refused(format!(
                    "the certificate of {from} is refused ({}){hint}",
                    short(tls)
                )),
                false => TokenError::unavailable(format!("no tls with {from}: {}", short(tls))),
            };
        }
        let Some(cause) = cause.downcast_ref::<azure_core::Error>() else { continue };
        if let ErrorKind::HttpResponse { status, error_code, raw_response } = cause.kind() {
            let body = raw_response.as_ref().map(|answer| answer.body().as_ref()).unwrap_or_default();
            let word = serde_json::from_slice::<Refusal>(body).unwrap_or_default().error;
            return answered(&from, u16::from(*status), error_code.as_deref(), &word);
        }
    }
    let kind =
        causes(error).find_map(|cause| cause.downcast_ref::<azure_core::Error>()).map(|own| own.kind());
    match (status, auth.method) {
        (Some(200..=299), _) => TokenError::unavailable(format!("the answer of {from} cannot be read")),
        (Some(status), _) => answered(&from, status, None, ""),
        // The command says what to do, such as to log in. It prints no token where it fails.
        (None, AuthMethod::AzureCli) => TokenError::refused(short(error)),
        (None, _) if is_about_connection(error) => {
            TokenError::unavailable(format!("{from} is not reached: {}", innermost(error)))
        }
        (None, _) => {
            let text = innermost(error);
            match kind {
                Some(ErrorKind::Io | ErrorKind::Connection) => TokenError::unavailable(text),
                _ => TokenError::refused(text),
            }
        }
    }
}

/// A refusal, or an answer that says to come again.
fn answered(from: &str, status: u16, codes: Option<&str>, word: &str) -> TokenError {
    let is_word = !word.is_empty()
        && word.len() <= 64
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let codes = codes.into_iter().flat_map(|codes| codes.split(',')).filter(|code| {
        code.len() <= 10 && !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_digit())
    });
    let details: Vec<String> = is_word
        .then(|| word.to_owned())
        .into_iter()
        .chain(codes.take(4).map(|code| format!("AADSTS{code}")))
        .collect();
    let details = if details.is_empty() { String::new() } else { format!(", {}", details.join(", ")) };
    let text = format!("{from} answers with {status}{details}");
    match status {
        408 | 410 | 429 | 500.. => TokenError::unavailable(text),
        _ => TokenError::refused(text),
    }
}

/// Who is asked, without anything of the request.
fn provider(auth: &AuthConfig) -> String {
    match auth.method {
        AuthMethod::ManagedIdentity => "the managed identity endpoint".to_owned(),
        AuthMethod::AzureCli => "the azure cli".to_owned(),
        _ => auth.authority().trim_end_matches('/').to_owned(),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        // An I/O error names the cause of what is in it as its own, and not what is in it.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<rustls::Error>()
}

fn is_about_connection(error: &azure_core::Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some()
            || cause
                .downcast_ref::<reqwest::Error>()
                .is_some_and(|error| error.is_connect() || error.is_timeout())
    })
}

/// The text of the last cause: the system's own, not what libraries put around it.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(short).unwrap_or_default()
}

/// The first line, and not too much of it.
fn short(error: &(impl Error + ?Sized)) -> String {
    let text = error.to_string();
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .chars()
        .take(MAX_TEXT)
        .collect()
}

#[cfg(test)]
mod tests {
    use azure_core::http::headers::Headers;
    use azure_core::http::{RawResponse, StatusCode};

    use super::*;
    use crate::identity::token::TokenErrorKind;

    fn auth() -> AuthConfig {
        toml::from_str("method = 'client_secret'\nauthority = 'https://login.example/'")
            .expect("it can be read")
    }

    fn refusal(status: u16, codes: Option<&str>, body: &'static str) -> TokenError {
        let status = StatusCode::from(status);
        let kind = ErrorKind::HttpResponse {
            status,
            error_code: codes.map(str::to_owned),
            raw_response: Some(Box::new(RawResponse::from_bytes(status, Headers::default(), body))),
        };
        // as credentials put it into an error of their own, with the text of the answer
        let inner = azure_core::Error::new(kind, body);
        explain(
            &azure_core::Error::with_error(ErrorKind::Credential, inner, body),
            &auth(),
            Some(status.into()),
        )
    }

    #[test]
    fn of_a_refusal_only_its_numbers_are_told() {
        let body = r#"{"error":"invalid_client","error_description":"canary","error_codes":[7000215]}"#;
        let error = refusal(401, Some("7000215"), body);
        assert_eq!(error.reason, "https://login.example answers with 401, invalid_client, AADSTS7000215");
        assert_eq!(error.kind, TokenErrorKind::Refused);
        for (codes, body) in [
            (None, r#"{"error":"canary in several words"}"#),
            (Some("canary"), "<html>canary</html>"),
            (Some("12345678901"), ""),
        ] {
            assert_eq!(refusal(400, codes, body).reason, "https://login.example answers with 400");
        }
    }

    #[test]
    fn what_passes_by_itself_is_told_from_what_somebody_has_to_mend() {
        for (status, expected) in [
            (400, TokenErrorKind::Refused),
            (401, TokenErrorKind::Refused),
            (403, TokenErrorKind::Refused),
            (404, TokenErrorKind::Refused),
            (302, TokenErrorKind::Refused),
            (408, TokenErrorKind::Unavailable),
            (410, TokenErrorKind::Unavailable),
            (429, TokenErrorKind::Unavailable),
            (500, TokenErrorKind::Unavailable),
            (503, TokenErrorKind::Unavailable),
        ] {
            assert_eq!(refusal(status, None, "").kind, expected, "{status}");
        }
        // an answer of a proxy, which is no JSON: its status is all that there is
        let unread = || azure_core::Error::with_message(ErrorKind::DataConversion, "canary");
        let error = explain(&unread(), &auth(), Some(502));
        assert_eq!(
            (error.kind, error.reason.as_str()),
            (TokenErrorKind::Unavailable, "https://login.example answers with 502")
        );
        let error = explain(&unread(), &auth(), Some(200));
        assert_eq!(error.kind, TokenErrorKind::Unavailable);
        assert!(!error.reason.contains("canary"), "{error}");
    }

    #[test]
    fn a_certificate_is_found_in_whatever_it_is_wrapped() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let io = io::Error::new(io::ErrorKind::InvalidData, tls);
        let error =
            azure_core::Error::with_error(ErrorKind::Connection, io, "failed to execute `reqwest` request");
        let error = explain(&error, &auth(), None);
        assert_eq!(error.kind, TokenErrorKind::Refused);
        assert!(
            error.reason.starts_with(
                "the certificate of https://login.example is refused (invalid peer certificate: "
            ),
            "{error}"
        );
        let io = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error =
            azure_core::Error::with_error(ErrorKind::Connection, io, "failed to execute `reqwest` request");
        let error = explain(&error, &auth(), None);
        assert_eq!(error.kind, TokenErrorKind::Unavailable);
        assert_eq!(error.reason, "https://login.example is not reached: connection refused");
    }
}
