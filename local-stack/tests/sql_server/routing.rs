use local_stack::sql_server::{Gateway, SqlServerOptions, Storage};
use tiberius::{AuthMethod, EncryptionLevel};

use crate::fixture::{Fixture, USER, int, number_of};

async fn with_gateway() -> Fixture {
    Fixture::with_options(|config| SqlServerOptions {
        gateway: Some(Gateway::default()),
        ..SqlServerOptions::new(Storage::Postgres(config))
    })
    .await
}

#[tokio::test]
async fn a_gateway_says_where_to_log_in() {
    // GIVEN a server behind a gateway
    let fixture = with_gateway().await;
    let gateway = fixture.server.gateway_address().unwrap();
    let mut clients = Vec::new();
    for encryption in [EncryptionLevel::NotSupported, EncryptionLevel::Required, EncryptionLevel::Strict] {
        // WHEN a client logs in at the gateway
        let mut config = fixture.config();
        config.encryption(encryption);
        let answer = fixture.try_connect_at(gateway, config.clone()).await;
        // THEN it is sent to the server, where its login holds
        let Err(tiberius::error::Error::Routing { host, port }) = answer else {
            panic!("{encryption:?}: no redirect")
        };
        assert_eq!((host.as_str(), port), ("localhost", fixture.server.address().port()));
        config.host(host);
        config.port(port);
        let mut client = fixture.try_connect(config).await.unwrap();
        assert_eq!(int(&mut client, "SELECT 1").await, 1);
        clients.push(client);
    }
    // AND what was sent on is no session
    assert_eq!(fixture.server.faults().connections(), clients.len());
}

#[tokio::test]
async fn a_gateway_sends_nobody_on_who_may_not_log_in() {
    let fixture = with_gateway().await;
    let mut config = fixture.config();
    config.authentication(AuthMethod::sql_server(USER, "guess"));
    let refused = fixture.try_connect_at(fixture.server.gateway_address().unwrap(), config).await;
    assert_eq!(number_of(&refused.err().unwrap()), 18456);
}
