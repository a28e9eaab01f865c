//! The answers to requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::application::{Proof, Refusal, check_assertion};
use super::keys::now;
use super::{Application, Behaviour, SYSTEM_IDENTITY, Shared, SigningKey, TENANT};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The version of App Service's protocol.
const APP_SERVICE_VERSION: &str = "2019-08-01";

/// Serves until it is dropped.
pub(super) async fn serve<L>(listener: L, router: Router)
where
    L: axum::serve::Listener<Addr: std::fmt::Debug>,
{
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(%error, "the identity provider has ended");
    }
}

/// Entra ID.
pub(super) fn entra(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/{tenant}/v2.0/.well-known/openid-configuration", get(discovery))
        .route("/{tenant}/discovery/v2.0/keys", get(keys))
        .route("/{tenant}/oauth2/v2.0/token", post(token))
        .with_state(shared)
}

/// The endpoint on the machine.
pub(super) fn app_service(shared: Arc<Shared>) -> Router {
    Router::new().route("/msi/token", get(managed_identity)).with_state(shared)
}

async fn discovery(State(shared): State<Arc<Shared>>, Path(tenant): Path<String>) -> Response {
    if tenant != TENANT {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let base = shared.issuer.trim_end_matches("/v2.0");
    Json(json!({
        "issuer": shared.issuer,
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
    }))
    .into_response()
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    ([("content-type", "application/json")], shared.key.jwks()).into_response()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenRequest {
    grant_type: String,
    client_id: String,
    scope: String,
    client_secret: Option<String>,
    client_assertion_type: String,
    client_assertion: Option<String>,
}

async fn token(
    State(shared): State<Arc<Shared>>,
    Path(tenant): Path<String>,
    Form(request): Form<TokenRequest>,
) -> Response {
    if let Some(answer) = misbehave(&shared).await {
        return answer;
    }
    match grant(&shared, &tenant, &request) {
        Ok(minted) => {
            shared.counters.minted.fetch_add(1, Ordering::Relaxed);
            let left = minted.exp.saturating_sub(now()).saturating_sub(1);
            Json(json!({
                "token_type": "Bearer", "expires_in": left, "ext_expires_in": left, "access_token": minted.token,
            }))
            .into_response()
        }
        Err(refusal) => refuse(&shared, refusal),
    }
}

fn refuse(shared: &Shared, refusal: Refusal) -> Response {
    shared.counters.refused.fetch_add(1, Ordering::Relaxed);
    let (status, word, number) = refusal.codes();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let description = format!("AADSTS{number}: {refusal:?}");
    (status, Json(json!({ "error": word, "error_description": description, "error_codes": [number] })))
        .into_response()
}

/// An access token and when it ends.
pub(super) struct Minted {
    pub(super) token: String,
    exp: u64,
}

fn grant(shared: &Shared, tenant: &str, request: &TokenRequest) -> Result<Minted, Refusal> {
    if tenant != TENANT || request.grant_type != "client_credentials" {
        return Err(Refusal::Malformed);
    }
    let (application, life) = {
        let changing = shared.changing();
        let application = changing.applications.iter().find(|own| own.client_id == request.client_id);
        (application.ok_or(Refusal::UnknownApplication)?.clone(), changing.life)
    };
    match (&request.client_secret, &request.client_assertion) {
        (Some(secret), None) => match &application.proof {
            Proof::Secret(own) if own == secret => {}
            _ => return Err(Refusal::WrongSecret),
        },
        (None, Some(assertion)) if request.client_assertion_type == JWT_BEARER => {
            let endpoint = format!("{}/oauth2/v2.0/token", shared.issuer.trim_end_matches("/v2.0"));
            check_assertion(&application, assertion, &endpoint)?;
        }
        _ => return Err(Refusal::Malformed),
    }
    let resource = request.scope.strip_suffix("/.default").ok_or(Refusal::WrongScope)?;
    if resource.trim_end_matches('/') != shared.audience.trim_end_matches('/') {
        return Err(Refusal::WrongScope);
    }
    mint(shared, &application, life).ok_or(Refusal::Malformed)
}

/// A token of an application's own, with the claims that Azure SQL looks at. `None` where it cannot be signed.
pub(super) fn mint(shared: &Shared, application: &Application, life: Duration) -> Option<Minted> {
    let now = now();
    let exp = now + life.as_secs();
    let mut claims = json!({
        "aud": shared.audience, "iss": shared.issuer, "iat": now, "nbf": now, "exp": exp,
        "appid": application.client_id, "app_displayname": application.name, "idtyp": "app",
        "oid": application.object_id, "sub": application.object_id, "tid": TENANT,
        "jti": uuid::Uuid::new_v4().to_string(),
    });
    if !application.roles.is_empty() {
        claims["roles"] = json!(application.roles);
    }
    match signing_key(shared).sign(&claims) {
        Ok(token) => Some(Minted { token, exp }),
        Err(error) => {
            tracing::warn!(%error, "no token can be signed");
            None
        }
    }
}

fn signing_key(shared: &Shared) -> &SigningKey {
    let mut changing = shared.changing();
    match changing.behaviour {
        Behaviour::Unverifiable(left @ 1..) => {
            changing.behaviour = Behaviour::Unverifiable(left - 1);
            &shared.strange_key
        }
        _ => &shared.key,
    }
}

#[derive(Debug, Deserialize)]
struct EndpointRequest {
    #[serde(rename = "api-version")]
    api_version: String,
    resource: String,
    client_id: Option<String>,
}

async fn managed_identity(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Query(request): Query<EndpointRequest>,
) -> Response {
    if let Some(answer) = misbehave(&shared).await {
        return answer;
    }
    let is_of_this_machine = headers.get("x-identity-header").is_some_and(|header| header == &shared.header);
    if !is_of_this_machine || request.api_version != APP_SERVICE_VERSION {
        shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (application, life) = {
        let changing = shared.changing();
        let is_meant = |own: &&Application| match &request.client_id {
            Some(id) => own.client_id == *id && matches!(own.proof, Proof::None),
            None => own.name == SYSTEM_IDENTITY,
        };
        (changing.applications.iter().find(is_meant).cloned(), changing.life)
    };
    let is_here = request.resource.trim_end_matches('/') == shared.audience.trim_end_matches('/');
    let minted = application.filter(|_| is_here).and_then(|application| {
        mint(&shared, &application, life).map(|minted| (minted, application.client_id))
    });
    let Some((minted, client_id)) = minted else {
        shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::BAD_REQUEST, Json(json!({ "statusCode": 400, "message": "no such identity" })))
            .into_response();
    };
    shared.counters.minted.fetch_add(1, Ordering::Relaxed);
    Json(json!({
        "access_token": minted.token, "expires_on": minted.exp.to_string(), "resource": request.resource,
        "token_type": "Bearer", "client_id": client_id,
    }))
    .into_response()
}

/// What was asked for instead of an answer.
async fn misbehave(shared: &Shared) -> Option<Response> {
    let behaviour = shared.changing().behaviour;
    match behaviour {
        Behaviour::Normal | Behaviour::Unverifiable(_) => None,
        Behaviour::Status(status) => {
            shared.counters.failed.fetch_add(1, Ordering::Relaxed);
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Some((status, "not now").into_response())
        }
        Behaviour::Slow(wait) => {
            tokio::time::sleep(wait).await;
            None
        }
        Behaviour::HangUp => {
            shared.counters.failed.fetch_add(1, Ordering::Relaxed);
            let broken = futures_util::stream::once(async {
                Err::<bytes::Bytes, _>(std::io::Error::other("hang up"))
            });
            // A body that fails before its first byte ends the connection.
            Some(Response::new(axum::body::Body::from_stream(broken)))
        }
    }
}
