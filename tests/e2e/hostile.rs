//! What somebody tries who means harm: as a tenant with rights in a namespace, from inside a Pod, and from the network. What a Pod may do with its token, or
//! with a stolen one, is in `identity`; what an edit of its labels and annotations does, in `admission`; what no status may say, in `schema`.

use std::{net::SocketAddr, process::Command, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    claims::{claim, until_phase},
    https::{address, ask},
    identity::{answer, token_of_pod},
    primitives::field,
    scene::{SYSTEM, Scene},
};

const SERVICES: [&str; 2] = ["konductor-webhook", "konductor-coordinator"];

/// A tenant of this namespace, with a Role of these rules or a ClusterRole. Gives the flag by which kubectl speaks in its name.
fn tenant(scene: &Scene, name: &str, role: &str) -> String {
    let subject = format!("--serviceaccount={}:{name}", scene.namespace);
    scene.run(&["create", "serviceaccount", name]);
    scene.run(&["create", "rolebinding", name, role, &subject]);
    format!("--as=system:serviceaccount:{}:{name}", scene.namespace)
}

fn must_be_forbidden(scene: &Scene, what: &[&str]) {
    let said = scene.run_refused(what);
    assert!(said.contains("orbidden"), "{what:?}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_writes_a_status() {
    let scene = Scene::open("tenant_status").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
    scene.until_mutex_held_by("db", "holder").await;
    claim(&scene, "by-ann", "kind: Mutex, name: db, holder: ann");
    until_phase(&scene, "by-ann", "Pending").await;

    // All that can be given without naming a status; `admin` and `edit` are what clusters give their tenants.
    scene.run(&["create", "role", "everything", "--verb=*", "--resource=mutexes.konductor.io,claims.konductor.io"]);
    let everything = tenant(&scene, "everything", "--role=everything");
    let (edit, admin) = (tenant(&scene, "edit", "--clusterrole=edit"), tenant(&scene, "admin", "--clusterrole=admin"));
    let forged = r#"{"status": {"holders": [], "holder": null, "phase": "Unlocked"}}"#;
    let granted = r#"{"status": {"phase": "Granted", "token": 9999999999999}}"#;
    for who in [&everything, &edit, &admin] {
        must_be_forbidden(&scene, &["patch", "mtx/db", "--subresource=status", "--type=merge", "-p", forged, who]);
        must_be_forbidden(&scene, &["patch", "clm/by-ann", "--subresource=status", "--type=merge", "-p", granted, who]);
        must_be_forbidden(&scene, &["-n", SYSTEM, "get", "secret", "konductor-certs", who]);
        must_be_forbidden(&scene, &["-n", SYSTEM, "patch", "lease.coordination.k8s.io/konductor-leader", "--type=merge", "-p", "{}", who]);
    }
    for who in [&edit, &admin] {
        must_be_forbidden(&scene, &["get", "mtx/db", who]);
        must_be_forbidden(&scene, &["delete", "clm/by-ann", who]);
    }
    // A status that is sent with the object itself is ignored.
    scene.run(&["patch", "mtx/db", "--type=merge", "-p", forged, &everything]);
    scene.run(&["patch", "clm/by-ann", "--type=merge", "-p", granted, &everything]);
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
    assert_eq!(field(&scene, "clm/by-ann", ".status.phase"), "Pending");
    // Nor is it taken at creation.
    let forged = "apiVersion: konductor.io/v1\nkind: Claim\nmetadata: {name: forged}\nspec: {kind: Mutex, name: db}\nstatus: {phase: Granted, token: 1}\n";
    scene.apply(forged);
    until_phase(&scene, "forged", "Pending").await;
    scene.tell_to_end("holder");
    until_phase(&scene, "by-ann", "Granted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_in_anothers_name_is_another_claim() {
    let scene = Scene::open("anothers_claim").await;
    let other = scene.open_beside("anothers_claim_elsewhere").await;
    scene.create_mutex("db");
    claim(&scene, "by-ann", "kind: Mutex, name: db, holder: ann, ttl: 1h");
    until_phase(&scene, "by-ann", "Granted").await;
    let token = field(&scene, "clm/by-ann", ".status.token");
    scene.run(&["create", "role", "user", "--verb=create,get,list,watch,patch,delete", "--resource=claims.konductor.io"]);
    let mallory = tenant(&scene, "mallory", "--role=user");

    // Her name in one's own Claim gives nothing of hers.
    claim(&scene, "by-mallory", "kind: Mutex, name: db, holder: ann, ttl: 1h");
    until_phase(&scene, "by-mallory", "Pending").await;
    // Her Claim cannot be turned into another one's, nor into something else.
    for spec in [r#"{"holder": "mallory"}"#, r#"{"name": "other"}"#, r#"{"kind": "Lease"}"#, r#"{"priority": -5}"#, r#"{"ttl": "1s"}"#] {
        let said = scene.run_refused(&["patch", "clm/by-ann", "--type=merge", "-p", &format!(r#"{{"spec": {spec}}}"#), &mallory]);
        assert!(said.contains("what a Claim asks for does not change"), "{spec}: {said}");
    }
    let said = scene.run_refused(&["patch", "clm/by-ann", "--type=merge", "-p", r#"{"spec": {"renewals": -1}}"#, &mallory]);
    assert!(said.contains("renewals"), "{said}");
    assert_eq!(field(&scene, "clm/by-ann", ".status.token"), token);
    // The rights end with the namespace, and a Claim's reach too.
    must_be_forbidden(&other, &["get", "clm", &mallory]);
    must_be_forbidden(&other, &["delete", "clm", "--all", &mallory]);
    other.create_mutex("theirs");
    claim(&scene, "far", "kind: Mutex, name: theirs");
    until_phase(&scene, "far", "Pending").await;
    assert!(other.mutex_holders("theirs").await.is_empty());
    // What the documentation warns of: whoever may delete Claims ends what they hold.
    scene.run(&["delete", "clm/by-ann", "--wait=false", &mallory]);
    until_phase(&scene, "by-mallory", "Granted").await;
    assert!(
        field(&scene, "clm/by-mallory", ".status.token").parse::<i64>().unwrap() > token.parse().unwrap(),
        "and the next token fences her off"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_same_name_elsewhere_is_another_pod() {
    let scene = Scene::open("same_name").await;
    let other = scene.open_beside("same_name_elsewhere").await;
    for scene in [&scene, &other] {
        scene.create_mutex("db");
        scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
        scene.until_beating("holder").await;
    }
    let foreign = token_of_pod(&other, "holder").await;
    other.tell_to_end("holder");
    other.until_mutex_free("db").await;
    let verified = answer(&scene, "/v1/verify", Some(&foreign)).await;
    assert!(!verified.body.contains("\"held\":true"), "{verified:?}");
    for path in ["/v1/release", "/v1/ended"] {
        let said = answer(&scene, path, Some(&foreign)).await;
        assert!(matches!(said.status, 200 | 401 | 403 | 422), "{path}: {said:?}");
    }
    scene.apply(&scene.app("behind").seconds(1).as_pod("konductor.io/mutex: db"));
    scene.until_waiting("behind").await;
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
    scene.tell_to_end("holder");
    scene.until_succeeded("behind").await;
    assert!(scene.most_at_once(&["holder".into(), "behind".into()]) <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn giant_annotations_are_carried_or_refused_in_few_words() {
    let scene = Scene::open("giant").await;
    // Kubernetes takes 256 KiB in all; konductor's own words need some of that.
    let giant = "x".repeat(250 * 1024);
    let mutex = format!("apiVersion: konductor.io/v1\nkind: Mutex\nmetadata: {{name: db, annotations: {{mine: {giant}}}}}\n");
    create(&scene, &mutex).unwrap();
    let pod = scene.app("giant").seconds(1).as_pod(&format!("mine: {giant}, konductor.io/mutex: db"));
    create(&scene, &pod).unwrap();
    scene.until_succeeded("giant").await;
    let kept = scene.mutexes().get("db").await.unwrap().metadata.annotations.unwrap();
    assert_eq!(kept["mine"].len(), giant.len(), "no write of konductor's changed it");

    let many: Vec<String> = (0..9000).map(|number| format!("konductor.io/n{number}: x")).collect();
    let pieces = format!("konductor.io/acquire: '{}'", ";".repeat(16 * 1024));
    let long = format!("konductor.io/mutex: {giant}");
    for (what, annotations) in [("many", many.join(", ")), ("pieces", pieces), ("long", long)] {
        let said = create(&scene, &scene.app(what).as_pod(&annotations)).unwrap_err();
        assert!(said.contains("konductor") && said.len() < 32 * 1024, "{what}: {} bytes: {said:.2000}", said.len());
    }
}

/// `kubectl create`: `apply` keeps a copy of everything in an annotation.
fn create(scene: &Scene, yaml: &str) -> Result<(), String> {
    let output = scene.kubectl(&["create", "-f", "-"], Some(yaml));
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

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

/// So many requests at the same time as one client has; what their statuses were.
async fn flood(scene: &Scene, count: usize, at_once: usize, request: impl Fn(usize) -> (&'static str, String)) -> Vec<u16> {
    let requests = stream::iter(0..count).map(|number| {
        let (path, token) = request(number);
        async move {
            match timeout(Duration::from_secs(60), ask(scene, path, Some(&token))).await {
                Ok(answer) => answer.status,
                Err(_) => 0, // a session: it goes on
            }
        }
    });
    requests.buffer_unordered(at_once).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_of_one_pod_are_its_own_trouble() {
    let scene = Scene::open("ten_thousand").await;
    scene.create_mutex("mine");
    scene.create_mutex("theirs");
    scene.apply(&scene.app("flood").as_pod("konductor.io/mutex: mine"));
    scene.until_beating("flood").await;
    let token = token_of_pod(&scene, "flood").await;
    let paths = ["/v1/verify", "/v1/acquire", "/v1/release", "/v1/held"];
    let (statuses, ()) = tokio::join!(
        flood(&scene, 10_000, 40, |number| (paths[number % paths.len()], token.clone())),
        others_are_served(&scene, "meanwhile"),
    );
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

/// Alone, since tokens that come from this machine's address are refused unseen for a while.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_for_tokens_does_not_reach_the_api_server_for_long() {
    let scene = Scene::open_alone("garbage").await;
    scene.create_mutex("theirs");
    let (statuses, ()) = tokio::join!(
        flood(&scene, 3_000, 40, |number| ("/v1/acquire", format!("garbage-{number}"))),
        others_are_served(&scene, "meanwhile"),
    );
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

/// Alone, since it takes what room there is for strangers.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_make_nobody_else_wait() {
    let scene = Scene::open_alone("slow_clients").await;
    // They are files of this process too.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: most.maximum, ..most }).unwrap();
    scene.create_mutex("theirs");
    let ours = ListParams::default().labels("app.kubernetes.io/name=konductor");
    let pods = Api::<Pod>::namespaced(scene.client.clone(), SYSTEM).list(&ours).await.unwrap();
    let addresses = pods.items.into_iter().filter_map(|pod| pod.status?.pod_ip);
    let health: Vec<SocketAddr> = addresses.map(|ip| SocketAddr::new(ip.parse().unwrap(), 8080)).collect();
    assert!(!health.is_empty());
    let (webhook, coordinator) = (address(&scene, SERVICES[0]).await, address(&scene, SERVICES[1]).await);
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
    let restarts = scene.run_in_system(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"]);
    assert!(restarts.split_whitespace().all(|count| count == "0"), "konductor was restarted: {restarts}");
}

/// What openssl says of a handshake of this version, as permissive as it can be.
async fn handshake(to: SocketAddr, version: &'static str) -> String {
    let arguments = move || {
        let to = to.to_string();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &to, version]).stdin(std::process::Stdio::null());
        if version != "-tls1_3" {
            openssl.args(["-cipher", "ALL:@SECLEVEL=0"]);
        }
        let output = openssl.output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    tokio::task::spawn_blocking(arguments).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_than_tls_1_2_is_spoken() {
    let scene = Scene::open("downgrade").await;
    for service in SERVICES {
        let to = address(&scene, service).await;
        for version in ["-tls1", "-tls1_1"] {
            let said = handshake(to, version).await;
            assert!(said.contains("alert protocol version"), "{service} {version}: {said}");
        }
        for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let said = handshake(to, version).await;
            assert!(said.contains(&format!("New, {name}")), "{service} {version}: {said}");
        }
        let mut plain = TcpStream::connect(to).await.unwrap();
        plain.write_all(b"POST /v1/mutate HTTP/1.1\r\nHost: konductor\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        let _ = plain.read_to_end(&mut said).await;
        assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{service} without TLS: {said:?}");
    }
}
