//! An auth callout: the server asks for each client that connects, and the answer is a user JWT whose permissions follow
//! from the roles in the client's own token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{ConnectOptions, Message};
use futures_util::StreamExt;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::Permissions;
use super::claims::{ClaimsError, sign, verified};

/// Where the server asks.
const SUBJECT: &str = "$SYS.REQ.USER.AUTH";
/// The account that the responder itself is in.
const RESPONDER_ACCOUNT: &str = "AUTH";
/// The user that it logs in as.
const RESPONDER: &str = "auth";
/// The account that clients are put into.
const ACCOUNT: &str = "APP";
/// Signatures by a private key: a server that has public keys alone can trust no other.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::RS256, Algorithm::ES256];

/// What a role may do. One line for each, so that a change of policy is a change of one line:
/// `loader: publish $JS.API.> $JS.ACK.> subscribe _INBOX.>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// As the token has it among its `roles`.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
}

impl Role {
    /// Reads lines; empty ones and comments (`#`) are left out.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn read(lines: &str) -> Result<Vec<Self>, String> {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| Self::read_one(line).ok_or_else(|| line.to_owned())).collect()
    }

    fn read_one(line: &str) -> Option<Self> {
        let (name, rights) = line.split_once(':')?;
        let mut permissions = Permissions::default();
        let mut list = None;
        for word in rights.split_whitespace() {
            match (word, &mut list) {
                ("publish", _) => list = Some(&mut permissions.publish),
                ("subscribe", _) => list = Some(&mut permissions.subscribe),
                (subject, Some(list)) => list.push(subject.to_owned()),
                (_, None) => return None,
            }
        }
        // NATS takes no subjects for all subjects, and a role that says nothing must not be everything
        let is_complete = !permissions.publish.is_empty() && !permissions.subscribe.is_empty();
        (is_complete && !name.trim().is_empty()).then(|| Self { name: name.trim().to_owned(), permissions })
    }
}

/// Whose tokens are taken, and for what.
#[derive(Debug, Clone)]
pub struct CalloutOptions {
    /// The public keys of the provider.
    pub keys: JwkSet,
    /// What a token has to be for.
    pub audience: String,
    /// What its roles may do.
    pub roles: Vec<Role>,
}

/// Answers the server's questions until it is dropped.
pub struct Callout {
    issuer: Arc<KeyPair>,
    password: String,
    answers: Arc<Answers>,
    answering: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug, Default)]
struct Answers {
    admitted: AtomicU64,
    refused: AtomicU64,
}

impl Default for Callout {
    fn default() -> Self {
        Self {
            issuer: Arc::new(KeyPair::new_account()),
            password: uuid::Uuid::new_v4().simple().to_string(),
            answers: Arc::default(),
            answering: None,
        }
    }
}

impl Callout {
    /// Lines for the server's configuration; it asks from its start on, and admits nobody before somebody answers.
    pub fn server_config(&self) -> String {
        format!(
            "accounts {{\n  {RESPONDER_ACCOUNT} {{ users: [{{ user: {RESPONDER}, password: \"{}\" }}] }}\n  \
             {ACCOUNT} {{ jetstream: enabled }}\n  SYS {{}}\n}}\nsystem_account: SYS\n\
             authorization {{\n  auth_callout {{ issuer: {}, users: [{RESPONDER}], account: {RESPONDER_ACCOUNT} }}\n}}\n",
            self.password,
            self.issuer.public_key(),
        )
    }

    /// Begins to answer.
    ///
    /// # Errors
    /// Where the server cannot be reached, or does not let the responder in.
    pub async fn answer(
        &mut self,
        server: &str,
        options: ConnectOptions,
        policy: CalloutOptions,
    ) -> Result<(), async_nats::Error> {
        let options = options.user_and_password(RESPONDER.to_owned(), self.password.clone());
        let client = options.connect(server).await?;
        let mut questions = client.subscribe(SUBJECT).await?;
        // the server has it before this returns, so that nobody is refused for want of an answer
        client.flush().await?;
        let (issuer, answers) = (Arc::clone(&self.issuer), Arc::clone(&self.answers));
        self.answering = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                match answer(&issuer, &policy, &question) {
                    Ok((answer, is_admitted)) => {
                        let counter = if is_admitted { &answers.admitted } else { &answers.refused };
                        counter.fetch_add(1, Ordering::Relaxed);
                        if let Some(reply) = question.reply
                            && let Err(error) = client.publish(reply, answer.into()).await
                        {
                            tracing::warn!(%error, "an answer of the auth callout is lost");
                        }
                    }
                    // no answer: the server refuses the client when its patience is over
                    Err(error) => tracing::warn!(%error, "a question of the auth callout is none"),
                }
            }
        })));
        Ok(())
    }

    /// Clients that were admitted.
    pub fn admitted(&self) -> u64 {
        self.answers.admitted.load(Ordering::Relaxed)
    }

    /// Clients that were refused.
    pub fn refused(&self) -> u64 {
        self.answers.refused.load(Ordering::Relaxed)
    }
}

