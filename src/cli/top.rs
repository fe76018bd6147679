//! `koncli top`: who holds, who waits, and since when; on a terminal live. Worked out from the API with the controller's own rules, as `koncli why`.

use std::time::Duration;

use jiff::Timestamp;
use kube::Resource;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    objects::ago,
    output::{Failure, Format, table},
    picture::{self, Followed},
    screen::{self, Screen},
    session::Session,
    signals::{Signals, interrupted},
};
use crate::{
    api::{Holder, Mode},
    controller::{
        object::{Key, Object, called, each, of_kind},
        outlook::{Picture, Waiting},
    },
    plan::Kind,
    rules::Why,
};

/// Ages go on even if nothing happens.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// However much happens, nobody reads faster.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// So many holders, and so many of those who wait, are shown live of each primitive.
const SHOWN: usize = 5;
/// Between columns.
const GAP: usize = 2;

/// What is shown.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "SINCE is, of those who hold, since when; of those who wait, their age, by which they have their places. Where the standard output is no terminal, and \
                        with -o json or yaml, it prints once, and all of it.\n\nExample:\n  koncli top -A"
)]
pub struct TopArgs {
    /// Those of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

/// One primitive that somebody holds or waits for.
struct Entry {
    key: Key,
    object: Option<Object>,
    waiting: Vec<Waiting>,
}

/// Everything at one moment.
struct View {
    /// Of one namespace; `None`: of all.
    namespace: Option<String>,
    entries: Vec<Entry>,
    /// How many other primitives there are.
    idle: usize,
    now: Timestamp,
}

/// Shows it, once or until somebody ends it.
///
/// # Errors
/// If the API server does not answer at first, something may not be seen, or it was interrupted.
pub async fn top(session: &Session, args: &TopArgs) -> Result<(), Failure> {
    let namespace = (!args.all_namespaces).then(|| session.namespace.clone());
    let (mut picture, partial) = picture::read(session).await?;
    let first = View::of(&mut picture, namespace.clone());
    if session.format != Format::Text || !screen::is_there() {
        return session.format.print(&first.text(), &first.value());
    }
    live(Followed::begin(session, partial), namespace, first, &mut *session.signals().await?).await
}

async fn live(mut followed: Followed, namespace: Option<String>, mut view: View, signals: &mut Signals) -> Result<(), Failure> {
    let mut screen = Screen::open()?;
    let mut resized = signal(SignalKind::window_change())?;
    let (mut changed, mut trouble) = (false, None);
    loop {
        let (rows, columns) = screen.size();
        screen.draw(&view.page(rows, columns, trouble.as_deref()))?;
        let drawn = Instant::now();
        loop {
            tokio::select! {
                change = followed.changed() => {
                    trouble = change.err().map(|error| format!("this may be old: {error}"));
                    changed = true;
                }
                key = screen.key() => if matches!(key, b'q' | b'Q') { return Ok(()) },
                _ = resized.recv() => break,
                signal = signals.next() => return Err(Failure { message: String::new(), ..interrupted(signal) }),
                () = sleep_until(drawn + if changed { AT_MOST_EVERY } else { AT_LEAST_EVERY }) => break,
            }
        }
        if std::mem::take(&mut changed)
            && let Some(mut picture) = followed.picture()
        {
            view = View::of(&mut picture, namespace.clone());
        }
        view.now = Timestamp::now();
    }
}

impl View {
    fn of(picture: &mut Picture, namespace: Option<String>) -> Self {
        let (mut entries, mut idle, now) = (Vec::new(), 0, Timestamp::now());
        for key in picture.keys() {
            let waiting = picture.waiting(&key, now);
            let object = picture.object(&key).cloned();
            let holders = object.as_ref().map(Object::holders).unwrap_or_default();
            // Those of this namespace, and what its Pods hold and wait for elsewhere.
            let meant = namespace.as_ref().is_none_or(|own| {
                key.namespace == *own
                    || holders.iter().any(|holder| holder.namespace == *own)
                    || waiting.iter().any(|waiting| waiting.who.namespace == *own)
            });
            let idles = holders.is_empty() && waiting.is_empty();
            if meant && !idles {
                entries.push(Entry { key, object, waiting });
            } else if meant && object.is_some() {
                idle += 1;
            }
        }
        Self { namespace, entries, idle, now }
    }

