//! Who may have tokens, and how they prove that it is them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::{ClientCertificate, SigningKey};

/// What a workload's token is for that is exchanged for one of Entra ID.
pub(super) const FEDERATION_AUDIENCE: &str = "api://AzureADTokenExchange";

/// An application, or a managed identity.
#[derive(Debug, Clone)]
pub struct Application {
    /// What users of the database are called after.
    pub name: String,
    /// The id that it asks with.
    pub client_id: String,
    /// The id of its object in the directory.
    pub object_id: String,
    /// The app roles that it was given: its tokens carry them.
    pub roles: Vec<String>,
    pub(super) proof: Proof,
}

/// How an application proves that it is itself.
#[derive(Debug, Clone)]
pub enum Proof {
    /// Not at all: it is the machine's identity, which the endpoint gives tokens for.
    None,
    /// By this secret.
    Secret(String),
    /// By assertions that are signed with the key of this certificate.
    Certificate(Box<ClientCertificate>),
    /// By tokens of another issuer for this subject.
    Federation {
        /// The issuer.
        issuer: String,
        /// The subject.
        subject: String,
        /// The issuer's key.
        key: Box<SigningKey>,
    },
}

impl Application {
    /// One with new ids.
    pub fn new(name: &str, proof: Proof) -> Self {
        let id = || uuid::Uuid::new_v4().to_string();
        Self { name: name.to_owned(), client_id: id(), object_id: id(), roles: Vec::new(), proof }
    }

    /// The same with these app roles.
    pub fn with_roles(self, roles: &[&str]) -> Self {
        Self { roles: roles.iter().map(|role| (*role).to_owned()).collect(), ..self }
    }

    /// The same with another proof.
    pub fn with_proof(self, proof: Proof) -> Self {
        Self { proof, ..self }
    }
}

/// Entra ID's numbers for what is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such application.
    UnknownApplication,
    /// It is another secret.
    WrongSecret,
    /// The assertion is not signed with the application's key.
    WrongSignature,
    /// The assertion is for somebody else, or has ended.
    WrongAssertion,
    /// The federated token is of nobody that the application trusts.
    WrongFederation,
    /// The token would be for something that is not here.
    WrongScope,
    /// Something is missing, or asked for in another way.
    Malformed,
}

