//! Figures at scale: lists, filling the index, starting again, memory and room, beside the real docker-registry.
//!
//! `tests/bench/scale` runs this, and says what is measured. No time is asserted; every answer is.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

mod lists;
mod machine;
mod requests;
mod server;
mod table;
mod tree;

use crate::crash::process::Executable;
use crate::program::Memory;
use lists::Api;
use server::Server;
use table::{Figure, Table, mebibytes};
use tree::{Size, Tree};

/// How long a server rests before its memory is called settled.
const REST: Duration = Duration::from_secs(5);

/// Where and how it is measured.
struct Bench {
    lab: tempfile::TempDir,
    tree: Tree,
    /// Whether the kernel is made to forget all files before each start.
    is_cold: bool,
}

/// What is measured of docker-registry.
struct Other {
    first_answer: Duration,
    lists: Vec<(String, Figure)>,
    memory: Memory,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes, gigabytes, and the real docker-registry"]
async fn figures() {
    let number = |name: &str| -> usize {
        let text = std::env::var(name).expect(name);
        text.parse().expect(name)
    };
    let size = Size {
        repositories: number("BOATHOUSE_SCALE_REPOSITORIES"),
        tags: number("BOATHOUSE_SCALE_TAGS"),
        links: number("BOATHOUSE_SCALE_LINKS"),
    };
    let other = std::env::var_os("BOATHOUSE_SCALE_DOCKER_REGISTRY").expect("docker-registry");
    let mut other = Executable::docker_registry(other.into());
    let mut ours = Executable::boathouse();
    // As people run them; and one of the lines is waited for.
    (ours.log_level, other.log_level) = ("info", "info");

    let lab = tempfile::tempdir().expect("a directory");
    let began = Instant::now();
    let tree = tree::write(&lab.path().join("data"), size);
    let written = began.elapsed();
    machine::sync(lab.path());
    let synced = began.elapsed();
    eprintln!(
        "{} written in {written:.0?}, on the disk after {synced:.0?}",
        tree.counts
    );
    let bench = Bench {
        lab,
        tree,
        is_cold: std::env::var_os("BOATHOUSE_SCALE_COLD").is_some(),
    };

    let theirs = bench.measure_other(&other).await;
    let mut table = Table::new(&machine::version_of(&other.path));
    bench.measure_ours(&ours, &theirs, &mut table).await;
    println!(
        "{}; {} page cache.\n{} repositories, one of them with {} tags; {}.\n\n{}",
        machine::description(bench.lab.path()),
        if bench.is_cold { "cold" } else { "warm" },
        size.repositories,
        size.tags,
        bench.tree.counts,
        table.text()
    );
}

impl Bench {
    /// What `boathouse rebuild --json` says.
    fn rebuild(&self, executable: &Executable) -> Value {
        let out = executable.rebuild(self.lab.path(), "--json").fine();
        serde_json::from_str(&out).expect("JSON")
    }

    async fn start(&self, executable: &Executable) -> Server {
        if self.is_cold {
            machine::sync(self.lab.path());
            machine::forget_files();
        }
        Server::start(executable, self.lab.path()).await
    }

    async fn measure_other(&self, executable: &Executable) -> Other {
        let server = self.start(executable).await;
        let api = Api::WithoutTagPagesAndReferrers;
        let other = Other {
            first_answer: server.first_answer,
            lists: lists::measure(&server, &self.tree, api).await,
            memory: server.memory(),
        };
        server.stop();
        eprintln!("docker-registry is measured");
        other
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one measurement after another, in the order in which they build upon each other"
    )]
    async fn measure_ours(&self, executable: &Executable, theirs: &Other, table: &mut Table) {
        let their_start = Figure::Took(theirs.first_answer);

        let mut server = self.start(executable).await;
        let (filled, reread) = server.complete_index().await;
        assert_eq!(
            reread,
            self.tree.repositories.len(),
            "not every repository was read"
        );
        let (fill_memory, fill_processor) = (server.memory(), server.processor_time());
        eprintln!("the index is filled in {filled:.1?}");
        tokio::time::sleep(REST).await;
        let settled = server.memory();
        let lists = lists::measure(&server, &self.tree, Api::Whole).await;
        let lists_memory = server.memory();
        for ((what, ours), (_, theirs)) in lists.iter().zip(&theirs.lists) {
            table.row(what, ours, Some(theirs));
        }
        let first_answer = Figure::Took(server.first_answer);
        table.row(
            "start without an index: first answer",
            &first_answer,
            Some(&their_start),
        );
        table.row("… index filled", &Figure::Took(filled), None);
        let links = self.tree.counts.links();
        let rate = links as u128 * 1_000 / filled.as_millis().max(1);
        table.row("… links per second", &Figure::words(rate.to_string()), None);
        table.row("… processor time", &Figure::Took(fill_processor), None);
        table.row("stop", &Figure::Took(server.stop()), None);
        let index_bytes = machine::disk_bytes(&self.lab.path().join("data/boathouse/index"));

        let mut server = self.start(executable).await;
        let (compared, reread) = server.complete_index().await;
        assert_eq!(reread, 0, "the index did not agree with the store");
        let compared_memory = server.memory();
        eprintln!("the index is compared in {compared:.1?}");
        lists::check(&server, &self.tree).await;
        let first_answer = Figure::Took(server.first_answer);
        table.row(
            "start with an index: first answer",
            &first_answer,
            Some(&their_start),
        );
        table.row(
            "… index compared with the store",
            &Figure::Took(compared),
            None,
        );
        drop(server);

        let mut server = self.start(executable).await;
        let (checked, _) = server.complete_index().await;
        eprintln!("the index is checked in {checked:.1?}");
        lists::check(&server, &self.tree).await;
        let first_answer = Figure::Took(server.first_answer);
        table.row(
            "start after a kill: first answer",
            &first_answer,
            Some(&their_start),
        );
        table.row("… index checked and compared", &Figure::Took(checked), None);

        let filled = self.rebuild(executable);
        eprintln!("the index is filled anew: {filled}");
        let took = Duration::from_millis(filled["took_ms"].as_u64().expect("a time"));
        assert_eq!(
            (filled["repositories"].as_u64(), filled["links"].as_u64()),
            (
                Some(self.tree.repositories.len() as u64),
                Some(links as u64)
            ),
            "the index was not filled with what was written"
        );
        table.row("`boathouse rebuild`", &Figure::Took(took), None);
        let rate = links as u128 * 1_000 / took.as_millis().max(1);
        table.row("… links per second", &Figure::words(rate.to_string()), None);
        lists::check(&server, &self.tree).await;
        let began = Instant::now();
        let differences = executable.index_differences(self.lab.path());
        assert_eq!(differences, None, "the index differs from the store");
        let took = Figure::Took(began.elapsed());
        table.row("`boathouse rebuild --check`: no differences", &took, None);
        server.stop();

        let mut memory = |what: &str, bytes: u64, theirs: Option<u64>| {
            table.row(
                what,
                &Figure::Bytes(bytes),
                theirs.map(Figure::Bytes).as_ref(),
            );
        };
        memory("memory: most while filling", fill_memory.peak, None);
        memory("… settled after it", settled.resident, None);
        memory(
            "… after all lists",
            lists_memory.resident,
            Some(theirs.memory.resident),
        );
        memory("… most of all", lists_memory.peak, Some(theirs.memory.peak));
        memory("… started with an index", compared_memory.resident, None);
        let per_link = index_bytes / links as u64;
        let room = format!("{}, {per_link} B per link", mebibytes(index_bytes));
        table.row("index on the disk", &Figure::words(room), None);
    }
}