    fn heading(&self) -> String {
        let holding: usize = self.entries.iter().map(|entry| entry.holders().len()).sum();
        let waiting: usize = self.entries.iter().map(|entry| entry.waiting.len()).sum();
        let place = self.namespace.as_ref().map_or("all namespaces".to_owned(), |namespace| format!("namespace {namespace}"));
        format!("{place}: {holding} hold, {waiting} wait; {} other primitives", self.idle)
    }

    /// For what is no terminal: all of it.
    fn text(&self) -> String {
        let rows: Vec<Row> = self.entries.iter().flat_map(|entry| self.rows(entry, usize::MAX)).collect();
        if rows.is_empty() {
            return self.heading();
        }
        let cells: Vec<Vec<String>> = rows.into_iter().map(|Row { what, state, since }| vec![what, state, since]).collect();
        format!("{}\n\n{}", self.heading(), table(&HEADINGS.map(str::to_owned), &cells))
    }

    /// For a terminal of this size: whose line is awaited comes first, and what has no room is counted.
    fn page(&self, rows: usize, columns: usize, trouble: Option<&str>) -> Vec<String> {
        let quit = format!("{}Z  q quits", self.now.strftime("%H:%M:%S"));
        let heading = cut(&self.heading(), columns.saturating_sub(quit.len() + GAP));
        let space = columns.saturating_sub(heading.chars().count() + quit.len());
        let mut lines = vec![cut(&format!("{heading}{:space$}{quit}", ""), columns), cut(trouble.unwrap_or_default(), columns)];
        let (awaited, held): (Vec<&Entry>, Vec<&Entry>) = self.entries.iter().partition(|entry| !entry.waiting.is_empty());
        let below: Vec<Row> = awaited.into_iter().chain(held).flat_map(|entry| self.rows(entry, SHOWN)).collect();
        if !below.is_empty() {
            lines.extend(Row::aligned(&below, columns));
        }
        if lines.len() > rows {
            let hidden = lines.len() - rows.saturating_sub(1);
            lines.truncate(rows.saturating_sub(1));
            lines.push(cut(&format!("{hidden} more lines have no room here; `koncli top | less` has all"), columns));
        }
        lines
    }

    /// A primitive and, below it, so many of those who hold it and of those who wait.
    fn rows(&self, entry: &Entry, shown: usize) -> Vec<Row> {
        let Entry { key, object, waiting } = entry;
        let since = |time: Timestamp| ago(self.now.duration_since(time).as_secs());
        let name = |kind, namespace: &str, name: &str| format!("  {}", called(kind, namespace, name, &key.namespace));
        let more = |count: usize, word: &str| {
            (count > shown).then(|| Row { what: format!("  and {} more", count - shown), state: word.to_owned(), since: String::new() })
        };
        let what = key.seen_from(self.namespace.as_deref().unwrap_or_default());
        let mut rows = vec![Row { what, state: stands(object.as_ref()), since: String::new() }];
        rows.extend(entry.holders().iter().take(shown).map(|holder| Row {
            what: name(holder.kind, &holder.namespace, &holder.name),
            state: holds(key.kind, holder, self.now),
            since: since(holder.since.0),
        }));
        rows.extend(more(entry.holders().len(), "hold"));
        rows.extend(waiting.iter().enumerate().take(shown).map(|(index, waiter)| Row {
            what: name(waiter.who.kind, &waiter.who.namespace, &waiter.who.name),
            state: waits(waiter.why, index + 1, waiting.len()),
            since: since(waiter.since),
        }));
        rows.extend(more(waiting.len(), "wait"));
        rows
    }

