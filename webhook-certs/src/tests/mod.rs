//! Tests of the rotation over a simulated time line, of the Secret, and of a real handshake.
mod cluster;
mod keeping;
mod timeline;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use jiff::Timestamp;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    Certificates, Policy,
    contents::{Contents, Data, certificates},
    rotation::Step,
};

const NAMES: [&str; 2] = ["konductor-webhook.konductor-system.svc", "konductor-coordinator.konductor-system.svc"];

fn names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

fn fresh(now: Timestamp) -> Data {
    let nothing = Data::new();
    Contents::read(&nothing).advance(&nothing, Step::CreateAll, "konductor", &names(), now, &Policy::default()).unwrap()
}

fn roots(bundle: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for ca in certificates(bundle) {
        roots.add(ca.der).unwrap();
    }
    roots
}

/// What a client does: the real verifier, at a time of the test's choosing.
fn verify(leaf: &CertificateDer<'_>, bundle: &str, name: &str, at: Timestamp) -> Result<(), rustls::Error> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(bundle)), Arc::new(ring::default_provider())).build().unwrap();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.as_second().try_into().unwrap()));
    verifier.verify_server_cert(leaf, &[], &ServerName::try_from(name.to_owned()).unwrap(), &[], at).map(drop)
}

#[test]
fn the_chain_verifies_for_both_names_and_for_no_other() {
    let now = Timestamp::now();
    let contents = Contents::read(&fresh(now));
    let leaf = &contents.leaf.as_ref().unwrap().certified.cert[0];
    for name in NAMES {
        verify(leaf, &contents.bundle_pem(), name, now).unwrap();
    }
    verify(leaf, &contents.bundle_pem(), "kubernetes.default.svc", now).unwrap_err();
    let stranger = Contents::read(&fresh(now)).bundle_pem();
    verify(leaf, &stranger, NAMES[0], now).unwrap_err();
}

#[test]
fn a_client_whose_clock_is_behind_accepts_a_new_leaf() {
    let now = Timestamp::now();
    let contents = Contents::read(&fresh(now));
    let leaf = &contents.leaf.as_ref().unwrap().certified.cert[0];
    verify(leaf, &contents.bundle_pem(), NAMES[0], now - jiff::SignedDuration::from_mins(50)).unwrap();
}

#[test]
fn a_new_leaf_is_served_by_the_next_handshake_while_an_old_connection_lives_on() {
    let now = Timestamp::now();
    let data = fresh(now);
    let certificates = Certificates::new();
    certificates.adopt(&Contents::read(&data));
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let server = Arc::new(server.with_no_client_auth().with_cert_resolver(certificates.resolver()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for tcp in listener.incoming() {
            let server = Arc::clone(&server);
            thread::spawn(move || {
                let (mut tcp, mut tls) = (tcp.unwrap(), ServerConnection::new(server).unwrap());
                let mut stream = Stream::new(&mut tls, &mut tcp);
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    stream.write_all(&byte).unwrap();
                }
            });
        }
    });
    let bundle = certificates.ca_bundle().borrow().to_string();
    let connect = || {
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let client = Arc::new(client.with_root_certificates(roots(&bundle)).with_no_client_auth());
        let name = ServerName::try_from(NAMES[0]).unwrap();
        (ClientConnection::new(client, name).unwrap(), TcpStream::connect(address).unwrap())
    };
    let echo = |tls: &mut ClientConnection, tcp: &mut TcpStream| {
        let mut stream = Stream::new(tls, tcp);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        tls.peer_certificates().unwrap()[0].clone().into_owned()
    };

    let (mut old_tls, mut old_tcp) = connect();
    let first = echo(&mut old_tls, &mut old_tcp);
    let renewed = Contents::read(&data).advance(&data, Step::RenewLeaf, "konductor", &names(), now, &Policy::default()).unwrap();
    certificates.adopt(&Contents::read(&renewed));
    let (mut tls, mut tcp) = connect();
    let second = echo(&mut tls, &mut tcp);
    assert_ne!(first, second);
    assert_eq!(echo(&mut old_tls, &mut old_tcp), first);
}
