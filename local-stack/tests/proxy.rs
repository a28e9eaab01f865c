//! The proxy between a client and a server: what it is told to do to the wire, it does.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use local_stack::nats_server::{NatsServer, NatsServerOptions};
use local_stack::proxy::{Cut, Direction, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of a server that the test plays itself.
struct Wire {
    proxy: Proxy,
    listener: TcpListener,
}

impl Wire {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        Self { proxy, listener }
    }

    /// Both ends of a new connection.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.address()).await.unwrap();
        let (server, _) = self.listener.accept().await.unwrap();
        (client, server)
    }
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_may_close_its_own() {
    let wire = Wire::start().await;
    let (mut client, mut server) = wire.connect().await;
    assert_eq!(wire.proxy.connections(), 1);
    client.write_all(b"question").await.unwrap();
    assert_eq!(read(&mut server, 8).await, b"question");
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    server.write_all(b"answer").await.unwrap();
    assert_eq!(read(&mut client, 6).await, b"answer");
    assert_eq!((wire.proxy.bytes(Direction::ToServer), wire.proxy.bytes(Direction::ToClient)), (8, 6));
    drop((client, server));
    until(|| wire.proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_cut_is_seen_on_both_sides_as_it_was_asked_for() {
    let wire = Wire::start().await;
    for cut in [Cut::Close, Cut::Reset] {
        let (mut client, mut server) = wire.connect().await;
        client.write_all(b"x").await.unwrap();
        read(&mut server, 1).await;
        wire.proxy.cut(cut);
        for end in [&mut client, &mut server] {
            let ended = end.read(&mut [0; 1]).await;
            match cut {
                Cut::Close => assert_eq!(ended.unwrap(), 0),
                Cut::Reset => assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset),
            }
        }
    }
    // a new connection is as good as any
    let (mut client, mut server) = wire.connect().await;
    client.write_all(b"x").await.unwrap();
    read(&mut server, 1).await;
}

#[tokio::test]
async fn one_direction_stalls_while_the_other_passes() {
    let wire = Wire::start().await;
    let (mut client, mut server) = wire.connect().await;
    wire.proxy.stall(Direction::ToServer);
    client.write_all(b"stalled").await.unwrap();
    for _ in 0..100 {
        server.write_all(b"passed").await.unwrap();
        assert_eq!(read(&mut client, 6).await, b"passed");
    }
    assert_eq!(wire.proxy.bytes(Direction::ToServer), 0);
    assert_eq!(server.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);

    wire.proxy.pass();
    assert_eq!(read(&mut server, 7).await, b"stalled");
    wire.proxy.stall_both();
    wire.proxy.cut(Cut::Reset);
    assert!(client.read(&mut [0; 1]).await.is_err(), "a stalled connection can be cut too");
}

#[tokio::test]
async fn a_limit_slows_one_direction() {
    let wire = Wire::start().await;
    let (mut client, mut server) = wire.connect().await;
    wire.proxy.limit(Direction::ToServer, Some(100_000));
    let started = Instant::now();
    client.write_all(&[7; 50_000]).await.unwrap();
    assert_eq!(read(&mut server, 50_000).await, [7; 50_000]);
    // the first slice goes at once
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
    wire.proxy.limit(Direction::ToServer, None);
    let million = vec![7; 1_000_000];
    let (written, received) = tokio::join!(client.write_all(&million), read(&mut server, 1_000_000));
    written.unwrap();
    assert_eq!(received, million);
}

#[tokio::test]
async fn latency_is_added_to_a_round_trip_and_not_to_each_byte() {
    let wire = Wire::start().await;
    let (mut client, mut server) = wire.connect().await;
    let round_trip = Duration::from_millis(100);
    wire.proxy.add_latency(round_trip);
    let started = Instant::now();
    client.write_all(b"question").await.unwrap();
    read(&mut server, 8).await;
    server.write_all(b"answer").await.unwrap();
    read(&mut client, 6).await;
    assert!(started.elapsed() >= round_trip, "{:?}", started.elapsed());
    // a megabyte in one go is under way at once
    let started = Instant::now();
    let million = vec![7; 1_000_000];
    let (written, received) = tokio::join!(client.write_all(&million), read(&mut server, 1_000_000));
    written.unwrap();
    assert_eq!(received, million);
    assert!(started.elapsed() < round_trip * 10, "{:?}", started.elapsed());
}

#[tokio::test]
async fn new_connections_are_refused_and_open_ones_stay() {
    let wire = Wire::start().await;
    let (mut client, mut server) = wire.connect().await;
    wire.proxy.refuse(true);
    let mut refused = TcpStream::connect(wire.proxy.address()).await.unwrap();
    assert_eq!(refused.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(wire.proxy.refused(), 1);
    client.write_all(b"x").await.unwrap();
    read(&mut server, 1).await;
    wire.proxy.refuse(false);
    wire.connect().await;
}

#[tokio::test]
async fn a_nats_client_comes_back_through_the_proxy_after_a_cut() {
    let nats = NatsServer::start(NatsServerOptions::default()).await.unwrap();
    let proxy = Proxy::start(([127, 0, 0, 1], nats.port()).into()).await.unwrap();
    let (sender, mut connects) = tokio::sync::watch::channel(0);
    let client = async_nats::ConnectOptions::new()
        .event_callback(move |event| {
            if event == async_nats::Event::Connected {
                sender.send_modify(|connects| *connects += 1);
            }
            async {}
        })
        .connect(format!("nats://{}", proxy.address()))
        .await
        .unwrap();
    for cut in 1..=3 {
        connects.wait_for(|connects| *connects >= cut).await.unwrap();
        client.publish("events.a", "x".into()).await.unwrap();
        client.flush().await.unwrap();
        proxy.cut(if cut == 1 { Cut::Reset } else { Cut::Close });
    }
    connects.wait_for(|connects| *connects >= 4).await.unwrap();
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
