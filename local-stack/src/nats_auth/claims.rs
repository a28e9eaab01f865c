//! The JWTs of NATS: signed by ed25519 keys that are written in NATS' own way.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// Why a JWT cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    /// A key is not what it is used for.
    #[error("a key cannot be used: {0}")]
    Key(#[from] nkeys::error::Error),
    /// It has not the form of a JWT, or the signature is not that of its issuer.
    #[error("no jwt of nats: {0}")]
    Form(&'static str),
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Completes the claims and signs them.
pub(super) fn sign(mut claims: Value, issuer: &KeyPair) -> Result<String, ClaimsError> {
    claims["iss"] = json!(issuer.public_key());
    claims["iat"] = json!(now());
    // only to be told apart: nobody verifies how it was made
    claims["jti"] = json!(uuid::Uuid::new_v4().simple().to_string());
    claims["nats"]["version"] = json!(2);
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

/// The claims, where the one that they name as issuer has signed them.
pub(super) fn verified(token: &str) -> Result<Value, ClaimsError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(ClaimsError::Form("no signature"))?;
    let (_header, claims) = signed.split_once('.').ok_or(ClaimsError::Form("no claims"))?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| ClaimsError::Form("not base64"));
    let claims: Value =
        serde_json::from_slice(&decoded(claims)?).map_err(|_| ClaimsError::Form("not JSON"))?;
    let issuer = claims["iss"].as_str().ok_or(ClaimsError::Form("no issuer"))?;
    KeyPair::from_public_key(issuer)?.verify(signed.as_bytes(), &decoded(signature)?)?;
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_is_verified_and_what_was_changed_is_not() {
        let (account, other) = (KeyPair::new_account(), KeyPair::new_account());
        let token = sign(json!({ "sub": "x", "nats": {} }), &account).unwrap();
        assert_eq!(verified(&token).unwrap()["iss"], account.public_key());
        let forged = sign(json!({ "sub": "y", "nats": {} }), &other).unwrap();
        let (_, signature) = token.rsplit_once('.').unwrap();
        let (signed, _) = forged.rsplit_once('.').unwrap();
        assert!(verified(&format!("{signed}.{signature}")).is_err());
        assert!(verified("x.y").is_err());
    }
}
