//! An access token in a file that something else keeps fresh. When it ends stands in the token itself.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::token::{Fetched, TokenError};
use super::{IdentityError, read_file};

/// What is read of a token's claims. They are not verified: the server does that, here they only say when to look again.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: f64,
}

/// Reads the file anew.
pub(super) fn read(path: &Path) -> Result<Fetched, TokenError> {
    let field = "sql.auth.token_file";
    let secret = read_file(field, path)?;
    if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed(field, path).into());
    }
    let ends = match secret.expose().split('.').collect::<Vec<_>>().as_slice() {
        [_, claims, _] => Some(end_of(claims).ok_or_else(|| malformed(field, path))?),
        // Not a JWT, which some token services give out: then nobody knows.
        _ => None,
    };
    Ok(Fetched { secret, ends })
}

fn malformed(field: &'static str, path: &Path) -> IdentityError {
    super::malformed(field, path)
}

fn end_of(claims: &str) -> Option<SystemTime> {
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.exp).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::token::TokenErrorKind;

    fn read_text(text: &str) -> Result<Fetched, TokenError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it can be written");
        read(file.path())
    }

    fn token(claims: &str) -> String {
        format!("eyJhbGciOiJSUzI1NiJ9.{}.signature", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn the_end_is_read_from_the_token() {
        let fetched = read_text(&format!("{}\n", token(r#"{"exp":4102444800,"aud":"x"}"#))).expect("a token");
        assert_eq!(fetched.ends, Some(UNIX_EPOCH + Duration::from_secs(4_102_444_800)));
        assert_eq!(fetched.secret.expose(), token(r#"{"exp":4102444800,"aud":"x"}"#));
        // what is no JWT says nothing
        assert_eq!(read_text("opaque").expect("a token").ends, None);
    }

    #[test]
    fn a_token_that_is_cut_off_is_refused_without_showing_it() {
        let whole = token(r#"{"exp":4102444800,"canary":"canary"}"#);
        let cut = &whole[..whole.len() - 20];
        for text in [
            cut.to_owned() + ".x",
            token("canary"),
            token(r#"{"canary":1}"#),
            token(r#"{"exp":-1}"#),
            "two words".to_owned(),
            String::new(),
        ] {
            let error = read_text(&text).expect_err(&text);
            assert_eq!(error.kind, TokenErrorKind::Refused);
            assert!(error.reason.starts_with("sql.auth.token_file: file "), "{error}");
            assert!(!error.reason.contains("canary") && !error.reason.contains("eyJ"), "{error}");
        }
    }
}