    fn value(&self) -> Value {
        let item = |entry: &Entry| {
            let waiting = |(index, Waiting { who, since, why }): (usize, &Waiting)| {
                json!({
                    "kind": who.kind, "namespace": who.namespace, "name": who.name, "uid": who.uid, "since": since.to_string(),
                    "place": index + 1, "next": why.is_none(),
                })
            };
            json!({
                "kind": of_kind!(entry.key.kind, K => K::kind(&())),
                "namespace": entry.key.namespace,
                "name": entry.key.name,
                "exists": entry.object.is_some(),
                "phase": entry.object.as_ref().map(phase),
                "holders": entry.holders(),
                "waiting": entry.waiting.iter().enumerate().map(waiting).collect::<Vec<_>>(),
            })
        };
        json!({ "namespace": self.namespace, "items": self.entries.iter().map(item).collect::<Vec<_>>(), "others": self.idle })
    }
}

impl Entry {
    fn holders(&self) -> &[Holder] {
        self.object.as_ref().map(Object::holders).unwrap_or_default()
    }
}

const HEADINGS: [&str; 3] = ["PRIMITIVE, AND WHO", "STATE", "SINCE"];

/// One line of the table.
struct Row {
    what: String,
    state: String,
    since: String,
}

impl Row {
    /// The table in so many columns: names give way.
    fn aligned(rows: &[Self], columns: usize) -> Vec<String> {
        let [what, state, since] = HEADINGS.map(str::to_owned);
        let heading = Self { what, state, since };
        let all = || std::iter::once(&heading).chain(rows);
        let widest = |cell: fn(&Self) -> &str| all().map(|row| cell(row).chars().count()).max().unwrap_or_default();
        let (state, since) = (widest(|row| &row.state), widest(|row| &row.since));
        let what = widest(|row| &row.what).min(columns.saturating_sub(state + since + 2 * GAP));
        let line = |row: &Self| {
            let name = shortened(&row.what, what);
            cut(format!("{name:what$}{:GAP$}{:state$}{:GAP$}{:>since$}", "", row.state, "", row.since).trim_end(), columns)
        };
        all().map(line).collect()
    }
}

/// How a primitive stands.
fn stands(object: Option<&Object>) -> String {
    let Some(object) = object else { return "does not exist yet".to_owned() };
    let how = match object {
        Object::Semaphore(semaphore) => {
            let used = semaphore.status.as_ref().map_or(0, |status| status.in_use);
            Some(format!("{used} of {} in use", semaphore.spec.permits))
        }
        Object::Barrier(barrier) => {
            let arrived = barrier.status.as_ref().map_or(0, |status| status.arrived);
            Some(format!("{arrived} of {} arrived", barrier.spec.quorum.unwrap_or(barrier.spec.expected)))
        }
        Object::Gate(gate) => gate.status.as_ref().and_then(|status| status.met.clone()).map(|met| format!("{met} met")),
        Object::WaitGroup(group) => Some(format!("{} not done", group.status.as_ref().map_or(0, |status| status.counter))),
        Object::Mutex(_) | Object::RwMutex(_) | Object::Lease(_) | Object::Once(_) => None,
    };
    let deleting = object.deleting().then(|| "being deleted".to_owned());
    [Some(phase(object)), how, deleting].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn phase(object: &Object) -> String {
    each!(object, object => object.status.as_ref().map_or("not served yet".to_owned(), |status| format!("{:?}", status.phase)))
}

/// How somebody holds.
fn holds(kind: Kind, holder: &Holder, now: Timestamp) -> String {
    let how = match (kind, holder.mode) {
        (Kind::RwMutex, Some(Mode::Read)) => "reads".to_owned(),
        (Kind::RwMutex, _) => "writes".to_owned(),
        (Kind::Once, _) => "executes".to_owned(),
        (Kind::WaitGroup, _) => "is not done".to_owned(),
        _ if holder.permits > 1 => format!("holds {} permits", holder.permits),
        _ => "holds".to_owned(),
    };
    match &holder.expires_at {
        Some(end) => format!("{how}, {} left", ago(end.0.duration_since(now).as_secs())),
        None => how,
    }
}

/// How somebody waits.
fn waits(why: Option<Why>, place: usize, of: usize) -> String {
    match why {
        None => "its turn".to_owned(),
        Some(Why::InLine | Why::TooYoung | Why::Away) => format!("waits, {place} of {of}"),
        Some(Why::TooWide) => "waits for more permits".to_owned(),
        Some(Why::Predecessor) => "waits for its predecessor".to_owned(),
        Some(Why::Deleting) => "waits for a new one".to_owned(),
        Some(Why::Shut) => "waits".to_owned(),
    }
}

/// At most so many characters.
fn cut(text: &str, width: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(width).collect()
}

/// The same for names, which often differ in their last letters only.
fn shortened(name: &str, width: usize) -> String {
    const TAIL: usize = 12;
    let letters: Vec<char> = name.chars().collect();
    match letters.len().checked_sub(TAIL) {
        Some(tail) if letters.len() > width && width > 2 * TAIL => {
            letters.iter().take(width - TAIL - 1).chain(&['…']).chain(letters.iter().skip(tail)).collect()
        }
        _ => cut(name, width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{HolderKind, Semaphore},
        rules::Who,
    };

    fn view(waiting: usize) -> View {
        let semaphore: Semaphore = serde_json::from_value(json!({
            "apiVersion": "konductor.io/v1", "kind": "Semaphore", "metadata": { "name": "api", "namespace": "shop" },
            "spec": { "permits": 3 },
            "status": { "phase": "Full", "inUse": 3, "lastToken": 7, "holders": [
                { "uid": "a", "kind": "Job", "namespace": "shop", "name": "a", "token": 6, "permits": 2, "since": "2026-01-01T00:00:00Z" },
                { "uid": "b", "kind": "Claim", "namespace": "shop", "name": "b", "token": 7, "since": "2026-01-01T00:04:50Z",
                  "expiresAt": "2026-01-01T00:06:00Z" },
            ] },
        }))
        .unwrap();
        let object = Object::from(semaphore);
        let who = |index: usize| Who {
            kind: HolderKind::Pod,
            namespace: "shop".to_owned(),
            name: format!("a-long-name-that-a-controller-made-of-a-longer-one-and-a-hash-{index}-x7k2p"),
            uid: index.to_string(),
        };
        let since = "2026-01-01T00:05:00Z".parse().unwrap();
        let waiting = (0..waiting).map(|index| Waiting { who: who(index), since, why: Some(Why::InLine) }).collect();
        let entries = vec![Entry { key: object.key(), object: Some(object), waiting }];
        View { namespace: Some("shop".to_owned()), entries, idle: 2, now: "2026-01-01T00:05:30Z".parse().unwrap() }
    }

    #[test]
    fn a_page_says_who_holds_and_who_waits_and_since_when() {
        let page = view(1).page(24, 80, None);
        let expected = [
            "namespace shop: 2 hold, 1 wait; 2 other primitives            00:05:30Z  q quits",
            "",
            "PRIMITIVE, AND WHO                                    STATE                SINCE",
            "semaphore/api                                         Full, 3 of 3 in use",
            "  job/a                                               holds 2 permits      5m30s",
            "  claim/b                                             holds, 30s left        40s",
            "  pod/a-long-name-that-a-controller-mad…hash-0-x7k2p  waits, 1 of 1          30s",
        ];
        assert_eq!(page, expected);
    }

    #[test]
    fn no_page_is_larger_than_its_terminal_and_what_is_left_out_is_counted() {
        for (rows, columns) in [(24, 80), (10, 40), (4, 20), (1, 1), (3, 0)] {
            let page = view(30).page(
                rows,
                columns,
                Some("a watch was interrupted\nfor some long and winding reason that nobody will ever read to its end"),
            );
            assert!(page.len() <= rows.max(1), "{rows} rows: {page:#?}");
            assert!(page.iter().all(|line| line.chars().count() <= columns), "{columns} columns: {page:#?}");
        }
        let page = view(30).page(24, 80, None);
        assert!(page.iter().any(|line| line.starts_with("  and 25 more") && line.ends_with("wait")), "{page:#?}");
        let page = view(30).page(8, 80, None);
        assert!(page.last().unwrap().starts_with("5 more lines"), "{page:#?}");
    }

    #[test]
    fn what_is_no_terminal_gets_everything() {
        let text = view(30).text();
        assert_eq!(text.lines().filter(|line| line.contains("waits, ")).count(), 30);
        assert!(text.lines().any(|line| line.contains("a-hash-29-x7k2p")), "names are whole: {text}");
        let value = view(30).value();
        assert_eq!(value.pointer("/items/0/waiting/29/place"), Some(&json!(30)));
        assert_eq!(value.pointer("/items/0/holders/1/name"), Some(&json!("b")));
    }
}