impl Refusal {
    /// HTTP's status, OAuth's word, and Entra ID's number.
    pub(super) fn codes(self) -> (u16, &'static str, u32) {
        match self {
            Self::UnknownApplication => (400, "unauthorized_client", 700_016),
            Self::WrongSecret => (401, "invalid_client", 7_000_215),
            Self::WrongSignature => (401, "invalid_client", 700_027),
            Self::WrongAssertion => (401, "invalid_client", 700_024),
            Self::WrongFederation => (401, "invalid_client", 700_213),
            Self::WrongScope => (400, "invalid_scope", 70_011),
            Self::Malformed => (400, "invalid_request", 900_144),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    jti: Option<String>,
}

/// Looks whether an assertion is the application's. `endpoint` is whom it has to be for.
pub(super) fn check_assertion(
    application: &Application,
    assertion: &str,
    endpoint: &str,
) -> Result<(), Refusal> {
    match &application.proof {
        Proof::Certificate(certificate) => check_certificate(application, certificate, assertion, endpoint),
        Proof::Federation { issuer, subject, key } => {
            let key = DecodingKey::from_jwk(key.public()).map_err(|_| Refusal::WrongFederation)?;
            let claims = decode(assertion, &key, Algorithm::RS256, FEDERATION_AUDIENCE)
                .map_err(|_| Refusal::WrongFederation)?;
            let is_trusted = claims.iss == *issuer && claims.sub == *subject;
            if is_trusted { Ok(()) } else { Err(Refusal::WrongFederation) }
        }
        Proof::None | Proof::Secret(_) => Err(Refusal::WrongAssertion),
    }
}

fn check_certificate(
    application: &Application,
    certificate: &ClientCertificate,
    assertion: &str,
    endpoint: &str,
) -> Result<(), Refusal> {
    let header = jsonwebtoken::decode_header(assertion).map_err(|_| Refusal::Malformed)?;
    if !matches!(header.alg, Algorithm::PS256 | Algorithm::RS256) {
        return Err(Refusal::WrongSignature);
    }
    let thumbprint = URL_SAFE_NO_PAD.encode(&certificate.thumbprint);
    if header.x5t_s256.as_ref() != Some(&thumbprint) {
        return Err(Refusal::WrongSignature);
    }
    let key = DecodingKey::from_rsa_der(&certificate.public_key);
    let claims = decode(assertion, &key, header.alg, endpoint).map_err(|error| match error.kind() {
        jsonwebtoken::errors::ErrorKind::InvalidSignature => Refusal::WrongSignature,
        _ => Refusal::WrongAssertion,
    })?;
    let is_own =
        claims.iss == application.client_id && claims.sub == application.client_id && claims.jti.is_some();
    if is_own { Ok(()) } else { Err(Refusal::WrongAssertion) }
}

fn decode(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
    audience: &str,
) -> jsonwebtoken::errors::Result<Claims> {
    let mut validation = Validation::new(algorithm);
    validation.leeway = 0;
    validation.validate_nbf = true;
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    Ok(jsonwebtoken::decode::<Claims>(token, key, &validation)?.claims)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::super::keys::now;
    use super::*;

    const ENDPOINT: &str = "https://localhost:1/tenant/oauth2/v2.0/token";

    fn signed(certificate: &ClientCertificate, x5t: &[u8], claims: &Value) -> String {
        let mut header = Header::new(Algorithm::PS256);
        header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(x5t));
        let (_, key) = certificate.pem.split_once("-----BEGIN PRIVATE KEY-----").unwrap();
        let key: String = key.lines().take_while(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(key).unwrap();
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_rsa_der(&der[26..])).unwrap()
    }

    #[test]
    fn an_assertion_has_to_be_the_applications_own() {
        let certificate = ClientCertificate::generate("own").unwrap();
        let other = ClientCertificate::generate("own").unwrap();
        let application = Application::new("own", Proof::Certificate(Box::new(certificate.clone())));
        let claims = |changed: Value| {
            let id = &application.client_id;
            let mut claims =
                json!({"aud": ENDPOINT, "iss": id, "sub": id, "jti": "1", "nbf": now(), "exp": now() + 60});
            for (name, value) in changed.as_object().unwrap() {
                claims[name] = value.clone();
            }
            claims
        };
        let check = |token: &str| check_assertion(&application, token, ENDPOINT);
        let good = claims(json!({}));
        assert_eq!(check(&signed(&certificate, &certificate.thumbprint, &good)), Ok(()));
        // another key, with its own thumbprint and with that of the right one
        for thumbprint in [&other.thumbprint, &certificate.thumbprint] {
            assert_eq!(check(&signed(&other, thumbprint, &good)), Err(Refusal::WrongSignature));
        }
        for changed in [
            json!({"aud": "https://localhost:2/"}),
            json!({"iss": "somebody"}),
            json!({"sub": "somebody"}),
            json!({"jti": null}),
            json!({"exp": now() - 1}),
            json!({"nbf": now() + 60}),
        ] {
            let token = signed(&certificate, &certificate.thumbprint, &claims(changed.clone()));
            assert_eq!(check(&token), Err(Refusal::WrongAssertion), "{changed}");
        }
        assert_eq!(check("no token"), Err(Refusal::Malformed));
    }

    #[test]
    fn a_federated_token_has_to_be_of_the_trusted_issuer_and_subject() {
        let (cluster, other) = (SigningKey::generate("k").unwrap(), SigningKey::generate("k").unwrap());
        let trust = |key: &SigningKey| Proof::Federation {
            issuer: "https://cluster/".to_owned(),
            subject: "sink".to_owned(),
            key: Box::new(key.clone()),
        };
        let application = Application::new("own", trust(&cluster));
        let check = |key: &SigningKey, issuer: &str, subject: &str, life: u64| {
            let token = key.workload_token(issuer, subject, Duration::from_secs(life)).unwrap();
            check_assertion(&application, &token, ENDPOINT)
        };
        assert_eq!(check(&cluster, "https://cluster/", "sink", 60), Ok(()));
        for (key, issuer, subject) in [
            (&other, "https://cluster/", "sink"),
            (&cluster, "https://other/", "sink"),
            (&cluster, "https://cluster/", "x"),
        ] {
            assert_eq!(check(key, issuer, subject, 60), Err(Refusal::WrongFederation), "{issuer} {subject}");
        }
    }
}
