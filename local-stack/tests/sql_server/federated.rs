//! Logins by token.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local_stack::sql_server::{SqlServerError, SqlServerOptions, Storage, TokenOptions};
use serde_json::{Value, json};
use tiberius::{AuthMethod, EncryptionLevel};

use crate::fixture::{Fixture, SqlClient, batch, int, number_of, run, values};
use crate::issuer::{AUDIENCE, Issuer, at, key_file};

/// A user's token of an hour, some claims otherwise; null takes a claim out.
fn claims(changed: &Value) -> Value {
    let mut claims = json!({
        "aud": AUDIENCE, "iss": "https://sts.windows.net/tenant/", "exp": at(3600), "nbf": at(-10),
        "upn": "ann@example.com", "oid": "00000000-0000-0000-0000-0000000000aa", "appid": "tool", "scp": "user_impersonation",
    });
    for (name, value) in changed.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

async fn server(tokens: TokenOptions) -> Fixture {
    Fixture::with_options(|config| SqlServerOptions {
        tokens: Some(tokens),
        ..SqlServerOptions::new(Storage::Postgres(config))
    })
    .await
}

async fn log_in(fixture: &Fixture, token: &str) -> tiberius::Result<SqlClient> {
    let mut config = fixture.config();
    config.encryption(EncryptionLevel::Required);
    config.authentication(AuthMethod::aad_token(token));
    fixture.try_connect(config).await
}

async fn who(client: &mut SqlClient) -> Vec<String> {
    let names = values(client, "SELECT USER_NAME(), SUSER_SNAME()").await;
    names
        .into_iter()
        .map(|name| format!("{name:?}").split('"').nth(1).unwrap_or_default().to_owned())
        .collect()
}

/// Azure SQL's error, and that nothing more is told.
async fn assert_refused(fixture: &Fixture, token: &str, why: &str) {
    let error = log_in(fixture, token).await.err().unwrap_or_else(|| panic!("{why}: let in"));
    let tiberius::error::Error::Server(error) = error else { panic!("{why}: {error}") };
    assert_eq!((error.code(), error.class(), error.state()), (18456, 14, 1), "{why}");
    assert_eq!(error.message(), "Login failed for user '<token-identified principal>'.", "{why}");
}

#[tokio::test]
async fn a_signed_token_logs_its_user_in() {
    // GIVEN a server that trusts two keys, and users made for those who have tokens
    let (rsa, ec) = (Issuer::rsa("r"), Issuer::ec("e"));
    let file = key_file(&[&rsa, &ec]);
    let fixture =
        server(TokenOptions { admin: Some("root@example.com".into()), ..TokenOptions::new(file.path()) })
            .await;
    let mut dbo = fixture.connect().await;
    run(
        &mut dbo,
        "CREATE USER [Ann@example.com] FROM EXTERNAL PROVIDER; CREATE USER [the sink] FROM EXTERNAL PROVIDER",
    )
    .await;
    run(
        &mut dbo,
        "CREATE USER other FROM EXTERNAL PROVIDER WITH OBJECT_ID = '00000000-0000-0000-0000-0000000000BB'",
    )
    .await;
    let application = json!({
        "upn": null, "scp": null, "idtyp": "app", "appid": "11111111-0000-0000-0000-000000000000",
        "app_displayname": "The Sink", "oid": "c", "tid": "tenant",
    });
    for (issuer, changed, user, login) in [
        (&rsa, json!({}), "Ann@example.com", "ann@example.com"),
        // a slash more or less, and several audiences
        (&rsa, json!({"aud": ["x", "https://database.windows.net"]}), "Ann@example.com", "ann@example.com"),
        (
            &ec,
            json!({"upn": null, "preferred_username": "ann@example.com"}),
            "Ann@example.com",
            "ann@example.com",
        ),
        (&ec, application, "the sink", "11111111-0000-0000-0000-000000000000@tenant"),
        // by the id that the user was made with, whatever its name
        (
            &rsa,
            json!({"upn": "somebody", "oid": "00000000-0000-0000-0000-0000000000bb"}),
            "other",
            "somebody",
        ),
        (&rsa, json!({"upn": "root@example.com"}), "dbo", "root@example.com"),
    ] {
        // WHEN one logs in with a token, THEN one is that user
        let mut client = log_in(&fixture, &issuer.sign(&claims(&changed))).await.unwrap();
        assert_eq!(who(&mut client).await, [user, login], "{changed}");
    }
}

#[tokio::test]
async fn a_token_that_proves_nothing_is_refused() {
    let (issuer, stranger) = (Issuer::rsa("k"), Issuer::rsa("k"));
    let file = key_file(&[&issuer]);
    let fixture = server(TokenOptions::new(file.path())).await;
    let mut dbo = fixture.connect().await;
    run(&mut dbo, "CREATE USER [ann@example.com] FROM EXTERNAL PROVIDER; CREATE USER other FROM EXTERNAL PROVIDER WITH OBJECT_ID = 'bb'").await;
    let good = issuer.sign(&claims(&json!({})));
    log_in(&fixture, &good).await.unwrap();

    assert_refused(&fixture, &stranger.sign(&claims(&json!({}))), "signed by somebody else").await;
    for (changed, why) in [
        (json!({"aud": "https://management.azure.com/"}), "for another service"),
        (json!({"aud": null}), "for no service"),
        (json!({"nbf": at(600)}), "not valid yet"),
        (json!({"exp": null}), "without an end"),
        (json!({"upn": "nobody@example.com"}), "of no user of the database"),
        (json!({"upn": "other"}), "of a name whose user was made for an id"),
        (json!({"upn": null, "appid": "ann@example.com", "scp": "x"}), "of the application that a user used"),
    ] {
        assert_refused(&fixture, &issuer.sign(&claims(&changed)), why).await;
    }
    // a signature over something else
    let parts: Vec<&str> = good.split('.').collect();
    let forged = issuer.sign(&claims(&json!({"upn": "root"})));
    let forged = forged.split('.').nth(1).unwrap();
    assert_refused(&fixture, &format!("{}.{forged}.{}", parts[0], parts[2]), "changed after it was signed")
        .await;
    // no signature, and one with the public key for a secret
    let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    assert_refused(&fixture, &format!("{unsigned}.{}.", parts[1]), "not signed").await;
    let secret = EncodingKey::from_secret(&serde_json::to_vec(&issuer.jwk()).unwrap());
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k".into());
    let confused = jsonwebtoken::encode(&header, &claims(&json!({})), &secret).unwrap();
    assert_refused(&fixture, &confused, "signed with a shared secret").await;
    assert_refused(&fixture, "no token", "no token at all").await;
    assert_refused(&fixture, "", "nothing").await;
}

#[tokio::test]
async fn a_server_without_keys_takes_no_token_and_a_file_without_keys_is_refused_at_start() {
    let fixture = Fixture::start().await;
    let token = Issuer::rsa("k").sign(&claims(&json!({})));
    assert_refused(&fixture, &token, "no keys").await;

    let empty = key_file(&[]);
    let options = SqlServerOptions {
        tokens: Some(TokenOptions::new(empty.path())),
        ..SqlServerOptions::new(Storage::Postgres(tokio_postgres::Config::new()))
    };
    let refused = local_stack::sql_server::SqlServer::start(options).await;
    assert!(matches!(refused, Err(SqlServerError::Tokens(_))), "{refused:?}");
}

#[tokio::test]
async fn a_session_ends_with_the_first_request_after_its_token() {
    // GIVEN a session whose token is valid for a few seconds
    let issuer = Issuer::rsa("k");
    let file = key_file(&[&issuer]);
    let fixture =
        server(TokenOptions { admin: Some("ann@example.com".into()), ..TokenOptions::new(file.path()) })
            .await;
    let expires = at(3);
    let short = issuer.sign(&claims(&json!({"exp": expires})));
    let mut client = log_in(&fixture, &short).await.unwrap();
    run(&mut client, "CREATE TABLE dbo.t (n int); BEGIN TRANSACTION; INSERT INTO dbo.t VALUES (1)").await;
    // WHEN the token expires
    while at(0) <= expires {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // THEN the next request is answered with Azure SQL's error, the connection ends, and its transaction with it
    let error = batch(&mut client, "COMMIT").await.unwrap_err();
    let tiberius::error::Error::Server(error) = error else { panic!("{error}") };
    assert_eq!((error.code(), error.class(), error.state()), (18456, 14, 1));
    assert_eq!(error.message(), "Login failed for user '<token-identified principal>'. Token is expired.");
    let after = client.simple_query("SELECT 1").await.map(|_| ());
    assert!(!matches!(after, Ok(()) | Err(tiberius::error::Error::Server(_))), "{after:?}");
    let mut dbo = fixture.connect().await;
    assert_eq!(int(&mut dbo, "SELECT COUNT(*) FROM dbo.t").await, 0);
    // AND a new login with it is refused with the same words
    let refused = log_in(&fixture, &short).await.err().unwrap();
    assert_eq!(number_of(&refused), 18456);
    assert!(refused.to_string().contains("Token is expired."), "{refused}");
}
