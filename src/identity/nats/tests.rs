use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::identity::IdentityErrorKind;

const CANARY: &str = "canary";

fn file(content: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), content).expect("it can be written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> String {
    file.path().display().to_string()
}

fn nats(text: &str) -> NatsConfig {
    toml::from_str(text).expect("it is a configuration")
}

async fn load(text: &str) -> Result<Arc<NatsIdentity>, IdentityError> {
    NatsIdentity::load(&nats(text)).await
}

/// A user, and a `.creds` file of it that is over at this second.
fn creds(expires_at: u64) -> (nkeys::KeyPair, String) {
    let user = nkeys::KeyPair::new_user();
    let claims = format!(r#"{{"sub":"{}","iat":1000,"exp":{expires_at}}}"#, user.public_key());
    let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let seed = user.seed().expect("it has a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    (user, text)
}

#[tokio::test]
async fn every_way_of_authentication_is_shown_as_nats_wants_it() {
    let nonce = b"nonce";
    let (user, text) = creds(2000);
    let (credentials, seed, plain) = (file(text), file(user.seed().expect("a seed")), file(CANARY));
    let shown = async |text: String| {
        let identity = load(&text).await.expect(&text);
        assert!(!format!("{identity:?}").contains(CANARY), "{identity:?}");
        let options = identity.options().expect("tls can be set up");
        assert!(!format!("{options:?}").contains(CANARY), "{options:?}");
        (identity.held().login.auth(nonce).expect("it signs"), identity.held().lifetime)
    };
    let (auth, lifetime) = shown(format!("credentials_file = '{}'", path(&credentials))).await;
    user.verify(nonce, &auth.signature.expect("a signature")).expect("it is the user's");
    assert!(auth.jwt.is_some_and(|jwt| jwt.starts_with("e30.")) && auth.nkey.is_none());
    let seconds = |time: Option<SystemTime>| {
        time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|since| since.as_secs())
    };
    assert_eq!((seconds(lifetime.issued_at), seconds(lifetime.expires_at)), (Some(1000), Some(2000)));

    let (auth, lifetime) = shown(format!("nkey_seed_file = '{}'", path(&seed))).await;
    user.verify(nonce, &auth.signature.expect("a signature")).expect("it is the user's");
    assert_eq!(auth.nkey, Some(user.public_key()));
    assert!(lifetime.issued_at.is_some() && lifetime.expires_at.is_none(), "the time of the file");

    let (auth, _) = shown(format!("user = 'u'\npassword_file = '{}'", path(&plain))).await;
    assert_eq!((auth.username.as_deref(), auth.password.as_deref()), (Some("u"), Some(CANARY)));
    let (auth, _) = shown(format!("token_file = '{}'", path(&plain))).await;
    assert_eq!(auth.token.as_deref(), Some(CANARY));
    let (auth, _) = shown("[tls]\nrequired = true".to_owned()).await;
    assert!(auth.username.is_none() && auth.token.is_none() && auth.jwt.is_none());
}

#[tokio::test]
async fn what_nats_does_not_take_is_refused_without_showing_it() {
    let (_, sound) = creds(2000);
    let (_, other) = creds(2000);
    let half = &sound[..sound.len() - 20];
    let mixed: String =
        sound.lines().take(3).chain(other.lines().skip(3)).flat_map(|line| [line, "\n"]).collect();
    let key = |text: &str| text.lines().nth(8).expect("the seed's line").to_owned();
    for (field, content) in [
        ("credentials_file", CANARY.to_owned()),
        ("credentials_file", half.to_owned()),
        ("credentials_file", sound[..sound.len() / 2].to_owned()),
        ("credentials_file", mixed),
        ("nkey_seed_file", CANARY.to_owned()),
        ("nkey_seed_file", key(&sound)[..30].to_owned()),
    ] {
        let file = file(&content);
        let error = load(&format!("{field} = '{}'", path(&file))).await.expect_err(field);
        assert!(matches!(error.kind, IdentityErrorKind::Malformed), "{error}");
        assert_eq!(error.field, format!("nats.{field}"));
        let text = format!("{error} {error:?}");
        let shows = |secret: &str| text.contains(secret);
        assert!(![CANARY, &key(&sound)[..10], &key(&other)[..10]].into_iter().any(shows), "{text}");
    }
    let error = load("tls.ca_file = '/does/not/exist'").await.expect_err("no such file");
    assert_eq!(error.field, "nats.tls.ca_file");
}

/// A certificate that signed itself, and its key.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[tokio::test]
async fn files_of_tls_are_looked_at_before_they_are_used() {
    let ((cert, key), (other, _)) = (certificate(), certificate());
    let text =
        |ca: &tempfile::NamedTempFile, cert: &tempfile::NamedTempFile, key: &tempfile::NamedTempFile| {
            format!(
                "tls = {{ ca_file = '{}', cert_file = '{}', key_file = '{}' }}",
                path(ca),
                path(cert),
                path(key)
            )
        };
    let (ca, cert_file, key_file) = (file(&cert), file(&cert), file(&key));
    let identity = load(&text(&ca, &cert_file, &key_file)).await.expect("they are sound");
    assert!(identity.held().lifetime.expires_at.is_some(), "the certificate has an end");
    let (other, half_cert, half_key) =
        (file(&other), file(&cert[..cert.len() / 2]), file(&key[..key.len() / 2]));
    let (none, empty) = (file(CANARY), file(""));
    for (bad, field, why) in [
        (text(&ca, &other, &key_file), "nats.tls.key_file", "is not the key of nats.tls.cert_file"),
        (text(&half_cert, &cert_file, &key_file), "nats.tls.ca_file", "is not what the field is for"),
        (text(&none, &cert_file, &key_file), "nats.tls.ca_file", "is not what the field is for"),
        (text(&ca, &cert_file, &half_key), "nats.tls.key_file", "is not what the field is for"),
        (text(&ca, &cert_file, &empty), "nats.tls.key_file", "is empty"),
    ] {
        let error = load(&bad).await.expect_err(field);
        assert_eq!(error.field, field);
        assert!(error.to_string().ends_with(why), "{error}");
    }
}

#[tokio::test]
async fn each_connect_reads_anew_and_what_is_not_sound_changes_nothing() {
    let token = file("first");
    let identity = load(&format!("token_file = '{}'", path(&token))).await.expect("it is sound");
    let offered = async || {
        identity.begin().await;
        identity.offered().login.auth(b"").expect("a token").token.expect("a token")
    };
    std::fs::write(token.path(), "second").expect("it can be written");
    // nobody has taken it yet: first the former one is shown, and where that is refused both are, by chance
    let shown = async || {
        let first = offered().await;
        let mut later = BTreeSet::new();
        for _ in 0..64 {
            later.insert(offered().await);
        }
        (first, later.into_iter().collect::<Vec<_>>())
    };
    let both = |former: &str, new: &str| (former.to_owned(), vec![former.to_owned(), new.to_owned()]);
    assert_eq!(shown().await, both("first", "second"));
    std::fs::write(token.path(), "").expect("it can be written");
    assert_eq!(offered().await, "first");
    std::fs::write(token.path(), "third").expect("it can be written");
    // WHEN it was taken on trial THEN it is shown each time
    identity.accept(identity.look().await.expect("it is sound").fingerprint);
    assert_eq!([offered().await, offered().await], ["third", "third"]);
    assert!(identity.taken(), "it is another one");
    assert!(!identity.taken(), "it is the same one");
    std::fs::remove_file(token.path()).expect("it is there");
    assert_eq!(offered().await, "third");
    std::fs::write(token.path(), "fourth").expect("it can be written");
    identity.taken();
    let (first, mut later) = shown().await;
    later.sort();
    assert_eq!((first.as_str(), later), ("third", vec!["fourth".to_owned(), "third".to_owned()]));
}

/// A token that ends then.
fn token_until(end: SystemTime) -> String {
    let seconds = end.duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.s", part("{}"), part(&format!("{{\"exp\":{seconds}}}")))
}

#[tokio::test]
async fn what_has_ended_is_not_shown_while_the_other_holds() {
    let now = SystemTime::now();
    let hour = std::time::Duration::from_secs(3600);
    let (good, over) = (token_until(now + hour), token_until(now - hour));
    for (first, second, expected) in [(&good, &over, &good), (&over, &good, &good)] {
        let token = file(first);
        let identity = load(&format!("token_file = '{}'", path(&token))).await.expect("it is sound");
        std::fs::write(token.path(), second).expect("it can be written");
        for _ in 0..3 {
            identity.begin().await;
            let shown = identity.offered().login.auth(b"").expect("a token").token;
            assert_eq!(shown.as_ref(), Some(expected));
        }
    }
}

#[tokio::test]
async fn a_trial_is_of_one_content_whatever_is_in_the_file() {
    let token = file("first");
    let identity = load(&format!("token_file = '{}'", path(&token))).await.expect("it is sound");
    let trial = identity.on_trial(&identity.held());
    std::fs::write(token.path(), "second").expect("it can be written");
    trial.begin().await;
    assert_eq!(trial.offered().fingerprint, identity.held().fingerprint);
}
