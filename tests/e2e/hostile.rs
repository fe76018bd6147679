//! What somebody tries who means harm: as a tenant with rights in a namespace, from inside a Pod, and from the network. What a Pod may do with its token, or
//! with a stolen one, is in `identity`; what an edit of its labels and annotations does, in `admission`; what no status may say, in `schema`; who asks too
//! much, in `alone::floods`.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    claims::{claim, until_phase},
    https::{COORDINATOR, WEBHOOK, address, connect_by},
    identity::{answer, token_of_pod},
    primitives::field,
    scene::{SYSTEM, Scene},
};

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
    let view = tenant(&scene, "view", "--clusterrole=view");
    let may = async || scene.kubectl(&["get", "mtx/db", "clm/by-ann", &view], None).status.success();
    scene.until("who may look can look", may).await;
    for what in ["mtx/db", "clm/by-ann"] {
        must_be_forbidden(&scene, &["patch", what, "--type=merge", "-p", "{}", &view]);
        must_be_forbidden(&scene, &["delete", what, &view]);
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

/// The first message of a client that knows no newer TLS than 1.0 (1) or 1.1 (2), as RFC 2246 and RFC 4346 have it, with ciphers of that time.
fn old_hello(minor: u8) -> Vec<u8> {
    let ciphers = [0xC0, 0x09, 0xC0, 0x13, 0x00, 0x2F, 0x00, 0x35];
    let groups = [0x00, 0x0A, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17];
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    hello.extend([0, 0, ciphers.len() as u8]);
    hello.extend(ciphers);
    hello.extend([1, 0, 0, groups.len() as u8]);
    hello.extend(groups);
    let length = hello.len() as u8;
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], hello.as_slice()].concat()
}

/// All that comes back for these bytes.
async fn answer_to(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_than_tls_1_2_is_spoken() {
    let scene = Scene::open("downgrade").await;
    for service in [WEBHOOK, COORDINATOR] {
        let to = address(&scene, service).await;
        for minor in [1, 2] {
            // A fatal alert: protocol_version, or handshake_failure, since no newer cipher is offered.
            let said = answer_to(to, &old_hello(minor)).await;
            assert!(said.len() == 7 && said[0] == 21 && matches!(said[5..], [2, 70 | 40]), "{service}, TLS 1.{}: {said:?}", minor - 1);
        }
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let stream = connect_by(&scene, service, &[version]).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version), "{service}");
        }
        let said = answer_to(to, b"POST /v1/mutate HTTP/1.1\r\nHost: konductor\r\nContent-Length: 0\r\n\r\n").await;
        assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{service} without TLS: {said:?}");
    }
}
