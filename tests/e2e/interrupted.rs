//! koncli, interrupted while it waits: by a signal, whatever it is just about, or because its terminal is gone. Nothing is left behind.

use std::{
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::{koncli::end_of, scene::Scene};

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_interrupted_while_it_waits_leaves_the_line() {
    let scene = Scene::open("koncli_interrupted").await;
    scene.create_mutex("db");
    scene.koncli_ends(0, "mutex lock db --holder a --ttl 1h");
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let waiting = scene.start_koncli("mutex lock db --holder b");
        scene.until("there are two Claims", async || scene.claims() == 2).await;
        signal(&waiting, name);
        assert_eq!(end_of(waiting).0, code);
        assert_eq!(scene.claims(), 1, "only the one that holds is left");
    }
    // Whatever it is just about: before it has asked, it may end without having listened.
    let began = Instant::now();
    scene.koncli_ends(3, "mutex lock db --holder b --timeout 0s");
    let moment = began.elapsed() / 15;
    for moments in 0..20 {
        let waiting = scene.start_koncli("mutex lock db --holder b");
        tokio::time::sleep(moment * moments).await;
        signal(&waiting, "TERM");
        let (code, _, said) = end_of(waiting);
        assert!(matches!(code, 143 | -15), "{code}: {said}");
        assert_eq!(scene.claims(), 1, "after {:?}: {said}", moment * moments);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_terminal_leaves_the_line_unless_it_is_told_not_to() {
    let scene = Scene::open("koncli_hang_up").await;
    scene.create_mutex("db");
    scene.koncli_ends(0, "mutex lock db --holder a --ttl 1h");
    for (wish, signals, code) in [("--default-signal=HUP", &["HUP"][..], 129), ("--ignore-signal=HUP", &["HUP", "TERM"], 143)] {
        let koncli = scene.command("mutex lock db --holder b");
        let mut within = Command::new("env");
        within.arg(wish).arg(koncli.get_program()).args(koncli.get_args()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let waiting = within.spawn().unwrap();
        scene.until("there are two Claims", async || scene.claims() == 2).await;
        for name in signals {
            signal(&waiting, name);
        }
        assert_eq!(end_of(waiting).0, code, "{wish}");
        assert_eq!(scene.claims(), 1, "only the one that holds is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_interrupted_gives_back_what_it_has_already() {
    let scene = Scene::open("koncli_gives_back").await;
    scene.create_mutex("db");
    scene.create_mutex("cache");
    scene.koncli_ends(0, "mutex lock db --holder a --ttl 1h");
    let waiting = scene.start_koncli("run --mutex cache --mutex db -- true");
    scene.until_waited_for("mutex", "db").await;
    signal(&waiting, "TERM");
    assert_eq!(end_of(waiting).0, 143);
    assert_eq!(scene.claims(), 1, "only the one that holds is left");
    scene.koncli_ends(0, "mutex lock cache --holder b --timeout 60s");
}
