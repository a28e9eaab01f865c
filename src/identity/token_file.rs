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