/// The answer, and whether the client is admitted.
fn answer(
    issuer: &KeyPair,
    policy: &CalloutOptions,
    question: &Message,
) -> Result<(String, bool), ClaimsError> {
    let text = std::str::from_utf8(&question.payload).map_err(|_| ClaimsError::Form("not text"))?;
    let claims = verified(text)?;
    let asked = &claims["nats"];
    let field =
        |value: &Value| value.as_str().map(str::to_owned).ok_or(ClaimsError::Form("a field is missing"));
    let (user, server) = (field(&asked["user_nkey"])?, field(&asked["server_id"]["id"])?);
    let token = asked["connect_opts"]["auth_token"].as_str().unwrap_or_default();
    let mut answer = json!({ "sub": user, "aud": server, "nats": { "type": "authorization_response" } });
    let admitted = admitted(policy, token);
    match &admitted {
        Ok(token) => answer["nats"]["jwt"] = json!(user_jwt(issuer, policy, &user, token)?),
        Err(why) => answer["nats"]["error"] = json!(why),
    }
    Ok((sign(answer, issuer)?, admitted.is_ok()))
}

/// What counts of a token.
#[derive(Debug, Deserialize)]
struct Token {
    sub: String,
    exp: u64,
    #[serde(default)]
    roles: Vec<String>,
}

/// Whom the token is of, where it is good and has a role that is known.
fn admitted(policy: &CalloutOptions, token: &str) -> Result<Token, &'static str> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| "no token")?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err("the token's algorithm is not taken");
    }
    let key = policy.keys.keys.iter().find(|key| key.common.key_id == header.kid);
    let key = key.and_then(|key| DecodingKey::from_jwk(key).ok()).ok_or("the token's key is not known")?;
    let mut validation = Validation::new(header.alg);
    validation.leeway = 0;
    validation.set_audience(&[&policy.audience]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    let token =
        jsonwebtoken::decode::<Token>(token, &key, &validation).map_err(|_| "the token is not good")?.claims;
    let is_known = policy.roles.iter().any(|role| token.roles.contains(&role.name));
    if is_known { Ok(token) } else { Err("the token has no role that is known") }
}

/// The user that a token makes: it may do what any of its roles may, carries them as tags, and ends with the token.
fn user_jwt(
    issuer: &KeyPair,
    policy: &CalloutOptions,
    user: &str,
    token: &Token,
) -> Result<String, ClaimsError> {
    let mut all = Permissions::default();
    let mut tags = Vec::new();
    for role in policy.roles.iter().filter(|role| token.roles.contains(&role.name)) {
        all.publish.extend(role.permissions.publish.iter().cloned());
        all.subscribe.extend(role.permissions.subscribe.iter().cloned());
        tags.push(format!("role:{}", role.name));
    }
    let [publish, subscribe] = all.claims();
    let claims = json!({
        "sub": user, "name": token.sub, "aud": ACCOUNT, "exp": token.exp,
        "nats": {
            "type": "user", "pub": publish, "sub": subscribe, "tags": tags, "subs": -1, "data": -1, "payload": -1,
        },
    });
    sign(claims, issuer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_line() {
        let roles = Role::read(
            "# who writes\nloader: publish $JS.API.> $JS.ACK.> subscribe _INBOX.>\n\nreader: subscribe a publish b\n",
        )
        .unwrap();
        assert_eq!(roles[0].permissions, Permissions::new(&["$JS.API.>", "$JS.ACK.>"], &["_INBOX.>"]));
        assert_eq!((roles.len(), roles[1].name.as_str()), (2, "reader"));
        for line in ["loader", "loader: a.b", "loader: publish a", ": publish a subscribe b", "loader:"] {
            assert_eq!(Role::read(line).unwrap_err(), line);
        }
    }
}
