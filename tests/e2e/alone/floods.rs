//! Floods: requests of one Pod, of nobody, and of those who never finish what they say. Others are served meanwhile.

use std::{net::SocketAddr, pin::pin, time::Duration};

use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::system::{restarts, servers};
use crate::{
    https::{COORDINATOR, WEBHOOK, address, ask},
    identity::token_of_pod,
    scene::Scene,
};

/// Others lock and unlock meanwhile.
async fn others_are_served(scene: &Scene, round: &str) {
    let names: Vec<String> = (0..3).map(|number| format!("other-{round}-{number}")).collect();
    for name in &names {
        scene.apply(&scene.app(name).seconds(1).as_pod("konductor.io/mutex: theirs"));
    }
    for name in &names {
        scene.until_succeeded(name).await;
    }
    assert!(scene.most_at_once(&names) <= 1);
}

/// Requests, forty at the same time: until others were served beside them, and so many at least; what their statuses were.
async fn flood(scene: &Scene, least: usize, request: impl Fn(usize) -> (&'static str, String)) -> Vec<u16> {
    let requests = stream::iter(0..).map(|number| {
        let (path, token) = request(number);
        async move {
            match timeout(Duration::from_secs(60), ask(scene, path, Some(&token))).await {
                Ok(answer) => answer.status,
                Err(_) => 0, // a session: it goes on
            }
        }
    });
    let mut answers = pin!(requests.buffer_unordered(40));
    let mut statuses = Vec::new();
    {
        let mut others = pin!(others_are_served(scene, "meanwhile"));
        loop {
            tokio::select! {
                () = &mut others => break,
                Some(status) = answers.next() => statuses.push(status),
            }
        }
    }
    while statuses.len() < least {
        statuses.extend(answers.next().await);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_of_one_pod_are_its_own_trouble() {
    let scene = Scene::open_alone("ten_thousand").await;
    scene.create_mutex("mine");
    scene.create_mutex("theirs");
    scene.apply(&scene.app("flood").as_pod("konductor.io/mutex: mine"));
    scene.until_beating("flood").await;
    let token = token_of_pod(&scene, "flood").await;
    let paths = ["/v1/verify", "/v1/acquire", "/v1/release", "/v1/held"];
    let statuses = flood(&scene, 10_000, |number| (paths[number % paths.len()], token.clone())).await;
    let of = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    let (answered, too_many) = (of(200), of(429));
    assert!(too_many > 5_000, "{answered} answered, {too_many} refused for their number, of {}", statuses.len());
    assert!(answered >= 60, "{answered} answered: as many as a Pod may ask at once");
    assert_eq!(scene.mutex_holders("mine").await, ["flood"]);
    // It is served again when it is silent for a while, and its end is seen.
    scene.until("it is served again", async || ask(&scene, "/v1/verify", Some(&token)).await.status == 200).await;
    scene.tell_to_end("flood");
    scene.until_mutex_free("mine").await;
}

/// Tokens that come from this machine's address are refused unseen for a while.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_for_tokens_does_not_reach_the_api_server_for_long() {
    let scene = Scene::open_alone("garbage").await;
    scene.create_mutex("theirs");
    let statuses = flood(&scene, 3_000, |number| ("/v1/acquire", format!("garbage-{number}"))).await;
    let of = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(of(401) + of(429) + of(503), statuses.len(), "{statuses:?}");
    assert!(of(401) >= 100 && of(429) >= 500, "{} looked at, {} not even that", of(401), of(429));
    scene.until("this machine is looked at again", async || ask(&scene, "/v1/verify", Some("garbage")).await.status == 401).await;
}

/// Connections that say this much and nothing more.
async fn slow_clients(to: SocketAddr, count: usize, say: &[u8]) -> Vec<TcpStream> {
    let connect = |_| async move {
        let mut stream = timeout(Duration::from_secs(10), TcpStream::connect(to)).await.ok()?.ok()?;
        stream.write_all(say).await.ok()?;
        Some(stream)
    };
    let connected: Vec<Option<TcpStream>> = stream::iter(0..count).map(connect).buffer_unordered(20).collect().await;
    connected.into_iter().flatten().collect()
}

/// How many of them the server has ended.
async fn ended(clients: &mut [TcpStream]) -> usize {
    let mut count = 0;
    for client in clients {
        let mut rest = Vec::new();
        count += usize::from(timeout(Duration::from_millis(1), client.read_to_end(&mut rest)).await.is_ok());
    }
    count
}

/// This takes what room there is for strangers.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_make_nobody_else_wait() {
    let scene = Scene::open_alone("slow_clients").await;
    // They are files of this process too.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: most.maximum, ..most }).unwrap();
    scene.create_mutex("theirs");
    let restarted = restarts(&scene).await;
    let addresses = servers(&scene).await.into_iter().filter_map(|pod| pod.status?.pod_ip);
    let health: Vec<SocketAddr> = addresses.map(|ip| SocketAddr::new(ip.parse().unwrap(), 8080)).collect();
    assert!(!health.is_empty());
    let (webhook, coordinator) = (address(&scene, WEBHOOK).await, address(&scene, COORDINATOR).await);
    // Two replicas share the webhook's: more than both have room for.
    let mut slow = slow_clients(webhook, 2 * 1024 + 300, b"").await;
    let mut half_hello = slow_clients(coordinator, 2048 + 200, b"\x16\x03\x01\x02\x00\x01").await;
    let mut half_head = slow_clients(health[0], 64 + 40, b"GET /readyz HTTP/1.1\r\nHost: ").await;
    assert!(
        slow.len() > 2048 && half_hello.len() > 2048 && half_head.len() > 64,
        "{} {} {}",
        slow.len(),
        half_hello.len(),
        half_head.len()
    );
    // They are given up after ten seconds, so more of them come all the time.
    let flood = async {
        loop {
            let _more = tokio::join!(slow_clients(webhook, 1100, b""), slow_clients(coordinator, 2100, b""));
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    tokio::select! {
        () = others_are_served(&scene, "meanwhile") => {}
        () = flood => {}
    }
    assert!(ended(&mut half_head).await >= 40, "there is room for 64");
    // Those who say nothing are not waited for, whether others need their places or not.
    for clients in [&mut slow, &mut half_hello, &mut half_head] {
        scene.until("all are gone", async || ended(clients).await == clients.len()).await;
    }
    assert_eq!(restarts(&scene).await, restarted, "konductor was started anew");
}
