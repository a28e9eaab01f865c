use tiberius::{AuthMethod, EncryptionLevel};

use crate::fixture::{Fixture, PASSWORD, USER, int, number_of, run};

#[tokio::test]
async fn a_login_holds_with_tls_on_off_for_the_login_alone_and_first_of_all() {
    let fixture = Fixture::start().await;
    for encryption in [
        EncryptionLevel::NotSupported,
        EncryptionLevel::Off,
        EncryptionLevel::On,
        EncryptionLevel::Required,
        EncryptionLevel::Strict,
    ] {
        let mut config = fixture.config();
        config.encryption(encryption);
        let mut client = fixture.try_connect(config).await.unwrap();
        assert_eq!(int(&mut client, "SELECT 1").await, 1);
    }
}

#[tokio::test]
async fn a_wrong_login_is_refused_with_sql_servers_numbers() {
    let fixture = Fixture::start().await;
    let mut wrong = fixture.config();
    wrong.authentication(AuthMethod::sql_server(USER, "guess"));
    assert_eq!(fixture.try_connect(wrong).await.as_ref().err().map(number_of), Some(18456));
    let mut nobody = fixture.config();
    nobody.authentication(AuthMethod::sql_server("nobody", PASSWORD));
    assert_eq!(fixture.try_connect(nobody).await.as_ref().err().map(number_of), Some(18456));
    let mut elsewhere = fixture.config();
    elsewhere.database("elsewhere");
    assert_eq!(fixture.try_connect(elsewhere).await.as_ref().err().map(number_of), Some(4060));
}

#[tokio::test]
async fn every_packet_size_carries_long_requests_and_long_results() {
    let fixture = Fixture::start().await;
    let text = "x".repeat(20_000);
    for (packet_size, encryption) in [
        (512, EncryptionLevel::NotSupported),
        (512, EncryptionLevel::On),
        (4096, EncryptionLevel::On),
        (16_383, EncryptionLevel::On),
        (16_384, EncryptionLevel::On),
        (32_767, EncryptionLevel::NotSupported),
        (32_767, EncryptionLevel::On),
    ] {
        let mut config = fixture.config();
        config.packet_size(packet_size);
        config.encryption(encryption);
        let mut client = fixture.try_connect(config).await.unwrap();
        let sql = format!("SELECT CAST(DATALENGTH('{text}') AS int)");
        assert_eq!(int(&mut client, &sql).await, 20_000);
        let rows =
            crate::fixture::rows(&mut client, &format!("SELECT '{text}' AS a UNION ALL SELECT '{text}'"))
                .await;
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].get::<&str, _>(0), Some(text.as_str()));
    }
}

#[tokio::test]
async fn a_server_that_is_dropped_ends_its_sessions() {
    let Fixture { .. } = {
        let fixture = Fixture::start().await;
        let mut client = fixture.connect().await;
        run(&mut client, "CREATE TABLE dbo.t (n int)").await;
        run(&mut client, "BEGIN TRAN; INSERT INTO dbo.t VALUES (1)").await;
        fixture
    };
}
