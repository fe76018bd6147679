//! Hostile input: what strangers and tenants can send, mutated, and what must hold whatever they send. No panic, no answer over 1 MiB, bounded memory.
//!
//! ```text
//! random bytes (a tape) --> cases of the corpus, mutated by it --> a target --> checks
//! ```
//!
//! `fuzz` runs some ten thousand inputs of each target, the same each time; `fuzz TARGET` those of one, `INPUTS=n` so many. Built by `make fuzz`, libFuzzer
//! writes the tapes and learns from what they reach. An input that breaks something is written to `found/TARGET` in the present folder, readable: add it to
//! `corpus/TARGET` when it is understood.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::print_stderr, reason = "a test asserts by failing, and says what it did")]

mod annotations;
mod mutate;
mod objects;
mod requests;
mod review;
mod tape;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use peak_alloc::PeakAlloc;
#[cfg(not(fuzzing))]
use rand::{Rng, SeedableRng, rngs::StdRng};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// No answer is larger, and no object that is written.
const LARGEST_ANSWER: usize = 1024 * 1024;

const LONGEST_TAPE: usize = 512;

/// What is fuzzed: makes an input from a tape, and checks what konductor makes of an input.
struct Target {
    name: &'static str,
    inputs: usize,
    make: fn(&[u8]) -> Vec<u8>,
    /// Gives the size of the answer.
    check: fn(&[u8]) -> usize,
    /// Most memory that an input may take, beside a hundred times its own size.
    memory: usize,
}

const TARGETS: [Target; 4] = [review::TARGET, annotations::TARGET, objects::TARGET, requests::TARGET];

static INPUTS: AtomicUsize = AtomicUsize::new(0);
static LARGEST_INPUT: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
static MOST_MEMORY: AtomicUsize = AtomicUsize::new(0);

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    let inputs = std::env::var("INPUTS").ok().and_then(|text| text.parse().ok());
    let chosen: Vec<&Target> = TARGETS.iter().filter(|target| wanted.as_deref().is_none_or(|wanted| wanted == target.name)).collect();
    if chosen.is_empty() {
        eprintln!("there is no such target; there are: {}", TARGETS.map(|target| target.name).join(", "));
        return ExitCode::from(2);
    }
    for target in chosen {
        let began = Instant::now();
        for total in [&INPUTS, &LARGEST_INPUT, &LARGEST, &MOST_MEMORY] {
            total.store(0, Relaxed);
        }
        for (name, case) in corpus(target.name) {
            println!("{:<12} {name}", target.name);
            try_one(target, &case);
        }
        drive(target, inputs.unwrap_or(target.inputs));
        println!(
            "{:<12} {} inputs up to {} bytes: answers up to {} bytes, up to {} KiB of memory, {:.1} s",
            target.name,
            INPUTS.load(Relaxed),
            LARGEST_INPUT.load(Relaxed),
            LARGEST.load(Relaxed),
            MOST_MEMORY.load(Relaxed) / 1024,
            began.elapsed().as_secs_f32()
        );
    }
    ExitCode::SUCCESS
}

/// libFuzzer makes the tapes.
#[cfg(fuzzing)]
fn drive(target: &Target, _: usize) {
    bolero::check!(name = target.name).with_max_len(LONGEST_TAPE).for_each(|tape: &[u8]| try_one(target, &(target.make)(tape)));
}

/// The same tapes each time, so that a failure is one of what is tested.
#[cfg(not(fuzzing))]
fn drive(target: &Target, inputs: usize) {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..inputs {
        let mut tape = vec![0; random.random_range(0..=LONGEST_TAPE)];
        random.fill(tape.as_mut_slice());
        try_one(target, &(target.make)(&tape));
    }
}

/// Checks one input. What breaks is written down, the last time as small as it became.
fn try_one(target: &Target, input: &[u8]) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let size = (target.check)(input);
        assert!(size <= LARGEST_ANSWER, "an answer of {size} bytes");
        let memory = MEMORY.peak_usage().saturating_sub(before);
        let most = target.memory + 100 * input.len();
        assert!(memory <= most, "{memory} bytes of memory for an input of {} bytes; {most} are allowed", input.len());
        (size, memory)
    }));
    match checked {
        Ok((size, memory)) => {
            INPUTS.fetch_add(1, Relaxed);
            LARGEST_INPUT.fetch_max(input.len(), Relaxed);
            LARGEST.fetch_max(size, Relaxed);
            MOST_MEMORY.fetch_max(memory, Relaxed);
        }
        Err(why) => {
            let written = fs::create_dir_all("found").and_then(|()| fs::write(format!("found/{}", target.name), input));
            eprintln!("found/{}: {written:?}", target.name);
            resume_unwind(why);
        }
    }
}

/// Cases of this folder's corpus: by name, in order.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut cases: Vec<_> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    cases.sort();
    cases
}
